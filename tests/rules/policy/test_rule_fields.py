# SPDX-License-Identifier: Apache-2.0
"""Every field of a rule, as Calico's CRDs and its Go validator have it: accepted, or refused in which field and how."""

from typing import Any

import pytest

from tests.rules.policy.tables import Experiment, Refused, check, resource

PORTS_NEED = "rules that specify ports must set protocol to TCP or UDP or SCTP"
NUMERIC_NEED = "rules with numeric port or port range must set protocol to TCP or UDP or SCTP"
GLOBAL = "global() can only be used in an EntityRule namespaceSelector"
ALONE = "global() cannot be combined with other selectors"
SERVICE = {"name": "s", "namespace": "n"}

RULES: list[Experiment] = [
    ({"action": "Deny"}, None),
    ({"action": "Log"}, None),
    ({"action": "Pass"}, None),
    ({"action": ""}, ("action", 'supported values: "Allow", "Deny", "Log", "Pass"')),
    ({"action": "allow"}, ("action", "did you mean 'Allow'")),
    ({"action": None}, ("action", "Required value")),
    ({"action": ["Allow"]}, ("action", "Unsupported value")),
    ({"ipVersion": 4}, None),
    ({"ipVersion": 6}, None),
    ({"ipVersion": 5}, ("ipVersion", "supported values: 4, 6")),
    ({"ipVersion": 0}, ("ipVersion", "greater than or equal to 4")),
    ({"ipVersion": "4"}, ("ipVersion", "expected a whole number")),
    ({"protocol": "006"}, None),
    ({"protocol": "UDPLite"}, None),
    ({"protocol": "any"}, ("protocol", "found 'any'")),
    ({"protocol": "0"}, ("protocol", "1..255")),
    ({"protocol": "+6"}, ("protocol", "1..255")),
    ({"protocol": 6.0, "source": {"ports": [80.0]}}, None),
    ({"protocol": 6.5}, ("protocol", "1..255")),
    ({"protocol": "TCP", "source": {"ports": [80.5]}}, ("source.ports[0]", "expected a port")),
    ({"protocol": "icmpv6"}, ("protocol", "did you mean 'ICMPv6'")),
    ({"notProtocol": 256}, ("notProtocol", "1..255")),
    ({"notProtocol": "SCTP", "protocol": "TCP"}, None),
    ({"notProtocol": "ICMP", "ipVersion": 6}, ("notProtocol", "protocol ICMP requires ipVersion 4")),
    ({"notProtocol": 58, "ipVersion": 4}, ("notProtocol", "protocol ICMPv6 requires ipVersion 6")),
    ({"protocol": 1, "ipVersion": 6}, ("protocol", "protocol ICMP requires ipVersion 4")),
    ({"protocol": "58", "ipVersion": 4}, ("protocol", "protocol ICMPv6 requires ipVersion 6")),
    ({"protocol": "ICMP", "icmp": {}}, None),
    ({"protocol": 1, "icmp": {"type": 254, "code": 255}}, None),
    ({"protocol": 58, "icmp": {"type": 0, "code": 0}}, None),
    ({"protocol": "ICMP", "icmp": {"type": 255}}, ("icmp.type", "should be less than or equal to 254")),
    ({"protocol": "ICMP", "icmp": {"type": -1}}, ("icmp.type", "should be greater than or equal to 0")),
    ({"protocol": "ICMP", "icmp": {"type": 8, "code": 256}}, ("icmp.code", "should be less than or equal to 255")),
    ({"protocol": "ICMP", "icmp": {"code": 3}}, ("icmp.code", "ICMP code specified without an ICMP type")),
    ({"protocol": "ICMP", "icmp": {"type": "8"}}, ("icmp.type", "expected a whole number")),
    ({"protocol": "ICMP", "icmp": {"typ": 8}}, ("icmp.typ", "did you mean 'type'")),
    ({"protocol": "1", "icmp": {"type": 8}}, ("icmp", "ICMP fields require protocol to be ICMP or ICMPv6")),
    ({"icmp": {"type": 8}}, ("icmp", "ICMP fields require protocol to be ICMP or ICMPv6")),
    ({"icmp": {}}, ("icmp", "ICMP fields require protocol to be ICMP or ICMPv6")),
    ({"protocol": "TCP", "icmp": {"type": 8}}, ("icmp", "ICMP fields require protocol to be ICMP or ICMPv6")),
    ({"notICMP": {"type": 8, "code": 0}}, None),
    ({"notICMP": {"code": 0}}, ("notICMP.code", "ICMP code specified without an ICMP type")),
    ({"protocol": "TCP", "notICMP": {"type": 300}}, ("notICMP.type", "less than or equal to 254")),
    ({"http": {}}, None),
    ({"http": {"methods": ["GET", "get", "*", "X"]}, "protocol": "TCP"}, None),
    ({"http": {"methods": []}, "protocol": 6}, None),
    ({"http": {"methods": ["GET", "PUT", "GET"]}}, ("http.methods[2]", "Duplicate value")),
    ({"http": {"methods": [f"M{i}" for i in range(20)]}}, None),
    ({"http": {"methods": [f"M{i}" for i in range(21)]}}, ("http.methods", "Too many: 21: must have at most 20 items")),
    ({"http": {"methods": "GET"}}, ("http.methods", "expected a list")),
    ({"http": {"paths": [{"exact": "/"}, {"prefix": "/a"}]}}, None),
    ({"http": {"paths": [{"exact": "/"}] * 20}}, None),
    ({"http": {"paths": [{"exact": "/"}] * 21}}, ("http.paths", "must have at most 20 items")),
    ({"http": {"paths": [{"exact": "/" + "x" * 1023}]}}, None),
    ({"http": {"paths": [{"exact": "/" + "x" * 1024}]}}, ("http.paths[0].exact", "may not be more than 1024 bytes")),
    ({"http": {"paths": [{"prefix": "/" + "x" * 1024}]}}, ("http.paths[0].prefix", "may not be more than 1024 bytes")),
    ({"http": {"paths": [{}]}}, ("http.paths[0]", "exactly one of exact and prefix")),
    ({"http": {"paths": [{"exact": "", "prefix": ""}]}}, ("http.paths[0]", "exactly one of exact and prefix")),
    ({"http": {"paths": [{"exact": "/a", "prefix": "/"}]}}, ("http.paths[0]", "exactly one of exact and prefix")),
    ({"http": {"paths": [{"exact": "a"}]}}, ("http.paths[0].exact", "starts with /")),
    ({"http": {"paths": [{"prefix": "/a#b"}]}}, ("http.paths[0].prefix", "is not a path")),
    ({"http": {"paths": [{"prefix": "/a b"}]}}, ("http.paths[0].prefix", "is not a path")),
    ({"http": {"headers": []}}, ("http.headers", "not supported")),
    ({"http": {}, "action": "Deny"}, ("http", "HTTP match is only valid on Allow rules")),
    ({"http": {}, "action": "Pass"}, ("http", "HTTP match is only valid on Allow rules")),
    ({"http": {}, "protocol": "UDP"}, ("http", "rules with HTTP match must have protocol TCP or unset")),
    ({"http": {}, "protocol": "6"}, ("http", "rules with HTTP match must have protocol TCP or unset")),
    ({"metadata": {}}, None),
    ({"metadata": {"annotations": {"a": "x" * ((256 << 10) - 1)}}}, None),
    ({"metadata": {"annotations": {"a": "x" * (256 << 10)}}}, ("metadata.annotations", "256 kB")),
    ({"metadata": {"annotations": {"a": 1}}}, ("metadata.annotations.a", "expected a string")),
    ({"metadata": {"annotations": {"a": None}}}, ("metadata.annotations.a", "expected a string, found nothing")),
    ({"metadata": {"labels": {}}}, ("metadata.labels", "unknown field")),
    ({"destination": {"services": SERVICE, "ports": [1]}, "protocol": "TCP"}, ("destination", "ports and notPorts")),
    ({"notIcmp": {}}, ("notIcmp", "did you mean 'notICMP'")),
    ({"log": True}, ("log", "unknown field 'log'")),
]  # fmt: skip

