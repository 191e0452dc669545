# SPDX-License-Identifier: Apache-2.0
"""Limits and cross-field rules, each just inside and just outside."""

import json
from typing import Any

import pytest

from rules.policy import load_documents, load_object, validate_object


def errors(kind: str, spec: Any, name: str = "x", api: str = "projectcalico.org/v3", **metadata: Any) -> list[str]:
    document = {"apiVersion": api, "kind": kind, "metadata": {"name": name, **metadata}, "spec": spec}
    return [str(error) for error in validate_object(document)]


def rule(direction: str = "ingress", kind: str = "GlobalNetworkPolicy", **fields: Any) -> list[str]:
    return errors(kind, {direction: [{"action": "Allow", **fields}]})


def valid(found: list[str]) -> bool:
    return not found


@pytest.mark.parametrize("selector", ["a == '" + "x" * 1017 + "'"])
def test_selectors_of_1024_characters_and_no_more(selector: str) -> None:
    assert len(selector) == 1024
    assert valid(errors("GlobalNetworkPolicy", {"selector": selector}))
    (error,) = errors("GlobalNetworkPolicy", {"selector": selector + " "})
    assert error == "spec.selector: Too long: may not be more than 1024 bytes (it has 1025)"


def test_1024_rules_and_no_more() -> None:
    rules = [{"action": "Allow"}] * 1024
    assert valid(errors("GlobalNetworkPolicy", {"ingress": rules}))
    assert errors("GlobalNetworkPolicy", {"ingress": [*rules, rules[0]]}) == [
        "spec.ingress: Too many: 1025: must have at most 1024 items"
    ]


@pytest.mark.parametrize("key", ["nets", "notNets"])
def test_256_nets_and_no_more(key: str) -> None:
    nets = [f"10.0.{i}.0/24" for i in range(256)]
    assert valid(rule(source={key: nets}))
    assert rule(source={key: [*nets, "11.0.0.0/8"]}) == [
        f"spec.ingress[0].source.{key}: Too many: 257: must have at most 256 items"
    ]


def test_50_ports_and_no_more() -> None:
    assert valid(rule(protocol="TCP", source={"ports": list(range(1, 51))}))
    assert not valid(rule(protocol="TCP", source={"ports": list(range(1, 52))}))


@pytest.mark.parametrize("port", [1, 65535, "1:65535", "80", "http", "a-1", "80:80"])
def test_ports_that_are_valid(port: Any) -> None:
    assert valid(rule(protocol="TCP", destination={"ports": [port]}))


@pytest.mark.parametrize(
    "port", [0, 65536, -1, "2:1", "0:5", "1:65536", "HTTP", "a" * 16, "1-2", "a--b", "-a", "", True, 1.5, None, "1:2:3"]
)
def test_ports_that_are_not(port: Any) -> None:
    assert not valid(rule(protocol="TCP", destination={"ports": [port]}))


@pytest.mark.parametrize("protocol", ["TCP", "UDP", "ICMP", "ICMPv6", "SCTP", "UDPLite", 1, 255, "255", "1"])
def test_protocols_that_are_valid(protocol: Any) -> None:
    assert valid(rule(protocol=protocol))


@pytest.mark.parametrize("protocol", ["tcp", "Icmp", 0, 256, -1, "0", "256", "", True, 6.5, [6]])
def test_protocols_that_are_not(protocol: Any) -> None:
    assert not valid(rule(protocol=protocol))


@pytest.mark.parametrize("nets", [["10.0.0.0/8"], ["10.0.0.1"], ["fd00::/8", "::1"], ["0.0.0.0/0"], ["1.2.3.4/32"]])
def test_rule_nets_that_are_valid(nets: list[str]) -> None:
    assert valid(rule(source={"nets": nets}))


@pytest.mark.parametrize(
    "net", ["10.0.0.1/8", "10.0.0.0/33", "10.0.0", "fd00::1/8", "x", "", "10.0.0.0/08", "::/129", 5]
)
def test_rule_nets_that_are_not(net: Any) -> None:
    assert not valid(rule(source={"nets": [net]}))


def test_sets_take_host_bits_and_any_number_of_nets() -> None:
    assert valid(errors("GlobalNetworkSet", {"nets": ["10.0.0.1/8", *(f"10.{i}.0.0/16" for i in range(256))]}))


