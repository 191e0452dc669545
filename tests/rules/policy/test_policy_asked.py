# SPDX-License-Identifier: Apache-2.0
"""What no selector and no rule asks for makes nobody different, and voids nothing that was decided."""

import ipaddress
import json
from typing import Any

import pytest

from fastpath import IdentityMap, Policy, Query
from fastpath.layout import Verdict
from rules.policy import CompileOptions, Live, Program, Resource, Step, compile_policy, load_documents
from rules.policy.asked import OTHER, Asked, Atom, selector_atoms
from rules.policy.selector import Selector

OPTIONS = CompileOptions(scope="gateway", node="n1", interfaces={"cali0": 5})
V3 = "projectcalico.org/v3"


def load(kind: str, name: str, spec: Any = None, *, namespace: str = "", api: str = V3, **more: Any) -> Resource:
    metadata = {"name": name, **more} | ({"namespace": namespace} if namespace else {})
    document = {"apiVersion": api, "kind": kind, "metadata": metadata} | ({"spec": spec} if spec is not None else {})
    result = load_documents(json.dumps(document), "f")
    assert [str(error) for error in result.errors] == []
    (resource,) = result.resources
    return resource


def endpoint(number: int, **labels: str) -> Resource:
    spec = {
        "node": "n1", "interfaceName": "cali1", "ipNetworks": [f"10.1.{number >> 8}.{number & 255}/32"],
        "profiles": ["open"], "ports": [{"name": "web", "protocol": "TCP", "port": 8080}],
    }  # fmt: skip
    return load("WorkloadEndpoint", f"w{number}", spec, namespace="shop", labels=labels)


def policy(selector: str, name: str = "p", action: str = "Deny", **more: Any) -> Resource:
    return load("GlobalNetworkPolicy", name, {"selector": selector, "ingress": [{"action": action}], **more})


OPEN = load("Profile", "open", {"ingress": [{"action": "Allow"}], "egress": [{"action": "Allow"}]})


class Following:
    """A program, what follows it, and what the engine has."""

    def __init__(self, *resources: Resource) -> None:
        self.program: Program = compile_policy(resources, OPTIONS)
        self.live = Live(self.program, resources)
        self.policy, self.identities = Policy(self.program.tables), IdentityMap.build(self.program.entries)

    def apply(self, *changed: Resource, removed: tuple[Resource, ...] = ()) -> Step:
        step = self.live.apply(changed, removed)
        assert step is not None
        self.program = step.program
        self.identities = self.identities.update(set=step.delta.set, remove=[e[:2] for e in step.delta.remove])
        if step.change is not None:
            self.policy = self.policy.update(step.change)
        return step

    def identity(self, address: str) -> int:
        return self.identities.lookup(ipaddress.ip_address(address))[0]

    def verdict(self, destination: str, dport: int = 80, proto: int = 6) -> Verdict:
        return self.policy.decide(Query(0, self.identity(destination), dport=dport, proto=proto)).verdict


def is_nothing(step: Step) -> bool:
    return not (step.delta.set or step.delta.remove or step.change or step.redecide or step.voids)


def test_endpoints_that_differ_in_labels_that_nobody_names_are_one() -> None:
    containers = [endpoint(number, app="web", id=f"id-{number}", name=f"web-{number}") for number in range(1000)]
    one = Following(OPEN, policy("app == 'db'"), *containers)
    assert len({one.identity(f"10.1.{n >> 8}.{n & 255}") for n in range(1000)}) == 1
    predicates, identities = one.program.parts["n_predicates"], len(one.program.identities)
    step = one.apply(endpoint(1000, app="web", id="id-1000", name="web-1000"))
    assert step.change is None and len(step.delta.set) == 1 and not step.voids
    assert len(step.program.identities) == identities
    assert one.live._compiler.predicates.count == predicates
    assert one.identity("10.1.3.232") == one.identity("10.1.0.0")
    assert step.program.owners[bytes(10) + b"\xff\xff\x0a\x01\x03\xe8"] == "shop/w1000"


def test_where_one_value_is_named_all_others_are_one() -> None:
    named = Following(OPEN, policy("name == 'web-7'"), *(endpoint(n, name=f"web-{n}") for n in range(50)))
    assert len({named.identity(f"10.1.0.{n}") for n in range(50)}) == 2
    assert named.verdict("10.1.0.7") is Verdict.DROP and named.verdict("10.1.0.8") is Verdict.ALLOW


@pytest.mark.parametrize(
    ("selector", "denied"),
    [("id == 'id-3'", {3}), ("id in {'id-1', 'id-2'}", {1, 2}), ("id starts with 'id-'", set(range(8))),
     ("id ends with '5'", {5}), ("has(id)", set(range(8))), ("!has(id)", {8}), ("id != 'id-0'", set(range(1, 9)))],
)  # fmt: skip
def test_a_policy_that_names_a_label_anew_tells_its_bearers_apart(selector: str, denied: set[int]) -> None:
    following = Following(OPEN, *(endpoint(n, id=f"id-{n}") for n in range(8)), endpoint(8))
    following.apply(policy(selector))
    assert {n for n in range(9) if following.verdict(f"10.1.0.{n}") is Verdict.DROP} == denied
    # They stay known by it when nobody asks any more; and who comes then is decided all the same, should it come back.
    following.apply(removed=(policy(selector),))
    following.apply(endpoint(9, id="id-3"))
    assert all(following.verdict(f"10.1.0.{n}") is Verdict.ALLOW for n in range(10))
    following.apply(policy(selector))
    expected = denied | ({9} if 3 in denied else set())
    assert {n for n in range(10) if following.verdict(f"10.1.0.{n}") is Verdict.DROP} == expected


