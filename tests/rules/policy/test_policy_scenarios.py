# SPDX-License-Identifier: Apache-2.0
"""Tiers, policies and rules: each answer derived by hand from Calico's documentation and code."""

from typing import Any

import pytest

from tests.rules.policy.scenario import (
    A6,
    ALLOW,
    B6,
    DENY,
    LOG,
    OUT,
    OUT6,
    PASS,
    A,
    B,
    Doc,
    Scenario,
    account,
    doc,
    namespace,
    network_set,
    policy,
    slice_of,
    tier,
    workload,
)

W = workload("a", A, A6)


def ingress(*rules: Doc, name: str = "p", **spec: Any) -> Doc:
    return policy(name, ingress=list(rules), types=["Ingress"], **spec)


def egress(*rules: Doc, name: str = "p", **spec: Any) -> Doc:
    return policy(name, egress=list(rules), types=["Egress"], **spec)


def profile(name: str, **spec: Any) -> Doc:
    return doc("Profile", name, spec)


def gone(name: str) -> Doc:
    return workload("a", A, profiles=[name] if name else [])


# tiers, order and defaults: documents, then the verdict of TCP from outside to a
ORDER: dict[str, tuple[list[Doc], str]] = {
    "no policy: profile": ([W], "allow"),
    "no policy, no profile": ([gone("")], "deny"),
    "profile that nobody wrote": ([gone("missing")], "deny"),
    "profile without rules": ([gone("q"), profile("q")], "deny"),
    "profile: first matching rule": ([gone("q"), profile("q", ingress=[LOG, ALLOW, DENY])], "allow"),
    "profile: of several the first that matches": (
        [workload("a", A, profiles=["q", "r"]), profile("q"), profile("r", ingress=[ALLOW])], "allow"),
    "profile: pass is deny": ([workload("a", A, profiles=["q", "r"]), profile("q", ingress=[PASS]),
                               profile("r", ingress=[ALLOW])], "deny"),
    "profile egress rules say nothing of ingress": ([gone("q"), profile("q", egress=[ALLOW])], "deny"),
    "policy without rules ends in its tier's default": ([W, ingress()], "deny"),
    "log alone ends in the tier's default": ([W, ingress(LOG)], "deny"),
    "log does not decide": ([W, ingress(LOG, ALLOW)], "allow"),
    "pass in the last tier: profiles": ([W, ingress(PASS, DENY)], "allow"),
    "pass in the last tier without profile": ([gone(""), ingress(PASS, ALLOW)], "deny"),
    "pass skips the rest of its tier": ([W, ingress(PASS, order=1), ingress(DENY, name="z", order=2)], "allow"),
    "tier default Pass": ([W, tier("t", 1, "Pass"), ingress(tier="t")], "allow"),
    "tier default Pass, then the next tier": ([W, tier("t", 1, "Pass"), ingress(tier="t"), ingress(name="z")], "deny"),
    "tier default Deny hides later tiers": ([W, tier("t", 1), ingress(tier="t"), ingress(ALLOW, name="z")], "deny"),
    "tier of nobody's policy is skipped": (
        [W, tier("t", 1), policy("t.x", tier="t", selector="name == 'z'", ingress=[DENY]), ingress(ALLOW)], "allow"),
    "tier with policy of the other direction is skipped": ([W, tier("t", 1), egress(tier="t")], "allow"),
    "tiers of one order by name": (
        [W, tier("t2", 5), tier("t1", 5), ingress(ALLOW, tier="t1"), ingress(DENY, name="q", tier="t2")], "allow"),
    "tier without order is last": (
        [W, tier("t1"), ingress(DENY, tier="t1"), ingress(ALLOW, name="z", tier="default")], "allow"),
    "tiers without order by name": (
        [W, tier("t2"), tier("t1"), ingress(DENY, tier="t2"), ingress(ALLOW, name="z", tier="t1")], "allow"),
    "tier that does not exist comes last": (
        [W, tier("t1", None, "Pass"), ingress(DENY, tier="gone"), ingress(ALLOW, name="z", tier="t1")], "allow"),
    "tier that does not exist ends in deny": ([W, ingress(tier="gone")], "deny"),
    "kube-admin before, kube-baseline after default": (
        [W, ingress(DENY, name="x", tier="kube-baseline"), ingress(ALLOW, name="y", tier="kube-admin"), ingress(PASS)],
        "allow"),
    "kube-baseline is asked after a pass": (
        [W, ingress(DENY, name="x", tier="kube-baseline"), ingress(PASS, name="y", tier="kube-admin"), ingress(PASS)],
        "deny"),
    "kube-admin passes what it does not match": ([W, ingress(tier="kube-admin")], "allow"),
    "lower order first": ([W, ingress(DENY, name="a", order=10), ingress(ALLOW, name="z", order=-1)], "allow"),
    "no order is last": ([W, ingress(DENY, name="a"), ingress(ALLOW, name="z", order=1e300)], "allow"),
    "order ties by name": ([W, ingress(DENY, name="b", order=1), ingress(ALLOW, name="a", order=1)], "allow"),
    "ties of one name: the global one's empty namespace first": (
        [W, ingress(DENY, name="ns/p", order=1), ingress(ALLOW, name="p", order=1)], "allow"),
    "names are compared with what follows them": (  # "p-x//" comes before "p//": - is before /
        [W, ingress(DENY, name="p", order=1), ingress(ALLOW, name="p-x", order=1)], "allow"),
    "fractions count": ([W, ingress(DENY, name="a", order=1.5), ingress(ALLOW, name="z", order=1.25)], "allow"),
    "of a namespace's policies only its own endpoints' count": ([W, ingress(DENY, name="other/p")], "allow"),
    "no types and no rules: ingress": ([W, policy(selector="name == 'a'")], "deny"),
    "no types, egress rules: egress": ([W, policy(egress=[DENY])], "allow"),
    "no types, empty ingress list beside egress rules: egress": ([W, policy(ingress=[], egress=[DENY])], "allow"),
    "types without Ingress: its rules are not asked": ([W, policy(ingress=[DENY], types=["Egress"])], "allow"),
    "no selector is everybody": ([W, doc("GlobalNetworkPolicy", "p", {"ingress": [DENY]})], "deny"),
    "no spec is everybody, ingress": ([W, doc("GlobalNetworkPolicy", "p", None)], "deny"),
    "doNotTrack is not for workloads": ([W, ingress(DENY, doNotTrack=True, applyOnForward=True)], "allow"),
    "preDNAT is not for workloads": ([W, ingress(DENY, preDNAT=True, applyOnForward=True)], "allow"),
    "applyOnForward is, too, for workloads": ([W, ingress(DENY, applyOnForward=True)], "deny"),
    "performanceHints mean nothing": ([W, ingress(ALLOW, performanceHints=["AssumeNeededOnEveryNode"])], "allow"),
}  # fmt: skip


