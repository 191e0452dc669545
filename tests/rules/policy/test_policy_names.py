# SPDX-License-Identifier: Apache-2.0
"""Names of policies: which of them a name is meant by, and addresses that get names without a new program."""

import ipaddress
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastpath import IdentityMap, Policy, Query
from fastpath.layout import Verdict
from rules.policy import (
    CompileOptions,
    LearnedNames,
    NameIndex,
    Program,
    Resource,
    compile_policy,
    load_documents,
    name_matches,
)

LABEL = st.sampled_from(("a", "b", "www", "example", "com", "x-1"))
NAME = st.lists(LABEL, min_size=1, max_size=5).map(".".join)


@st.composite
def patterns(draw: st.DrawFn) -> str:
    parts = draw(st.lists(LABEL, min_size=2, max_size=4))
    if draw(st.booleans()):
        parts[draw(st.integers(0, len(parts) - 2))] = "*"
    return ".".join(parts)


@given(st.lists(patterns(), max_size=12), NAME)
def test_an_index_finds_what_asking_each_pattern_finds(asked: list[str], name: str) -> None:
    assert set(NameIndex(asked).matching(name)) == {pattern for pattern in asked if name_matches(pattern, name)}


def load(*documents: dict[str, Any]) -> list[Resource]:
    result = load_documents("\n---\n".join(json.dumps(document) for document in documents), "f")
    assert [str(error) for error in result.errors] == []
    return list(result.resources)


