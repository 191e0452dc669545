# SPDX-License-Identifier: Apache-2.0
"""Host endpoints: which interface, which hook, in which order (Calico's "host endpoints" pages and felix/rules)."""

from typing import Any

import pytest

from tests.rules.policy.scenario import (
    ALLOW,
    DENY,
    OUT,
    PASS,
    A,
    B,
    Doc,
    Scenario,
    doc,
    host,
    policy,
    tier,
    workload,
)

HOST = "192.0.2.1"
W, V = workload("a", A), workload("b", B)
FAR = workload("c", "10.0.9.1", node="n2")
EAST, WEST = {"iif": "eth0"}, {"oif": "eth0"}
IN: Doc = {"path": "input", "dst": HOST, **EAST}
OUTWARD: Doc = {"path": "output", "src": HOST, "dst": OUT, **WEST}
TO_A: Doc = {"path": "forward", "oif": "calia", **EAST}
FROM_A: Doc = {"path": "forward", "src": A, "dst": OUT, "iif": "calia", **WEST}
A_TO_HOST: Doc = {"path": "input", "src": A, "dst": HOST, "iif": "calia"}
HOST_TO_A: Doc = {"path": "output", "src": HOST, "dst": A, "oif": "calia"}
A_TO_B: Doc = {"path": "forward", "src": A, "dst": B, "iif": "calia", "oif": "calib"}
TRANSIT: Doc = {"path": "forward", "dst": "203.0.113.77", "iif": "eth0", "oif": "eth1"}


def of_host(name: str = "p", **spec: Any) -> Doc:
    return policy(name, selector="has(host)", **spec)


def both_ways(*rules: Doc, name: str = "p", **spec: Any) -> Doc:
    return of_host(name, ingress=list(rules), egress=list(rules), types=["Ingress", "Egress"], **spec)


