# SPDX-License-Identifier: Apache-2.0
"""portcullis-feeds: asks the sources that are due, keeps what is plausible, writes the checked set. Blocking.

source ─▶ list ─▶ read ─▶ plausible? ─▶ last good copy ─▶ set ─▶ the appliance
                               └─ no: quarantine or error; the last good copy stays
"""

import random
import time
from array import array
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import chain

import msgspec

from threatfeeds.binary import SetFeed, encode
from threatfeeds.config import AUTO, FeedConfig, FeedError
from threatfeeds.content import FeedContent
from threatfeeds.fetch.http import FetchError, fetch
from threatfeeds.fetch.sources import Fetch, fetch_feed
from threatfeeds.fetch.store import FeedState, Health, HealthState, Store, read_set
from threatfeeds.guess import guess_format
from threatfeeds.read import decode, read_feed, rejected_problem, rejected_warnings

PARALLEL = 8
JITTER = 0.1  # of the period: many nodes must not ask one server at the same second
BOUNDS_FROM = 100  # entries; a list smaller than this may change as it likes
FIRST_WAIT = 60.0  # seconds after a failure that may be over soon; then twice as long each time
LONGEST_WAIT = 6 * 3600.0  # seconds, or the period where that is longer


@dataclass(frozen=True)
class Report:
    """What came of one feed. changed: another list is in force."""

    name: str
    health: Health
    changed: bool = False


class Implausible(FeedError):
    """A list that can be read and is not believed."""


