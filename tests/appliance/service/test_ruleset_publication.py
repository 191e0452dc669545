# SPDX-License-Identifier: Apache-2.0
"""Signatures and names of feeds reach the inspectors before flows are decided under a new generation."""

import asyncio
from dataclasses import replace
from typing import Any, cast

import pytest

from appliance.config import Config
from appliance.inspection.messages import DomainWatch, FeedNames, InspectionRuleset, SignatureSource
from appliance.inspection.pool import InspectionError, InspectorPool
from appliance.service.calculation import Desired, Inputs, calculate
from appliance.service.generations import Generations
from appliance.service.inforce import PolicyInForce
from appliance.service.slowpath import SlowPath

NAMES = (FeedNames("bad", "drop", ("evil.example",)),)
RULES = (SignatureSource("r", "alert ip any any -> any any (sid:1;)"),)


class Pool:
    """Notes what it is sent."""

    def __init__(self) -> None:
        self.sent: list[InspectionRuleset] = []
        self.refuses = False

    async def start(self, ruleset: InspectionRuleset) -> None:
        self.sent.append(ruleset)

    async def publish(self, ruleset: InspectionRuleset, patience: float) -> tuple[str, ...]:
        if self.refuses:
            raise InspectionError("no")
        self.sent.append(ruleset)
        return ()

    def status(self) -> tuple[()]:
        return ()


async def started() -> tuple[SlowPath, Pool, Desired]:
    config = Config()
    desired = calculate(config, Inputs())
    in_force = PolicyInForce(Generations(), observe=False, log=print)
    in_force.first(desired.program)

    def nothing(*_: Any) -> None:
        pass

    slowpath = SlowPath(
        config, in_force, found=nothing, asked=nothing, watched=lambda program: DomainWatch(), say=nothing
    )
    pool = Pool()
    slowpath.pool = cast(InspectorPool, pool)
    await slowpath.start(desired, 1)
    return slowpath, pool, desired


@pytest.mark.parametrize("what", ["names", "signatures"])
def test_what_comes_with_a_new_generation_is_sent_before_it(what: str) -> None:
    async def story() -> None:
        slowpath, pool, desired = await started()
        sought = replace(desired.sought, names=NAMES if what == "names" else ())
        other = replace(desired, sought=sought, signatures=RULES if what == "signatures" else ())
        await slowpath.prepare(other, 2)
        assert (pool.sent[-1].names, pool.sent[-1].signatures, pool.sent[-1].generation) == (
            sought.names, other.signatures, 2,
        )  # fmt: skip
        await slowpath.publish(other)
        assert len(pool.sent) == 2, "they have it"

    asyncio.run(story())


def test_what_is_refused_is_sent_again() -> None:
    async def story() -> None:
        slowpath, pool, desired = await started()
        other = replace(desired, signatures=RULES)
        pool.refuses = True
        with pytest.raises(InspectionError):
            await slowpath.prepare(other, 2)
        pool.refuses = False
        await slowpath.prepare(other, 2)
        assert [ruleset.signatures for ruleset in pool.sent] == [(), RULES]

    asyncio.run(story())