FORWARD = {"applyOnForward": True}
UNTRACKED, EARLY = {"doNotTrack": True, **FORWARD}, {"preDNAT": True, **FORWARD}
OPEN = {"profiles": ["projectcalico-default-allow"]}
# documents and (question, verdict)s
CASES: dict[str, tuple[list[Doc], list[tuple[Doc, str]]]] = {
    "interfaces that none names are left alone": (
        [W, host(), both_ways(DENY, **FORWARD)],
        [(IN | {"iif": "eth1"}, "allow"), (OUTWARD | {"oif": "eth1"}, "allow"), (TO_A | {"iif": "eth1"}, "allow")]),
    "without policy or profile: denied but failsafes, forwarding and its own workloads": (
        [W, V, host()],
        [(IN, "deny"), (OUTWARD, "deny"), (IN | {"dport": 22}, "allow"), (IN | {"dport": 22, "proto": 17}, "deny"),
         (IN | {"dport": 68, "proto": "udp"}, "allow"), (OUTWARD | {"dport": 22}, "deny"),
         (OUTWARD | {"dport": 53, "proto": "udp"}, "allow"), (OUTWARD | {"dport": 53}, "deny"),
         (OUTWARD | {"dport": 67, "proto": "udp"}, "allow"), (IN | {"dport": 53, "proto": "udp"}, "deny"),
         *((place | {"dport": port}, "allow") for place in (IN, OUTWARD)
           for port in (179, 2379, 2380, 5473, 6443, 6666, 6667)),
         (TO_A, "allow"), (FROM_A, "allow"), (TRANSIT, "allow"), (HOST_TO_A, "allow"), (A_TO_HOST, "allow")]),
    "`*` without policy or profile": (
        [W, V, host(interfaceName="*")],
        [(IN, "deny"), (IN | {"iif": "eth7"}, "deny"), (OUTWARD, "deny"), (TO_A, "allow"), (A_TO_B, "allow"),
         (HOST_TO_A, "allow"), (A_TO_HOST, "allow"), (IN | {"dport": 6443}, "allow")]),
    "a profile follows the policies": ([host(**OPEN)], [(IN, "allow"), (OUTWARD, "allow")]),
    "policy before profile": ([host(**OPEN), of_host(ingress=[DENY])], [(IN, "deny"), (OUTWARD, "allow")]),
    "policy of one direction leaves the other to profiles": (
        [host(), of_host(ingress=[ALLOW])], [(IN, "allow"), (OUTWARD, "deny")]),
    "plain policy is not for what passes through": (
        [W, host(), both_ways(DENY)], [(IN, "deny"), (TO_A, "allow"), (FROM_A, "allow"), (TRANSIT, "allow")]),
    "applyOnForward is for both": (
        [W, host(), both_ways(DENY, **FORWARD)],
        [(IN, "deny"), (OUTWARD, "deny"), (TO_A, "deny"), (FROM_A, "deny"), (TRANSIT, "deny"), (A_TO_HOST, "allow"),
         (TRANSIT | {"iif": "eth1", "oif": "eth2"}, "allow")]),
    "applyOnForward ingress at the way in, egress at the way out": (
        [host(), of_host(ingress=[DENY], **FORWARD)],
        [(TRANSIT, "deny"), (TRANSIT | {"iif": "eth1", "oif": "eth0"}, "allow")]),
    "failsafes are not for what passes through": (
        [W, host(), both_ways(DENY, **FORWARD)], [(TO_A | {"dport": 22}, "deny"), (FROM_A | {"dport": 179}, "deny")]),
    "forwarding ends in the tier's default": (
        [W, host(), tier("t", 1), of_host(tier="t", types=["Ingress"], **FORWARD)],
        [(TO_A, "deny"), (FROM_A, "allow"), (IN, "deny")]),
    "forwarding passes to nobody: allowed": (
        [W, host(), tier("t", 1, "Pass"), of_host(tier="t", types=["Ingress"], **FORWARD)],
        [(TO_A, "allow"), (IN, "deny")]),
    "forwarding: a tier without applyOnForward policy is skipped": (
        [W, host(), tier("t", 1), of_host("t.x", tier="t", ingress=[DENY]), of_host(ingress=[ALLOW], **FORWARD)],
        [(TO_A, "allow"), (IN, "deny")]),
    "forwarding: what the host allows the workload still decides": (
        [W, host(), of_host(ingress=[ALLOW], **FORWARD), policy("w", ingress=[DENY])], [(TO_A, "deny"), (IN, "allow")]),
    "`*` and applyOnForward: also between local workloads": (
        [W, V, host(interfaceName="*"), both_ways(DENY, **FORWARD)],
        [(A_TO_B, "deny"), (TO_A, "deny"), (FROM_A, "deny"), (A_TO_HOST, "allow"), (HOST_TO_A, "allow")]),
    "a named interface before `*`": (
        [host("h", **OPEN), host("all", interfaceName="*")],
        [(IN, "allow"), (IN | {"iif": "eth1"}, "deny"), (OUTWARD | {"oif": "eth1"}, "deny")]),
    "of two for one interface the first by name": (
        [host("b", **OPEN), host("a")], [(IN, "deny")]),
    "of two `*` the first by name": (
        [host("b", interfaceName="*"), host("a", interfaceName="*", **OPEN)], [(IN, "allow")]),
    "another node's host endpoint governs nothing here": (
        [host(node="n2")], [(IN, "allow"), (OUTWARD, "allow")]),
    "the interface counts, not the addresses": (
        [host(expectedIPs=["192.0.2.200"], interfaceName="eth0")], [(IN, "deny"), (IN | {"iif": "eth1"}, "allow")]),
    "a workload's egress policy, and no failsafe of the host's": (
        [W, host(interfaceName="*"), policy(egress=[DENY])],
        [(A_TO_HOST, "deny"), (A_TO_HOST | {"dport": 22}, "deny"), (IN | {"dport": 22}, "allow")]),
    "a host reaches its own workloads whatever policy says": (
        [W, host(interfaceName="*"), both_ways(DENY), policy("w", ingress=[DENY])],
        [(HOST_TO_A, "allow"), (TO_A, "deny")]),
    "a workload elsewhere is behind the host's egress policy": (
        [FAR, host(), of_host(egress=[DENY | {"destination": {"selector": "name == 'c'"}}, ALLOW])],
        [(OUTWARD | {"dst": "10.0.9.1"}, "deny"), (OUTWARD, "allow")]),
    "doNotTrack: allow goes past all other policy of the host": (
        [host(), of_host("a", ingress=[ALLOW], **UNTRACKED), of_host("b", ingress=[DENY])],
        [(IN, "allow"), (OUTWARD, "deny")]),
    "doNotTrack: deny": ([host(**OPEN), of_host(ingress=[DENY], **UNTRACKED)],
                         [(IN, "deny"), (OUTWARD, "allow"), (TRANSIT, "deny"), (IN | {"dport": 22}, "allow")]),
    "doNotTrack: no opinion, no deny": (
        [host(**OPEN), of_host(ingress=[ALLOW | {"protocol": "UDP"}], **UNTRACKED)], [(IN, "allow")]),
    "doNotTrack: a tier's default is Pass": (
        [host(**OPEN), tier("t", 1), of_host(tier="t", types=["Ingress"], **UNTRACKED)], [(IN, "allow")]),
    "doNotTrack: answers of failsafe services pass": (
        [host(**OPEN), both_ways(DENY, **UNTRACKED)],
        [(IN | {"proto": "udp", "sport": 53}, "allow"), (OUTWARD | {"sport": 22}, "allow"),
         (IN | {"sport": 80}, "deny")]),
    "doNotTrack: egress is not asked of what passes through": (
        [host(**OPEN), of_host(egress=[DENY], **UNTRACKED)],
         [(OUTWARD, "deny"), (FROM_A, "allow"), (TRANSIT, "allow")]),
    "doNotTrack of `*` says nothing of workloads' interfaces": (
        [W, V, host(interfaceName="*", **OPEN), both_ways(DENY, **UNTRACKED)],
        [(A_TO_HOST, "allow"), (A_TO_B, "allow"), (HOST_TO_A, "allow"), (IN, "deny"), (TO_A, "deny")]),
    "preDNAT: deny": (
        [W, host(**OPEN), of_host(ingress=[DENY], **EARLY)],
        [(IN, "deny"), (TO_A, "deny"), (OUTWARD, "allow"), (IN | {"dport": 22}, "allow"),
         (TO_A | {"dport": 22}, "allow")]),
    "preDNAT: allow skips the host's ingress policy, not the workload's": (
        [W, V, host(), of_host("a", ingress=[ALLOW], **EARLY), of_host("b", ingress=[DENY], **FORWARD),
         policy("w", ingress=[DENY])],
        [(IN, "allow"), (TO_A, "deny"), (TO_A | {"dst": B, "oif": "calib"}, "allow")]),
    "preDNAT: the way out is asked all the same": (
        [host(), of_host("a", ingress=[ALLOW], **EARLY), of_host("b", egress=[DENY], **FORWARD)],
        [(TRANSIT, "allow"), (TRANSIT | {"oif": "eth0"}, "deny")]),
    "preDNAT: no opinion, no deny": (
        [host(**OPEN), of_host(ingress=[ALLOW | {"protocol": "UDP"}], **EARLY)], [(IN, "allow")]),
    "preDNAT: addresses and ports before DNAT": (
        [W, host(), of_host("a", order=1, ingress=[ALLOW | {"protocol": "TCP",
         "destination": {"ports": [30080]}}], **EARLY),
         of_host("b", order=2, ingress=[DENY], **EARLY)],
        [(TO_A | {"preDNATDst": HOST, "preDNATDport": 30080}, "allow"), (TO_A, "deny"),
         (TO_A | {"preDNATDst": HOST, "preDNATDport": 30081, "dport": 30080}, "deny")]),
    "preDNAT of `*` is asked of workloads' packets, too": (
        [W, V, host(interfaceName="*", **OPEN), of_host(ingress=[DENY], **EARLY)],
        [(A_TO_B, "deny"), (A_TO_HOST, "deny"), (HOST_TO_A, "allow")]),
    "doNotTrack before preDNAT": (
        [host(), of_host("a", ingress=[ALLOW], **UNTRACKED), of_host("b", ingress=[DENY], **EARLY)], [(IN, "allow")]),
    "IPv6": (
        [host(), of_host(ingress=[ALLOW | {"source": {"nets": ["2001:db8::/32"]}}])],
        [(IN | {"src": "2001:db8::9", "dst": "2001:db8::1"}, "allow"),
         (IN | {"src": "fd00::9", "dst": "fd00::1"}, "deny"),
         (IN, "deny"), (IN | {"src": "fd00::9", "dst": "fd00::1", "dport": 22}, "allow")]),
    "tiers pass to profiles": ([host(**OPEN), of_host(ingress=[PASS])], [(IN, "allow")]),
    "a host's named ports": (
        [host(ports=[{"name": "api", "protocol": "TCP", "port": 80}], expectedIPs=[HOST]),
         of_host(ingress=[ALLOW | {"destination": {"ports": ["api"]}}])],
        [(IN, "allow"), (IN | {"dport": 81}, "deny"), (IN | {"dst": "192.0.2.2"}, "deny")]),
    "selectors find a host by expectedIPs alone": (
        [host(), host("peer", node="n2", expectedIPs=["192.0.2.7"], interfaceName="eth0"),
         policy(selector="host == 'h'", ingress=[ALLOW | {"source": {"selector": "host == 'peer'"}}])],
        [(IN | {"src": "192.0.2.7"}, "allow"), (IN | {"src": "192.0.2.8"}, "deny")]),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_host_endpoints(name: str) -> None:
    documents, questions = CASES[name]
    asked = Scenario(*documents)
    for question, expected in questions:
        assert asked(**question) == expected, question


def test_a_host_endpoint_alone_answers_wherever_it_is() -> None:
    """At all of its hooks: doNotTrack, preDNAT, failsafes, policy."""
    documents = [
        host(node="n7"), of_host("u", ingress=[DENY | {"protocol": "UDP"}], **UNTRACKED),
        of_host("d", ingress=[ALLOW | {"protocol": "SCTP"}], **EARLY),
        of_host("n", ingress=[ALLOW | {"protocol": "TCP", "destination": {"ports": [443]}}], egress=[DENY]),
    ]  # fmt: skip
    asked = Scenario(*documents, node=None)
    into: Doc = {"endpoint": "h", "direction": "ingress", "dst": HOST}
    assert asked(**into) == asked(**into, proto="udp", dport=443) == "deny"
    assert asked(**into, dport=443) == asked(**into, proto="sctp") == asked(**into, dport=22) == "allow"
    out: Doc = {"endpoint": "h", "direction": "egress", "src": HOST, "dst": OUT}
    assert asked(**out) == asked(**out, sport=80, dport=40000, reply=True) == "deny"
    assert asked(**out, proto="udp", dport=53) == "allow"
    assert asked(**out, sport=443, dport=40000, reply=True) == "allow"


def test_a_question_about_an_endpoint_is_answered_for_any_node() -> None:
    asked = Scenario(FAR, doc("GlobalNetworkPolicy", "p", {"ingress": [DENY]}))
    question: Doc = {"endpoint": "ns/c", "direction": "ingress", "dst": None}
    assert asked(**question) == asked(**question, node="n") == asked(**question, node="n2") == "deny"
