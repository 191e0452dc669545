# SPDX-License-Identifier: Apache-2.0
"""Feeds of the running service: entries added by command, lists that are put aside, and alerts about either.

feeds.d ─▶ FeedDirectory ─▶ believe(): much of recent traffic? ─┬─▶ Inputs.feeds
portcullis feeds add ─▶ LocalFeeds ──────────────────────────────┘      no: the list before it, an alert

What is put aside stays so across restarts (aside.py), and recent traffic is remembered (traffic.py).
"""

import asyncio
import ipaddress
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from appliance.control.server import ControlError, Handler
from appliance.service import aside, traffic
from appliance.service.aside import Aside, AsideError
from appliance.service.localfeeds import LOCAL, LocalFeedError, LocalFeeds
from appliance.service.traffic import LEAST, RecentTraffic, share
from fastpath.errors import PortcullisError
from threatfeeds import Allowlist, Feed
from threatfeeds.config import parse_duration
from threatfeeds.fetch.store import read_bounded, write_atomically
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
        self._state = state
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
        self._aside: dict[str, Aside] = {}
        self._undecided: set[str] = set()  # of those: another list than the one put aside, and too little traffic yet
        self._lock = asyncio.Lock()
        self._wake = asyncio.Event()
        self.traffic = RecentTraffic()
        self.quarantined: dict[str, str] = {}  # feed → why; replaced whole

    def handlers(self) -> dict[str, Handler]:
        return {"feeds_add": self._add, "feeds_remove": self._remove, "feeds_accept": self._accept}

    def first(self, listed: tuple[Feed, ...]) -> tuple[Feed, ...]:
        """Feeds at the start. What an earlier run put aside stays so; others are believed. Blocking."""
        try:
            self._local.load()
        except LocalFeedError as error:
            self._say(f"ALARM: {error}")
            self._alert(LOCAL, "failed", str(error))
        found = self._remember()
        self._listed = listed
        self._in_force = {feed.config.name: self._remembered(feed, found) for feed in listed}
        self.quarantined = {name: one.why for name, one in self._aside.items()}
        return (*self._in_force.values(), *self._others())

    def _remember(self) -> dict[str, aside.Remembered]:
        """What an earlier run left; what of it cannot be read is said."""
        try:
            self.traffic.load(read_bounded(self._state / traffic.FILE, traffic.LARGEST), time.time())
        except FileNotFoundError:
            pass
        except (OSError, ValueError, PortcullisError) as error:
            self._say(f"warning: recent traffic of before is not known: {error}")
        try:
            return aside.load(self._state)
        except AsideError as error:
            self._say(f"ALARM: {error}: lists that were put aside come in")
            return {}

    def _remembered(self, feed: Feed, found: Mapping[str, aside.Remembered]) -> Feed:
        """What of the feed is in force at the start."""
        name, config = feed.config.name, feed.config
        known = found.get(name)
        if known is None or not known.holds(config) or known.content == feed.content:
            return feed
        if not known.is_of(feed.content):
            self._undecided.add(name)
        before = Feed(config, known.content)
        self._aside[name] = Aside(before, feed, known.why, known.since)
        self._say(f"ALARM: feed {name} is still quarantined: {known.why} (in force: the list before it)")
        self._alert(name, "quarantined", known.why)
        return before

    async def believe(self, listed: tuple[Feed, ...]) -> tuple[Feed, ...]:
        """What of the feeds of feeds.d is to be in force, with those kept by command."""
        async with self._lock:
            self._listed = listed
            merged = self._merged()
            allowlist = merged.allowlist if merged is not None else Allowlist()
            put_aside: dict[str, Aside] = {}
            believed: list[Feed] = []
            for feed in listed:
                name = feed.config.name
                before = self._in_force.get(name)
                why = await self._doubt(before, feed, allowlist)
                if why and before is not None:
                    known = self._aside.get(name)
                    since = known.since if known is not None and known.why == why else time.time()
                    believed.append(before if before.config == feed.config else replace(before, config=feed.config))
                    put_aside[name] = Aside(believed[-1], feed, why, since)
                else:
                    believed.append(feed)
            for name, one in put_aside.items():
                if self.quarantined.get(name) != one.why:
                    self._say(f"ALARM: feed {name} quarantined: {one.why} (in force: the list before it)")
                    self._alert(name, "quarantined", one.why)
            await self._put_aside(put_aside)
            self._in_force = {feed.config.name: feed for feed in believed}
            return (*believed, *self._others())

    async def _put_aside(self, now: dict[str, Aside]) -> None:
        """Across a crash, too."""
        before, self._aside = self._aside, now
        self.quarantined = {name: one.why for name, one in now.items()}
        self._undecided &= now.keys()
        if before != now:
            try:
                await asyncio.to_thread(aside.save, self._state, now)
            except AsideError as error:
                self._say(f"warning: a restart would let in what is put aside: {error}")

    async def _doubt(self, before: Feed | None, feed: Feed, allowlist: Allowlist) -> str:
        config = feed.config
        if before is None or before is feed:
            return ""
        if config.name in self._accepted:
            self._accepted.discard(config.name)
            return ""
        known = self._aside.get(config.name)
        # What else somebody changes says nothing of a list that is put aside.
        if before.config != config and (known is None or not known.holds(config)):
            return ""
        if known is not None and known.refused is feed and config.name not in self._undecided:
            return known.why
        # portcullis-feeds has asked this of what it fetched.
        if not config.prepared and (why := out_of_bounds(config, len(before.content), len(feed.content))):
            return why
        if config.action == "alert" or config.max_share >= 100:
            return ""
        seen = self.traffic.seen()
        if seen.flows < LEAST and seen.shown < LEAST:
            return known.why if known is not None else ""
        self._undecided.discard(config.name)
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

    async def _look_again(self) -> None:
        """What is remembered goes to the disk; there may be enough of it now to decide about lists put aside."""
        await asyncio.to_thread(self._save_traffic, self.traffic.packed(time.time()))
        if self._undecided:
            self._changed(await self.believe(self._listed))

    def _save_traffic(self, packed: bytes) -> None:
        try:
            write_atomically(self._state / traffic.FILE, packed, 0o640)
        except OSError as error:
            self._say(f"warning: recent traffic cannot be kept: {self._state / traffic.FILE}: {error.strerror}")

    async def run(self) -> None:
        """Ends entries whose time is over, for ever."""
        try:
            await self._run()
        finally:
            self._save_traffic(self.traffic.packed(time.time()))

    async def _run(self) -> None:
        while True:
            end = self._local.next_end()
            wait = LONGEST_SLEEP if end is None else min(LONGEST_SLEEP, max(0.05, end - time.time()))
            self._wake.clear()
            try:
                await asyncio.wait_for(self._wake.wait(), wait)
            except TimeoutError:
                await self._look_again()
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