@pytest.mark.parametrize("name", ORDER)
def test_order_and_defaults(name: str) -> None:
    documents, expected = ORDER[name]
    asked = Scenario(*documents)
    assert asked() == expected
    assert asked(endpoint="ns/a", direction="ingress") == expected


# one rule of an Allow policy: rule fields, question, verdict
UDP, SCTP, ICMP, ICMP6 = {"proto": "udp"}, {"proto": "sctp"}, {"proto": "icmp"}, {"proto": 58, "src": OUT6, "dst": A6}
V6 = {"src": OUT6, "dst": A6}
MATCHES: list[tuple[Doc, Doc, bool]] = [
    ({}, {}, True),
    ({"ipVersion": 4}, {}, True), ({"ipVersion": 4}, V6, False), ({"ipVersion": 6}, V6, True),
    ({"protocol": "TCP"}, UDP, False), ({"protocol": 17}, UDP, True), ({"protocol": "17"}, UDP, True),
    ({"protocol": "UDPLite"}, {"proto": 136}, True), ({"protocol": "UDPLite"}, {"proto": "udplite"}, True),
    ({"protocol": "UDPLite"}, UDP, False), ({"protocol": "SCTP"}, SCTP, True),
     ({"protocol": 253}, {"proto": 253}, True),
    ({"notProtocol": "TCP"}, {}, False), ({"notProtocol": "TCP"}, UDP, True), ({"notProtocol": 6}, {"proto": 50}, True),
    ({"protocol": "ICMP"}, ICMP, True), ({"protocol": "ICMP"}, ICMP6, False), ({"protocol": "ICMPv6"}, ICMP6, True),
    ({"protocol": "ICMP", "icmp": {"type": 8}}, ICMP | {"icmpType": 8, "icmpCode": 3}, True),
    ({"protocol": "ICMP", "icmp": {"type": 8}}, ICMP | {"icmpType": 0}, False),
    ({"protocol": "ICMP", "icmp": {"type": 0}}, ICMP | {"icmpType": 0}, True),
    ({"protocol": "ICMP", "icmp": {"type": 3, "code": 0}}, ICMP | {"icmpType": 3, "icmpCode": 1}, False),
    ({"protocol": "ICMP", "icmp": {"type": 3, "code": 1}}, ICMP | {"icmpType": 3, "icmpCode": 1}, True),
    ({"protocol": "ICMP", "notICMP": {"type": 8}}, ICMP | {"icmpType": 8}, False),
    ({"protocol": "ICMP", "notICMP": {"type": 8}}, ICMP | {"icmpType": 0}, True),
    ({"protocol": "ICMP", "notICMP": {"type": 8, "code": 3}}, ICMP | {"icmpType": 8, "icmpCode": 0}, True),
    ({"protocol": "ICMP", "notICMP": {"type": 8, "code": 3}}, ICMP | {"icmpType": 8, "icmpCode": 3}, False),
    ({"protocol": "ICMP", "notICMP": {"type": 8}}, UDP, False),
    ({"protocol": "ICMP", "icmp": {"type": 8}, "notICMP": {"type": 8, "code": 1}}, ICMP | {"icmpType": 8}, True),
    ({"protocol": "ICMPv6", "icmp": {"type": 128}}, ICMP6 | {"icmpType": 128}, True),
    ({"protocol": "ICMPv6", "icmp": {"type": 128}}, ICMP6 | {"icmpType": 129}, False),
    ({"source": {"nets": ["203.0.113.0/24"]}}, {}, True), ({"source": {"nets": ["203.0.113.8"]}}, {}, False),
    ({"source": {"nets": ["203.0.113.0/24"]}}, V6, False), ({"source": {"nets": ["0.0.0.0/0"]}}, V6, False),
    ({"source": {"nets": ["::/0"]}}, {}, False), ({"source": {"nets": ["::/0"]}}, V6, True),
    ({"source": {"nets": ["203.0.113.0/24", "2001:db8::/32"]}}, V6, True),
    ({"source": {"nets": ["203.0.113.0/24", "2001:db8::/32"]}}, {}, True),
    ({"source": {"notNets": ["203.0.113.0/24"]}}, {}, False), ({"source": {"notNets": ["203.0.113.8"]}}, {}, True),
    ({"source": {"notNets": ["203.0.113.0/24"]}}, V6, True), ({"source": {"notNets": ["0.0.0.0/0"]}}, {}, False),
    ({"source": {"nets": ["203.0.113.0/24"], "notNets": ["203.0.113.9/32"]}}, {}, False),
    ({"source": {"nets": ["203.0.113.9"]}, "destination": {"nets": [B]}}, {}, False),
    ({"protocol": "TCP", "source": {"ports": [40000]}}, {}, True),
    ({"protocol": "TCP", "source": {"ports": [80]}}, {}, False),
    ({"protocol": "TCP", "source": {"notPorts": [40000]}}, {}, False),
    ({"protocol": "TCP", "destination": {"ports": ["79:80", 443]}}, {}, True),
    ({"protocol": "TCP", "destination": {"ports": ["79:80", 443]}}, {"dport": "443"}, True),
    ({"protocol": "TCP", "destination": {"ports": ["79:80", 443]}}, {"dport": 444}, False),
    ({"protocol": "TCP", "destination": {"ports": ["79:80"], "notPorts": [80]}}, {}, False),
    ({"protocol": "SCTP", "destination": {"ports": [80]}}, SCTP, True),
    ({"protocol": "UDP", "destination": {"ports": [80]}}, {}, False),
    # a packet of a protocol without ports has none to differ from a number
    ({"protocol": "TCP", "destination": {"notPorts": [80]}}, {"proto": 253}, False),
    ({"protocol": "TCP", "http": {"methods": ["GET"]}}, {}, True), ({"http": {"methods": ["GET"]}}, UDP, False),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "question", "matches"), MATCHES)
