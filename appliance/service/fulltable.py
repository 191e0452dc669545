# SPDX-License-Identifier: Apache-2.0
"""The failure `conntrack_full`: watches how full the connection table is, says so, and does what the setting says."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any

from appliance.netfilter.nft import NftError
from appliance.netfilter.overflow import TABLE, Fullness, Overflow, fullness
from appliance.netfilter.surroundings import bound_queues, table_exists

LOOK = 0.25  # seconds between looks
LOOK_LONGER = 30.0  # between looks whether connections are left that go untracked: their set is read whole
FULL, ROOM = 0.95, 0.85  # shares of the limit: from here on it is full, below that there is room again
SAY = 10.0  # seconds between two words about packets that were dropped


class FullTable:
    """allow: new TCP connections go on untracked while the table is full; else the kernel drops them."""

    def __init__(self, *, allow: bool, own_queues: frozenset[int], say: Callable[[str], None]) -> None:
        self._allow = allow
        self._own_queues = own_queues
        self._say = say
        self._overflow = Overflow()
        self._before = 0
        self._now = Fullness(0, 0, 0)
        self._full = False
        self._said = -SAY
        self._told = 0

    def start(self) -> None:
        """Hooks are taken before packets wait in a queue. Blocking; raises NftError."""
        with contextlib.suppress(OSError, ValueError):
            self._now = fullness()
        self._before = self._now.dropped
        if self._allow:
            # A predecessor may have left connections that go untracked.
            self._overflow.set("draining" if table_exists(TABLE) else "off")

    async def run(self) -> None:
        looked = 0.0
        while True:
            await asyncio.sleep(LOOK)
            try:
                self._now = fullness()
            except (OSError, ValueError):
                continue  # nothing tracks connections here
            try:
                await self._look()
                if self._overflow.state == "draining" and time.monotonic() - looked > LOOK_LONGER:
                    looked = time.monotonic()
                    if await asyncio.to_thread(self._overflow.idle):
                        await asyncio.to_thread(self._overflow.set, "off")
            except NftError as error:
                self._say(f"ALARM: conntrack_full: {error}")

    async def _look(self) -> None:
        share = self._now.entries / max(1, self._now.limit)
        if not self._full and share >= FULL:
            self._full = True
            what = "new TCP connections go untracked" if self._allow else "the kernel will drop new connections"
            self._say(f"ALARM: conntrack_full: {self._now.entries} of {self._now.limit} connections are open: {what}")
            if self._allow:
                await asyncio.to_thread(self._overflow.set, "on")
        elif self._full and share < ROOM:
            self._full = False
            self._say(f"conntrack_full: there is room again: {self._now.entries} of {self._now.limit} connections")
            if self._allow:
                await asyncio.to_thread(self._overflow.set, "draining")
        if self.dropped and time.monotonic() - self._said >= SAY and self._now.dropped > self._told:
            self._said, self._told = time.monotonic(), self._now.dropped
            self._say(f"ALARM: conntrack_full: the kernel dropped {self.dropped} packets since the start")

    @property
    def dropped(self) -> int:
        return max(0, self._now.dropped - self._before)

    def counts(self) -> dict[str, Any]:
        """entries, limit; dropped by the kernel, since the start; connections that went untracked. Blocking."""
        return {
            "entries": self._now.entries, "limit": self._now.limit, "dropped": self.dropped,
            "untracked": self._overflow.untracked(),
        }  # fmt: skip

    def remove(self) -> None:
        """After Netfilter.remove(). Blocking."""
        foreign = any(queue.number not in self._own_queues for queue in bound_queues())
        with contextlib.suppress(NftError):
            if foreign:
                self._overflow.empty()
            else:
                self._overflow.remove()
