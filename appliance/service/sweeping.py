# SPDX-License-Identifier: Apache-2.0
"""Numbers of generations that come next, swept from conntrack while the one in force is used.

    in force 5    clean 6 7 ... 20 21     a change takes the next number, and waits for nothing
    in force 10   clean 11 12 ... 21      few are left: one walk takes 22 to 26 out of all marks

What is swept was in force half a round ago: no answer of an inspector is on its way for so long.
"""

import asyncio
from collections.abc import Callable, Collection
from typing import Protocol

from appliance.service.generations import Generations
from fastpath.errors import PortcullisError

AHEAD = 16
FEW = 12  # with fewer clean numbers more are swept
PRESSED = 10  # with fewer of them it is done as fast as it goes: changes come one after the other


class Sweep(Protocol):
    """Netfilter.sweep; blocks."""

    def __call__(self, generations: Collection[int], *, gently: bool = False) -> int: ...


class Sweeping:
    """All methods run in the event loop."""

    def __init__(self, generations: Generations, log: Callable[[str], None]) -> None:
        self._generations = generations
        self._log = log
        self._clean: set[int] = set()
        self._task: asyncio.Task[None] | None = None
        self._sweep: Sweep | None = None

    def begin(self, sweep: Sweep) -> None:
        """The current generation is the first one."""
        self._sweep = sweep
        self.advanced()

    def advanced(self) -> None:
        """Connections carry the current number from now on."""
        self._clean.discard(self._generations.current)
        if not self._clean.issuperset(self._generations.ahead(FEW)) and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._run())

    async def ready(self) -> None:
        """No connection carries the next number, or it could not be swept, which was told."""
        if self._generations.next in self._clean:
            return
        await self.settle()
        if self._generations.next not in self._clean and self._sweep is not None:
            await self._run()

    async def settle(self) -> None:
        """Waits for the sweep that is under way."""
        if self._task is not None:
            await self._task

    async def _run(self) -> None:
        assert self._sweep is not None
        wanted = [number for number in self._generations.ahead(AHEAD) if number not in self._clean]
        gently = self._clean.issuperset(self._generations.ahead(PRESSED))
        try:
            swept = await asyncio.to_thread(self._sweep, wanted, gently=gently)
        except PortcullisError as error:
            self._log(f"conntrack could not be swept of generations {wanted[0]} to {wanted[-1]}: {error}")
            return
        self._clean.update(wanted)
        if swept:
            self._log(f"swept {swept} connections of generations {wanted[0]} to {wanted[-1]}")
