# SPDX-License-Identifier: Apache-2.0
"""Calico v3 resources other than rules: one reader for each kind, defaults filled in as Calico's API server does."""

import math
import re
from collections.abc import Callable
from typing import Any

from rules.policy.model import (
    EmptySpec,
    HostEndpointSpec,
    NamedPort,
    Net,
    NetworkSetSpec,
    PolicySpec,
    ProfileSpec,
    Rule,
    Spec,
    TierSpec,
    WorkloadEndpointSpec,
)
from rules.policy.read_rules import GLOBAL_ONLY, read_rules, says_global
from rules.policy.reader import DNS_SUBDOMAIN, Path, Reader, what

TIERS = {"kube-admin": ("Pass", 1000.0), "kube-baseline": ("Pass", 10_000_000.0), "default": ("Deny", 1_000_000.0)}
_INTERFACE = re.compile(r"[a-zA-Z0-9_.-]{1,15}\Z")
_CONTAINER = re.compile(r"[a-zA-Z0-9]([-a-zA-Z0-9]*[a-zA-Z0-9])?\Z")
_POLICY_FIELDS = (
    "tier", "order", "ingress", "egress", "selector", "types", "serviceAccountSelector", "performanceHints",
)  # fmt: skip
_GLOBAL_FIELDS = (*_POLICY_FIELDS, "namespaceSelector", "doNotTrack", "preDNAT", "applyOnForward")
STAGED_ACTIONS = ("Set", "Delete", "Learn", "Ignore")


def read_tier(r: Reader, value: Any, path: Path, name: str) -> TierSpec:
    fields = r.mapping(value, path, ("order", "defaultAction"))
    spec = TierSpec(
        r.number(fields, "order", path, math.inf),
        r.choice(fields, "defaultAction", path, ("Pass", "Deny"), "Deny") or "Deny",
    )
    if name in TIERS:
        action, order = TIERS[name]
        if spec.default_action != action:
            r.fail((*path, "defaultAction"), f"The '{name}' tier must have default action '{action}'")
        if spec.order != order:
            r.fail((*path, "order"), f"{name} tier order must be {order:.0f}")
    return spec


def read_policy(r: Reader, value: Any, path: Path, *, everywhere: bool, staged: bool, root: Any) -> PolicySpec:
    """`everywhere`: a global kind."""
    known = _GLOBAL_FIELDS if everywhere else _POLICY_FIELDS
    fields = r.mapping(value, path, (*known, "stagedAction") if staged else known)
    tier = r.text(fields, "tier", path, default="default")
    if not DNS_SUBDOMAIN.match(tier or "default") or len(tier) > 253:
        r.fail((*path, "tier"), f"{what(tier)} is not a tier's name")
    types = r.strings(fields, "types", path, 2, unique=True)
    for i, kind in enumerate(types):
        if kind not in ("Ingress", "Egress"):
            r.fail((*path, "types", i), f"expected Ingress or Egress, found {what(kind)}")
    if fields.get("types") == []:
        r.fail((*path, "types"), "an empty list; leave it out or name Ingress, Egress or both")
    ingress = read_rules(r, fields, "ingress", path, root=root)
    egress = read_rules(r, fields, "egress", path, root=root)
    for hint in r.strings(fields, "performanceHints", path, unique=True):
        if hint != "AssumeNeededOnEveryNode":
            r.fail((*path, "performanceHints"), f"expected AssumeNeededOnEveryNode, found {what(hint)}")
    spec = PolicySpec(
        tier or "default",
        r.number(fields, "order", path, math.inf),
        ingress,
        egress,
        r.selector(fields, "selector", path),
        r.selector(fields, "namespaceSelector", path),
        r.selector(fields, "serviceAccountSelector", path),
        types or inferred_types(bool(ingress), bool(egress)),
        r.flag(fields, "doNotTrack", path),
        r.flag(fields, "preDNAT", path),
        r.flag(fields, "applyOnForward", path),
        r.choice(fields, "stagedAction", path, STAGED_ACTIONS, "Set") if staged else None,
    )
    for key in ("selector", "namespaceSelector", "serviceAccountSelector"):
        if says_global(fields, key):
            r.fail((*path, key), GLOBAL_ONLY)
    _check_host_policy(r, spec, types, path)
    _check_services(r, spec, path, everywhere=everywhere)
    if spec.staged_action == "Delete":
        for key, item in fields.items():
            given = isinstance(item, float | int) and not isinstance(item, bool)  # an order of 0 is an order
            if key not in ("tier", "stagedAction") and (item or given):
                r.fail((*path, key), "must be empty when stagedAction is Delete")
    return spec


def inferred_types(ingress: bool, egress: bool) -> tuple[str, ...]:
    if egress:
        return ("Ingress", "Egress") if ingress else ("Egress",)
    return ("Ingress",)