def test_a_port_that_a_rule_names_anew_is_found() -> None:
    following = Following(OPEN, endpoint(1, app="web"), endpoint(2, app="web"))
    rules = [{"action": "Deny", "protocol": "TCP", "destination": {"ports": ["web"]}}, {"action": "Allow"}]
    following.apply(load("GlobalNetworkPolicy", "p", {"selector": "all()", "ingress": rules}))
    assert following.verdict("10.1.0.1", 8080) is Verdict.DROP and following.verdict("10.1.0.1", 80) is Verdict.ALLOW


def test_what_decides_nothing_voids_nothing() -> None:
    namespace = load("Namespace", "shop", api="v1", labels={"team": "a"})
    tier = load("Tier", "first", {"order": 10, "defaultAction": "Pass"})
    rule = policy("app == 'web'", tier="first")
    following = Following(OPEN, namespace, tier, rule, endpoint(1, app="web"), endpoint(2, app="db"))
    for changed in (
        endpoint(2, app="db", id="new"),
        load("Namespace", "shop", api="v1", labels={"team": "b"}, annotations={"note": "x"}),
        load("ServiceAccount", "sa", api="v1", namespace="shop"),
        load("Tier", "first", {"order": 20, "defaultAction": "Pass"}),
        load("Tier", "second", {"order": 5}),
        load("GlobalNetworkSet", "empty", {"nets": []}, labels={"app": "web"}),
    ):
        assert is_nothing(following.apply(changed)), changed.kind
    # Nobody is in it, or it is staged: flows are decided as before, though the program is another.
    for changed in (
        load("Profile", "nobody", {"ingress": [{"action": "Deny"}]}),
        policy("app == 'nobody'", "q"),
        load("StagedGlobalNetworkPolicy", "s", {"selector": "all()", "ingress": [{"action": "Deny"}]}),
        load("GlobalNetworkPolicy", "p", {"tier": "first", "selector": "app == 'web'", "ingress": [
            {"action": "Deny", "metadata": {"annotations": {"why": "because"}}}]}),
        load("GlobalNetworkSet", "unasked", {"nets": ["192.0.2.0/24"]}, labels={"list": "none"}),
    ):  # fmt: skip
        step = following.apply(changed)
        assert not step.voids and not step.redecide, changed.kind


def test_what_may_decide_otherwise_voids() -> None:
    tier = load("Tier", "first", {"order": 10, "defaultAction": "Deny"})
    web = policy("app == 'web'", "p", "Pass", tier="first")
    following = Following(OPEN, tier, web, policy("app == 'web'", "q"), endpoint(1, app="web"), endpoint(2, app="db"))
    assert following.verdict("10.1.0.1") is Verdict.DROP
    step = following.apply(load("Profile", "open", {"ingress": [{"action": "Deny"}], "egress": [{"action": "Allow"}]}))
    assert step.voids and following.verdict("10.1.0.2") is Verdict.DROP
    step = following.apply(OPEN, load("Tier", "first", {"order": 10_000_000, "defaultAction": "Pass"}))
    assert step.voids and following.verdict("10.1.0.2") is Verdict.ALLOW
    step = following.apply(endpoint(2, app="web"))
    assert [str(net) for net in step.redecide] == ["10.1.0.2/32"] and not step.voids
    assert following.verdict("10.1.0.2") is Verdict.DROP


def test_labels_come_from_namespaces_accounts_and_profiles() -> None:
    account = load("ServiceAccount", "robot", api="v1", namespace="shop", labels={"role": "ro"})
    spec = {
        "node": "n1", "interfaceName": "cali1", "ipNetworks": ["10.1.0.1/32"], "profiles": ["open"],
        "serviceAccountName": "robot",
    }  # fmt: skip
    following = Following(
        OPEN, load("Namespace", "shop", api="v1"), account, load("WorkloadEndpoint", "w", spec, namespace="shop"),
        policy("all()", "ns", namespaceSelector="team == 'a'"), policy("zone == 'red'", "zone"),
        policy("all()", "sa", serviceAccountSelector="role == 'w'"),
    )  # fmt: skip
    assert following.verdict("10.1.0.1") is Verdict.ALLOW
    for changed, back in (
        (load("Namespace", "shop", api="v1", labels={"team": "a"}), load("Namespace", "shop", api="v1")),
        (load("ServiceAccount", "robot", api="v1", namespace="shop", labels={"role": "w"}), account),
        (load("Profile", "open", {"ingress": [{"action": "Allow"}], "egress": [{"action": "Allow"}],
                                  "labelsToApply": {"zone": "red"}}), OPEN),
    ):  # fmt: skip
        assert following.apply(changed).redecide
        assert following.verdict("10.1.0.1") is Verdict.DROP, changed.kind
        following.apply(back)
        assert following.verdict("10.1.0.1") is Verdict.ALLOW, changed.kind


def test_only_what_was_asked_for_is_kept_of_labels() -> None:
    asked = Asked()
    labels = {"app": "web", "tier": "gold", "id": "4711", "name": "xy"}
    assert asked.labels(labels) == {}
    asked.add(selector_atoms(Selector.parse("app == 'web' && has(tier) || name contains 'x'").node))
    assert asked.labels(labels) == {"app": "web", "tier": OTHER, "name": "xy"}
    assert asked.labels({"app": "db", "id": "1"}) == {}
    assert asked.knows(Atom("app", "web")) and not asked.knows(Atom("app", "db"))
    assert asked.drop([Atom("app", "web")])
    assert asked.labels(labels)["app"] == "web" and asked.asked_now(labels) == [("name", "xy"), ("tier", OTHER)]
