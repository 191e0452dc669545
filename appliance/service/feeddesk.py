# SPDX-License-Identifier: Apache-2.0
"""Feeds of the running service: entries added by command, lists that are put aside, and alerts about either.

feeds.d ─▶ FeedDirectory ─▶ believe(): much of recent traffic? ─┬─▶ Inputs.feeds
portcullis feeds add ─▶ LocalFeeds ──────────────────────────────┘      no: the list before it, an alert
"""

import asyncio
import ipaddress
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from appliance.control.server import ControlError, Handler
from appliance.service.localfeeds import LOCAL, LocalFeedError, LocalFeeds
from appliance.service.traffic import LEAST, RecentTraffic, share
from threatfeeds import Allowlist, Feed
from threatfeeds.config import parse_duration
from threatfeeds.merge import Merged
from threatfeeds.updater import out_of_bounds

LONGEST_SLEEP = 60.0  # seconds between looks whether an entry's time is over
Alert = Callable[[str, str, str], None]  # feed, state, text


class FeedDesk:
    """Everything runs in the event loop; what takes long goes to threads.

    changed(feeds): these are to be in force. configured(): names of feeds.d. settled(): waits until all changes are.
    merged(): what is in force.
    """

    def __init__(
        self,
        state: Path,
        *,
        changed: Callable[[tuple[Feed, ...]], None],
        configured: Callable[[], Collection[str]],
        settled: Callable[[], Awaitable[None]],
        merged: Callable[[], Merged | None],
        say: Callable[[str], None],
        alert: Alert,
    ) -> None:
        self._local = LocalFeeds(state)
        self._changed = changed
        self._configured = configured
        self._settled = settled
        self._merged = merged
        self._say = say
        self._alert = alert
        self._listed: tuple[Feed, ...] = ()  # of feeds.d, as they are
        self._in_force: dict[str, Feed] = {}
        self._accepted: set[str] = set()
        self._lock = asyncio.Lock()
        self._wake = asyncio.Event()
        self.traffic = RecentTraffic()
        self.quarantined: dict[str, str] = {}  # feed → why; replaced whole

    def handlers(self) -> dict[str, Handler]:
        return {"feeds_add": self._add, "feeds_remove": self._remove, "feeds_accept": self._accept}

    def first(self, listed: tuple[Feed, ...]) -> tuple[Feed, ...]:
        """Feeds at the start: there is no traffic yet to compare them with. Blocking."""
        try:
            self._local.load()
        except LocalFeedError as error:
            self._say(f"ALARM: {error}")
            self._alert(LOCAL, "failed", str(error))
        self._listed = listed
        self._in_force = {feed.config.name: feed for feed in listed}
        return (*listed, *self._others())

    async def believe(self, listed: tuple[Feed, ...]) -> tuple[Feed, ...]:
        """What of the feeds of feeds.d is to be in force, with those kept by command."""
        async with self._lock:
            self._listed = listed
            merged = self._merged()
            allowlist = merged.allowlist if merged is not None else Allowlist()
            quarantined: dict[str, str] = {}
            believed: list[Feed] = []
            for feed in listed:
                name = feed.config.name
                before = self._in_force.get(name)
                why = await self._doubt(before, feed, allowlist)
                if why and before is not None:
                    quarantined[name] = why
                    believed.append(before)
                else:
                    believed.append(feed)
            for name, why in quarantined.items():
                if self.quarantined.get(name) != why:
                    self._say(f"ALARM: feed {name} quarantined: {why} (in force: the list before it)")
                    self._alert(name, "quarantined", why)
            self.quarantined = quarantined
            self._in_force = {feed.config.name: feed for feed in believed}
            return (*believed, *self._others())

    async def _doubt(self, before: Feed | None, feed: Feed, allowlist: Allowlist) -> str:
        config = feed.config
        if before is None or before is feed or before.config != config:
            return ""
        if config.name in self._accepted:
            self._accepted.discard(config.name)
            return ""
        # portcullis-feeds has asked this of what it fetched.
        if not config.prepared and (why := out_of_bounds(config, len(before.content), len(feed.content))):
            return why
        if config.action == "alert" or config.max_share >= 100:
            return ""
        seen = self.traffic.seen()
        if seen.flows < LEAST and seen.shown < LEAST:
            return ""
        percent, example = await asyncio.to_thread(share, seen, before, feed, allowlist)
        if percent <= config.max_share:
            return ""
        return (
            f"its new entries would block {percent:.0f} percent of recent traffic ({example} for one),"
            f" max_share = {config.max_share:g}"
        )

    def _others(self) -> tuple[Feed, ...]:
        """Feeds kept by command; a feed of feeds.d with the same name goes first."""
        return tuple(feed for feed in self._local.feeds() if feed.config.name not in self._configured())

    # ---- commands --------------------------------------------------------------------------------

    async def _add(self, request: Mapping[str, Any]) -> dict[str, Any]:
        started = time.perf_counter()
        entry, feed, reason = (_text(request, key) for key in ("entry", "feed", "reason"))
        feed = feed or LOCAL
        if feed in self._configured():
            raise ControlError(f"the feed {feed} has a list of its own: add the entry there", field="feed")
        seconds = None
        if text := _text(request, "for"):
            try:
                seconds = parse_duration(text)
            except ValueError as error:
                raise ControlError(str(error), field="for") from error
        async with self._lock:
            shown = self._local.add(entry, feed=feed, seconds=seconds, reason=reason)
            await self._publish()
        taken = time.perf_counter() - started
        await self._save()
        return {"entry": shown, "feed": feed, "allowed": self._saved(feed, shown), "seconds": taken}

    async def _remove(self, request: Mapping[str, Any]) -> dict[str, Any]:
        started = time.perf_counter()
        feed = _text(request, "feed") or LOCAL
        async with self._lock:
            shown = self._local.remove(_text(request, "entry"), feed=feed)
            await self._publish()
        taken = time.perf_counter() - started
        await self._save()
        return {"entry": shown, "feed": feed, "seconds": taken}

    async def _accept(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Lets a list in that is put aside."""
        accepted = []
        for name in request.get("names", ()):
            if name in self.quarantined:
                accepted.append(name)
                self._accepted.add(name)
        if accepted:
            self._changed(await self.believe(self._listed))
            await self._settled()
        return {"accepted": accepted}

    def _saved(self, feed: str, shown: str) -> list[str]:
        """Why the allowlist keeps an entry from being enforced, in part or whole."""
        merged = self._merged()
        found = (*merged.saved, *merged.refused) if merged is not None else ()
        names = {shown, shown.removeprefix("*."), *_networks(shown)}
        return [
            f"{left.why}{' (the rest is enforced)' if left.part else ''}"
            for left in found if left.feed == feed and left.entry in names
        ]  # fmt: skip

    async def _publish(self) -> None:
        self._wake.set()
        believed = tuple(self._in_force.values())
        self._changed((*believed, *self._others()))
        await self._settled()

    async def _save(self) -> None:
        async with self._lock:
            await asyncio.to_thread(self._local.save, self._local.packed())

    async def run(self) -> None:
        """Ends entries whose time is over, for ever."""
        while True:
            end = self._local.next_end()
            wait = LONGEST_SLEEP if end is None else min(LONGEST_SLEEP, max(0.05, end - time.time()))
            self._wake.clear()
            try:
                await asyncio.wait_for(self._wake.wait(), wait)
            except TimeoutError:
                async with self._lock:
                    if not self._local.expire():
                        continue
                    await self._publish()
                try:
                    await self._save()
                except LocalFeedError as error:
                    self._say(f"warning: {error}")


def _networks(shown: str) -> list[str]:
    """A range is enforced as the networks that it is made of."""
    first, dash, last = shown.partition("-")
    if not dash:
        return []
    try:
        ends = ipaddress.ip_address(first), ipaddress.ip_address(last)
        found = ipaddress.summarize_address_range(*ends)
    except (TypeError, ValueError):
        return []
    return [str(n.network_address) if n.num_addresses == 1 else str(n) for n in found]


def _text(request: Mapping[str, Any], key: str) -> str:
    value = request.get(key) or ""
    if not isinstance(value, str) or len(value) > 2000:
        raise ControlError("expected text", field=key)
    return value
