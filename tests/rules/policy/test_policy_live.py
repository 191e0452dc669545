# SPDX-License-Identifier: Apache-2.0
"""Any order of changes ends in the same verdicts, by the same rules, as a compilation from scratch."""

import json
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from fastpath import IdentityMap, Policy, Query
from fastpath.layout import DECISION, QUERY
from rules.policy import CompileOptions, Live, Program, Resource, compile_policy, load_documents
from tests.rules.policy.naive import World

OPTIONS = CompileOptions(scope="gateway")
WORLDS = 12  # documents of the same names with other contents
QUESTIONS = 120
SIMPLE = ("WorkloadEndpoint", "NetworkPolicy", "GlobalNetworkPolicy", "NetworkSet", "GlobalNetworkSet")


def resources_of(world: World) -> list[Resource]:
    found = [load_documents(json.dumps(document), "generated.yaml") for document in world.docs]
    return [resource for result in found for resource in result.resources]


def decisions(program: Program, policy: Policy, identities: IdentityMap, asked: list[dict[str, Any]]) -> list[Any]:
    """With rules by what they say: their numbers differ."""
    packed = b"".join(
        QUERY.pack(
            *Query(
                identities.lookup(q["src"])[0], identities.lookup(q["dst"])[0], sport=q["sport"], dport=q["dport"],
                proto=q["proto"], family=q["src"].version, icmp_type=q["type"], icmp_code=q["code"],
            )
        )
        for q in asked
    )  # fmt: skip
    return [
        (verdict, staged, governed, program.rule(number), program.rule(staged_number))
        for verdict, staged, governed, number, staged_number in DECISION.iter_unpack(policy.decide_many(packed))
    ]


class Changes(RuleBasedStateMachine):
    @initialize(seed=st.integers(0, 10_000))
    def start(self, seed: int) -> None:
        self.worlds = [World(seed + i) for i in range(WORLDS)]
        self.pool = [resource for world in self.worlds for resource in resources_of(world)]
        first = resources_of(self.worlds[0])
        self.now = {resource.key: resource for resource in first}
        self.steps = 0
        self.compile()

    def compile(self) -> None:
        resources = list(self.now.values())
        self.program = compile_policy(resources, OPTIONS)
        self.policy, self.identities = Policy(self.program.tables), IdentityMap.build(self.program.entries)
        self.live = Live(self.program, resources)

    def apply(self, changed: list[Resource], removed: list[Resource]) -> None:
        step = self.live.apply(changed, removed)
        if step is None:
            self.compile()
            return
        self.steps += 1
        self.program = step.program
        self.identities = self.identities.update(set=step.delta.set, remove=step.delta.remove)
        if step.change is not None:
            self.policy = self.policy.update(step.change)

    @rule(choice=st.integers(0, 100_000), simple=st.integers(0, 9))
    def change(self, choice: int, simple: int) -> None:
        pool = [r for r in self.pool if r.kind in SIMPLE] if simple else self.pool
        resource = pool[choice % len(pool)]
        self.now[resource.key] = resource
        self.apply([resource], [])

    @rule(choices=st.lists(st.integers(0, 100_000), min_size=2, max_size=4))
    def change_many(self, choices: list[int]) -> None:
        pool = [resource for resource in self.pool if resource.kind in SIMPLE]
        changed = {(r := pool[choice % len(pool)]).key: r for choice in choices}
        self.now.update(changed)
        self.apply(list(changed.values()), [])

    @rule(choice=st.integers(0, 100_000))
    def remove(self, choice: int) -> None:
        keys = [key for key, resource in self.now.items() if resource.kind in SIMPLE]
        if keys:
            self.apply([], [self.now.pop(keys[choice % len(keys)])])

    @invariant()
    def answers_are_those_of_a_new_program(self) -> None:
        if not hasattr(self, "now"):
            return
        again = compile_policy(list(self.now.values()), OPTIONS)
        asked = [self.worlds[0].question() for _ in range(QUESTIONS)]
        assert decisions(self.program, self.policy, self.identities, asked) == decisions(
            again, Policy(again.tables), IdentityMap.build(again.entries), asked
        )


Changes.TestCase.settings = settings(
    max_examples=25, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck)
)
TestChanges = Changes.TestCase
