# SPDX-License-Identifier: Apache-2.0
"""Kubernetes kinds: NetworkPolicy (networking.k8s.io/v1, converted as Calico converts it), Namespace, ServiceAccount,
and the objects that say which addresses stand behind a service."""

from typing import Any

from rules.policy.model import (
    ANYTHING,
    EmptySpec,
    EntityRule,
    Net,
    PolicySpec,
    PortRange,
    Rule,
    ServiceEndpointsSpec,
    Spec,
)
from rules.policy.read_resources import EMPTY_TYPES, STAGED_ACTIONS, STAGED_DELETE, TYPES, Read, inferred_types
from rules.policy.reader import LABEL_VALUE, REQUIRED, Reader, is_port_name, is_qualified, protocol_number
from rules.policy.selector import All, Equal, Has, In, Node, Not, both
from rules.policy.wording import Path, what

ORDER = 1000.0
_OBJECT = ("apiVersion", "kind", "metadata")
ORCHESTRATOR = Equal("projectcalico.org/orchestrator", "k8s")


def read_policy(r: Reader, value: Any, path: Path, *, staged: bool, root: Any) -> PolicySpec:
    known = ("podSelector", "policyTypes", "ingress", "egress")
    fields = r.mapping(value, path, (*known, "stagedAction") if staged else known)
    action = r.choice(fields, "stagedAction", path, STAGED_ACTIONS, "Set") if staged else None
    types = r.choices(fields, "policyTypes", path, TYPES, 2, unique=staged)
    if staged and fields.get("policyTypes") == []:
        r.fail((*path, "policyTypes"), EMPTY_TYPES)
    ingress = _rules(r, fields, "ingress", "from", path, root)
    egress = _rules(r, fields, "egress", "to", path, root)
    if action == "Delete":
        for key, item in fields.items():
            if key != "stagedAction" and item not in ([], {}):
                r.fail((*path, key), STAGED_DELETE)
    # Without policyTypes: always ingress, egress when there are egress rules (Kubernetes API reference).
    spec_types = types or (("Ingress", "Egress") if fields.get("egress") else inferred_types(True, False))
    selector = both(ORCHESTRATOR, _label_selector(r, fields.get("podSelector"), (*path, "podSelector")))
    return PolicySpec("default", ORDER, ingress, egress, selector, types=spec_types, staged_action=action)


def _rules(r: Reader, fields: Any, key: str, peers_key: str, path: Path, root: Any) -> tuple[Rule, ...]:
    rules: list[Rule] = []
    line = getattr(root, "line", None)
    for i, item in enumerate(r.items(fields, key, path)):
        at = (*path, key, i)
        if item is None:  # it would allow everything
            r.fail(at, "expected a mapping, found nothing")
        rule = r.mapping(item, at, ("ports", peers_key))
        ports = _ports(r, rule, at)
        peers = [_peer(r, p, (*at, peers_key, j)) for j, p in enumerate(r.items(rule, peers_key, at))] or [ANYTHING]
        for proto, matches in ports.items():
            for peer in peers:
                with_ports = EntityRule(ports=matches)
                if key == "ingress":
                    rules.append(Rule("Allow", proto=proto, source=peer, destination=with_ports, line=line))
                else:
                    rules.append(Rule("Allow", proto=proto, destination=_with_ports(peer, matches), line=line))
    return tuple(rules)


def _with_ports(peer: EntityRule, ports: tuple[PortRange | str, ...]) -> EntityRule:
    return EntityRule(
        peer.nets, peer.not_nets, peer.selector, namespace_selector=peer.namespace_selector, ports=ports
    )  # fmt: skip