ENTITIES: list[Experiment] = [
    ({}, None),
    ({"nets": []}, None),
    ({"nets": ["10.0.0.0/8", "192.0.2.1/32", "0.0.0.0/0"]}, None),
    ({"nets": ["fd00::/8", "::/0", "::ffff:0:0:0/96"]}, None),
    ({"nets": ["10.0.0.1/8"]}, ("nets[0]", "host bits")),
    ({"nets": ["fd00::1/64"]}, ("nets[0]", "host bits")),
    ({"nets": ["10.0.0.0/33"]}, ("nets[0]", "prefix length 33")),
    ({"nets": ["::/129"]}, ("nets[0]", "prefix length 129")),
    ({"nets": ["10.0.0.0/-1"]}, ("nets[0]", "prefix length")),
    ({"nets": ["10.0.0.0/"]}, ("nets[0]", "prefix length")),
    ({"nets": ["10.0.0/8"]}, ("nets[0]", "not an address or a network")),
    ({"nets": ["010.0.0.0/8"]}, ("nets[0]", "not an address or a network")),
    ({"nets": ["fe80::1%eth0"]}, ("nets[0]", "not an address or a network")),
    ({"nets": ["10.0.0.0/8\n"]}, ("nets[0]", "prefix length")),
    ({"nets": [" 10.0.0.0/8"]}, ("nets[0]", "not an address or a network")),
    ({"nets": ["www.example.com"]}, ("nets[0]", "not an address or a network")),
    ({"nets": [10]}, ("nets[0]", "expected an address or a network")),
    ({"nets": "10.0.0.0/8"}, ("nets", "expected a list")),
    ({"nets": ["10.0.0.0/8", "10.0.0.0/8"]}, ("nets[1]", "Duplicate value")),
    ({"notNets": ["10.0.0.0/8"]}, None),
    ({"notNets": ["0.0.0.0/0"]}, ("notNets", "matches no traffic")),
    ({"notNets": ["::/0"]}, ("notNets", "matches no traffic")),
    ({"ports": ["http", "a", "1a"]}, None),
    ({"ports": ["http", 80]}, ("ports", NUMERIC_NEED)),
    ({"notPorts": ["80:81"]}, ("notPorts", NUMERIC_NEED)),
    ({"ports": [f"p{i}" for i in range(50)]}, None),
    ({"ports": [f"p{i}" for i in range(51)]}, ("ports", "Too many: 51: must have at most 50 items")),
    ({"notPorts": [f"p{i}" for i in range(51)]}, ("notPorts", "Too many: 51: must have at most 50 items")),
    ({"ports": ["Http"]}, ("ports[0]", "is not a port name")),
    ({"ports": ["a_b"]}, ("ports[0]", "is not a port name")),
    ({"selector": ""}, None),
    ({"selector": "has(calico/k8s_ns/role)"}, None),
    ({"selector": "thing=hello &"}, ("selector", "invalid selector")),
    ({"selector": "all() || global()"}, ("selector", GLOBAL)),
    ({"selector": 5}, ("selector", "expected a string")),
    ({"selector": "x" * 1025}, ("selector", "Too long: may not be more than 1024 bytes")),
    ({"notSelector": "x" * 1025}, ("notSelector", "Too long: may not be more than 1024 bytes")),
    ({"namespaceSelector": "x" * 1025}, ("namespaceSelector", "Too long: may not be more than 1024 bytes")),
    ({"notSelector": "a ="}, ("notSelector", "invalid selector")),
    ({"namespaceSelector": "all()"}, None),
    ({"namespaceSelector": " global() "}, None),
    ({"namespaceSelector": "!global()"}, ("namespaceSelector", ALONE)),
    ({"namespaceSelector": "global() && global()"}, ("namespaceSelector", ALONE)),
    ({"serviceAccounts": {}}, None),
    ({"serviceAccounts": {"names": ["a", "b"], "selector": "has(x)"}}, None),
    ({"serviceAccounts": {"names": ["a", "a"]}}, ("serviceAccounts.names[1]", "Duplicate value")),
    ({"serviceAccounts": {"selector": "x"}}, ("serviceAccounts.selector", "invalid selector")),
    ({"serviceAccounts": {"name": "a"}}, ("serviceAccounts.name", "did you mean 'names'")),
    ({"services": SERVICE}, None),
    ({"services": SERVICE, "notPorts": ["http"]}, None),
    ({"services": {"name": "x" * 253, "namespace": "n"}}, None),
    ({"services": {"name": "x" * 254, "namespace": "n"}}, ("services.name", "may not be more than 253 bytes")),
    ({"services": {"name": "s", "namespace": "x" * 254}}, ("services.namespace", "may not be more than 253 bytes")),
    ({"services": {"name": "s"}}, ("services.namespace", "must specify a namespace")),
    ({"services": {"name": "", "namespace": "n"}}, ("services.name", "services must specify a service name")),
    ({"services": {"name": "S", "namespace": "n"}}, ("services.name", "is not a service's name")),
    ({"services": SERVICE, "selector": "all()"}, ("services", "cannot specify Selector/NotSelector and Services")),
    ({"services": SERVICE, "notSelector": " "}, ("services", "cannot specify Selector/NotSelector and Services")),
    ({"services": SERVICE, "selector": ""}, None),
    ({"services": SERVICE, "namespaceSelector": "all()"}, ("services", "cannot specify NamespaceSelector and")),
    ({"services": SERVICE, "nets": ["10.0.0.0/8"]}, ("services", "cannot specify Nets/NotNets and Services")),
    ({"services": SERVICE, "notNets": ["10.0.0.0/8"]}, ("services", "cannot specify Nets/NotNets and Services")),
    ({"services": SERVICE, "nets": []}, None),
    ({"services": SERVICE, "serviceAccounts": {}}, ("services", "cannot specify ServiceAccounts and Services")),
    ({"net": ["10.0.0.0/8"]}, ("net", "did you mean 'nets'")),
]  # fmt: skip

