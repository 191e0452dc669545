# SPDX-License-Identifier: Apache-2.0
"""Several sources of one kind as one."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Generic, TypeVar

from appliance.sources.base import Source, SourceSnapshot

Item = TypeVar("Item")


class Joined(Generic[Item]):
    """A Source of what all of them say. Their origins have different names."""

    def __init__(self, name: str, sources: Sequence[Source[Item]]) -> None:
        self.name = name
        self._sources = tuple(sources)

    async def snapshot(self) -> SourceSnapshot[Item]:
        return _joined([await source.snapshot() for source in self._sources])

    async def resync(self) -> SourceSnapshot[Item]:
        return _joined([await source.resync() for source in self._sources])

    async def watch(self) -> AsyncIterator[SourceSnapshot[Item]]:
        changed: asyncio.Queue[BaseException | None] = asyncio.Queue()

        async def follow(source: Source[Item]) -> None:
            async for _ in source.watch():
                changed.put_nowait(None)

        tasks = [asyncio.create_task(follow(source)) for source in self._sources]
        for task in tasks:
            task.add_done_callback(lambda done: None if done.cancelled() else changed.put_nowait(done.exception()))
        try:
            while True:
                error = await changed.get()
                if error is not None:
                    raise error
                yield await self.snapshot()
        finally:
            for task in tasks:
                task.cancel()


def _joined(snapshots: Sequence[SourceSnapshot[Item]]) -> SourceSnapshot[Item]:
    return SourceSnapshot(
        {origin: items for snapshot in snapshots for origin, items in snapshot.items.items()},
        tuple(error for snapshot in snapshots for error in snapshot.errors),
        tuple(origin for snapshot in snapshots for origin in snapshot.kept),
        tuple(warning for snapshot in snapshots for warning in snapshot.warnings),
    )