def _check_host_policy(r: Reader, spec: PolicySpec, types: tuple[str, ...], path: Path) -> None:
    if spec.pre_dnat and spec.do_not_track:
        r.fail((*path, "preDNAT"), "preDNAT and doNotTrack cannot both be true")
    if spec.pre_dnat and spec.egress:
        r.fail((*path, "egress"), "preDNAT policy cannot have any egress rules")
    if spec.pre_dnat and "Egress" in types:
        r.fail((*path, "types"), "preDNAT policy cannot have 'Egress' type")
    if (spec.pre_dnat or spec.do_not_track) and not spec.apply_on_forward:
        r.fail((*path, "applyOnForward"), "applyOnForward must be true if either preDNAT or doNotTrack is true")


def _check_services(r: Reader, spec: PolicySpec, path: Path, *, everywhere: bool) -> None:
    for key, rules, good, bad in (
        ("ingress", spec.ingress, "source", "destination"),
        ("egress", spec.egress, "destination", "source"),
    ):
        for i, rule in enumerate(rules):
            sides = {"source": rule.source, "destination": rule.destination}
            services = sides[good].services
            if sides[bad].services is not None:
                r.fail((*path, key, i, bad, "services"), f"services belong into the {good} of an {key} rule")
            if everywhere and services is not None and not services.namespace:
                r.fail((*path, key, i, good, "services", "namespace"), "missing; a global policy has none of its own")
            if key == "egress" and rule.http is not None:
                r.fail((*path, key, i, "http"), "HTTP match is only valid on ingress rules")
            _check_domains(r, rule, key, (*path, key, i))


def _check_domains(r: Reader, rule: Rule, direction: str, path: Path) -> None:
    if rule.source.domains:
        r.fail((*path, "source", "domains"), "domains belong into the destination of an egress rule")
    if rule.destination.domains and (direction != "egress" or rule.action != "Allow"):
        r.fail((*path, "destination", "domains"), "domains are for egress Allow rules only")
    if rule.destination.domains and (rule.destination.nets or rule.destination.selector):
        r.fail((*path, "destination", "domains"), "domains exclude nets and selector on the same rule")


def read_profile(r: Reader, value: Any, path: Path, *, root: Any) -> ProfileSpec:
    fields = r.mapping(value, path, ("ingress", "egress", "labelsToApply"))
    labels = r.labels(fields, "labelsToApply", path)
    return ProfileSpec(
        read_rules(r, fields, "ingress", path, root=root), read_rules(r, fields, "egress", path, root=root), labels
    )


def read_network_set(r: Reader, value: Any, path: Path) -> NetworkSetSpec:
    fields = r.mapping(value, path, ("nets", "allowedEgressDomains"))
    return NetworkSetSpec(
        r.nets(fields, "nets", path, strict=False),
        r.domains(fields, "allowedEgressDomains", path),
    )


def read_host_endpoint(r: Reader, value: Any, path: Path) -> HostEndpointSpec:
    fields = r.mapping(value, path, ("node", "interfaceName", "expectedIPs", "profiles", "ports"))
    node = r.text(fields, "node", path, longest=253)
    if not node:
        r.fail((*path, "node"), "node must be specified")
    interface = r.text(fields, "interfaceName", path)
    if interface and interface != "*" and not _INTERFACE.match(interface):
        r.fail(
            (*path, "interfaceName"), f"{what(interface)} is not an interface name (at most 15 of a-z A-Z 0-9 _ . -)"
        )
    addresses = r.addresses(fields, "expectedIPs", path)
    if not interface and not r.items(fields, "expectedIPs", path):
        r.fail(path, "at least one of interfaceName or expectedIPs must be specified")
    return HostEndpointSpec(
        node, interface, addresses, _profiles(r, fields, path, unique=True),
        _ports(r, fields, path, r.host_port),
    )


def _profiles(r: Reader, fields: Any, path: Path, *, unique: bool) -> tuple[str, ...]:
    names = r.strings(fields, "profiles", path, unique=unique)
    for i, name in enumerate(names):
        if not DNS_SUBDOMAIN.match(name):
            r.fail((*path, "profiles", i), f"{what(name)} is not a profile's name")
    return names


def _ports(
    r: Reader, fields: Any, path: Path, read_port: Callable[[Any, Path], NamedPort | None]
) -> tuple[NamedPort, ...]:
    read = r.each(r.items(fields, "ports", path), (*path, "ports"), read_port)
    return tuple(port for port in read if port is not None)


_WORKLOAD_FIELDS = (
    "orchestrator", "workload", "node", "containerID", "pod", "endpoint", "serviceAccountName", "ipNetworks", "ipNATs",
    "ipv4Gateway", "ipv6Gateway", "profiles", "interfaceName", "mac", "ports", "allowSpoofedSourcePrefixes",
    "qosControls",
)  # fmt: skip
_QOS_LIMITS = {
    "ingressBandwidth": (1000, 10**15), "egressBandwidth": (1000, 10**15),
    "ingressBurst": (1000, 34359738360), "egressBurst": (1000, 34359738360),
    "ingressPeakrate": (1010, 1010 * 10**12), "egressPeakrate": (1010, 1010 * 10**12),
    "ingressMinburst": (1000, 10**8), "egressMinburst": (1000, 10**8),
    "ingressPacketRate": (1, 10_000), "egressPacketRate": (1, 10_000),
    "ingressPacketBurst": (1, 10_000), "egressPacketBurst": (1, 10_000),
    "ingressMaxConnections": (1, 2**32 - 1), "egressMaxConnections": (1, 2**32 - 1),
}  # fmt: skip
_MAC = re.compile(r"[0-9a-fA-F]{2}([:-][0-9a-fA-F]{2}){5}\Z")


