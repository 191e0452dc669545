# SPDX-License-Identifier: Apache-2.0
"""Rules of policies and profiles: fields, limits and cross-field rules of Calico's CRDs and of its Go validator."""

import re
from collections.abc import Mapping
from typing import Any

from rules.policy.documents import line_of
from rules.policy.model import (
    ANYTHING,
    PORT_PROTOCOLS,
    EntityRule,
    HttpMatch,
    HttpPath,
    Net,
    PortRange,
    Rule,
    ServiceAccounts,
    Services,
)
from rules.policy.reader import DNS_SUBDOMAIN, REQUIRED, Reader
from rules.policy.wording import Path, what

MAX_RULES = 1024
MAX_NETS = 256
MAX_PORTS = 50
MAX_HTTP = 20
ACTIONS = ("Allow", "Deny", "Log", "Pass")
NUMERIC_PORT = "rules with numeric port or port range must set protocol to TCP or UDP or SCTP"
GLOBAL_ONLY = "global() can only be used in an EntityRule namespaceSelector"

_RULE_FIELDS = (
    "action", "ipVersion", "protocol", "icmp", "notProtocol", "notICMP", "source", "destination", "http", "metadata",
)  # fmt: skip
_ENTITY_FIELDS = (
    "nets", "notNets", "selector", "notSelector", "namespaceSelector", "services", "ports", "notPorts",
    "serviceAccounts", "domains",
)  # fmt: skip

_HTTP_PATH = re.compile(r"/[^?# ]*\Z")
_GLOBAL_ALONE = re.compile(r"[ \t]*global\([ \t]*\)[ \t]*\Z")
_NAMES = {1: "ICMP", 58: "ICMPv6"}


def says_global(source: Mapping[str, Any], key: str) -> bool:
    """Calico looks for it in the text, be it within a quoted string."""
    text = source.get(key)
    return isinstance(text, str) and "global(" in text


def read_rules(r: Reader, source: Any, key: str, path: Path, *, root: Any = None) -> tuple[Rule, ...]:
    items = r.items(source, key, path, MAX_RULES)
    return tuple(read_rule(r, item, (*path, key, i), root=root) for i, item in enumerate(items))


def read_rule(r: Reader, value: Any, path: Path, *, root: Any = None) -> Rule:
    fields = r.mapping(value, path, _RULE_FIELDS)
    if value is not None and not isinstance(value, Mapping):
        return Rule("Deny")
    action = r.choice(fields, "action", path, ACTIONS, "Deny")
    if "action" not in fields:
        r.fail((*path, "action"), f"{REQUIRED}: one of {', '.join(ACTIONS)}")
    version = r.integer(fields, "ipVersion", path, 4, 6)
    if version == 5:
        r.fail((*path, "ipVersion"), "Unsupported value: 5: supported values: 4, 6")
    proto = r.protocol(fields, "protocol", path)
    not_proto = r.protocol(fields, "notProtocol", path)
    icmp = r.icmp(fields, "icmp", path)
    not_icmp = r.icmp(fields, "notICMP", path)
    source = read_entity(r, fields.get("source"), (*path, "source"))
    destination = read_entity(r, fields.get("destination"), (*path, "destination"))
    http = read_http(r, fields["http"], (*path, "http")) if "http" in fields else None
    metadata = r.mapping(fields.get("metadata"), (*path, "metadata"), ("annotations",))
    annotations = r.annotations(metadata, (*path, "metadata"))
    rule = Rule(
        action or "Deny", version, proto, not_proto, icmp, not_icmp, source, destination, http, annotations,
        line_of(root, path) if root is not None else None,
    )  # fmt: skip
    written = fields.get("protocol")
    _check_rule(r, rule, path, quoted=isinstance(written, str) and written.isdigit())
    return rule


def _check_rule(r: Reader, rule: Rule, path: Path, *, quoted: bool) -> None:
    """quoted: the protocol is a number in quotes, which Calico's CRDs hold to be neither the name nor the number."""
    if rule.http is not None:
        if rule.action != "Allow":
            r.fail((*path, "http"), "HTTP match is only valid on Allow rules")
        if quoted or rule.proto not in (None, 6):
            r.fail((*path, "http"), "rules with HTTP match must have protocol TCP or unset")
    if rule.icmp is not None and (quoted or rule.proto not in (1, 58)):  # nobody asks that of notICMP
        r.fail((*path, "icmp"), "ICMP fields require protocol to be ICMP or ICMPv6")
    for key, proto in (("protocol", rule.proto), ("notProtocol", rule.not_proto)):
        for number, version in ((1, 4), (58, 6)):
            if proto == number and rule.ip_version not in (None, version):
                r.fail((*path, key), f"protocol {_NAMES[number]} requires ipVersion {version}")
    families: dict[bool, Net] = {}
    for side, entity in (("source", rule.source), ("destination", rule.destination)):
        if entity is ANYTHING:
            continue
        for key, ports in (("ports", entity.ports), ("notPorts", entity.not_ports)):
            if not ports:
                continue
            if rule.proto is not None and rule.proto not in PORT_PROTOCOLS:
                r.fail((*path, side, key), "rules that specify ports must set protocol to TCP or UDP or SCTP")
            elif rule.proto is None and any(isinstance(port, PortRange) for port in ports):
                r.fail((*path, side, key), NUMERIC_PORT)
        for key, nets in (("nets", entity.nets), ("notNets", entity.not_nets)):
            for net in nets:
                families.setdefault(net.is_v4, net)
                if rule.ip_version is not None and net.is_v4 is not (rule.ip_version == 4):
                    r.fail((*path, side, key), f"rule IP version doesn't match CIDR version: {net}")
        for net in entity.not_nets:
            if net.length == (96 if net.is_v4 else 0):
                r.fail((*path, side, "notNets"), f"{net} in negation matches no traffic", soft=True)
    if len(families) == 2:
        both = f"{families[True]}, {families[False]}"  # each holds for its own version
        r.fail(path, f"rule contains both IPv4 and IPv6 CIDRs: {both}", soft=True)
    destination = rule.destination
    if destination.services is not None and (destination.ports or destination.not_ports):
        r.fail((*path, "destination"), "ports and notPorts cannot be specified with services")


