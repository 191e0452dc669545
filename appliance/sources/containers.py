# SPDX-License-Identifier: Apache-2.0
"""Containers of Docker and Podman as workload endpoints, followed through the engines' event streams.

    events ─▶ something changed ─▶ list of containers ─▶ endpoints ─▶ snapshot
                 └ at the latest every RELIST seconds

An event only says that it is time to look: what is in force comes from one list, so no order of events, and none that
was missed, leaves a wrong address behind. While an engine does not answer, its containers go on (Docker's live restore)
and so do their endpoints, for GRACE seconds at most: after that their addresses may belong to somebody else.

Needs nothing but the engine's socket.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, replace
from urllib.parse import quote

from appliance.sources.base import SourceError, SourceSnapshot
from appliance.sources.container_endpoints import Endpoints, endpoints, join
from appliance.sources.container_links import Links, read_links
from appliance.sources.engine_api import (
    API,
    EVENTS,
    LIST,
    MAX_DETAILS,
    MAX_EVENT,
    MAX_LIST,
    ApiError,
    Attachment,
    Container,
    Details,
    concerns,
    read_containers,
    read_details,
)
from appliance.sources.unix_http import HttpError, get, open_stream
from fastpath.errors import PortcullisError
from rules.policy import Resource

RELIST = 30.0  # seconds
GRACE = 300.0  # seconds that endpoints outlive an engine that does not answer
PAUSE = 0.02  # seconds between two readings of the list, at least
SHARE = 2  # and at least this many times as long as the reading took: the engine has other work
BACK_OFF = (0.1, 10.0)  # seconds between attempts to reach an engine: the first, the longest
TIMEOUT = 20.0  # seconds for an answer
AT_ONCE = 8  # requests for details

NOTHING = Endpoints(())
ReadLinks = Callable[[frozenset[int]], Links]


@dataclass(frozen=True)
class _State:
    """What is known of one engine. failed: since when it does not answer (monotonic), 0 while it does."""

    found: Endpoints = NOTHING
    error: SourceError | None = None
    failed: float = 0.0


class Containers:
    """A Source of WorkloadEndpoint resources, one origin for each engine: `engines` maps "docker" and "podman" to the
    path of the engine's socket. An engine that cannot be reached is an error in the snapshot, never an exception."""

    name = "containers"

    def __init__(
        self,
        engines: Mapping[str, str],
        node: str,
        *,
        links: ReadLinks = read_links,
        grace: float = GRACE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engines = dict(sorted(engines.items()))
        self._node = node
        self._links = links
        self._grace = grace
        self._clock = clock
        self._states: dict[str, _State] = {}
        self._current: SourceSnapshot[Resource] | None = None
        self._locks = {engine: asyncio.Lock() for engine in self._engines}
        self._changed = asyncio.Event()

    async def snapshot(self) -> SourceSnapshot[Resource]:
        if self._current is None:
            return await self.resync()
        return self._current

    async def resync(self) -> SourceSnapshot[Resource]:
        await asyncio.gather(*(self._list(engine) for engine in self._engines))
        return self._merge()

    async def watch(self) -> AsyncIterator[SourceSnapshot[Resource]]:
        told = await self.snapshot()
        followers = [asyncio.create_task(self._follow(engine)) for engine in self._engines]
        try:
            while True:
                await _first(self._changed, *followers)
                for task in followers:
                    if task.done():
                        task.result()  # followers never end by themselves: this raises
                self._changed.clear()
                current = self._merge()
                if current is not told:
                    told = current
                    yield current
        finally:
            for task in followers:
                task.cancel()
            await asyncio.gather(*followers, return_exceptions=True)

    # ---- one engine ------------------------------------------------------------------------------

    async def _follow(self, engine: str) -> None:
        wait = BACK_OFF[0]
        while True:
            try:
                async with open_stream(self._engines[engine], EVENTS, seconds=TIMEOUT) as pieces:
                    told = asyncio.Event()
                    reading = asyncio.create_task(_read_events(pieces, told))
                    try:
                        await self._while_connected(engine, told, reading)
                        wait = BACK_OFF[0]
                    finally:
                        reading.cancel()
                        await asyncio.gather(reading, return_exceptions=True)
            except PortcullisError as error:
                self._fail(engine, error)
            await asyncio.sleep(wait)
            wait = min(2 * wait, BACK_OFF[1])

    async def _while_connected(self, engine: str, told: asyncio.Event, reading: asyncio.Task[None]) -> None:
        """Until the event stream ends, or the engine does not answer. Raises what ended the stream."""
        while True:
            told.clear()
            started = time.monotonic()
            if not await self._list(engine):
                return
            pause = max(PAUSE, SHARE * (time.monotonic() - started))
            await _first(told, reading, seconds=RELIST)
            spent = time.monotonic() - started
            if reading.done():
                reading.result()
                raise HttpError("the engine ended its event stream", file=self._engines[engine])
            await asyncio.sleep(max(0.0, pause - spent))

    async def _list(self, engine: str) -> bool:
        """Reads the containers of one engine; False if that failed."""
        path = self._engines[engine]
        async with self._locks[engine]:
            try:
                body = await get(path, LIST, limit=MAX_LIST, seconds=TIMEOUT)
                containers = await asyncio.to_thread(read_containers, body)
                fresh = await self._endpoints(engine, containers)
            except PortcullisError as error:
                self._fail(engine, error)
                return False
            self._set(engine, _State(fresh))
            return True

    async def _endpoints(self, engine: str, containers: tuple[Container, ...]) -> Endpoints:
        links = await self._read_links(frozenset())
        shared = _shared(containers)
        hidden = {c.id for c in containers if any(not links.interface_of(c, a, None) for a in c.attachments)}
        details = await self._read_details(engine, sorted(shared | hidden))
        pids = frozenset(found.pid for key, found in details.items() if key in hidden and found.pid)
        if pids:
            links = await self._read_links(pids)

        def interface_of(container: Container, attachment: Attachment) -> str:
            return links.interface_of(container, attachment, details.get(container.id))

        own = join(
            [
                replace(c, joined=details[c.id].joined) if c.id in details and details[c.id].joined else c
                for c in containers
            ]
        )
        return await asyncio.to_thread(
            lambda: endpoints(
                own, engine=engine, node=self._node, origin=self._engines[engine], interface_of=interface_of
            )
        )

    async def _read_links(self, pids: frozenset[int]) -> Links:
        try:
            return await asyncio.to_thread(self._links, pids)
        except OSError as error:
            raise ApiError(f"the node's interfaces cannot be read: {error.strerror or error}") from None

    async def _read_details(self, engine: str, wanted: list[str]) -> dict[str, Details]:
        """Details of containers; those that vanished meanwhile are left out."""
        slots = asyncio.Semaphore(AT_ONCE)

        async def read(container: str) -> tuple[str, Details] | None:
            async with slots:
                with contextlib.suppress(HttpError):
                    target = f"{API}/containers/{quote(container)}/json"
                    body = await get(self._engines[engine], target, limit=MAX_DETAILS, seconds=TIMEOUT)
                    return container, read_details(body)
                return None

        found = await asyncio.gather(*(read(container) for container in wanted))
        return dict(entry for entry in found if entry is not None)

    # ---- all engines -----------------------------------------------------------------------------

    def _fail(self, engine: str, error: PortcullisError) -> None:
        """The endpoints stay until the engine was silent for too long."""
        path = self._engines[engine]
        before = self._states.get(engine, _State())
        failed = before.failed or self._clock()
        expired = self._clock() - failed >= self._grace
        problem = SourceError(f"{engine}: {error.message}", error.file or path)
        self._set(engine, _State(NOTHING if expired else before.found, problem, failed))

    def _set(self, engine: str, state: _State) -> None:
        if state != self._states.get(engine):
            self._states[engine] = state
            self._changed.set()

    def _merge(self) -> SourceSnapshot[Resource]:
        """Keeps the snapshot object when nothing changed, so that identity tells."""
        items: dict[str, tuple[Resource, ...]] = {}
        errors: list[SourceError] = []
        kept: list[str] = []
        taken: set[object] = set()
        for engine, state in sorted(self._states.items()):
            origin = self._engines[engine]
            items[origin] = tuple(
                _elsewhere(resource, engine) if resource.key in taken else resource
                for resource in state.found.resources
            )
            taken.update(resource.key for resource in items[origin])
            errors += (SourceError(f"{engine}: {problem}", origin) for problem in state.found.problems)
            if state.error is not None:
                errors.append(state.error)
                if state.found.resources:
                    kept.append(origin)
        fresh = SourceSnapshot(items, tuple(errors), tuple(kept))
        if self._current is None or fresh != self._current:
            self._current = fresh
        return self._current


def _elsewhere(resource: Resource, engine: str) -> Resource:
    """The same under a name that says its engine: another engine has a container of this name."""
    return replace(resource, metadata=replace(resource.metadata, name=f"{resource.name[:240]}.{engine}"))


def _shared(containers: tuple[Container, ...]) -> set[str]:
    """Containers that name an address which another one names too: one of them has joined the other's network."""
    holders: dict[object, list[str]] = {}
    for container in containers:
        for attachment in container.attachments:
            for address in attachment.addresses:
                holders.setdefault((attachment.network, address), []).append(container.id)
    return {key for group in holders.values() if len(group) > 1 for key in group}


async def _read_events(pieces: AsyncIterator[bytes], told: asyncio.Event) -> None:
    """Sets `told` for every event that matters; returns when the stream ends. Raises HttpError, ApiError."""
    rest = bytearray()
    async for piece in pieces:
        rest += piece
        if b"\n" in piece:
            *lines, rest = rest.split(b"\n")
            if any(concerns(bytes(line)) for line in lines if line.strip()):
                told.set()
        if len(rest) > MAX_EVENT:
            raise ApiError(f"an event has more than {MAX_EVENT} bytes")


async def _first(event: asyncio.Event, *tasks: asyncio.Task[None], seconds: float | None = None) -> None:
    """Until the event is set, a task is done or the seconds are over. The tasks go on."""
    waiting = asyncio.create_task(event.wait())
    try:
        await asyncio.wait([waiting, *tasks], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
