# SPDX-License-Identifier: Apache-2.0
"""Any order of changes ends in the same verdicts, by the same rules, as a compilation from scratch; and what a change
does not call void stays decided as it was."""

import ipaddress
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from appliance.netfilter.addresses import AddressSets, Asked, Source
from fastpath import IdentityMap, Policy, Query
from fastpath.layout import DECISION, NONE, QUERY
from rules.policy import CompileOptions, LearnedNames, Live, Program, Resource, compile_policy
from rules.policy.early import Interval
from tests.rules.policy.more_resources import LEARNABLE, NAMES, more_resources, resources_of
from tests.rules.policy.naive import World
from tests.rules.policy.scenario import ALLOW, DENY, doc, namespace, policy, slice_of, workload

INTERFACES = {"eth0": 2, "eth1": 3, **{f"cali{i}": 10 + i for i in range(8)}}
OPTIONS = CompileOptions(
    scope="gateway", node="node", interfaces=INTERFACES, interface_addresses={"eth1": ("10.0.0.2",)},
    name_ports=((17, 85, 85),), inspect_names=True,
)  # fmt: skip
WORLDS = 12  # documents of the same names with other contents
QUESTIONS = 120

Question = Mapping[str, Any]


def packed(identities: IdentityMap, asked: Sequence[Question]) -> bytes:
    return b"".join(
        QUERY.pack(
            *Query(
                identities.lookup(q["src"])[0], identities.lookup(q["dst"])[0], q["iif"], q["oif"], q["sport"],
                q["dport"], q["proto"], q["src"].version, q["type"], q["code"], q["hook"],
            )
        )
        for q in asked
    )  # fmt: skip


def decisions(program: Program, policy: Policy, identities: IdentityMap, asked: Sequence[Question]) -> list[Any]:
    """With rules by what they say: their numbers differ."""
    answers = DECISION.iter_unpack(policy.decide_many(packed(identities, asked)))
    return [
        (verdict, staged, governed, program.rule(number), program.rule(staged_number))
        for verdict, staged, governed, number, staged_number in answers
    ]


def raw_outcomes(program: Program, policy: Policy, identities: IdentityMap, asked: Sequence[Question]) -> list[Any]:
    """Of the chains before connection tracking and before DNAT, which no table of the engine has."""
    found: list[Any] = []
    for q in asked:
        raw = program.raw_chains.get(q["iif"])
        query = Query(*QUERY.unpack(packed(identities, [q])))
        for number in (raw.untracked_ingress, raw.pre_dnat_ingress, raw.staged_untracked_egress) if raw else ():
            if number == NONE:
                found.append(None)
                continue
            action, steps = policy.trace_chain(number, query)
            found.append((action, [program.rule(step.rule) for step in steps if step.rule != NONE]))
    return found


def apart(found: Sequence[Interval]) -> list[Interval]:
    """Without IPv4's range, where no packet of IPv6 is."""
    first, last = 0xFFFF << 32, (0x10000 << 32) - 1
    halves = [(a, min(b, first - 1)) for a, b in found] + [(max(a, last + 1), b) for a, b in found]
    return [(a, b) for a, b in halves if a <= b and not (first <= a and b <= last)]


