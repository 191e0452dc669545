# SPDX-License-Identifier: Apache-2.0
"""Rules with http reach the inspectors before flows are decided under their generation."""

import asyncio
from collections.abc import Collection
from typing import Any, cast

import pytest

from appliance.inspection.pool import InspectionError
from appliance.service.generations import Generations
from appliance.service.inforce import PolicyInForce
from fastpath import Engine
from rules.policy import CompileOptions, Live, Program, Resource, Step, compile_policy, load_documents

POLICY = """
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {name: web, namespace: lab, labels: {role: web}}
spec: {node: n, interfaceName: web0, ipNetworks: [10.0.0.2/32]}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: web}
spec:
  selector: role == 'web'
  ingress: [{action: Allow, http: {methods: [%s]}}]
"""


def resources(methods: str) -> tuple[Resource, ...]:
    loaded = load_documents(POLICY % methods, "p")
    assert not loaded.errors
    return tuple(loaded.resources)


def program(methods: str) -> Program:
    return compile_policy(resources(methods), CompileOptions(node="n"))


class World:
    """Engine and fate map that only note what they are told, and when."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.in_force = PolicyInForce(Generations(), observe=False, log=self.log.append)

    def publish(self, _identities: Any, _policy: Any, generation: int, _observe: bool) -> None:
        self.log.append(f"engine {generation}")

    def reclaim(self) -> int:
        return 0

    def set_generation(self, new: int) -> None:
        self.log.append(f"kernel {new}")

    def sweep(self, generations: Collection[int], *, gently: bool = False) -> int:
        return 0

    async def prepare(self, generation: int) -> None:
        self.log.append(f"inspectors {generation}")

    async def refuse(self, generation: int) -> None:
        raise InspectionError("no")

    def deciding(self, generation: int, step: Step | None) -> None:
        self.log.append(f"inspectors {generation}{' a step' if step is not None else ''}")

    def start(self) -> None:
        self.in_force.first(program("GET"))
        self.in_force.attach(cast(Engine, self))
        self.in_force.follow(self)
        self.log.clear()


def test_inspectors_come_first_also_when_only_the_requests_change() -> None:
    async def story() -> None:
        world = World()
        world.start()
        assert await world.in_force.publish(program("GET"), prepare=world.prepare) is None
        assert await world.in_force.publish(program("POST"), prepare=world.prepare) is not None
        await world.in_force.settle()
        assert world.log == ["inspectors 2", "engine 2", "kernel 2"]

    asyncio.run(story())


def test_what_inspectors_refuse_changes_nothing() -> None:
    async def story() -> None:
        world = World()
        world.start()
        with pytest.raises(InspectionError):
            await world.in_force.publish(program("POST"), prepare=world.refuse)
        await world.in_force.settle()
        assert (world.log, world.in_force.generation) == ([], 1)
        assert await world.in_force.publish(program("POST"), prepare=world.prepare) is not None
        await world.in_force.settle()

    asyncio.run(story())


def test_inspectors_hear_of_each_step_and_each_generation_before_the_engine() -> None:
    async def story() -> None:
        world = World()
        world.start()
        world.in_force.deciding = world.deciding
        live = Live(world.in_force.program, resources("GET"))
        step = live.apply(resources("POST")[1:])
        assert step is not None and step.voids and [match.methods for match in step.requests.values()] == [("POST",)]
        world.in_force.take(step)
        await world.in_force.decide_again()
        await world.in_force.settle()
        assert world.log == ["inspectors 1 a step", "engine 1", "inspectors 2", "engine 2", "kernel 2"]

    asyncio.run(story())


def test_a_whole_program_that_keeps_the_generation_is_told_to_inspectors_too() -> None:
    async def story() -> None:
        world = World()
        world.start()
        assert await world.in_force.publish(program("POST"), keep=True, prepare=world.prepare) is not None
        assert world.log == ["inspectors 1", "engine 1"]

    asyncio.run(story())