FAMILIES: list[Experiment] = [
    ({"source": {"nets": ["10.0.0.0/8", "fd00::/8"]}}, ("", "rule contains both IPv4 and IPv6 CIDRs")),
    ({"source": {"nets": ["10.0.0.0/8"]}, "destination": {"notNets": ["fd00::/8"]}}, ("", "both IPv4 and IPv6")),
    ({"ipVersion": 4, "source": {"nets": ["fd00::/8"]}}, ("source.nets", "rule IP version doesn't match CIDR version")),
    ({"ipVersion": 6, "destination": {"notNets": ["10.0.0.0/8"]}}, ("destination.notNets", "doesn't match")),
    ({"ipVersion": 6, "destination": {"nets": ["fd00::/8"]}, "source": {"notNets": ["fe80::/10"]}}, None),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "refused"), RULES + FAMILIES)
def test_a_rule(fields: dict[str, Any], refused: Refused | None) -> None:
    if "services" in fields.get("destination", {}):  # of a profile: policies have rules of their own about that
        check(*_placed("Profile", {"action": "Allow", **fields}, refused))
        return
    for kind in ("GlobalNetworkPolicy", "NetworkPolicy", "StagedGlobalNetworkPolicy", "StagedNetworkPolicy", "Profile"):
        check(*_placed(kind, {"action": "Allow", **fields}, refused))