def document(kind: str, name: str, spec: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    return {"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": {"name": name, **metadata}, "spec": spec}


CLIENT = document(
    "WorkloadEndpoint", "c", {"node": "n1", "interfaceName": "cali1", "ipNetworks": ["10.0.0.1/32", "fd00::1/128"]},
    namespace="ns", labels={"role": "client"},
)  # fmt: skip


def world(rules: list[dict[str, Any]], *more: dict[str, Any]) -> list[Resource]:
    spec = {"selector": "role == 'client'", "types": ["Egress"], "egress": rules}
    return load(CLIENT, document("GlobalNetworkPolicy", "p", spec), *more)


class Running:
    """A program whose addresses get names one after the other."""

    def __init__(self, resources: list[Resource], **options: Any) -> None:
        self.program: Program = compile_policy(resources, CompileOptions(node="n1", **options))
        self.policy = Policy(self.program.tables)
        self.identities = IdentityMap.build(self.program.entries)
        self.learned = LearnedNames(self.program)

    def learn(self, **changes: tuple[str, ...]) -> bool:
        return self.apply({address.replace("_", "."): names for address, names in changes.items()})

    def apply(self, changes: dict[str, tuple[str, ...]]) -> bool:
        """Whether everything is in the map now."""
        delta, unknown = self.learned.apply(changes)
        self.identities = self.identities.update(set=delta.set, remove=delta.remove)
        return not unknown

    def allows(self, address: str) -> bool:
        source = self.identities.lookup(ipaddress.ip_address("fd00::1" if ":" in address else "10.0.0.1"))[0]
        destination = self.identities.lookup(ipaddress.ip_address(address))[0]
        query = Query(source, destination, family=6 if ":" in address else 4)
        return self.policy.decide(query).verdict is Verdict.ALLOW


TO_NAMES = [{"action": "Allow", "destination": {"domains": ["www.example.com", "*.example.org"]}}]


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1"])
@pytest.mark.parametrize("wide", [[], ["0.0.0.0/0", "::/0"]])
def test_an_address_gains_and_loses_a_name_without_a_new_program(address: str, wide: list[str]) -> None:
    """Also where policy knows networks that hold everything."""
    wider = [{"action": "Allow", "protocol": "UDP", "destination": {"nets": [net]}} for net in wide]
    running = Running(world([*TO_NAMES, *wider]))
    size = len(running.identities)
    for name, counts in (("www.example.com", True), ("a.b.example.org", True), ("example.org", False)):
        assert running.apply({address: (name,)})
        assert running.allows(address) is counts
    assert running.apply({address: ()})
    assert not running.allows(address)
    assert len(running.identities) == size


def test_an_address_with_the_names_of_a_set_is_allowed_and_its_network_stays_known() -> None:
    names = document("GlobalNetworkSet", "s", {"nets": ["198.51.100.0/24"], "allowedEgressDomains": ["x.test"]},
                     labels={"set": "yes"})  # fmt: skip
    running = Running(world([{"action": "Allow", "destination": {"selector": "set == 'yes'"}}], names))
    assert running.learn(**{"192_0_2_1": ("x.test",)})
    assert running.allows("192.0.2.1")
    assert running.allows("198.51.100.7")
    # Nobody was in the set by network and by name when the program was made.
    assert not running.learn(**{"198_51_100_7": ("x.test",)})


def test_the_names_of_a_set_never_deny() -> None:
    names = document("GlobalNetworkSet", "s", {"allowedEgressDomains": ["x.test"]}, labels={"set": "yes"})
    rules = [{"action": "Deny", "destination": {"selector": "set == 'yes'"}},
             {"action": "Allow", "destination": {"notSelector": "set == 'yes'"}}]  # fmt: skip
    running = Running(world(rules, names))
    assert running.learn(**{"192_0_2_1": ("x.test",)})
    assert running.allows("192.0.2.1")


def test_names_that_meet_at_one_address_need_a_program_that_expects_them() -> None:
    both = ("www.example.com", "a.example.org")
    assert not Running(world(TO_NAMES)).learn(**{"192_0_2_1": both})
    again = Running(world(TO_NAMES), names={name: ["192.0.2.1"] for name in both})
    assert again.allows("192.0.2.1")
    assert again.learn(**{"192_0_2_1": ("www.example.com",), "192_0_2_2": both})
    assert again.allows("192.0.2.2")
    expected = Running(world(TO_NAMES), name_groups=(both,))
    assert expected.learn(**{"192_0_2_1": both})


def test_what_was_compiled_in_can_be_taken_away() -> None:
    running = Running(world(TO_NAMES), names={"www.example.com": ["192.0.2.1"], "a.example.org": ["192.0.2.1"]})
    assert running.learn(**{"192_0_2_1": ()})
    assert not running.allows("192.0.2.1")


@pytest.mark.parametrize(
    ("ports", "inspected"), [([], {80, 443}), ([443, 8443], {443}), (["1:100"], {80}), ([22], set())]
)
def test_http_and_tls_to_a_name_are_inspected_and_nothing_else(ports: list[object], inspected: set[int]) -> None:
    rule = {"action": "Allow", "protocol": "TCP", "destination": {"domains": ["x.test"], "ports": ports}}
    if not ports:
        del rule["destination"]["ports"], rule["protocol"]  # type: ignore[attr-defined]
    other = {"action": "Allow", "destination": {"nets": ["198.51.100.0/24"]}}
    for inspect in (False, True):
        running = Running(world([rule, other]), inspect_names=inspect, names={"x.test": ["192.0.2.1"]})
        source, named, plain = (
            running.identities.lookup(ipaddress.ip_address(a))[0] for a in ("10.0.0.1", "192.0.2.1", "198.51.100.1")
        )
        for port in (22, 80, 443, 8443):
            decision = running.policy.decide(Query(source, named, dport=port))
            allowed = not ports or port in (*ports, *range(1, 101 if "1:100" in ports else 1))
            expected = Verdict.INSPECT if inspect and port in inspected else Verdict.ALLOW
            assert decision.verdict is (expected if allowed else Verdict.DROP), port
            assert not allowed or running.program.rules[decision.rule].rule_index == 0
            assert running.policy.decide(Query(source, plain, dport=port)).verdict is Verdict.ALLOW
        assert running.policy.decide(Query(source, named, dport=443, proto=17)).verdict is not Verdict.INSPECT


def test_rules_that_pass_still_land_behind_their_tier_beside_inspected_ones() -> None:
    tier = document("Tier", "late", {"order": 900000})
    client = {"selector": "role == 'client'", "types": ["Egress"]}
    allow = {"action": "Allow", "destination": {"nets": ["198.51.100.0/24"]}}
    late = document("GlobalNetworkPolicy", "late.p", {**client, "tier": "late", "egress": [allow]})
    rules = [*TO_NAMES, {"action": "Pass", "destination": {"nets": ["198.51.100.0/25"]}}]
    first = document("GlobalNetworkPolicy", "first.p", {**client, "tier": "first", "egress": rules})
    resources = load(CLIENT, tier, document("Tier", "first", {"order": 1}), first, late)
    running = Running(resources, inspect_names=True)
    assert running.allows("198.51.100.1")
    assert not running.allows("198.51.100.200")


def test_what_an_address_would_be_with_other_names() -> None:
    running = Running(world(TO_NAMES))
    nameless = running.learned.identity("192.0.2.1", ())
    assert running.learn(**{"192_0_2_1": ("www.example.com",)})
    assert running.learned.identity("192.0.2.1", ()) == nameless
    named = running.identities.lookup(ipaddress.ip_address("192.0.2.1"))[0]
    assert running.learned.identity("192.0.2.1", ("www.example.com",)) == named != nameless
    assert running.learned.identity("192.0.2.1", ("www.example.com", "a.example.org")) is None


def test_names_beyond_ascii_are_their_wire_form() -> None:
    program = compile_policy(
        world([{"action": "Allow", "destination": {"domains": ["B\u00fccher.example", "*.m\u00fcnchen.example"]}}]),
        CompileOptions(node="n1"),
    )
    assert set(program.domains) == {"xn--bcher-kva.example", "*.xn--mnchen-3ya.example"}
