# SPDX-License-Identifier: Apache-2.0
"""Rules with http as they change: inspectors that follow each change judge as if they had been given the whole."""

import json
import random
from ipaddress import ip_address

from hypothesis import given
from hypothesis import strategies as st

from appliance.inspection import messages
from appliance.inspection.governed import RequestPolicies
from appliance.inspection.messages import InspectionRuleset
from appliance.inspection.packets import Packet
from appliance.inspection.requests import (
    Place,
    RequestChange,
    RequestPlan,
    Requests,
    request_policy,
    request_policy_of,
)
from appliance.inspection.ruleset import compile_ruleset
from appliance.service.slowpath import request_change
from fastpath import IdentityMap, Policy
from rules.policy import CompileOptions, Live, Program, Resource, compile_policy, load_documents

OPTIONS = CompileOptions(node="n", scope="gateway", interfaces={"eth0": 2, "cali1": 3})
METHODS = ("GET", "PUT", "POST")
ADDRESSES = [f"10.0.0.{number}" for number in range(1, 7)]


def resource(kind: str, name: str, spec: dict[str, object], **labels: str) -> Resource:
    namespace = {"namespace": "lab"} if kind == "WorkloadEndpoint" else {}
    document = {
        "apiVersion": "projectcalico.org/v3", "kind": kind,
        "metadata": {"name": name, "labels": labels, **namespace}, "spec": spec,
    }  # fmt: skip
    loaded = load_documents(json.dumps(document), "f")
    assert not loaded.errors, loaded.errors
    return loaded.resources[0]


def endpoint(name: str, address: str, role: str) -> Resource:
    return resource(
        "WorkloadEndpoint", name, {"node": "n", "interfaceName": "cali9", "ipNetworks": [address]}, role=role
    )


def policy(name: str, role: str, methods: list[str], peer: str = "", **more: object) -> Resource:
    rule = {"action": "Allow", "http": {"methods": methods}, **({"source": {"selector": peer}} if peer else {})}
    return resource("GlobalNetworkPolicy", name, {"selector": f"role == '{role}'", "ingress": [rule], **more})


def some(rng: random.Random) -> Resource:
    role = rng.choice("ab")
    what = rng.randrange(5)
    if what < 2:
        return endpoint(f"e{rng.randrange(4)}", rng.choice(ADDRESSES), role)
    name = f"p{rng.randrange(3)}"
    if what == 2:
        return resource("GlobalNetworkPolicy", name, {"selector": f"role == '{role}'", "ingress": [{"action": "Deny"}]})
    if what == 3:
        nets = [f"10.0.0.{rng.randrange(8)}/31"]
        return resource("GlobalNetworkSet", f"s{rng.randrange(2)}", {"nets": nets}, set=rng.choice("xy"))
    peer = rng.choice(("", "role == 'a'", "set == 'x'", "set != 'y'"))
    return policy(name, role, rng.sample(METHODS, 2), peer, order=rng.randrange(3))


def outcomes(requests: Requests | None, rules: Program) -> list[object]:
    """What becomes of each request between each two addresses, with rules by what they say."""
    found: list[object] = []
    for src in ADDRESSES:
        for dst in ADDRESSES:
            packet = Packet(4, 6, ip_address(src).packed, ip_address(dst).packed, 4000, 80, b"", 40)
            plan = requests.plan(packet, Place(2, 2, 3), reply=False) if requests is not None else None
            found.append([_words(plan, method, rules) for method in METHODS])
    return found


def _words(plan: RequestPlan | None, method: str, program: Program) -> object:
    denial = plan.request(method, "/") if plan is not None else None
    return denial and (denial.action, program.rules[denial.rule].text)


def over_the_socket(change: RequestChange) -> RequestChange:
    body = messages.encode(change)[4:]
    assert not messages.is_ruleset(body)
    message = messages.decode_to_inspector(body)
    assert isinstance(message, RequestChange)
    return message


