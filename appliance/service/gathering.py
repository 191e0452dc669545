# SPDX-License-Identifier: Apache-2.0
"""What the sources say, gathered: inputs of the calculation, what is wrong with them, and a word when they change."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

from appliance.config import Config
from appliance.service.calculation import Inputs
from appliance.service.feeddesk import FeedDesk
from appliance.service.interfaces import InterfaceWatch, read_interfaces
from appliance.service.resolvers import read_resolvers
from appliance.service.settings import endpoint_source, sources
from appliance.sources.base import SourceError, SourceSnapshot
from fastpath.errors import PortcullisError
from threatfeeds import Feed


class StartError(PortcullisError):
    """The service cannot start with what it was given."""


class Gathering:
    """`inputs` is replaced whole at every change, then `changed` is called. refused: called for each new error."""

    def __init__(
        self,
        config: Config,
        *,
        explicit: bool,
        changed: Callable[[], None],
        refused: Callable[[], None],
        say: Callable[[str], None],
        alert: Callable[[str, str, str], None] = lambda feed, state, text: None,
    ) -> None:
        self._policy, self.feeds, self._signatures = sources(config, explicit)
        self._containers = endpoint_source(config)
        self._changed = changed
        self._refused = refused
        self._say = say
        self._alert = alert
        self.desk: FeedDesk | None = None  # where feeds are believed or not
        self._errors: dict[str, tuple[SourceError, ...]] = {}
        self._warnings: dict[str, tuple[SourceError, ...]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._interfaces = InterfaceWatch(self._look_at_interfaces)
        self.inputs = Inputs()

    async def first(self) -> Inputs:
        """Everything as it is at the start. Raises StartError for what is wrong then, and SourcesError."""
        policy = await self._policy.snapshot()
        feeds = await self.feeds.snapshot()
        signatures = await self._signatures.snapshot()
        broken = [*policy.errors, *signatures.errors]
        if broken:
            for error in broken[:-1]:
                self._say(str(error))
            last = broken[-1]
            raise StartError(last.message, file=last.file, line=last.line, field=last.field)
        # A bad list must not keep a node from starting: without it, or with its last good copy, and an alarm.
        self._take_errors("feeds", feeds)
        # A container engine may start after us: that is said, and waited for.
        containers = await self._containers.snapshot()
        self._take_errors("containers", containers)
        self.inputs = Inputs(
            policy.parts(),
            feeds.all() if self.desk is None else await asyncio.to_thread(self.desk.first, feeds.all()),
            signatures.all(),
            await asyncio.to_thread(read_interfaces),
            await asyncio.to_thread(read_resolvers),
            containers=containers.all(),
        )
        return self.inputs

    def watch_interfaces(self) -> None:
        self._interfaces.start()

    def stop(self) -> None:
        self._interfaces.stop()

    def work(self) -> list[Coroutine[Any, Any, None]]:
        """What follows the sources; none of it ends by itself."""
        return [
            self._follow(self._policy.watch(), "policy", "resources"),
            self._follow(self.feeds.watch(), "feeds", "feeds"),
            self._follow(self._signatures.watch(), "signatures", "signatures"),
            self._follow(self._containers.watch(), "containers", "containers"),
        ]

    async def resync(self) -> None:
        """Reads everything again, whether a watch told of it or not."""
        self._take("policy", "resources", await self._policy.resync())
        await self._take_feeds(await self.feeds.resync())
        self._take("signatures", "signatures", await self._signatures.resync())
        self._take("containers", "containers", await self._containers.resync())
        await self._read_node()

    def errors(self) -> dict[str, tuple[SourceError, ...]]:
        """What is wrong now, by source. Safe from any thread."""
        return dict(self._errors)

    async def _follow(self, watch: AsyncIterator[SourceSnapshot[Any]], source: str, field: str) -> None:
        async for snapshot in watch:
            if source == "feeds":
                await self._take_feeds(snapshot)
            else:
                self._take(source, field, snapshot)

    async def _take_feeds(self, snapshot: SourceSnapshot[Feed]) -> None:
        self._take_errors("feeds", snapshot)
        self.set_feeds(snapshot.all() if self.desk is None else await self.desk.believe(snapshot.all()))

    def set_feeds(self, feeds: tuple[Feed, ...]) -> None:
        if feeds != self.inputs.feeds:
            self._change(feeds=feeds)

    def _take(self, source: str, field: str, snapshot: SourceSnapshot[Any]) -> None:
        self._take_errors(source, snapshot)
        items = snapshot.parts() if field == "resources" else snapshot.all()
        if items != getattr(self.inputs, field):
            self._change(**{field: items})

    def _take_errors(self, source: str, snapshot: SourceSnapshot[Any]) -> None:
        fresh = [error for error in snapshot.errors if error not in self._errors.get(source, ())]
        self._errors[source] = snapshot.errors
        if fresh:
            self._refused()
        for error in fresh:
            kept = " (the last good state stays in force)" if source != "containers" or snapshot.kept else ""
            if source == "feeds":
                kept = " (the last good copy stays in force)" if snapshot.kept else " (not in force)"
                self._alert(error.feed or Path(error.file or "").stem, error.state or "failed", f"{error}{kept}")
            self._say(f"{'ALARM: ' if source == 'feeds' else ''}{error}{kept}")
        self._take_warnings(source, snapshot)

    def _take_warnings(self, source: str, snapshot: SourceSnapshot[Any]) -> None:
        """Says what is new among them: a feed that is stale or in quarantine, lines that were left out."""
        for warning in snapshot.warnings:
            if warning not in self._warnings.get(source, ()):
                self._say(f"warning: {warning}")
                if warning.state:
                    self._alert(warning.feed, warning.state, str(warning))
        self._warnings[source] = snapshot.warnings

    def _look_at_interfaces(self) -> None:
        task = asyncio.create_task(self._read_node())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _read_node(self) -> None:
        """Interfaces and, as a lease that changes brings both, resolvers."""
        interfaces = await asyncio.to_thread(read_interfaces)
        asked = await asyncio.to_thread(read_resolvers)
        if (interfaces, asked) != (self.inputs.interfaces, self.inputs.resolvers):
            self._change(interfaces=interfaces, resolvers=asked)

    def _change(self, **fields: Any) -> None:
        self.inputs = Inputs(**{**vars(self.inputs), **fields})
        self._changed()