def _ports(r: Reader, rule: Any, path: Path) -> dict[int | None, tuple[PortRange | str, ...]]:
    """Ports by protocol; an entry that names only a protocol stands for all of its ports."""
    out: dict[int | None, list[PortRange | str]] = {}
    for i, item in enumerate(r.items(rule, "ports", path)):
        at = (*path, "ports", i)
        if item is None:
            r.fail(at, "expected a mapping, found nothing")
        fields = r.mapping(item, at, ("port", "endPort", "protocol"))
        name = r.choice(fields, "protocol", at, ("TCP", "UDP", "SCTP"), "TCP")
        port = fields.get("port")
        last = r.integer(fields, "endPort", at, 1, 65535)
        matches = out.setdefault(protocol_number(name), [])
        if port is None:
            if last is not None:
                r.fail((*at, "endPort"), "may not be specified when `port` is not specified")
            matches.append(PortRange(0, 65535))
        elif isinstance(port, str):
            if not is_port_name(port):
                r.fail((*at, "port"), f"{what(port)} is not a port name")
            if last is not None:
                r.fail((*at, "endPort"), "may not be specified when `port` is non-numeric")
            matches.append(port)
        else:
            first = r.integer(fields, "port", at, 1, 65535)
            if first is not None and last is not None and last < first:
                r.fail((*at, "endPort"), f"must be greater than or equal to `port`: {last} is before {first}")
            matches.append(PortRange(first or 0, last or first or 0))
    if not out:
        return {None: ()}
    return {
        proto: () if PortRange(0, 65535) in matches else tuple(matches)
        for proto, matches in out.items()
    }  # fmt: skip


def _peer(r: Reader, value: Any, path: Path) -> EntityRule:
    fields = r.mapping(value, path, ("podSelector", "namespaceSelector", "ipBlock"))
    if not fields:
        r.fail(path, "must specify a peer: podSelector, namespaceSelector or ipBlock")
        return ANYTHING
    if "ipBlock" in fields:
        if len(fields) > 1:
            r.fail(path, "may not specify both ipBlock and another peer")
        block = r.mapping(fields["ipBlock"], (*path, "ipBlock"), ("cidr", "except"))
        return _block(r, block, (*path, "ipBlock"))
    pods = None
    if "podSelector" in fields:
        pods = both(ORCHESTRATOR, _label_selector(r, fields["podSelector"], (*path, "podSelector")))
    namespaces = None
    if "namespaceSelector" in fields:
        namespaces = _label_selector(r, fields["namespaceSelector"], (*path, "namespaceSelector"))
        pods = pods or ORCHESTRATOR
    return EntityRule(selector=pods, namespace_selector=namespaces)


def _block(r: Reader, block: Any, path: Path) -> EntityRule:
    """What the API server refuses may be clear all the same."""
    if "cidr" not in block:
        r.fail((*path, "cidr"), REQUIRED)
        return ANYTHING
    net = r.net(block["cidr"], (*path, "cidr"), strict=False)
    _check_prefix(r, block["cidr"], (*path, "cidr"))
    spared = r.nets(block, "except", path, strict=False, unique=False)
    for i, text in enumerate(r.items(block, "except", path)):
        _check_prefix(r, text, (*path, "except", i))
    for hole in spared:
        if net is not None and (hole.length <= net.length or hole.within(net.length) != net):
            r.fail((*path, "except"), f"must be a strict subset of `cidr`: {hole} is not within {net}", soft=True)
    return EntityRule((net,) if net is not None else (), spared)


def _check_prefix(r: Reader, text: Any, path: Path) -> None:
    if isinstance(text, str) and "/" not in text:
        r.fail(path, f"{what(text)} is not a network: it has no prefix length", soft=True)


def _label_selector(r: Reader, value: Any, path: Path) -> Node:
    """matchLabels and matchExpressions, all of which must hold."""
    fields = r.mapping(value, path, ("matchLabels", "matchExpressions"))
    nodes: list[Node] = [Equal(key, text) for key, text in r.labels(fields, "matchLabels", path).items()]
    for i, item in enumerate(r.items(fields, "matchExpressions", path)):
        at = (*path, "matchExpressions", i)
        inner = r.mapping(item, at, ("key", "operator", "values"))
        key = r.text(inner, "key", at)
        if not is_qualified(key):
            r.fail((*at, "key"), f"{what(key)} is not a label name")
        operator = r.choice(inner, "operator", at, ("In", "NotIn", "Exists", "DoesNotExist"))
        if "operator" not in inner:
            r.fail((*at, "operator"), REQUIRED)
        values = frozenset(r.strings(inner, "values", at))
        for value in sorted(values):
            if r.strict and not LABEL_VALUE.match(value):
                r.fail((*at, "values"), f"{what(value)} is not a label value", soft=True)
        if operator in ("In", "NotIn"):
            if not values:
                r.fail((*at, "values"), f"{REQUIRED}: must be specified when `operator` is 'In' or 'NotIn'")
            nodes.append(In(key, values, operator == "NotIn"))
        elif operator is not None:
            if values:
                r.fail((*at, "values"), "may not be specified when `operator` is 'Exists' or 'DoesNotExist'")
            nodes.append(Has(key) if operator == "Exists" else Not(Has(key)))
    return both(*nodes) if nodes else All()