@given(st.integers(0, 1 << 30))
def test_whoever_follows_changes_judges_like_one_who_starts_now(seed: int) -> None:
    rng = random.Random(seed)
    now = {item.key: item for item in (endpoint("e0", ADDRESSES[0], "a"), *(some(rng) for _ in range(6)))}
    program = compile_policy(list(now.values()), OPTIONS)
    live = Live(program, list(now.values()))
    engine = IdentityMap.build(program.entries), Policy(program.tables)
    followed = Requests(request_policy_of(engine[1], engine[0], program))
    for _ in range(8):
        changed = some(rng)
        gone = [old for old in now.values() if rng.random() < 0.1 and old.key != changed.key]
        step = live.apply([changed], gone)
        if step is None:  # its own tests say when
            return
        now = {key: old for key, old in now.items() if old not in gone} | {changed.key: changed}
        change = over_the_socket(request_change(1, 0, step, ends=False))
        followed = followed.changed(change)
        remove = [entry[:2] for entry in step.delta.remove]
        engine = (
            engine[0].update(set=step.delta.set, remove=remove),
            engine[1].update(step.change) if step.change is not None else engine[1],
        )
        fresh = compile_policy(list(now.values()), OPTIONS)
        told = {step.program.rules[number].text: match for number, match in step.program.http.items()}
        assert told.items() >= {(fresh.rules[number].text, match) for number, match in fresh.http.items()}
        assert bool(told) <= any(rule.http for item in now.values() for rule in getattr(item.spec, "ingress", ()))
        started = Requests(request_policy_of(engine[1], engine[0], step.program))
        assert outcomes(followed, step.program) == outcomes(started, step.program)
        if (whole := request_policy(fresh)) is not None:
            assert outcomes(followed, step.program) == outcomes(Requests(whole), fresh)


def changes_of_one_policy() -> tuple[InspectionRuleset, RequestChange, Program]:
    """Version 1 of what inspectors have, at generation 3, and GET → PUT as a change."""
    before = policy("p", "a", ["GET"])
    program = compile_policy([endpoint("e", ADDRESSES[0], "a"), before], OPTIONS)
    live = Live(program, [endpoint("e", ADDRESSES[0], "a"), before])
    step = live.apply([policy("p", "a", ["PUT"])])
    assert step is not None
    first = InspectionRuleset(version=1, generation=3, requests=request_policy(program))
    return first, request_change(3, 1, step, ends=False), step.program


def allowed(requests: Requests | None) -> set[str]:
    assert requests is not None
    packet = Packet(4, 6, ip_address("192.0.2.1").packed, ip_address(ADDRESSES[0]).packed, 4000, 80, b"", 40)
    plan = requests.plan(packet, Place(2, 2, 3), reply=False)
    assert plan is not None
    return {method for method in METHODS if plan.request(method, "/") is None}


def test_a_generation_more_has_the_policy_there_is() -> None:
    first, change, _ = changes_of_one_policy()
    policies = RequestPolicies(compile_ruleset(first))
    policies.change(change)
    policies.change(request_change(4, 1, None, ends=False))
    assert policies.known(4) and allowed(policies.of(4)) == {"PUT"} and allowed(policies.of(3)) == {"PUT"}


def test_a_change_waits_for_the_ruleset_that_it_is_based_on() -> None:
    first, change, _ = changes_of_one_policy()
    policies = RequestPolicies(compile_ruleset(InspectionRuleset(version=0, generation=2)))
    policies.change(change)
    assert policies.none
    policies.use(compile_ruleset(InspectionRuleset(version=1, generation=2, keeps_requests=True)))
    assert policies.none, "it brings names alone"
    policies.use(compile_ruleset(first))
    assert allowed(policies.of(3)) == {"PUT"}


def test_names_alone_leave_request_policy_as_it_is() -> None:
    first, change, _ = changes_of_one_policy()
    policies = RequestPolicies(compile_ruleset(first))
    policies.change(change)
    policies.use(compile_ruleset(InspectionRuleset(version=2, generation=3, keeps_requests=True)))
    assert allowed(policies.of(3)) == {"PUT"}


def test_the_end_of_requests_is_an_end() -> None:
    first, _, _ = changes_of_one_policy()
    policies = RequestPolicies(compile_ruleset(first))
    for generation in (3, 4):
        policies.change(request_change(generation, 1, None, ends=True))
    assert policies.none and policies.known(9)