@pytest.mark.parametrize(
    "fields",
    [
        {"source": {"nets": ["10.0.0.0/8"]}, "destination": {"nets": ["fd00::/8"]}},
        {"source": {"nets": ["10.0.0.0/8"], "notNets": ["fd00::/8"]}},
        {"ipVersion": 6, "source": {"notNets": ["10.0.0.0/8"]}},
        {"ipVersion": 5},
        {"source": {"notNets": ["0.0.0.0/0"]}},
        {"source": {"notNets": ["::/0"]}},
        {"source": {"ports": [80]}},
        {"protocol": "ICMP", "source": {"notPorts": ["http"]}},
        {"protocol": "ICMP", "ipVersion": 6},
        {"notProtocol": "ICMPv6", "ipVersion": 4},
        {"icmp": {"type": 8}},
        {"protocol": "ICMP", "icmp": {"type": 255}},
        {"protocol": "ICMP", "icmp": {"code": 0}},
        {"protocol": "UDP", "http": {"methods": ["GET"]}},
        {"http": {"methods": ["GET", "GET"]}},
        {"http": {"paths": [{"exact": "/a", "prefix": "/b"}]}},
        {"http": {"paths": [{"exact": "a"}]}},
        {"http": {"paths": [{"prefix": "/a?b"}]}},
        {"http": {"methods": [f"M{i}" for i in range(21)]}},
        {"http": {"headers": []}},
        {"source": {"selector": "global()"}},
        {"source": {"namespaceSelector": "global() || all()"}},
        {"source": {"namespaceSelector": "(global())"}},
        {"source": {"namespaceSelector": "a == 'global()'"}},
        {"source": {"selector": "a == 'global('"}},
        {"source": {"services": {"name": "S", "namespace": "n"}}},
        {"metadata": {"annotations": {"": "a"}}},
        {"metadata": {"annotations": {"a/b/c": "a"}}},
        {"source": {"services": {"name": "s", "namespace": "n"}, "selector": "all()"}},
        {"source": {"services": {"namespace": "n"}}},
        {"source": {"services": {"name": "s"}}},
        {"destination": {"services": {"name": "s", "namespace": "n"}}},
        {"destination": {"domains": ["a.com"]}},
        {"metadata": {"annotations": {"a": "x" * (256 << 10)}}},
        {"action": "allow"},
        {"log": True},
    ],
)
def test_ingress_rules_that_are_refused(fields: dict[str, Any]) -> None:
    assert not valid(rule(**fields))


@pytest.mark.parametrize(
    "fields",
    [
        {"source": {"ports": ["http"]}},
        {"source": {"namespaceSelector": "global()"}},
        {"source": {"namespaceSelector": "\tglobal( ) "}},
        {"source": {"notSelector": "global()"}},
        {"source": {"serviceAccounts": {"selector": "global()"}}},
        {"notICMP": {"type": 8}},
        {"http": {"paths": [{"exact": "/a\tb"}]}},
        {"metadata": {"annotations": {"Example.com/A-b": "", "x": "any thing"}}},
        {"http": {"methods": ["GET"], "paths": [{"prefix": "/a"}]}},
        {"protocol": "ICMPv6", "icmp": {"type": 128, "code": 0}},
        {"source": {"services": {"name": "s", "namespace": "n"}}},
        {"ipVersion": 4, "source": {"nets": ["10.0.0.0/8"]}, "destination": {"notNets": ["10.0.0.0/8"]}},
    ],
)
def test_ingress_rules_that_are_accepted(fields: dict[str, Any]) -> None:
    assert valid(rule(**fields))


@pytest.mark.parametrize("name", ["a.com", "*.a.com", "a.*.com"])
def test_domains_in_egress_allow(name: str) -> None:
    assert valid(rule("egress", destination={"domains": [name]}))


@pytest.mark.parametrize("name", ["*", "a.*", "*.*.com", "a*.com", "", "a..com"])
def test_domains_that_are_no_names(name: str) -> None:
    assert not valid(rule("egress", destination={"domains": [name]}))


@pytest.mark.parametrize(
    ("kind", "name", "ok"),
    [("Tier", "a" * 63, True), ("Tier", "a" * 64, False), ("Tier", "a.b", False), ("GlobalNetworkPolicy", "a.b", True),
     ("GlobalNetworkPolicy", "a.b.c", False), ("NetworkPolicy", "knp.default.a.b", True),
     ("NetworkPolicy", "-a", False),
     ("GlobalNetworkPolicy", "A", False), ("GlobalNetworkPolicy", "a\n", False)],
)  # fmt: skip
def test_names(kind: str, name: str, ok: bool) -> None:
    assert valid(errors(kind, {}, name)) is ok


@pytest.mark.parametrize("kind", ["GlobalNetworkSet", "NetworkSet"])
def test_sets_may_not_carry_the_namespace_label(kind: str) -> None:
    assert not valid(errors(kind, {"nets": []}, labels={"projectcalico.org/namespace": "a"}))


