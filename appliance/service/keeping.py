# SPDX-License-Identifier: Apache-2.0
"""Keeps the service manager's snapshot in step with what the engine decides by.

    change ─▶ (does it void what was decided? the manager forgets the old one first) ─▶ a moment of rest ─▶ seal, store

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
        self._version = 0
        self.offset: Callable[[], int | None] = lambda: None
        """Of the ledger, which a successor goes on with."""
        self.stored = 0  # snapshots so far

    def begin(self, config: EngineConfig) -> None:
        self._config = config
        self._changed.set()

    def changing(self, voids: bool) -> None:
        self._version += 1
        if voids and self._notifier.listening:
            self._notifier.forget(snapshot.NAME)
        self._changed.set()

    async def run(self) -> None:
        """Where nobody keeps descriptors there is nothing to do until the end."""
        while True:
            await self._changed.wait()
            if not self._notifier.listening:
                self._changed.clear()
                continue
            await rest(self._changed, REST, LONGEST)
            await self.store()

    async def store(self) -> None:
        """What is in force now, in place of what the manager has."""
        version = self._version
        try:
            fd = await self.make()
        except SnapshotError as error:
            self._say(f"warning: {error}")
            return
        try:
            if version == self._version:
                self._notifier.forget(snapshot.NAME)
                self._notifier.store(snapshot.NAME, [fd])
                self.stored += 1
        finally:
            os.close(fd)

    async def make(self) -> int:
        """A sealed snapshot of what is in force; the descriptor is the caller's. Raises SnapshotError."""
        assert self._config is not None, "there is no engine yet"
        identities, policy = self._in_force.snapshot
        generation, config = self._in_force.generation, snapshot.comparable(self._config)
        offset = self.offset()

        def seal() -> int:
            tables, entries = policy.tables(), identities.export()
            return snapshot.seal(snapshot.Snapshot(generation, self._observe, config, tables, entries, offset))

        return await asyncio.to_thread(seal)
