# SPDX-License-Identifier: Apache-2.0
"""Kubernetes NetworkPolicy, and ClusterNetworkPolicy as tiers: which pods reach which, over the whole path."""

from typing import Any

import pytest

from tests.rules.policy.scenario import (
    ALLOW,
    DENY,
    PASS,
    Doc,
    Scenario,
    namespace,
    network_set,
    pods_policy,
    policy,
    workload,
)

PORTS = [{"name": f"serve-{port}-{proto.lower()}", "protocol": proto, "port": port}
         for port in (80, 81) for proto in ("TCP", "UDP", "SCTP")]  # fmt: skip
PODS = {
    f"{ns}/{pod}": (f"10.1.{i}.{j}", f"fd01::{i}:{j}")
    for i, ns in enumerate("xyz", 1) for j, pod in enumerate("abc", 1)
}  # fmt: skip
WORLD = [
    *(namespace(ns, ns=ns) for ns in "xyz"),
    *(workload(name, *addresses, labels={"pod": name[2:]}, ports=PORTS) for name, addresses in PODS.items()),
]
A_POD, B_POD = {"matchLabels": {"pod": "a"}}, {"matchLabels": {"pod": "b"}}
NS_Y = {"matchLabels": {"ns": "y"}}


def expression(key: str, operator: str, *values: str) -> Doc:
    return {"matchExpressions": [{"key": key, "operator": operator} | ({"values": list(values)} if values else {})]}


def into_a(*rules: Doc, **spec: Any) -> Doc:
    return pods_policy("x/p", podSelector=A_POD, ingress=list(rules), **spec)


def reaching(policies: list[Doc], **question: Any) -> set[str]:
    """The pods that reach x/a at TCP port 80."""
    asked = Scenario(*WORLD, *policies, node=None)
    v6 = question.pop("v6", False)
    return {
        name for name, addresses in PODS.items()
        if asked(src=addresses[v6], dst=PODS["x/a"][v6], **question) == "allow"
    } - {"x/a"}  # fmt: skip


