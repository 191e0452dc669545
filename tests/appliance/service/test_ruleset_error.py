# SPDX-License-Identifier: Apache-2.0
"""A policy that comes into force while the kernel's rules cannot be changed."""

import asyncio
from collections.abc import Collection
from typing import Any, cast

import pytest

from appliance.netfilter import NetfilterError
from appliance.service.generations import Generations
from appliance.service.inforce import PolicyInForce
from fastpath import Engine
from rules.policy import CompileOptions, compile_policy


class World:
    """An engine that takes everything and a kernel that takes no generation."""

    def __init__(self, *, open_flows_stay: bool, sweeps: bool = True) -> None:
        self.said: list[str] = []
        self.swept: list[int] = []
        self.sweeps = sweeps
        self.in_force = PolicyInForce(
            Generations(), observe=False, log=self.said.append, open_flows_stay=open_flows_stay
        )
        self.in_force.first(compile_policy((), CompileOptions()))
        self.in_force.attach(cast(Engine, self))
        self.in_force.follow(self)

    def publish(self, *_: Any) -> None:
        pass

    def reclaim(self) -> None:
        pass

    def set_generation(self, new: int) -> None:
        raise NetfilterError("out of order")

    def sweep(self, generations: Collection[int], *, gently: bool = False) -> int:
        if not self.sweeps:
            raise NetfilterError("no conntrack")
        self.swept += generations
        return 0


@pytest.mark.parametrize("stay", [False, True])
def test_open_flows_lose_their_fates_one_by_one_or_keep_them(stay: bool) -> None:
    async def story() -> None:
        world = World(open_flows_stay=stay)
        await world.in_force.settle()
        world.swept.clear()
        assert (await world.in_force.decide_again()).generation == 2
        voided = list(world.swept)
        await world.in_force.settle()
        assert world.in_force.generation == 2
        assert world.said == ["ALARM: ruleset_error: out of order"]
        assert voided == ([] if stay else [1, *range(3, 32)])

    asyncio.run(story())


def test_what_can_not_even_be_walked_is_said() -> None:
    async def story() -> None:
        world = World(open_flows_stay=False, sweeps=False)
        await world.in_force.settle()
        await world.in_force.decide_again()
        await world.in_force.settle()
        assert "ALARM: ruleset_error: open flows go on as they were decided before: no conntrack" in world.said

    asyncio.run(story())