def test_a_staged_delete_carries_nothing_but_its_tier() -> None:
    assert valid(errors("StagedGlobalNetworkPolicy", {"stagedAction": "Delete", "tier": "t", "ingress": []}))
    for extra in (
        {"selector": "all()"}, {"order": 1}, {"order": 0}, {"applyOnForward": True}, {"types": ["Ingress"]},
        {"ingress": [{"action": "Deny"}]},
    ):  # fmt: skip
        assert not valid(errors("StagedGlobalNetworkPolicy", {"stagedAction": "Delete", **extra}))


def test_fields_of_other_kinds_are_unknown_with_a_suggestion() -> None:
    assert not valid(errors("NetworkPolicy", {"doNotTrack": True}))
    (error,) = errors("NetworkPolicy", {"namespaceSelecter": "all()", "order": 1})
    assert "unknown field" in error
    assert "did you mean 'selector'" not in errors("GlobalNetworkPolicy", {"namespaceselector": "all()"})[0]
    assert "did you mean 'namespaceSelector'" in errors("GlobalNetworkPolicy", {"namespaceselector": "all()"})[0]


@pytest.mark.parametrize(
    ("spec", "ok"),
    [({"interfaceName": "eth0"}, True), ({"interfaceName": "a" * 16}, False), ({"interfaceName": "a/b"}, False),
     ({"interfaceName": "eth0", "ipNetworks": ["10.0.0.0/31"]}, False),
     ({"interfaceName": "eth0", "mac": "01:23:45:67:89:ab"}, True), ({"interfaceName": "eth0", "mac": "1"}, False),
     ({"interfaceName": "eth0", "ipv4Gateway": "fd00::1"}, False),
     ({"interfaceName": "eth0", "qosControls": {"ingressPacketRate": 10_001}}, False),
     ({"interfaceName": "eth0", "qosControls": {"ingressPacketRate": 10_000}}, True)],
)  # fmt: skip
def test_workload_endpoints(spec: dict[str, Any], ok: bool) -> None:
    assert valid(errors("WorkloadEndpoint", spec)) is ok


