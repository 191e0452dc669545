# SPDX-License-Identifier: Apache-2.0
"""Keeps the service manager's snapshot in step with what the engine decides by.

    change ─▶ (does it void what was decided? the manager forgets the old one first) ─▶ a moment of rest ─▶ seal, store

A change that comes while one is sealed finds the core free: sealing rests longer than it works, and the interpreter is
not locked meanwhile.

So a snapshot in the store may lack what DNS has told since, or the last endpoints that came, but it is never of a
policy that was replaced.
"""

import asyncio
import os
from collections.abc import Callable

from appliance.service import snapshot
from appliance.service.inforce import PolicyInForce
from appliance.service.notify import Notifier
from appliance.service.rest import rest
from appliance.service.snapshot import SnapshotError
from fastpath import EngineConfig

REST = 0.5  # seconds without a change before a snapshot is made
LONGEST = 5.0  # seconds that changes may keep it from being made
IDLE = 4  # times as long as it works sealing rests that nobody waits for


class Keeper:
    """All methods run in the event loop; making a snapshot goes to a thread. `begin()` when the engine is there."""

    def __init__(
        self, in_force: PolicyInForce, notifier: Notifier, *, observe: bool, say: Callable[[str], None]
    ) -> None:
        self._in_force = in_force
        self._notifier = notifier
        self._observe = observe
        self._say = say
        self._config: EngineConfig | None = None
        self._changed = asyncio.Event()
        self._voided = 0
        self._held = True  # by the manager, as far as anybody knows: a predecessor may have left one
        self.offset: Callable[[], int | None] = lambda: None
        """Of the ledger, which a successor goes on with."""
        self.stored = 0  # snapshots so far

    def begin(self, config: EngineConfig) -> None:
        self._config = config
        self._changed.set()

    def changing(self, voids: bool) -> None:
        if voids:
            self._voided += 1
            if self._held and self._notifier.listening:
                self._held = not self._notifier.forget(snapshot.NAME)
        self._changed.set()

    async def run(self) -> None:
        """Where nobody keeps descriptors there is nothing to do until the end."""
        while True:
            await self._changed.wait()
            if not self._notifier.listening:
                self._changed.clear()
                continue
            await rest(self._changed, REST, LONGEST)
            await self.store(idle=IDLE)

    async def store(self, *, idle: int = 0) -> None:
        """What is in force now, in place of what the manager has, unless it is void when it is sealed. idle: as for
        seal()."""
        voided = self._voided
        try:
            fd = await self.make(idle=idle)
        except SnapshotError as error:
            self._say(f"warning: {error}")
            return
        try:
            if voided == self._voided:
                self._notifier.forget(snapshot.NAME)
                self._held = True
                self._notifier.store(snapshot.NAME, [fd])
                self.stored += 1
        finally:
            os.close(fd)

    async def make(self, *, idle: int = 0) -> int:
        """A sealed snapshot of what is in force; the descriptor is the caller's. Raises SnapshotError."""
        assert self._config is not None, "there is no engine yet"
        identities, policy = self._in_force.snapshot
        generation, config = self._in_force.generation, snapshot.comparable(self._config)
        offset = self.offset()

        def seal() -> int:
            tables, entries = policy.lend(idle), identities.export(idle)
            found = snapshot.Snapshot(generation, self._observe, config, tables, entries, offset)
            return snapshot.seal(found, idle=idle)

        return await asyncio.to_thread(seal)