class Changes(RuleBasedStateMachine):
    @initialize(seed=st.integers(0, 10_000))
    def start(self, seed: int) -> None:
        self.worlds = [World(seed + i) for i in range(WORLDS)]
        self.pool = [resource for world in self.worlds for resource in resources_of(world.docs)]
        self.rng = random.Random(seed)
        more = [more_resources(self.rng) for _ in range(WORLDS)]
        self.pool += [resource for resources in more for resource in resources]
        self.pool.sort(key=lambda resource: resource.kind)
        self.kinds = sorted({resource.kind for resource in self.pool})
        self.now = {resource.key: resource for resource in (*resources_of(self.worlds[0].docs), *more[0][::2])}
        self.base = OPTIONS
        self.names: dict[str, tuple[str, ...]] = {}  # by address
        self.compile()

    def compiled(self) -> Program:
        by_name: dict[str, list[str]] = {}
        for address, names in self.names.items():
            for name in names:
                by_name.setdefault(name, []).append(address)
        return compile_policy(list(self.now.values()), replace(self.options_now(), names=by_name))

    def options_now(self) -> CompileOptions:
        return self.base

    def compile(self) -> None:
        self.program = self.compiled()
        self.policy, self.identities = Policy(self.program.tables), IdentityMap.build(self.program.entries)
        self.live = Live(self.program, list(self.now.values()))
        self.learned = LearnedNames(self.program)
        self.early = AddressSets(self.source())

    def source(self) -> Source:
        policy, identities = self.policy, self.identities
        return lambda: (bytes(identities.export()), policy.tables())

    def question(self) -> Question:
        q = self.worlds[0].question()
        if self.rng.random() < 0.3:
            version = q["src"].version
            q["dst"] = ipaddress.ip_address(self.rng.choice([a for a in LEARNABLE if (":" in a) == (version == 6)]))
        hook = self.rng.choice((0, 0, 1, 2, 3))
        interfaces = list(INTERFACES.values()) if hook else [0]
        return {**q, "hook": hook, "iif": self.rng.choice(interfaces), "oif": self.rng.choice(interfaces)}

    def apply(self, changed: list[Resource], removed: list[Resource], options: CompileOptions | None = None) -> None:
        for resource in removed:
            del self.now[resource.key]
        self.now.update((resource.key, resource) for resource in changed)
        asked = [self.question() for _ in range(QUESTIONS)]
        before = decisions(self.program, self.policy, self.identities, asked)
        step = self.live.apply(changed, removed, options)
        if step is None:
            self.compile()
            return
        self.program = step.program
        self.identities = self.identities.update(set=step.delta.set, remove=[e[:2] for e in step.delta.remove])
        if step.change is not None:
            self.policy = self.policy.update(step.change)
        self.early.follow(self.source(), step.regions)
        if not step.voids:
            after = decisions(self.program, self.policy, self.identities, asked)
            void = [ipaddress.ip_network(str(net)) for net in step.redecide]
            for q, old, new in zip(asked, before, after, strict=True):
                if not any(q[end] in net for end in ("src", "dst") for net in void):
                    assert old[0] == new[0], (q, old, new)
        if step.names:
            self.learn_again(self.names)

    def learn_again(self, names: Mapping[str, Sequence[str]]) -> None:
        delta, unknown = self.learned.apply(names)
        self.identities = self.identities.update(set=delta.set, remove=[entry[:2] for entry in delta.remove])
        self.early = AddressSets(self.source())
        if unknown:
            self.compile()

    @rule(choice=st.integers(0, 1_000_000), kind=st.integers(0, 1_000_000))
    def change(self, choice: int, kind: int) -> None:
        pool = [r for r in self.pool if r.kind == self.kinds[kind % len(self.kinds)]]
        self.apply([pool[choice % len(pool)]], [])

    @rule(choices=st.lists(st.integers(0, 1_000_000), min_size=2, max_size=6))
    def change_many(self, choices: list[int]) -> None:
        changed = {(r := self.pool[choice % len(self.pool)]).key: r for choice in choices}
        gone = [key for key in list(self.now) if key not in changed and sum(map(len, key)) % 7 == choices[0] % 40]
        self.apply(list(changed.values()), [self.now[key] for key in gone])

    @rule(choice=st.integers(0, 1_000_000), kind=st.integers(0, 1_000_000))
    def remove(self, choice: int, kind: int) -> None:
        here = [r for r in self.now.values() if r.kind == self.kinds[kind % len(self.kinds)]]
        if here:
            self.apply([], [here[choice % len(here)]])

    @rule(name=st.sampled_from(sorted(INTERFACES)), number=st.sampled_from((0, 2, 10, 40)))
    def renumber(self, name: str, number: int) -> None:
        interfaces = {**self.base.interfaces, name: number or 99}
        if not number:
            del interfaces[name]
        self.base = replace(self.base, interfaces=interfaces)
        self.apply([], [], replace(self.program.options, interfaces=interfaces))

    @rule(address=st.sampled_from(LEARNABLE), names=st.lists(st.sampled_from(NAMES), max_size=2, unique=True))
    def learn(self, address: str, names: list[str]) -> None:
        self.names[address] = tuple(names)
        if not names:
            del self.names[address]
        self.learn_again({address: names})

    @invariant()
    def answers_are_those_of_a_new_program(self) -> None:
        if not hasattr(self, "now"):
            return
        again = self.compiled()
        policy, identities = Policy(again.tables), IdentityMap.build(again.entries)
        asked = [self.question() for _ in range(QUESTIONS)]
        assert decisions(self.program, self.policy, self.identities, asked) == decisions(
            again, policy, identities, asked
        )
        ends = [q[end] for q in asked for end in ("src", "dst")]
        assert [self.identities.lookup(end)[1] for end in ends] == [identities.lookup(end)[1] for end in ends]
        assert raw_outcomes(self.program, self.policy, self.identities, asked) == raw_outcomes(
            again, policy, identities, asked
        )
        assert {e.name: (e.labels, e.addresses) for e in self.program.endpoints.values()} == {
            e.name: (e.labels, e.addresses) for e in again.endpoints.values()
        }
        assert set(self.program.warnings) == set(again.warnings)
        assert self.program.domains == again.domains
        assert self.program.owners == again.owners
        self.addresses_of_early_chains_are_followed()

    def addresses_of_early_chains_are_followed(self) -> None:
        new = AddressSets(self.source())
        asked = {p for chain in self.program.early.values() for p in chain.predicates()}
        for predicate in asked:
            assert self.early.of(predicate, 4) == new.of(predicate, 4)
            assert apart(self.early.of(predicate, 6)) == apart(new.of(predicate, 6))
        self.early.forget(Asked(predicate, version) for predicate in asked for version in (4, 6))


Changes.TestCase.settings = settings(
    max_examples=20, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck)
)
TestChanges = Changes.TestCase


def test_whether_a_service_is_known_is_said_as_it_comes_and_goes() -> None:
    named = policy("p", egress=[ALLOW | {"destination": {"services": {"name": "s", "namespace": "ns"}}}])
    resources = resources_of([named, workload("a", "10.0.0.1")])
    served = resources_of([slice_of("s", "ns/one", "10.0.0.2", ports=(("TCP", 80),))])[0]
    live = Live(compile_policy(resources, OPTIONS), resources)

    def said(*changed: Resource, gone: Sequence[Resource] = ()) -> int:
        step = live.apply(changed, gone)
        assert step is not None
        return sum("matches nothing" in warning.message for warning in step.program.warnings)

    assert said(served) == 0
    assert said(gone=[served]) == 1
    assert said(served) == 0


def test_labels_of_a_namespace_reach_those_who_have_its_profile() -> None:
    denied = doc("GlobalNetworkPolicy", "p", {"namespaceSelector": "env == 'test'", "ingress": [DENY]})
    resources = resources_of([workload("a", "10.0.0.1", profiles=["kns.far"]), namespace("far", env="prod"), denied])
    live = Live(compile_policy(resources, OPTIONS), resources)
    step = live.apply(resources_of([namespace("far", env="test")]))
    assert step is not None and step.delta.set, "its endpoint is another now"
