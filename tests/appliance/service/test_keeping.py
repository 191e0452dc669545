# SPDX-License-Identifier: Apache-2.0
"""What the service manager keeps is never of a policy that was replaced, and it hears of it no more than it has to."""

import asyncio
import os
import struct
from collections.abc import Callable, Sequence

from appliance.service import snapshot
from appliance.service.generations import Generations
from appliance.service.inforce import PolicyInForce
from appliance.service.keeping import Keeper
from appliance.service.notify import Notifier
from fastpath import EngineConfig, IdentityMap, Policy, PolicyTables
from fastpath.layout import IDENTITY_CHAINS, NONE

TABLES = PolicyTables(
    predicate_offsets=struct.pack("=2I", 0, 0), identities=IDENTITY_CHAINS.pack(NONE, NONE, NONE, NONE)
)


class InForce(PolicyInForce):
    def __init__(self) -> None:
        super().__init__(Generations(), observe=False, log=lambda text: None)
        self._snapshot = IdentityMap.build([]), Policy(TABLES)


class Manager(Notifier):
    """Reads what it is given to keep. deaf: it cannot be told anything."""

    def __init__(self) -> None:
        super().__init__("somewhere")
        self.said: list[str] = []
        self.deaf = False

    def store(self, name: str, fds: Sequence[int]) -> None:
        assert [snapshot.read(os.dup(fd)).tables for fd in fds] == [TABLES]
        self.said.append("store")

    def forget(self, name: str) -> bool:
        self.said.append("forget")
        return not self.deaf


class Interrupted(Keeper):
    """meanwhile: happens while a snapshot is sealed."""

    meanwhile: Callable[[], None] = staticmethod(lambda: None)

    async def make(self, *, idle: int = 0) -> int:
        fd = await super().make(idle=idle)
        self.meanwhile()
        return fd


def interrupted(manager: Manager) -> Interrupted:
    keeper = Interrupted(InForce(), manager, observe=False, say=lambda text: None)
    keeper.begin(EngineConfig())
    return keeper


def test_what_is_void_when_it_is_sealed_is_not_stored() -> None:
    manager = Manager()
    keeper = interrupted(manager)
    keeper.meanwhile = lambda: keeper.changing(True)
    asyncio.run(keeper.store(idle=1))
    assert manager.said == ["forget"] and keeper.stored == 0


def test_what_came_since_may_be_missing() -> None:
    manager = Manager()
    keeper = interrupted(manager)
    keeper.meanwhile = lambda: keeper.changing(False)
    asyncio.run(keeper.store(idle=1))
    assert manager.said == ["forget", "store"] and keeper.stored == 1


def test_the_manager_forgets_each_snapshot_once() -> None:
    manager = Manager()
    keeper = interrupted(manager)
    for _ in range(3):
        keeper.changing(True)
    assert manager.said == ["forget"]  # what a predecessor may have left
    asyncio.run(keeper.store())
    manager.said.clear()
    for _ in range(3):
        keeper.changing(True)
    assert manager.said == ["forget"]


def test_a_manager_that_was_not_told_is_told_again() -> None:
    manager = Manager()
    keeper = interrupted(manager)
    manager.deaf = True
    keeper.changing(True)
    manager.deaf = False
    keeper.changing(True)
    keeper.changing(True)
    assert manager.said == ["forget", "forget"]