def test_what_a_rule_matches(rule: Doc, question: Doc, matches: bool) -> None:
    expected = "allow" if matches else "deny"
    assert Scenario(W, ingress(ALLOW | rule))(**question) == expected
    if "http" not in rule:
        other = "deny" if matches else "allow"
        assert Scenario(W, ingress(DENY | rule, ALLOW))(**question) == other


# -- who a rule speaks of ---------------------------------------------------------------------------------------------

PLACES = [
    namespace("ns", env="prod"), namespace("far", env="test"),
    account("ns/sa", role="reader"), account("far/sa", role="writer"),
    workload("b", B, B6, labels={"app": "web"}, serviceAccountName="sa",
             ports=[{"name": "web", "protocol": "TCP", "port": 80}, {"name": "dns", "protocol": "UDP", "port": 53}]),
    workload("far/c", "10.0.0.3", "fd00::3", labels={"app": "web"}, serviceAccountName="sa"),
    workload("far/d", "10.0.0.4", labels={"app": "db"}),
    network_set("listed", "203.0.113.0/24", "2001:db8::/32", app="web", list="yes"),
    network_set("far/own", "198.51.100.0/24", app="web"),
    doc("HostEndpoint", "h", {"node": "n", "interfaceName": "eth0", "expectedIPs": ["192.0.2.1"]}, {"app": "web"}),
]  # fmt: skip
WHO = {"b": B, "c": "10.0.0.3", "d": "10.0.0.4", "listed": OUT, "own": "198.51.100.1", "h": "192.0.2.1",
       "world": "8.8.8.8", "b6": B6, "c6": "fd00::3", "listed6": OUT6}  # fmt: skip