def read_entity(r: Reader, value: Any, path: Path) -> EntityRule:
    if value is None:
        return ANYTHING
    fields = r.mapping(value, path, _ENTITY_FIELDS)
    if not fields:
        return ANYTHING
    selector = r.selector(fields, "selector", path)
    not_selector = r.selector(fields, "notSelector", path)
    namespace_selector = r.selector(fields, "namespaceSelector", path)
    if says_global(fields, "selector"):
        r.fail((*path, "selector"), GLOBAL_ONLY)
    if says_global(fields, "namespaceSelector") and not _GLOBAL_ALONE.match(fields["namespaceSelector"]):
        r.fail((*path, "namespaceSelector"), "global() cannot be combined with other selectors")
    nets = r.nets(fields, "nets", path, MAX_NETS, strict=True)
    not_nets = r.nets(fields, "notNets", path, MAX_NETS, strict=True)
    entity = EntityRule(
        nets,
        not_nets,
        selector,
        not_selector,
        namespace_selector,
        _services(r, fields, path),
        r.ports(fields, "ports", path, MAX_PORTS),
        r.ports(fields, "notPorts", path, MAX_PORTS),
        _service_accounts(r, fields, path),
        r.domains(fields, "domains", path),
    )
    if entity.services is not None:
        for taken, names in (
            (fields.get("selector") or fields.get("notSelector"), "Selector/NotSelector"),
            (fields.get("namespaceSelector"), "NamespaceSelector"),
            (fields.get("nets") or fields.get("notNets"), "Nets/NotNets"),
            (entity.service_accounts, "ServiceAccounts"),
        ):
            if taken:
                r.fail((*path, "services"), f"cannot specify {names} and Services on the same rule")
    return entity


def _services(r: Reader, fields: Any, path: Path) -> Services | None:
    if "services" not in fields:
        return None
    at = (*path, "services")
    inner = r.mapping(fields["services"], at, ("name", "namespace"))
    name = r.text(inner, "name", at, longest=253)
    if not name:
        r.fail((*at, "name"), "services must specify a service name")
    namespace = r.text(inner, "namespace", at, longest=253)
    for key, text in (("name", name), ("namespace", namespace)):
        if text and not DNS_SUBDOMAIN.match(text):
            r.fail((*at, key), f"{what(text)} is not a {'service' if key == 'name' else key}'s name")
    return Services(name, namespace)


def _service_accounts(r: Reader, fields: Any, path: Path) -> ServiceAccounts | None:
    if "serviceAccounts" not in fields:
        return None
    at = (*path, "serviceAccounts")
    inner = r.mapping(fields["serviceAccounts"], at, ("names", "selector"))
    selector = r.selector(inner, "selector", at)
    return ServiceAccounts(r.strings(inner, "names", at, unique=True), selector)


def read_http(r: Reader, value: Any, path: Path) -> HttpMatch:
    fields = r.mapping(value, path, ("methods", "paths", "headers"))
    if "headers" in fields:
        r.fail((*path, "headers"), "header matches exist in Calico Enterprise only and are not supported")
    methods = r.strings(fields, "methods", path, MAX_HTTP, unique=True)
    paths: list[HttpPath] = []
    for i, item in enumerate(r.items(fields, "paths", path, MAX_HTTP)):
        at = (*path, "paths", i)
        inner = r.mapping(item, at, ("exact", "prefix"))
        exact = r.text(inner, "exact", at, longest=1024) or None
        prefix = r.text(inner, "prefix", at, longest=1024) or None
        if (exact is None) is (prefix is None):
            r.fail(at, "exactly one of exact and prefix must be given")
        for key, text in (("exact", exact), ("prefix", prefix)):
            if text is not None and not _HTTP_PATH.match(text):
                r.fail((*at, key), f"{what(text)} is not a path: it starts with / and has no blank, ? or #")
        paths.append(HttpPath(exact, prefix))
    return HttpMatch(methods, tuple(paths))