EVERYBODY = " ".join(sorted(set(PODS) - {"x/a"}))
CASES: list[tuple[str, list[Doc], Doc, str]] = [
    ("no policy", [], {}, EVERYBODY),
    ("no rules", [into_a()], {}, ""),
    ("one empty rule", [into_a({})], {}, EVERYBODY),
    ("an empty list of peers is everybody", [into_a({"from": [], "ports": []})], {}, EVERYBODY),
    ("another pod's policy", [pods_policy("x/p", podSelector=B_POD)], {}, EVERYBODY),
    ("another namespace's policy", [pods_policy("y/p", policyTypes=["Ingress"])], {}, EVERYBODY),
    ("egress alone", [into_a(policyTypes=["Egress"])], {}, EVERYBODY),
    ("ingress rules without the type", [into_a({"from": [{"podSelector": B_POD}]}, policyTypes=["Egress"])], {},
     EVERYBODY),
    ("egress rules without types mean both", [pods_policy("x/p", podSelector=A_POD, egress=[{}])], {}, ""),
    ("pods of the same namespace", [into_a({"from": [{"podSelector": {}}]})], {}, "x/b x/c"),
    ("pods by label", [into_a({"from": [{"podSelector": B_POD}]})], {}, "x/b"),
    ("namespaces", [into_a({"from": [{"namespaceSelector": NS_Y}]})], {}, "y/a y/b y/c"),
    ("every namespace", [into_a({"from": [{"namespaceSelector": {}}]})], {}, EVERYBODY),
    ("both in one peer", [into_a({"from": [{"namespaceSelector": NS_Y, "podSelector": B_POD}]})], {}, "y/b"),
    ("two peers", [into_a({"from": [{"namespaceSelector": NS_Y}, {"podSelector": B_POD}]})], {}, "x/b y/a y/b y/c"),
    ("every namespace's b", [into_a({"from": [{"namespaceSelector": {}, "podSelector": B_POD}]})], {}, "x/b y/b z/b"),
    ("In", [into_a({"from": [{"podSelector": expression("pod", "In", "b", "q")}]})], {}, "x/b"),
    ("NotIn", [into_a({"from": [{"podSelector": expression("pod", "NotIn", "b")}]})], {}, "x/c"),
    ("NotIn of a label nobody has", [into_a({"from": [{"podSelector": expression("no", "NotIn", "b")}]})], {},
     "x/b x/c"),
    ("Exists", [into_a({"from": [{"podSelector": expression("pod", "Exists")}]})], {}, "x/b x/c"),
    ("DoesNotExist", [into_a({"from": [{"podSelector": expression("pod", "DoesNotExist")}]})], {}, ""),
    ("namespaces NotIn", [into_a({"from": [{"namespaceSelector": expression("ns", "NotIn", "x", "z")}]})], {},
     "y/a y/b y/c"),
    ("namespaces by name",
     [into_a({"from": [{"namespaceSelector": expression("kubernetes.io/metadata.name", "In", "z")}]})], {},
     "z/a z/b z/c"),
    ("a namespace's labels are not its pods'",
     [into_a({"from": [{"podSelector": {"matchLabels": {"ns": "x"}}}]})], {}, ""),
    ("block", [into_a({"from": [{"ipBlock": {"cidr": "10.1.2.0/24"}}]})], {}, "y/a y/b y/c"),
    ("block but", [into_a({"from": [{"ipBlock": {"cidr": "10.1.2.0/24", "except": ["10.1.2.2/31"]}}]})], {}, "y/a"),
    ("block of IPv6", [into_a({"from": [{"ipBlock": {"cidr": "fd01::2:0/112"}}]})], {"v6": True}, "y/a y/b y/c"),
    ("block of IPv4 and IPv6 packets", [into_a({"from": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]})], {"v6": True}, ""),
    ("port", [into_a({"ports": [{"port": 80}]})], {}, EVERYBODY),
    ("another port", [into_a({"ports": [{"port": 81}]})], {}, ""),
    ("no protocol is TCP", [into_a({"ports": [{"port": 80}]})], {"proto": "udp"}, ""),
    ("UDP", [into_a({"ports": [{"port": 80, "protocol": "UDP"}]})], {"proto": "udp"}, EVERYBODY),
    ("SCTP is not TCP", [into_a({"ports": [{"port": 80, "protocol": "SCTP"}]})], {}, ""),
    ("SCTP", [into_a({"ports": [{"port": 80, "protocol": "SCTP"}]})], {"proto": 132}, EVERYBODY),
    ("any port of a protocol", [into_a({"ports": [{"protocol": "UDP"}]})], {"proto": 17, "dport": 9}, EVERYBODY),
    ("any port of another protocol", [into_a({"ports": [{"protocol": "UDP"}]})], {"dport": 9}, ""),
    ("range", [into_a({"ports": [{"port": 79, "endPort": 81}]})], {}, EVERYBODY),
    ("behind the range", [into_a({"ports": [{"port": 79, "endPort": 81}]})], {"dport": 82}, ""),
    ("named", [into_a({"ports": [{"port": "serve-80-tcp"}]})], {}, EVERYBODY),
    ("named, other number", [into_a({"ports": [{"port": "serve-80-tcp"}]})], {"dport": 81}, ""),
    ("named, of another protocol", [into_a({"ports": [{"port": "serve-80-udp"}]})], {}, ""),
    ("named, and the protocol says otherwise", [into_a({"ports": [{"port": "serve-80-udp", "protocol": "TCP"}]})],
     {"proto": "udp"}, ""),
    ("named and nobody's", [into_a({"ports": [{"port": "none"}]})], {}, ""),
    ("ICMP passes no rule with ports", [into_a({"ports": [{"port": 80}]})], {"proto": "icmp", "icmpType": 8}, ""),
    ("ICMP passes a rule without", [into_a({"from": [{"podSelector": B_POD}]})], {"proto": 1, "icmpType": 8}, "x/b"),
    ("peers and ports, both", [into_a({"from": [{"podSelector": B_POD}], "ports": [{"port": 81}]})], {}, ""),
    ("rules are alternatives", [into_a({"from": [{"podSelector": B_POD}], "ports": [{"port": 81}]},
     {"ports": [{"port": 80}]})],
     {}, EVERYBODY),
    ("policies are alternatives", [into_a(), pods_policy("x/q", ingress=[{"from": [{"namespaceSelector": NS_Y}]}])], {},
     "y/a y/b y/c"),
    ("the sender's egress counts, too",
     [pods_policy("y/p", egress=[{"to": [{"podSelector": {}}]}], policyTypes=["Egress"])],
     {}, "x/b x/c z/a z/b z/c"),
    ("egress to a named port",
     [pods_policy("y/p", egress=[{"ports": [{"port": "serve-80-tcp"}]}], policyTypes=["Egress"])], {}, EVERYBODY),
    ("egress to a namespace's named port",
     [pods_policy("y/p", policyTypes=["Egress"],
                  egress=[{"to": [{"namespaceSelector": {"matchLabels": {"ns": "z"}}}],
                   "ports": [{"port": "serve-80-tcp"}]}])],
     {}, "x/b x/c z/a z/b z/c"),
    ("a network set of the namespace is no pod",
     [network_set("x/s", "10.1.2.0/24", pod="b"), into_a({"from": [{"podSelector": B_POD}]})], {}, "x/b"),
    ("Calico's policy of a lower order comes first",
     [into_a({}), policy("c", order=999, selector="pod == 'a'",
      ingress=[DENY | {"source": {"selector": "pod == 'b'"}}])],
     {}, "x/c y/a y/c z/a z/c"),
    ("Calico's policy of a higher order comes later", [into_a({}), policy("c", order=1001, ingress=[DENY])], {},
     EVERYBODY),
    ("admin tier denies what a policy allows",
     [into_a({}), policy("adm", tier="kube-admin", order=1, selector="", namespaceSelector="ns == 'x'",
                         ingress=[DENY | {"source": {"namespaceSelector": "ns == 'y'"}}])],
     {}, "x/b x/c z/a z/b z/c"),
    ("admin tier allows what a policy denies",
     [into_a(), policy("adm", tier="kube-admin", order=1, selector="", namespaceSelector="ns == 'x'",
                       ingress=[ALLOW | {"source": {"namespaceSelector": "ns == 'y'", "selector": "pod == 'b'"}}])],
     {}, "y/b"),
    ("admin tier by priority",
     [policy("late", tier="kube-admin", order=2, selector="pod == 'a'", ingress=[DENY]),
      policy("soon", tier="kube-admin", order=1, selector="pod == 'a'",
             ingress=[PASS | {"source": {"namespaceSelector": "ns == 'y'"}}])], {}, "y/a y/b y/c"),
    ("what admin passes baseline denies",
     [policy("adm", tier="kube-admin", order=1, selector="pod == 'a'", ingress=[PASS]),
      policy("base", tier="kube-baseline", order=1, selector="pod == 'a'",
             ingress=[DENY | {"source": {"namespaceSelector": "ns == 'z'"}}])], {}, "x/b x/c y/a y/b y/c"),
    ("a policy before baseline", [into_a({}), policy("base", tier="kube-baseline", selector="", ingress=[DENY])],
     {}, EVERYBODY),
    ("baseline where no policy is", [policy("base", tier="kube-baseline", selector="pod == 'a'", ingress=[DENY])],
     {}, ""),
    ("baseline allows but what it matches is all there is",
     [policy("base", tier="kube-baseline", selector="pod == 'a'",
      ingress=[ALLOW | {"source": {"selector": "pod == 'b'"}}])],
     {}, EVERYBODY),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
def test_which_pods_reach_which(case: tuple[str, list[Doc], Doc, str]) -> None:
    _, policies, question, expected = case
    assert reaching(policies, **question) == set(expected.split())


def test_from_outside_only_blocks_and_rules_without_peers_let_in() -> None:
    for rule, expected in (({}, "allow"), ({"from": [{"namespaceSelector": {}}]}, "deny"),
                           ({"from": [{"ipBlock": {"cidr": "203.0.113.0/24"}}]}, "allow")):  # fmt: skip
        assert Scenario(*WORLD, into_a(rule))(dst=PODS["x/a"][0]) == expected


def test_answers_pass_whatever_egress_policy_says() -> None:
    asked = Scenario(*WORLD, pods_policy("x/p", podSelector=A_POD, policyTypes=["Egress"]))
    back = {"src": PODS["x/a"][0], "dst": PODS["y/a"][0], "sport": 80, "dport": 40000}
    assert asked(**back) == "deny"
    assert asked(**back, reply=True) == "allow"
