# SPDX-License-Identifier: Apache-2.0
"""Threat feeds: what feeds.d/*.toml (or Calico's GlobalThreatFeed in *.yaml) asks for, with the lists.

A local list is read here. Everything else was fetched, read and checked by portcullis-feeds and lies in the one set
that it writes; this process talks to no network and trusts nothing in the set.

What becomes unreadable or implausible leaves the last good copy in force, with an error. A feed whose configuration
is removed, or that is switched off, is gone.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from appliance.sources.base import SourceError, SourcesError, SourceSnapshot
from appliance.sources.feed_copies import Copies, read_list
from appliance.sources.files import FileState, changes, scan
from fastpath.errors import PortcullisError
from threatfeeds import Feed, FeedConfig, FeedError, load_feed_config, rejected_warnings
from threatfeeds.binary import SetFeed
from threatfeeds.calico import load_threat_feeds
from threatfeeds.content import FeedContent
from threatfeeds.fetch.store import HEALTH, SET, STALE, Health, given_up, read_health, read_set

SUFFIXES = (".toml", ".yaml", ".yml")


@dataclass(frozen=True)
class _File:
    """A configuration file: its feeds (of an earlier version, if `errors`), paths resolved."""

    state: FileState
    configs: tuple[FeedConfig, ...] = ()
    errors: tuple[SourceError, ...] = ()


@dataclass(frozen=True)
class _List:
    """A local list: what was read of which state, and whether it is an earlier copy."""

    config: FeedConfig
    state: FileState | None
    feed: Feed | None = None
    error: SourceError | None = None

    @property
    def kept(self) -> bool:
        return self.error is not None and self.feed is not None


@dataclass(frozen=True)
class _Prepared:
    """What portcullis-feeds has written."""

    states: tuple[FileState | None, FileState | None] = (None, None)
    feeds: Mapping[str, SetFeed] = field(default_factory=dict)
    health: Mapping[str, Health] = field(default_factory=dict)
    problems: tuple[SourceError, ...] = ()


@dataclass(frozen=True)
class _Known:
    files: Mapping[Path, _File] = field(default_factory=dict)
    lists: Mapping[tuple[Path, str], _List] = field(default_factory=dict)
    prepared: _Prepared = _Prepared()
    feeds: Mapping[tuple[Path, str], Feed] = field(default_factory=dict)  # made of prepared
    error: SourceError | None = None


class FeedDirectory:
    """A Source of feeds: Feeds (configuration and content) for each origin, a configuration file.

    required: a path that does not exist is an error (it was configured explicitly), otherwise it counts as empty.
    state: folder of portcullis-feeds. copies: where the last good copies of local lists are.
    """

    name = "feeds"

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        required: bool = False,
        state: Path | None = None,
        copies: Path | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._paths = tuple(paths)
        self._required = required
        self._state = state
        self._clock = clock
        self._known = _Known()
        self._current: SourceSnapshot[Feed] | None = None
        self._lock = asyncio.Lock()
        self._copies = Copies(copies)

    @property
    def health(self) -> Mapping[str, Health]:
        """How the fetched feeds are doing, by name."""
        return self._known.prepared.health

    @property
    def names(self) -> frozenset[str]:
        """Of every feed that is configured, also where it has no list."""
        return frozenset(config.name for file in self._known.files.values() for config in file.configs)

    async def snapshot(self) -> SourceSnapshot[Feed]:
        if self._current is None:
            if self._required:
                for path in self._paths:
                    if not path.exists():
                        raise SourcesError("the feed directory does not exist", file=str(path))
            return await self._refresh(everything=False)
        return self._current

    async def resync(self) -> SourceSnapshot[Feed]:
        return await self._refresh(everything=True)

    async def watch(self) -> AsyncIterator[SourceSnapshot[Feed]]:
        told = await self.snapshot()
        await self._keep()
        async for _ in changes(self._watched):
            current = await self._refresh(everything=False)
            if current is not told:
                told = current
                yield current
                await self._keep()

    async def _keep(self) -> None:
        """After the change is in force, or on its way: nothing waits for the disk."""
        good = [entry.feed for entry in self._known.lists.values() if entry.error is None and entry.feed is not None]
        await asyncio.to_thread(self._copies.keep, good)

    def _watched(self) -> list[Path]:
        lists = [Path(entry.config.file) for entry in self._known.lists.values()]
        return [*self._paths, *lists, *([self._state] if self._state is not None else [])]

    async def _refresh(self, *, everything: bool) -> SourceSnapshot[Feed]:
        """Keeps the snapshot object when nothing changed, so that identity tells."""
        async with self._lock:
            self._known = await asyncio.to_thread(self._read, self._known, everything)
            found = self._merge(self._known)
            before = self._current
            # Feed contents are large: what was not read again is the same object.
            if before is None or not _same(before, found):
                self._current = found
            assert self._current is not None
            return self._current

    def _read(self, old: _Known, everything: bool) -> _Known:
        try:
            states = scan(self._paths, SUFFIXES)
        except OSError as error:
            problem = SourceError(f"the directory cannot be read: {error.strerror}", file=error.filename)
            return replace(old, error=problem)
        files: dict[Path, _File] = {}
        lists: dict[tuple[Path, str], _List] = {}
        for path, state in states.items():
            before = old.files.get(path)
            if before is not None and before.state == state and not everything:
                files[path] = before
            else:
                files[path] = _load_file(path, state, before)
            for config in files[path].configs:
                if config.enabled and not config.prepared:
                    key = path, config.name
                    lists[key] = _load_list(config, old.lists.get(key), everything, self._copies)
        prepared = self._read_prepared(old.prepared, everything)
        return _Known(files, lists, prepared, self._join(files, prepared, old.feeds))

    def _read_prepared(self, old: _Prepared, everything: bool) -> _Prepared:
        if self._state is None:
            return old
        states = _state(self._state / SET), _state(self._state / HEALTH)
        if states == old.states and not everything:
            return old
        feeds, health, problems = old.feeds, old.health, []
        try:
            if states[0] != old.states[0] or everything:
                feeds = _again(old.feeds, {feed.name: feed for feed in read_set(self._state)})
            elif old.problems:
                problems += [problem for problem in old.problems if problem.file == str(self._state / SET)]
        except FeedError as error:
            problems.append(SourceError.of(error))
        try:
            health = read_health(self._state)
        except FeedError as error:
            problems.append(SourceError.of(error))
        return _Prepared(states, feeds, health, tuple(problems))

    def _join(
        self, files: Mapping[Path, _File], prepared: _Prepared, old: Mapping[tuple[Path, str], Feed]
    ) -> dict[tuple[Path, str], Feed]:
        """Configured feeds with their prepared content; the same objects where nothing changed."""
        now = self._clock()
        found: dict[tuple[Path, str], Feed] = {}
        for path, file in files.items():
            for config in file.configs:
                if not config.enabled or not config.prepared:
                    continue
                entry = prepared.feeds.get(config.name)
                content = entry.content if entry is not None else _NOTHING
                if given_up(config, prepared.health.get(config.name), now):
                    content = _NOTHING
                before = old.get((path, config.name))
                if before is not None and before.config == config and before.content is content:
                    found[path, config.name] = before
                else:
                    times = entry.seen if entry is not None and content is entry.content else ()
                    found[path, config.name] = Feed(config, content, times)
        return found

    def _merge(self, known: _Known) -> SourceSnapshot[Feed]:
        """A feed name that is used twice belongs to the first file."""
        owner: dict[str, Path] = {}
        items: dict[str, tuple[Feed, ...]] = {}
        errors = [known.error] if known.error else []
        warnings = list(known.prepared.problems)
        kept: list[str] = []
        for path in sorted(known.files):
            file = known.files[path]
            errors += file.errors
            feeds: list[Feed] = []
            old = bool(file.errors)
            for config in file.configs:
                if not config.enabled:
                    continue
                first = owner.setdefault(config.name, path)
                if first != path:
                    message = f'the feed "{config.name}" is already defined in {first}'
                    errors.append(SourceError(message, str(path), field="name"))
                    continue
                if config.prepared:
                    feeds.append(known.feeds[path, config.name])
                    warnings += self._prepared_warnings(config, known.prepared)
                    continue
                entry = known.lists[path, config.name]
                old |= entry.kept
                if entry.error is not None:
                    errors.append(entry.error)
                if entry.feed is not None:
                    feeds.append(entry.feed)
                    warnings += map(SourceError.of, rejected_warnings(entry.feed.config, entry.feed.content))
            if feeds:
                items[str(path)] = tuple(feeds)
                if old:
                    kept.append(str(path))
        return SourceSnapshot(items, tuple(errors), tuple(kept), tuple(warnings))

    def _prepared_warnings(self, config: FeedConfig, prepared: _Prepared) -> list[SourceError]:
        """What a security team should know; texts do not change while the state does not."""
        entry, health = prepared.feeds.get(config.name), prepared.health.get(config.name, Health())
        title = f"feed {config.name}"
        found: list[SourceError] = []
        if health.confirmed and given_up(config, health, self._clock()):
            text = f"{title} expired: no word from its source since {_moment(health.confirmed)}, nothing is in force"
            return [SourceError(f"{text}; {health.problem}".rstrip("; "), feed=config.name, state="expired")]
        if entry is None:
            why = health.problem or "portcullis-feeds has not fetched it yet"
            return [SourceError(f"{title} is empty: {why}", feed=config.name, state="empty")]
        if health.state != "ok":
            since = _moment(health.confirmed)
            text = f"{title} {health.state}: {health.problem} (in force: the copy of {since})"
            found.append(SourceError(text, feed=config.name, state=health.state))
        elif self._clock() - health.confirmed > STALE * config.period_seconds:
            text = f"{title} is stale: no word from its source since {_moment(health.confirmed)}"
            found.append(SourceError(text, feed=config.name, state="stale"))
        found += [SourceError(f"{title}: {text}") for text in entry.warnings]
        return found


_NOTHING = FeedContent()


def _load_file(path: Path, state: FileState, before: _File | None) -> _File:
    try:
        text = path.read_bytes().decode("utf-8-sig")
        if path.suffix == ".toml":
            found: tuple[FeedConfig, ...] = (load_feed_config(text, str(path)),)
            errors: tuple[FeedError, ...] = ()
        else:
            found, errors = load_threat_feeds(text, str(path))
    except OSError as error:
        found, errors = (), (FeedError(f"cannot be read: {error.strerror}", file=str(path)),)
    except UnicodeDecodeError:
        found, errors = (), (FeedError("the file is not UTF-8", file=str(path)),)
    except FeedError as error:
        found, errors = (), (error,)
    configs = {config.name: _resolved(config, path.parent) for config in found}
    if errors and before is not None:
        # Which feed an unreadable document was meant to be is not known: those of before stay.
        configs = {config.name: config for config in before.configs} | configs
    return _File(state, tuple(configs.values()), tuple(map(SourceError.of, errors)))


def _resolved(config: FeedConfig, folder: Path) -> FeedConfig:
    """Paths relative to the folder of the configuration made whole."""
    paths = {name: str(folder / getattr(config, name)) for name in _PATHS if getattr(config, name)}
    return msgspec.structs.replace(config, **paths)


_PATHS = ("file", "maxmind", "ca", "secret_file")


def _load_list(config: FeedConfig, before: _List | None, everything: bool, copies: Copies) -> _List:
    path = Path(config.file)
    state = _state(path)
    if before is not None and before.config == config and before.state == state and not everything:
        return before
    try:
        content = read_list(config)
    except OSError as error:
        why = SourceError(f"the list cannot be read: {error.strerror}", str(error.filename))
    except PortcullisError as error:
        why = SourceError.of(error)
    else:
        return _List(config, state, Feed(config, content))
    kept = before.feed if before is not None else copies.load(config)
    return _List(config, state, kept, replace(why, feed=config.name, state="failed"))


def load_configs(paths: Sequence[Path]) -> tuple[list[FeedConfig], list[SourceError]]:
    """Configurations of all feeds below `paths`, paths resolved, and what is wrong. Raises OSError."""
    files = [_load_file(path, state, None) for path, state in sorted(scan(paths, SUFFIXES).items())]
    configs: dict[str, FeedConfig] = {}
    for file in files:
        for config in file.configs:
            configs.setdefault(config.name, config)
    return list(configs.values()), [error for file in files for error in file.errors]


def _again(old: Mapping[str, SetFeed], new: Mapping[str, SetFeed]) -> dict[str, SetFeed]:
    """Content that did not change stays the same object."""
    return {
        name: replace(feed, content=old[name].content) if name in old and old[name].content == feed.content else feed
        for name, feed in new.items()
    }


def _same(before: SourceSnapshot[Feed], now: SourceSnapshot[Feed]) -> bool:
    old, new = before.all(), now.all()
    return (
        before.items.keys() == now.items.keys()
        and len(old) == len(new)
        and all(first is second for first, second in zip(old, new, strict=True))
        and (before.errors, before.kept, before.warnings) == (now.errors, now.kept, now.warnings)
    )


def _state(path: Path) -> FileState | None:
    return scan([path], ()).get(path)


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC") if seconds else "never"