# source of an Allow rule in a global policy and in one of namespace ns, and who of WHO gets through
PEERS: list[tuple[Doc, str, str]] = [
    ({"selector": "app == 'web'"}, "b c listed own h b6 c6 listed6", "b b6"),
    ({"selector": "app != 'web'"}, "d", ""),
    ({"selector": "all()"}, "b c d listed own h b6 c6 listed6", "b b6"),
    ({"notSelector": "app == 'web'"}, "d world", ""),
    ({"notSelector": "app == 'db'"}, "b c listed own h world b6 c6 listed6", "b b6"),
    ({"selector": "has(app)", "notSelector": "app == 'db'"}, "b c listed own h b6 c6 listed6", "b b6"),
    ({"namespaceSelector": "all()"}, "b c d own b6 c6", "b c d own b6 c6"),
    ({"namespaceSelector": "global()"}, "listed h listed6", "listed h listed6"),
    ({"namespaceSelector": "global()", "selector": "list == 'yes'"}, "listed listed6", "listed listed6"),
    ({"namespaceSelector": "env == 'test'"}, "c d own c6", "c d own c6"),
    ({"namespaceSelector": "env == 'test'", "selector": "app == 'web'"}, "c own c6", "c own c6"),
    ({"namespaceSelector": "env == 'test'", "notSelector": "app == 'web'"}, "d", "d"),
    ({"namespaceSelector": "env != 'test'"}, "b listed h b6 listed6", "b listed h b6 listed6"),
    ({"namespaceSelector": "kubernetes.io/metadata.name == 'far'"}, "c d own c6", "c d own c6"),
    ({"namespaceSelector": "projectcalico.org/name in {'ns'}"}, "b b6", "b b6"),
    ({"serviceAccounts": {"names": ["sa"]}}, "b c b6 c6", "b b6"),
    ({"serviceAccounts": {"names": ["sb"]}}, "", ""),
    ({"serviceAccounts": {"selector": "role == 'writer'"}}, "c c6", ""),
    ({"serviceAccounts": {"selector": "projectcalico.org/name == 'sa'"}}, "b c b6 c6", "b b6"),
    ({"serviceAccounts": {"names": ["sa"], "selector": "role == 'writer'"}}, "c c6", ""),
    ({"serviceAccounts": {"names": ["sa"]}, "namespaceSelector": "env == 'test'"}, "c c6", "c c6"),
    ({"serviceAccounts": {"names": ["sa"]}, "selector": "app == 'db'"}, "", ""),
    ({"nets": ["10.0.0.0/30"]}, "b c", "b c"),
    ({"nets": ["10.0.0.0/30"], "selector": "app == 'web'"}, "b c", "b"),
    ({"notNets": ["10.0.0.0/30"], "selector": "app == 'web'"}, "listed own h b6 c6 listed6", "b6"),
    ({"notNets": ["10.0.0.0/8"]}, "listed own h world b6 c6 listed6", "listed own h world b6 c6 listed6"),
    ({}, "b c d listed own h world b6 c6 listed6", "b c d listed own h world b6 c6 listed6"),
    ({"selector": "projectcalico.org/namespace == 'far'"}, "c d own c6", ""),
    ({"selector": "projectcalico.org/orchestrator == 'k8s'"}, "b c d b6 c6", "b b6"),
]  # fmt: skip