def read_workload_endpoint(r: Reader, value: Any, path: Path) -> WorkloadEndpointSpec:
    fields = r.mapping(value, path, _WORKLOAD_FIELDS)
    interface = r.text(fields, "interfaceName", path)
    if interface != "*" and not _INTERFACE.match(interface):
        r.fail(
            (*path, "interfaceName"), f"{what(interface)} is not an interface name (at most 15 of a-z A-Z 0-9 _ . -)"
        )
    container = r.text(fields, "containerID", path)
    if container and not _CONTAINER.match(container):
        r.fail((*path, "containerID"), f"{what(container)} is not a container's id")
    addresses = r.nets(fields, "ipNetworks", path, strict=False)
    for net in addresses:
        if net.length != 128:
            r.fail((*path, "ipNetworks"), f"{net} is more than one address")
    for key, v4 in (("ipv4Gateway", True), ("ipv6Gateway", False)):
        if fields.get(key):
            for net in r.nets({key: [fields[key]]}, key, path, strict=False):
                if net.is_v4 is not v4:
                    r.fail((*path, key), f"{net} is of the other IP version")
    mac = r.text(fields, "mac", path)
    if mac and not _MAC.match(mac):
        r.fail((*path, "mac"), f"{what(mac)} is not a MAC address")
    for i, item in enumerate(r.items(fields, "ipNATs", path)):
        _nat(r, item, (*path, "ipNATs", i), addresses)
    for text in ("endpoint",):
        r.text(fields, text, path)
    qos = r.mapping(fields.get("qosControls"), (*path, "qosControls"), (*_QOS_LIMITS, "dscp"))
    for key, (low, high) in _QOS_LIMITS.items():
        r.integer(qos, key, (*path, "qosControls"), low, high)
    unenforced = [f"spec.{key}" for key in ("ipNATs", "qosControls") if fields.get(key)]
    unenforced += [
        f"spec.ports[{i}].hostPort"
        for i, port in enumerate(r.items(fields, "ports", path))
        if isinstance(port, dict) and port.get("hostPort")
    ]
    return WorkloadEndpointSpec(
        r.text(fields, "node", path),
        interface,
        addresses,
        _profiles(r, fields, path, unique=False),
        _ports(r, fields, path, r.workload_port),
        r.text(fields, "orchestrator", path),
        r.text(fields, "workload", path),
        r.text(fields, "pod", path),
        r.text(fields, "serviceAccountName", path),
        r.nets(fields, "allowSpoofedSourcePrefixes", path, strict=False),
        tuple(unenforced),
    )


def _nat(r: Reader, value: Any, path: Path, addresses: tuple[Net, ...]) -> None:
    fields = r.mapping(value, path, ("internalIP", "externalIP"))
    sides: list[Net] = []
    for key in ("internalIP", "externalIP"):
        if key not in fields:
            r.fail((*path, key), "missing")
            continue
        sides += r.nets({key: [fields[key]]}, key, path, strict=True)
    if len(sides) == 2:
        if sides[0].is_v4 is not sides[1].is_v4:
            r.fail(path, "internalIP and externalIP are of different IP versions")
        if sides[0] not in addresses:
            r.fail((*path, "internalIP"), f"{sides[0]} is not among ipNetworks")


def read_empty(r: Reader, value: Any, path: Path) -> EmptySpec:
    """Namespace and ServiceAccount: whatever else they say is Kubernetes' business."""
    r.mapping(value, path, None)
    return EmptySpec()


Read = Callable[[Reader, Any, Path, str, Any], Spec]

CALICO: dict[str, Read] = {
    "Tier": lambda r, v, p, name, root: read_tier(r, v, p, name),
    "GlobalNetworkPolicy": lambda r, v, p, name, root: read_policy(r, v, p, everywhere=True, staged=False, root=root),
    "NetworkPolicy": lambda r, v, p, name, root: read_policy(r, v, p, everywhere=False, staged=False, root=root),
    "StagedGlobalNetworkPolicy": lambda r, v, p, name, root: read_policy(
        r, v, p, everywhere=True, staged=True, root=root
    ),
    "StagedNetworkPolicy": lambda r, v, p, name, root: read_policy(r, v, p, everywhere=False, staged=True, root=root),
    "GlobalNetworkSet": lambda r, v, p, name, root: read_network_set(r, v, p),
    "NetworkSet": lambda r, v, p, name, root: read_network_set(r, v, p),
    "HostEndpoint": lambda r, v, p, name, root: read_host_endpoint(r, v, p),
    "WorkloadEndpoint": lambda r, v, p, name, root: read_workload_endpoint(r, v, p),
    "Profile": lambda r, v, p, name, root: read_profile(r, v, p, root=root),
}