class Updater:
    """`get` and `clock` are for tests."""

    def __init__(self, store: Store, *, get: Fetch = fetch, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._get = get
        self._clock = clock
        self._read: dict[str, tuple[FeedConfig, float, FeedContent]] = {}  # by name: as configured, changed, content
        self._pool = ThreadPoolExecutor(PARALLEL, thread_name_prefix="feed")
        self._underway: dict[str, Future[Report]] = {}

    def due(self, configs: Iterable[FeedConfig]) -> list[FeedConfig]:
        now = self._clock()
        return [config for config in configs if self._store.state(config.name).due <= now or self._moved(config)]

    def next_due(self, configs: Iterable[FeedConfig]) -> float:
        """Seconds since 1970."""
        waiting = (config.name for config in configs if config.name not in self._underway)
        return min((self._store.state(name).due for name in waiting), default=self._clock() + 60)

    def update(self, configs: Sequence[FeedConfig], *, accept: bool = False) -> list[Report]:
        """Asks the sources of `configs`. accept: bounds of growth are not asked. Never raises for a feed."""
        return list(self._pool.map(lambda config: self._update(config, accept), configs))

    def start(self, configs: Sequence[FeedConfig], *, accept: bool = False) -> None:
        """update() without waiting; a source that is being asked is left alone."""
        for config in configs:
            if config.name not in self._underway:
                self._underway[config.name] = self._pool.submit(self._update, config, accept)

    def ended(self, seconds: float) -> list[Report]:
        """What came of those that were started; waits so long for all of them. Raises OSError."""
        done = wait(self._underway.values(), seconds).done
        names = [name for name, future in self._underway.items() if future in done]
        return [self._underway.pop(name).result() for name in names]

    @property
    def busy(self) -> bool:
        return bool(self._underway)

    def publish(self, configs: Sequence[FeedConfig]) -> bool:
        """Writes health, and the set when it is another one; True then. Raises OSError. What is being asked stays."""
        old = self._old_set()
        feeds = [
            old.get(config.name) if config.name in self._underway else self._set_feed(config, old.get(config.name))
            for config in configs
        ]
        health = {config.name: self._health(config) for config in configs}
        found = [feed for feed in feeds if feed is not None]
        changed = len(found) != len(old) or any(feed is not old.get(feed.name) for feed in found)
        if changed:
            self._store.save_set(encode(found))
        self._store.save_health(health)
        return changed

    def _moved(self, config: FeedConfig) -> bool:
        return self._store.state(config.name).asked != config.source

    def _update(self, config: FeedConfig, accept: bool) -> Report:
        before = self._store.state(config.name)
        now = self._clock()
        changed = False
        pause = config.period_seconds
        try:
            health, state, changed = self._fetch(config, before, now, accept)
        # A reader's fault with one list is not to stop the others.
        except Exception as error:
            failures = before.health.failures + 1
            kind: HealthState = "quarantined" if isinstance(error, Implausible) else "failed"
            problem = str(error) if isinstance(error, FeedError | OSError) else f"cannot be read: {error!r}"
            health = msgspec.structs.replace(before.health, state=kind, problem=problem, checked=now, failures=failures)
            state = msgspec.structs.replace(before, health=health)
            pause = _back_off(config, failures, soon=isinstance(error, FetchError) and error.again)
        due = now + pause * random.uniform(1 - JITTER, 1 + JITTER)
        self._store.save_state(config.name, msgspec.structs.replace(state, health=health, due=due, asked=config.source))
        return Report(config.name, health, changed)

    def _fetch(self, config: FeedConfig, before: FeedState, now: float, accept: bool) -> tuple[Health, FeedState, bool]:
        kept = self._store.kept(config.name)
        fetched = fetch_feed(config, before.memory, kept, get=self._get)
        confirmed = {"state": "ok", "problem": "", "checked": now, "confirmed": now, "failures": 0}
        if fetched.data is None or fetched.data == kept:
            self._store.dismiss(config.name)
            health = msgspec.structs.replace(before.health, **confirmed)
            return health, msgspec.structs.replace(before, memory=fetched.memory), False
        format_name = read_as(config, fetched.data)
        content = read_feed(with_format(config, format_name), fetched.data, now)
        problem = rejected_problem(config, content)
        if problem is not None:
            raise problem
        if not accept and (why := _implausible(config, before, format_name, len(content))):
            self._store.quarantine(config.name, fetched.data)
            raise Implausible(why, file=config.source)
        added, removed = difference(self._before(config, before, kept), content)
        self._store.keep(config.name, fetched.data)
        health = msgspec.structs.replace(
            before.health, **confirmed, changed=now, entries=len(content), added=added, removed=removed,
            rejected=len(content.rejected),
        )  # fmt: skip
        self._read[config.name] = config, now, content
        return health, FeedState(fetched.memory, health, format_name), True

    def _content(self, config: FeedConfig, state: FeedState, kept: bytes) -> FeedContent:
        """The list in force, read once for each change of list or configuration. Raises FeedError."""
        known = self._read.get(config.name)
        if known is not None and known[0] == config and known[1] == state.health.changed and not _timed(state.format):
            return known[2]
        format_name = state.format if config.format == AUTO and state.format else read_as(config, kept)
        content = read_feed(with_format(config, format_name), kept, self._clock())
        self._read[config.name] = config, state.health.changed, content
        return content

    def _before(self, config: FeedConfig, state: FeedState, kept: bytes | None) -> FeedContent:
        """For the numbers only: a list that the configuration of today cannot read counts as none."""
        try:
            return self._content(config, state, kept) if kept is not None else FeedContent()
        except FeedError:
            return FeedContent()

    def _set_feed(self, config: FeedConfig, old: SetFeed | None) -> SetFeed | None:
        state = self._store.state(config.name)
        kept = self._store.kept(config.name)
        if kept is None or self._health(config).state == "expired":
            return None
        try:
            content = self._content(config, state, kept)
        except FeedError:
            return old  # written by a configuration that read it otherwise
        if old is not None and old.source == state.memory.url and _same(old.content, content):
            return old
        seen = _seen(old, content, int(self._clock()))
        warnings = tuple(map(str, rejected_warnings(config, content)))
        changed = state.health.changed
        return SetFeed(config.name, state.memory.url, content, changed, len(content.rejected), warnings, seen)

    def _old_set(self) -> dict[str, SetFeed]:
        try:
            return {feed.name: feed for feed in read_set(self._store.folder, with_times=True)}
        except FeedError:
            return {}  # damaged: it is written anew

    def _health(self, config: FeedConfig) -> Health:
        health, limit = self._store.state(config.name).health, config.expires_seconds
        if limit is not None and health.confirmed and self._clock() - health.confirmed > limit:
            problem = f"not confirmed for {config.expires}, given up; {health.problem}".rstrip("; ")
            return msgspec.structs.replace(health, state="expired", problem=problem)
        return health


def _back_off(config: FeedConfig, failures: int, *, soon: bool) -> float:
    """Seconds until a source is asked again after so many failures in a row."""
    first = min(FIRST_WAIT, config.period_seconds) if soon else config.period_seconds
    longest = max(LONGEST_WAIT, config.period_seconds)
    return float(min(first * 2 ** min(failures - 1, 20), longest))


def read_as(config: FeedConfig, data: bytes) -> str:
    """The format to read `data` in."""
    fixed = {"taxii": "stix", "misp": "misp", "maxmind": "plain"}.get(config.kind)
    if fixed is not None:
        return fixed
    return guess_format(decode(data)) if config.format == AUTO else config.format


def with_format(config: FeedConfig, name: str) -> FeedConfig:
    return msgspec.structs.replace(config, format=name)


def difference(old: FeedContent, new: FeedContent) -> tuple[int, int]:
    """(added, removed) entries."""
    came, went = old.prefixes.changes(new.prefixes)
    before, after = _words(old), _words(new)
    return len(came) + len(after - before), len(went) + len(before - after)


def _words(content: FeedContent) -> set[object]:
    return {*content.domains, *content.urls, *content.fingerprints}


def _seen(old: SetFeed | None, content: FeedContent, now: int) -> Sequence[int]:
    """When each prefix, then each name, URL and fingerprint was listed first."""
    if old is None:
        return array("I", [now]) * (len(content.prefixes) + sum(map(len, _dated(content))))
    known = len(old.content.prefixes)
    found = old.content.prefixes.carry(array("I", old.seen[:known]), content.prefixes, now)
    # A set of before may know no times of URLs and fingerprints.
    times = dict(zip(chain.from_iterable(_dated(old.content)), old.seen[known:], strict=False))
    found.extend(times.get(word, now) for word in chain.from_iterable(_dated(content)))
    return found


def _dated(content: FeedContent) -> tuple[Sequence[object], ...]:
    return [domain.name for domain in content.domains], content.urls, content.fingerprints


def _same(old: FeedContent, new: FeedContent) -> bool:
    """Rejected lines are not in the set."""
    return (old.prefixes, old.domains, old.urls, old.fingerprints, old.counts) == (
        new.prefixes, new.domains, new.urls, new.fingerprints, new.counts
    )  # fmt: skip


def _timed(format_name: str) -> bool:
    """Whether entries of the format may end by themselves."""
    return format_name == "stix"


def _implausible(config: FeedConfig, before: FeedState, format_name: str, entries: int) -> str | None:
    """Against the list in force. Another source's list is no measure."""
    if before.memory.url != config.source:
        return None
    known = before.health.entries
    if config.format == AUTO and before.format and before.format != format_name:
        return f"the format changed from {before.format} to {format_name}"
    return out_of_bounds(config, known, entries)


def out_of_bounds(config: FeedConfig, known: int, entries: int) -> str | None:
    """Why a list of `entries` in place of one of `known` is not believed."""
    if known < BOUNDS_FROM:
        return None
    if 100 * (known - entries) > config.max_shrink * known:
        return f"{entries} entries where {known} were: it shrank by more than max_shrink = {config.max_shrink} percent"
    if config.max_growth and 100 * (entries - known) > config.max_growth * known:
        return f"{entries} entries where {known} were: it grew by more than max_growth = {config.max_growth} percent"
    return None