@pytest.mark.parametrize(("source", "everywhere", "inside"), PEERS)
def test_who_a_rule_speaks_of(source: Doc, everywhere: str, inside: str) -> None:
    for name, expected in (("p", everywhere), ("ns/p", inside)):
        asked = Scenario(W, *PLACES, ingress(ALLOW | {"source": source}, name=name))
        through = {who for who, src in WHO.items() if asked(src=src, dst=A6 if ":" in src else A) == "allow"}
        assert through == set(expected.split())
        back = Scenario(W, *PLACES, egress(ALLOW | {"destination": source}, name=name))
        through = {who for who, dst in WHO.items() if back(src=A6 if ":" in dst else A, dst=dst) == "allow"}
        assert through == set(expected.split())


# whom a policy governs: of a and PLACES, those who are denied by it
GOVERNED: list[tuple[str, Doc, str]] = [
    ("p", {"selector": "all()"}, "a b c d"), ("p", {"selector": ""}, "a b c d"),
    ("p", {"selector": "", "namespaceSelector": "env == 'prod'"}, "a b"),
    ("p", {"selector": "app == 'web'", "namespaceSelector": "env == 'test'"}, "c"),
    ("p", {"selector": "", "namespaceSelector": "all()"}, "a b c d"),
    ("p", {"selector": "", "serviceAccountSelector": "role == 'reader'"}, "b"),
    ("p", {"selector": "", "serviceAccountSelector": "all()"}, "b c"),
    ("ns/p", {"selector": ""}, "a b"), ("ns/p", {"selector": "app == 'web'"}, "b"),
    ("ns/p", {"selector": "", "serviceAccountSelector": "has(role)"}, "b"),
    ("far/p", {"selector": "!has(nothing)"}, "c d"),
    ("p", {"selector": "projectcalico.org/namespace in {'far', 'x'}"}, "c d"),
    ("p", {"selector": "projectcalico.org/serviceaccount == 'sa'"}, "b c"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "spec", "expected"), GOVERNED)
def test_whom_a_policy_governs(name: str, spec: Doc, expected: str) -> None:
    asked = Scenario(W, *PLACES, policy(name, **spec))
    workloads = {"a": "ns/a", "b": "ns/b", "c": "far/c", "d": "far/d"}
    denied = {who for who, full in workloads.items() if asked(endpoint=full, direction="ingress", dst=None) == "deny"}
    assert denied == set(expected.split())


# -- named ports and services -----------------------------------------------------------------------------------------

