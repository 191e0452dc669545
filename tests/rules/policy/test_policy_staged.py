# SPDX-License-Identifier: Apache-2.0
"""Staged policies: never in force, always asked about; the answer that would be stands beside the one that is."""

import pytest

from tests.rules.policy.scenario import (
    ALLOW,
    DENY,
    PASS,
    A,
    B,
    Doc,
    Scenario,
    doc,
    host,
    pods_policy,
    policy,
    staged,
    tier,
    workload,
)

W = workload("a", A)


def pods(name: str, action: str | None = None, **spec: object) -> Doc:
    made = pods_policy(name, podSelector={"matchLabels": {"name": "a"}}, **spec)
    return staged(made | {"apiVersion": "projectcalico.org/v3"}, action) | {"kind": "StagedKubernetesNetworkPolicy"}


# documents, the verdict of TCP from outside to port 80 of a, and the verdict if staged policies were enforced
CASES: dict[str, tuple[list[Doc], str, str]] = {
    "global": ([W, staged(policy(ingress=[DENY]))], "allow", "deny"),
    "namespaced": ([W, staged(policy("ns/p", ingress=[DENY]))], "allow", "deny"),
    "namespaced, of another namespace": ([W, staged(policy("far/p", ingress=[DENY]))], "allow", "allow"),
    "of Kubernetes' kind": ([W, pods("ns/p")], "allow", "deny"),
    "of Kubernetes' kind, allowing": ([W, pods("ns/p", ingress=[{"ports": [{"port": 80}]}])], "allow", "allow"),
    "of Kubernetes' kind, egress only": ([W, pods("ns/p", policyTypes=["Egress"])], "allow", "allow"),
    "a tier of staged policies alone is not there": (
        [W, tier("t", 1), staged(policy("t.p", tier="t", ingress=[PASS])), policy(ingress=[ALLOW])], "allow", "allow"),
    "its default is only pending": (
        [W, tier("t", 1), staged(policy("t.p", tier="t", types=["Ingress"]))], "allow", "deny"),
    "its default Pass": (
        [W, tier("t", 1, "Pass"), staged(policy("t.p", tier="t", types=["Ingress"]))], "allow", "allow"),
    "a staged allow before what denies": (
        [W, staged(policy("a", order=1, ingress=[ALLOW])), policy("b", order=2, ingress=[DENY])], "deny", "allow"),
    "a staged deny behind what allows": (
        [W, staged(policy("b", order=2, ingress=[DENY])), policy("a", order=1, ingress=[ALLOW])], "allow", "allow"),
    "a staged pass": (
        [W, staged(policy("a", order=1, ingress=[PASS])), policy("b", order=2, ingress=[DENY])], "deny", "allow"),
    # Felix compares name/namespace/kind: the enforced kind comes before the staged one
    "of one name and order the enforced one is asked first": (
        [W, policy(order=1, ingress=[DENY]), staged(policy(order=1, ingress=[ALLOW]))], "deny", "deny"),
    "of one name the staged one adds what the other does not match": (
        [W, policy(order=1, ingress=[DENY | {"protocol": "UDP"}]), staged(policy(order=1, ingress=[ALLOW]))],
        "deny", "allow"),
    "Set": ([W, staged(policy(ingress=[DENY]), "Set")], "allow", "deny"),
    "Learn": ([W, staged(policy(ingress=[DENY]), "Learn")], "allow", "deny"),
    "Ignore": ([W, staged(policy(ingress=[DENY]), "Ignore")], "allow", "allow"),
    "Delete": ([W, policy(ingress=[DENY]), doc("StagedGlobalNetworkPolicy", "p", {"stagedAction": "Delete"})],
               "deny", "allow"),
    "Delete of what is not there": ([W, doc("StagedGlobalNetworkPolicy", "p", {"stagedAction": "Delete"})],
                                    "allow", "allow"),
    "Delete, namespaced": (
        [W, policy("ns/p", ingress=[DENY]), doc("StagedNetworkPolicy", "ns/p", {"stagedAction": "Delete"})],
        "deny", "allow"),
    "Delete is of its own kind": (
        [W, policy("ns/p", ingress=[DENY]), doc("StagedGlobalNetworkPolicy", "p", {"stagedAction": "Delete"})],
        "deny", "deny"),
    "Delete of a Kubernetes policy": (
        [W, pods_policy("ns/p"), doc("StagedKubernetesNetworkPolicy", "ns/p", {"stagedAction": "Delete"})],
        "deny", "allow"),
    "Delete leaves the tier's other policies": (
        [W, policy("p", ingress=[ALLOW]), policy("q", types=["Ingress"]),
         doc("StagedGlobalNetworkPolicy", "p", {"stagedAction": "Delete"})], "allow", "deny"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_staged_policies(name: str) -> None:
    documents, in_force, pending = CASES[name]
    asked = Scenario(*documents)
    for form in ({}, {"endpoint": "ns/a", "direction": "ingress"}, {"path": "forward", "iif": "eth9", "oif": "calia"}):
        assert (asked(**form), asked.staged(**form)) == (in_force, pending), form


def test_the_trace_is_of_what_is_in_force() -> None:
    asked = Scenario(W, staged(policy("a", order=1, ingress=[DENY])), policy("b", order=2, ingress=[ALLOW]))
    assert [step["policy"] for step in asked.answer().trace] == ["b"]


def test_staged_policy_of_hosts_at_its_own_hook() -> None:
    early = {"applyOnForward": True, "selector": "all()"}
    at = {"path": "input", "iif": "eth0", "dst": "192.0.2.1"}
    through = {"path": "forward", "iif": "eth0", "oif": "calia"}
    plain = policy("ok", selector="has(host)", ingress=[ALLOW])
    untracked = Scenario(W, host(), plain, staged(policy(**early, doNotTrack=True, ingress=[DENY])))
    before = Scenario(W, host(), plain, staged(policy(**early, preDNAT=True, ingress=[DENY])))
    forward = Scenario(host(), workload("b", B),
         staged(policy(selector="has(host)", applyOnForward=True, ingress=[DENY])))
    for asked in (untracked, before):
        for place in (at, through):
            assert (asked(**place), asked.staged(**place)) == ("allow", "deny")
    assert (forward(**through, dst=B), forward.staged(**through, dst=B)) == ("allow", "deny")