@pytest.mark.parametrize("side", ["source", "destination"])
@pytest.mark.parametrize(("entity", "refused"), ENTITIES)
def test_a_side_of_a_rule(entity: dict[str, Any], refused: Refused | None, side: str) -> None:
    direction = "ingress" if side == "source" else "egress"
    if side == "destination" and "services" in entity and "notPorts" in entity:
        refused = ("", "ports and notPorts cannot be specified with services")
    rule = {"action": "Allow", side: entity}
    at = None if refused is None else (f"{side}.{refused[0]}".rstrip("."), refused[1])
    check(*_placed("GlobalNetworkPolicy", rule, at, direction))


@pytest.mark.parametrize("protocol", ["TCP", "UDP", "SCTP", 6, 17, 132, "132"])
@pytest.mark.parametrize("key", ["ports", "notPorts"])
def test_protocols_that_have_ports(protocol: Any, key: str) -> None:
    rule = {"action": "Allow", "protocol": protocol, "source": {key: [1, "2:3", "http"]}}
    check(*_placed("GlobalNetworkPolicy", rule, None))


@pytest.mark.parametrize("protocol", ["ICMP", "ICMPv6", "UDPLite", 7, 100, 136, "1"])
@pytest.mark.parametrize("key", ["ports", "notPorts"])
def test_protocols_that_have_none(protocol: Any, key: str) -> None:
    rule = {"action": "Allow", "protocol": protocol, "destination": {key: ["http"]}}
    check(*_placed("GlobalNetworkPolicy", rule, (f"destination.{key}", PORTS_NEED)))