# ports of the destination in an egress Allow rule of a: (rule, question, verdict)
NAMED: list[tuple[Doc, Doc, bool]] = [
    ({"destination": {"ports": ["web"]}}, {"dst": B}, True),
    ({"destination": {"ports": ["web"]}}, {"dst": B6, "src": A6}, True),
    ({"destination": {"ports": ["web"]}}, {"dst": B, "dport": 81}, False),
    ({"destination": {"ports": ["web"]}}, {"dst": B, "proto": "udp"}, False),
    ({"destination": {"ports": ["web"]}}, {"dst": "10.0.0.3"}, False),
    ({"destination": {"ports": ["dns"]}}, {"dst": B, "proto": "udp", "dport": 53}, True),
    ({"protocol": "TCP", "destination": {"ports": ["dns"]}}, {"dst": B, "dport": 53}, False),
    ({"protocol": "TCP", "destination": {"ports": ["dns", 443]}}, {"dst": B, "dport": 443}, True),
    ({"destination": {"ports": ["nobodys"]}}, {"dst": B}, False),
    ({"destination": {"ports": ["web"], "selector": "app == 'db'"}}, {"dst": B}, False),
    ({"destination": {"ports": ["web"], "selector": "app == 'web'"}}, {"dst": B}, True),
    ({"destination": {"ports": ["web"], "notSelector": "app == 'web'"}}, {"dst": B}, False),
    ({"destination": {"ports": ["web"], "notNets": ["10.0.0.2/32"]}}, {"dst": B}, False),
    ({"destination": {"notPorts": ["web"]}}, {"dst": B}, False),
    ({"destination": {"notPorts": ["web"]}}, {"dst": B, "dport": 81}, True),
    ({"destination": {"notPorts": ["web"]}}, {"dst": B, "proto": "udp"}, True),
    ({"destination": {"notPorts": ["web"]}}, {"dst": B, "proto": 253}, True),
    ({"destination": {"notPorts": ["web"]}}, {"dst": "10.0.0.3"}, True),
    ({"destination": {"notPorts": ["nobodys"]}}, {"dst": B}, True),
    # the set of a named port has only endpoints that the selector names
    ({"destination": {"notPorts": ["web"], "selector": "app == 'db'"}}, {"dst": "10.0.0.4"}, True),
    ({"protocol": "TCP", "destination": {"notPorts": ["web", 443]}}, {"dst": B, "dport": 443}, False),
    ({"protocol": "TCP", "destination": {"ports": ["80:81"], "notPorts": ["web"]}}, {"dst": B, "dport": 81}, True),
    ({"protocol": "TCP", "destination": {"ports": ["80:81"], "notPorts": ["web"]}}, {"dst": B, "dport": 80}, False),
    ({"destination": {"services": {"name": "svc", "namespace": "ns"}}}, {"dst": B, "dport": 8080}, True),
    ({"destination": {"services": {"name": "svc", "namespace": "ns"}}}, {"dst": B6, "src": A6, "dport": 8080}, True),
    ({"destination": {"services": {"name": "svc", "namespace": "ns"}}}, {"dst": B, "dport": 80}, False),
    ({"destination": {"services": {"name": "svc", "namespace": "ns"}}}, {"dst": B, "dport": 8080, "proto": 17}, False),
    ({"destination": {"services": {"name": "svc", "namespace": "ns"}}}, {"dst": B, "dport": 53, "proto": 17}, True),
    ({"destination": {"services": {"name": "svc", "namespace": "ns"}}}, {"dst": "10.0.0.3", "dport": 8080}, False),
    # ports belong to their slice: another slice's address is not on them
    ({"destination": {"services": {"name": "svc", "namespace": "ns"}}}, {"dst": "198.18.0.1", "dport": 8080}, False),
    ({"destination": {"services": {"name": "svc", "namespace": "ns"}}}, {"dst": "198.18.0.1", "dport": 9090}, True),
    ({"destination": {"services": {"name": "svc", "namespace": "far"}}}, {"dst": B, "dport": 8080}, False),
    ({"protocol": "UDP", "destination": {"services": {"name": "svc", "namespace": "ns"}}},
     {"dst": B, "dport": 8080}, False),
]  # fmt: skip
SLICES = [
    slice_of("svc", "ns/s1", B, ports=(("TCP", 8080), ("UDP", 53))),
    slice_of("svc", "ns/s2", B6, ports=(("TCP", 8080),)),
    slice_of("svc", "ns/s3", "198.18.0.1", ports=(("TCP", 9090),)),
]


@pytest.mark.parametrize(("rule", "question", "matches"), NAMED)
def test_named_ports_and_services(rule: Doc, question: Doc, matches: bool) -> None:
    asked = Scenario(W, *PLACES, *SLICES, egress(ALLOW | rule))
    assert asked(**{"src": A} | question) == ("allow" if matches else "deny")


