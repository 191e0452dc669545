# SPDX-License-Identifier: Apache-2.0
"""Feeds that are kept by command: `portcullis feeds add` and `remove`. On disk in the service's state folder.

STATE/local-feeds.json   {feed: {entry: {"added": seconds, "until": seconds or 0, "reason": text}}}
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from fastpath.errors import PortcullisError
from threatfeeds import Feed, FeedConfig, prefix
from threatfeeds.config import feed_problem
from threatfeeds.content import Collector
from threatfeeds.fetch.store import read_bounded, write_atomically
from threatfeeds.indicator import Indicator, classify

FILE = "local-feeds.json"
LOCAL = "local"
LARGEST = 64 << 20  # bytes
MOST = 100_000  # entries of all local feeds: whoever has more has a list
KINDS = ("ipv4", "ipv6", "ipv4_prefix", "ipv6_prefix", "range", "domain")


class LocalFeedError(PortcullisError):
    """What cannot be added or removed, or a file that cannot be used."""


class LocalEntry(msgspec.Struct, frozen=True):
    """Seconds since 1970. until: 0 for ever."""

    added: float
    until: float = 0.0
    reason: str = ""


class LocalFeeds:
    """The feed `local` is always there, others while they have entries. Belongs to one thread."""

    def __init__(self, state: Path, clock: Callable[[], float] = time.time) -> None:
        self._path = state / FILE
        self._clock = clock
        self._entries: dict[str, dict[str, LocalEntry]] = {LOCAL: {}}
        self._feeds: dict[str, Feed] = {}

    def load(self) -> None:
        """Raises LocalFeedError for a file that cannot be read; then there are no entries. Blocking."""
        try:
            read = msgspec.json.decode(read_bounded(self._path, LARGEST), type=dict[str, dict[str, LocalEntry]])
        except FileNotFoundError:
            return
        except (OSError, PortcullisError, msgspec.DecodeError, UnicodeDecodeError) as error:
            why = f"the entries added by command cannot be read: {error}"
            raise LocalFeedError(why, file=str(self._path)) from error
        known = {
            name: {text: entry for text, entry in entries.items() if isinstance(_read(text), Indicator)}
            for name, entries in read.items()
            if feed_problem(_config(name)) is None
        }
        self._entries = {LOCAL: {}} | known
        self._feeds.clear()
        self.expire()

    def feeds(self) -> tuple[Feed, ...]:
        """The same objects for what did not change."""
        for name, entries in self._entries.items():
            if name not in self._feeds:
                out = Collector()
                for text in entries:
                    out.add(text, 0)
                self._feeds[name] = Feed(_config(name), out.finish())
        return tuple(self._feeds[name] for name in sorted(self._entries))

    def entries(self) -> Mapping[str, Mapping[str, LocalEntry]]:
        return self._entries

    def add(self, text: str, *, feed: str = LOCAL, seconds: float | None = None, reason: str = "") -> str:
        """Returns the entry in its own form. A second time sets its end and its reason. Raises LocalFeedError."""
        found = _read(text)
        if isinstance(found, str):
            raise LocalFeedError(f"{text!r}: {found}", field="entry")
        problem = feed_problem(_config(feed))
        if problem is not None:
            raise LocalFeedError(problem[1], field="feed")
        if sum(map(len, self._entries.values())) >= MOST:
            raise LocalFeedError(f"more than {MOST} entries: make them a list of feeds.d")
        shown = _text(found)
        until = self._clock() + seconds if seconds is not None else 0.0
        self._entries.setdefault(feed, {})[shown] = LocalEntry(self._clock(), until, reason)
        self._changed(feed)
        return shown

    def remove(self, text: str, *, feed: str = LOCAL) -> str:
        """Raises LocalFeedError for what is not there."""
        found = _read(text)
        shown = _text(found) if isinstance(found, Indicator) else text
        if shown not in self._entries.get(feed, {}):
            raise LocalFeedError(f"{shown} is not in the feed {feed}", field="entry")
        del self._entries[feed][shown]
        self._changed(feed)
        return shown

    def expire(self) -> bool:
        """Whether something's time was over."""
        now = self._clock()
        over = [
            (name, text) for name, entries in self._entries.items()
            for text, entry in entries.items() if entry.until and entry.until <= now
        ]  # fmt: skip
        for name, text in over:
            del self._entries[name][text]
            self._changed(name)
        return bool(over)

    def next_end(self) -> float | None:
        """Seconds since 1970."""
        return min((e.until for entries in self._entries.values() for e in entries.values() if e.until), default=None)

    def packed(self) -> bytes:
        """For save(), which may run in a thread."""
        return msgspec.json.encode(self._entries)

    def save(self, packed: bytes) -> None:
        """Raises LocalFeedError. Blocking."""
        try:
            write_atomically(self._path, packed, 0o640)
        except OSError as error:
            raise LocalFeedError(f"cannot be written: {error.strerror}", file=str(self._path)) from error

    def _changed(self, feed: str) -> None:
        self._feeds.pop(feed, None)
        if not self._entries[feed] and feed != LOCAL:
            del self._entries[feed]


def _config(name: str) -> FeedConfig:
    return FeedConfig(file=f"(command {name})", name=name, action="drop", confidence=100, max_share=100)


def _read(text: str) -> Indicator | str:
    found = classify(text)
    if isinstance(found, Indicator) and found.kind not in KINDS:
        return f"{found.kind} where an address, a network, a range or a name was expected"
    return found


def _text(found: Indicator) -> str:
    if isinstance(found.value, int):
        return prefix.text(found.value)
    if isinstance(found.value, tuple):
        return "-".join(prefix.text(prefix.make(end, 128)) for end in found.value)
    return ("*." if found.subdomains else "") + found.value
