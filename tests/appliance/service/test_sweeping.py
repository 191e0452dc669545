# SPDX-License-Identifier: Apache-2.0
"""Numbers are swept ahead of their use, a few in one walk, and a change waits only where none is left."""

import asyncio
import threading
from collections.abc import Collection

from appliance.netfilter import NetfilterError
from appliance.service.generations import Generations
from appliance.service.sweeping import AHEAD, FEW, PRESSED, Sweeping


class Table:
    """A connection table that takes its time, or refuses."""

    def __init__(self) -> None:
        self.walks: list[tuple[list[int], bool]] = []
        self.refuses = False
        self.free = threading.Event()
        self.free.set()
        self.said: list[str] = []
        self.generations = Generations()
        self.sweeping = Sweeping(self.generations, self.said.append)

    def sweep(self, generations: Collection[int], *, gently: bool = False) -> int:
        self.free.wait(5)
        if self.refuses:
            raise NetfilterError("no conntrack")
        self.walks.append((list(generations), gently))
        return 1

    async def advance(self) -> None:
        await self.sweeping.ready()
        self.generations.advance()
        self.sweeping.advanced()


def test_one_walk_takes_several_numbers() -> None:
    async def story() -> None:
        table = Table()
        table.sweeping.begin(table.sweep)
        await table.sweeping.settle()
        assert table.walks == [(list(range(2, 2 + AHEAD)), False)]
        for _ in range(AHEAD - FEW + 1):
            await table.advance()
        await table.sweeping.settle()
        assert table.walks[1:] == [(list(range(18, 23)), True)]
        assert table.said == [f"swept 1 connections of generations {numbers}" for numbers in ("2 to 17", "18 to 22")]

    asyncio.run(story())


def test_no_number_is_used_unswept_round_after_round() -> None:
    async def story() -> None:
        table = Table()
        table.sweeping.begin(table.sweep)
        dirty = {1}
        swept = 0
        for _ in range(100):
            await table.advance()
            for numbers, _ in table.walks[swept:]:
                dirty -= set(numbers)
            swept = len(table.walks)
            assert table.generations.current not in dirty
            dirty.add(table.generations.current)

    asyncio.run(story())


def test_a_change_waits_for_a_walk_only_where_no_clean_number_is_left() -> None:
    async def story() -> None:
        table = Table()
        table.sweeping.begin(table.sweep)
        await table.sweeping.settle()
        table.free.clear()
        for _ in range(AHEAD):
            await asyncio.wait_for(table.advance(), 1)
        waiting = asyncio.create_task(table.advance())
        await asyncio.sleep(0.05)
        assert not waiting.done()
        table.free.set()
        await waiting
        assert table.generations.current == AHEAD + 2

    asyncio.run(story())


def test_a_walk_hurries_where_changes_outran_the_one_before() -> None:
    async def story() -> None:
        table = Table()
        table.sweeping.begin(table.sweep)
        await table.sweeping.settle()
        table.free.clear()
        for _ in range(AHEAD - 1):
            await table.advance()
            await asyncio.sleep(0)
        table.free.set()
        await table.sweeping.settle()
        assert len(table.walks) == 2 and AHEAD - FEW + 2 < PRESSED
        for _ in range(AHEAD - FEW + 2):
            await table.advance()
            await table.sweeping.settle()
        assert [gently for _, gently in table.walks[1:]] == [True, False, True]

    asyncio.run(story())


def test_a_table_that_cannot_be_swept_stops_nothing() -> None:
    async def story() -> None:
        table = Table()
        table.refuses = True
        table.sweeping.begin(table.sweep)
        await table.advance()
        assert table.generations.current == 2
        assert table.said[0] == "conntrack could not be swept of generations 2 to 17: no conntrack"
        table.refuses = False
        await table.sweeping.settle()
        await table.advance()
        assert any(3 in numbers for numbers, _ in table.walks)

    asyncio.run(story())