def read_staged(r: Reader, value: Any, path: Path, name: str, root: Any) -> Spec:
    return read_policy(r, value, path, staged=True, root=root)


def _read_plain(r: Reader, value: Any, path: Path, name: str, root: Any) -> Spec:
    return read_policy(r, value, path, staged=False, root=root)


def _read_namespace(r: Reader, value: Any, path: Path, name: str, root: Any) -> Spec:
    r.mapping(value, path, (*_OBJECT, "spec", "status"))
    return EmptySpec()


def _read_service_account(r: Reader, value: Any, path: Path, name: str, root: Any) -> Spec:
    r.mapping(value, path, (*_OBJECT, "secrets", "imagePullSecrets", "automountServiceAccountToken"))
    return EmptySpec()


def _read_slice(r: Reader, value: Any, path: Path, name: str, root: Any) -> Spec:
    """discovery.k8s.io/v1 EndpointSlice: ready endpoints of the service its label names."""
    fields = r.mapping(value, path, None)
    metadata = r.mapping(fields.get("metadata"), (*path, "metadata"), None)
    labels = r.string_map(metadata, "labels", (*path, "metadata"))
    texts: list[str] = []
    for i, item in enumerate(r.items(fields, "endpoints", path)):
        at = (*path, "endpoints", i)
        endpoint = r.mapping(item, at, None)
        conditions = r.mapping(endpoint.get("conditions"), (*at, "conditions"), None)
        if conditions.get("ready", True):
            texts += r.strings(endpoint, "addresses", at)
    return ServiceEndpointsSpec(
        labels.get("kubernetes.io/service-name", name),
        r.nets({"addresses": texts}, "addresses", path, strict=False, unique=False),
        _service_ports(r, r.items(fields, "ports", path), (*path, "ports")),
    )


def _read_endpoints(r: Reader, value: Any, path: Path, name: str, root: Any) -> Spec:
    """v1 Endpoints; its subsets are joined."""
    fields = r.mapping(value, path, None)
    nets: list[Net] = []
    ports: list[tuple[int, int]] = []
    for i, item in enumerate(r.items(fields, "subsets", path)):
        at = (*path, "subsets", i)
        subset = r.mapping(item, at, None)
        for j, address in enumerate(r.items(subset, "addresses", at)):
            inner = r.mapping(address, (*at, "addresses", j), None)
            nets += r.nets({"ip": [inner.get("ip")]}, "ip", (*at, "addresses", j), strict=False)
        ports += _service_ports(r, r.items(subset, "ports", at), (*at, "ports"))
    return ServiceEndpointsSpec(name, tuple(nets), tuple(ports))


def _service_ports(r: Reader, items: list[Any], path: Path) -> tuple[tuple[int, int], ...]:
    out: list[tuple[int, int]] = []
    for i, item in enumerate(items):
        fields = r.mapping(item, (*path, i), None)
        port = r.integer(fields, "port", (*path, i), 1, 65535)
        proto = protocol_number(r.text(fields, "protocol", (*path, i), default="TCP"))
        if port is not None and proto is not None:
            out.append((proto, port))
    return tuple(out)


KINDS: dict[tuple[str, str], Read] = {
    ("networking.k8s.io/v1", "NetworkPolicy"): _read_plain,
    ("v1", "Namespace"): _read_namespace,
    ("v1", "ServiceAccount"): _read_service_account,
    ("discovery.k8s.io/v1", "EndpointSlice"): _read_slice,
    ("v1", "Endpoints"): _read_endpoints,
}