@pytest.mark.parametrize(
    ("spec", "ok"),
    [({"podSelector": {}}, True), ({"podSelector": {"matchLabels": {"a": 1}}}, False),
     ({"podSelector": {"matchExpressions": [{"key": "a", "operator": "In", "values": []}]}}, False),
     ({"podSelector": {"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["x"]}]}}, False),
     ({"podSelector": {}, "ingress": [{"from": [{}]}]}, False),
     ({"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}}]}]}, False),
     ({"podSelector": {}, "ingress": [{"ports": [{"port": 5, "endPort": 4}]}]}, False),
     ({"podSelector": {}, "ingress": [{"ports": [{"port": "http", "endPort": 4}]}]}, False),
     ({"podSelector": {}, "ingress": [{"ports": [{"protocol": "ICMP"}]}]}, False),
     ({"podSelector": {}, "policyTypes": ["ingress"]}, False)],
)  # fmt: skip
def test_kubernetes_network_policies(spec: dict[str, Any], ok: bool) -> None:
    assert valid(errors("NetworkPolicy", spec, api="networking.k8s.io/v1")) is ok


def test_what_is_refused_though_its_meaning_is_clear_is_kept_apart() -> None:
    document = {
        "apiVersion": "projectcalico.org/v3",
        "kind": "GlobalNetworkSet",
        "metadata": {"name": "x"},
        "spec": {"nets": ["10.0.0.0/8", "10.0.0.0/8"]},
    }
    result = load_documents(json.dumps(document), "f")
    assert [str(error) for error in result.errors] == ["f:1: spec.nets[1]: Duplicate value: '10.0.0.0/8'"]
    assert result.resources == ()
    assert [resource.name for resource in result.understood] == ["x"]


@pytest.mark.parametrize("label", ["a", "A_b.c-D", "a.b/c", "a" * 63, f"{'a' * 253}/{'b' * 63}"])
def test_names_of_labels(label: str) -> None:
    assert valid(errors("GlobalNetworkSet", {}, labels={label: ""}, annotations={label: ""}))
    assert valid(errors("Profile", {"labelsToApply": {label: ""}}))


@pytest.mark.parametrize(
    "label", ["", "-a", "a-", "a" * 64, "/a", "a/", "a..b/c", "A.b/c", "a/b/c", "a b", f"{'a' * 254}/b"]
)
def test_what_is_no_name_of_a_label(label: str) -> None:
    assert not valid(errors("Namespace", None, api="v1", labels={label: ""}))
    assert not valid(errors("GlobalNetworkSet", {}, labels={label: ""}))
    assert not valid(errors("Profile", {"labelsToApply": {label: ""}}))


def test_half_a_character_from_json_is_a_value_like_others() -> None:
    document = json.loads(
        '{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a", "annotations": {"a": "\\ud83d"}}}'
    )
    assert load_object(document).metadata.annotations == {"a": "\ud83d"}


def test_names_of_annotations_may_be_in_capitals() -> None:
    assert valid(errors("GlobalNetworkSet", {}, annotations={"A.B/C": "x y"}))
    assert not valid(errors("GlobalNetworkSet", {}, labels={"A.B/C": "x"}))
    assert not valid(errors("GlobalNetworkSet", {}, annotations={"a b": ""}))
    assert not valid(errors("GlobalNetworkSet", {}, annotations={"a": "x" * (256 << 10)}))


@pytest.mark.parametrize("value", ["-", "a b", "a" * 64, "ä", "a/b", "a\n"])
def test_values_of_labels_and_what_containers_carry(value: str) -> None:
    document = {
        "apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkSet", "metadata": {"name": "x"}, "spec": {},
    }  # fmt: skip
    labelled = {**document, "metadata": {"name": "x", "labels": {"a": value}}}
    assert validate_object(document) == ()
    (error,) = validate_object(labelled)
    assert error.field == "metadata.labels.a"
    assert load_object(labelled).metadata.labels == {"a": value}


@pytest.mark.parametrize(
    ("name", "spec", "message"),
    [("kube-admin", {"order": 1000}, "The 'kube-admin' tier must have default action 'Pass'"),
     ("kube-baseline", {"order": 10_000_000}, "The 'kube-baseline' tier must have default action 'Pass'"),
     ("default", {"order": 1_000_000, "defaultAction": "Pass"}, "The 'default' tier must have default action 'Deny'")],
)  # fmt: skip
def test_built_in_tiers_are_refused_in_calicos_words(name: str, spec: dict[str, Any], message: str) -> None:
    (error,) = errors("Tier", spec, name)
    assert message in error


@pytest.mark.parametrize(("tier", "ok"), [("a", True), ("a.b", True), ("A", False), ("a b", False), ("", True)])
def test_names_of_tiers_in_policies(tier: str, ok: bool) -> None:
    assert valid(errors("GlobalNetworkPolicy", {"tier": tier})) is ok


@pytest.mark.parametrize("kind", ["HostEndpoint", "WorkloadEndpoint"])
def test_names_of_profiles(kind: str) -> None:
    spec = {"node": "n", "interfaceName": "*"}
    assert valid(errors(kind, {**spec, "profiles": ["kns.a-b", "a"]}))
    assert not valid(errors(kind, {**spec, "profiles": ["A"]}))
    assert not valid(errors(kind, {**spec, "profiles": ["a b"]}))


@pytest.mark.parametrize(
    ("block", "ok"),
    [({"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}, True),
     ({"cidr": "10.0.0.0/8", "except": ["10.0.0.0/8"]}, False),
     ({"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}, False), ({"cidr": "10.0.0.1"}, False),
     ({"cidr": "fd00::/8", "except": ["fd00:1::/32"]}, True), ({"cidr": "fd00::/8", "except": ["fe80::/32"]}, False),
     ({"cidr": "10.0.0.0/8", "except": ["10.0.0.1"]}, False)],
)  # fmt: skip
def test_exceptions_lie_within_their_block(block: dict[str, Any], ok: bool) -> None:
    spec = {"podSelector": {}, "ingress": [{"from": [{"ipBlock": block}]}]}
    assert valid(errors("NetworkPolicy", spec, api="networking.k8s.io/v1")) is ok


def test_types_of_a_staged_kubernetes_policy_are_not_an_empty_list() -> None:
    assert valid(errors("StagedKubernetesNetworkPolicy", {"podSelector": {}}))
    assert not valid(errors("StagedKubernetesNetworkPolicy", {"podSelector": {}, "policyTypes": []}))
    assert valid(errors("NetworkPolicy", {"podSelector": {}, "policyTypes": []}, api="networking.k8s.io/v1"))


def test_ports_of_the_host_are_a_workloads() -> None:
    port = {"protocol": "TCP", "port": 1, "hostPort": 80, "hostIP": "192.0.2.1"}
    assert valid(errors("WorkloadEndpoint", {"interfaceName": "eth0", "ports": [port]}))
    assert not valid(errors("HostEndpoint", {"node": "n", "interfaceName": "eth0", "ports": [{**port, "name": "a"}]}))