@pytest.mark.parametrize(
    ("direction", "rule", "refused"),
    [
        ("ingress", {"source": {"services": SERVICE}}, None),
        ("egress", {"destination": {"services": SERVICE}}, None),
        ("ingress", {"destination": {"services": SERVICE}}, ("destination.services", "not allowed in ingress rule")),
        ("egress", {"source": {"services": SERVICE}}, ("source.services", "not allowed in egress rule")),
        ("egress", {"http": {"methods": ["GET"]}}, ("http", "not allowed in egress rules")),
        ("egress", {"destination": {"domains": ["*.example.com", "a.*.example.com", "example.com"]}}, None),
        ("egress", {"destination": {"domains": ["*.*"]}}, ("destination.domains[0]", "is not a name")),
        ("egress", {"destination": {"domains": ["g*.com"]}}, ("destination.domains[0]", "is not a name")),
        ("egress", {"destination": {"domains": ["com.*"]}}, ("destination.domains[0]", "is not a name")),
        ("egress", {"action": "Deny", "destination": {"domains": ["a.b"]}}, ("destination.domains", "Allow rules")),
        ("ingress", {"destination": {"domains": ["a.b"]}}, ("destination.domains", "egress Allow rules only")),
        ("ingress", {"source": {"domains": ["a.b"]}}, ("source.domains", "destination of an egress rule")),
    ],
)
@pytest.mark.parametrize("kind", ["GlobalNetworkPolicy", "NetworkPolicy"])
def test_what_only_one_direction_has(kind: str, direction: str, rule: dict[str, Any], refused: Refused | None) -> None:
    check(*_placed(kind, {"action": "Allow", **rule}, refused, direction))


def test_the_services_of_a_namespaced_policy_are_its_namespaces() -> None:
    rule = {"action": "Allow", "source": {"services": {"name": "s"}}}
    check(*_placed("NetworkPolicy", rule, None))


def _placed(
    kind: str, rule: dict[str, Any], refused: Refused | None, direction: str = "ingress"
) -> tuple[dict[str, Any], Refused | None]:
    at = None if refused is None else (f"{direction}[0].{refused[0]}".rstrip("."), refused[1])
    return resource(kind, {direction: [rule]}), at