def test_a_source_service_is_its_addresses_whatever_the_port() -> None:
    source = {"services": {"name": "svc"}}
    asked = Scenario(W, *PLACES, *SLICES, ingress(ALLOW | {"source": source}, name="ns/p"))
    assert asked(src=B) == asked(src=B, proto="udp", sport=1) == asked(src="198.18.0.1") == "allow"
    assert asked(src="10.0.0.3") == asked() == "deny"


def test_endpoints_objects_stand_behind_a_service_too() -> None:
    given = doc("Endpoints", "ns/old", None, api="v1")
    given["subsets"] = [{"addresses": [{"ip": B}], "ports": [{"port": 8080, "protocol": "TCP"}]}]
    asked = Scenario(W, *PLACES, given, egress(ALLOW | {"destination": {"services": {"name": "old"}}}, name="ns/p"))
    assert asked(src=A, dst=B, dport=8080) == "allow"
    assert asked(src=A, dst=B, dport=8081) == "deny"


# -- one endpoint, both ends ------------------------------------------------------------------------------------------

def test_both_ends_have_to_allow() -> None:
    documents = [W, *PLACES]
    out = egress(DENY | {"destination": {"selector": "app == 'web'"}}, ALLOW)
    into = policy("q", selector="app == 'db'", ingress=[DENY])
    asked = Scenario(*documents, out, into)
    assert asked(src=A, dst=B) == asked(src=A, dst="10.0.0.4") == asked(src=B, dst="10.0.0.4") == "deny"
    assert asked(src=A, dst="8.8.8.8") == asked(src=B, dst=A) == "allow"
    assert asked(endpoint="ns/b", direction="ingress", src=A, dst=B) == "allow"
    assert asked(endpoint="ns/a", direction="Egress", src=A, dst="10.0.0.4") == "allow"


def test_an_endpoint_alone_is_on_its_own_side_of_the_flow() -> None:
    asked = Scenario(W, *PLACES, policy(selector="app == 'web'", ingress=[ALLOW | {"destination": {"ports": ["web"]}}]))
    alone = {"endpoint": "ns/b", "direction": "ingress", "dst": None}
    assert asked(**alone) == asked(**alone, src=None) == asked(**alone, src=OUT6) == "allow"
    assert asked(**alone, dport=81) == asked(**alone, proto=17) == "deny"
    assert asked(**alone | {"dst": "10.0.0.3"}) == "deny"
    assert asked(endpoint="far/c", direction="egress", src=None, dst=None) == "allow"


def test_what_nobody_knows_is_not_governed() -> None:
    asked = Scenario(policy(selector="all()", ingress=[], egress=[], types=["Ingress", "Egress"]))
    assert asked() == "allow"
    assert asked.answer().trace == ()


@pytest.mark.parametrize("form", [{}, {"endpoint": "ns/a", "direction": "egress"}])
def test_the_answer_to_what_was_let_in_goes_out(form: Doc) -> None:
    asked = Scenario(W, ingress(ALLOW | {"protocol": "TCP", "destination": {"ports": [80]}}), egress(DENY, name="q"))
    back = {"src": A, "dst": OUT, "sport": 80, "dport": 40000} | form
    assert asked(**back) == "deny"
    assert asked(**back, reply=True) == asked.staged(**back, reply=True) == "allow"
    assert asked(**back | {"sport": 81}, reply=True) == "deny"


def test_profiles_of_namespaces_and_accounts_bring_their_labels() -> None:
    documents = [namespace("far", env="test"), account("far/sb", role="writer")]
    of_both = workload("a", A, profiles=["kns.far", "ksa.far.sb"])
    for selected in ({"namespaceSelector": "env == 'test'"}, {"serviceAccountSelector": "role == 'writer'"}):
        denied = doc("GlobalNetworkPolicy", "p", {**selected, "ingress": [DENY]})
        # A policy that selects by either speaks of who is in a namespace, or has an account, and of the label.
        assert Scenario(*documents, of_both, denied)() == "deny"
        assert Scenario(*documents, W, denied)() == "allow"
