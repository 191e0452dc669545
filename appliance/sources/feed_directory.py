# SPDX-License-Identifier: Apache-2.0
"""Threat feeds from feeds.d/*.toml and the lists they name.

A list that becomes unreadable or implausible, and a configuration that becomes invalid, leave the last good copy in
force, with an error. A feed whose configuration file is removed, or that is switched off, is gone.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from appliance.sources.base import SourceError, SourcesError, SourceSnapshot
from appliance.sources.files import FileState, changes, scan
from fastpath.errors import PortcullisError
from threatfeeds import Feed, FeedConfig, FeedError, load_feed_config, read_feed

SUFFIXES = (".toml",)


@dataclass(frozen=True)
class _Entry:
    """One configuration file: what it said, what its list said, and which states of both were read."""

    config_state: FileState
    list_state: FileState | None = None
    config: FeedConfig | None = None
    feed: Feed | None = None
    kept: bool = False
    error: SourceError | None = None


class FeedDirectory:
    """A Source of feeds: one Feed (configuration and content) for each origin, a configuration file.

    required: a path that does not exist is an error (it was configured explicitly), otherwise it counts as empty.
    """

    name = "feeds"

    def __init__(self, paths: Sequence[Path], *, required: bool = False) -> None:
        self._paths = tuple(paths)
        self._required = required
        self._entries: dict[Path, _Entry] = {}
        self._scan_error: SourceError | None = None
        self._current: SourceSnapshot[Feed] | None = None
        self._lock = asyncio.Lock()

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
        async for _ in changes(self._watched):
            current = await self._refresh(everything=False)
            if current is not told:
                told = current
                yield current

    def _watched(self) -> list[Path]:
        lists = [Path(entry.config.file) for entry in self._entries.values() if entry.config]
        return [*self._paths, *lists]

    async def _refresh(self, *, everything: bool) -> SourceSnapshot[Feed]:
        """Keeps the snapshot object when nothing changed, so that identity tells."""
        async with self._lock:
            entries, error = await asyncio.to_thread(self._read, dict(self._entries), everything)
            # Feed contents are large: an entry that was not read again is the same object.
            same = entries.keys() == self._entries.keys() and all(entries[p] is self._entries[p] for p in entries)
            changed = not same or error != self._scan_error
            self._entries, self._scan_error = entries, error
            if changed or self._current is None:
                self._current = _merge(entries, error)
            return self._current

    def _read(self, old: dict[Path, _Entry], everything: bool) -> tuple[dict[Path, _Entry], SourceError | None]:
        try:
            states = scan(self._paths, SUFFIXES)
        except OSError as error:
            return old, SourceError(f"the directory cannot be read: {error.strerror}", file=error.filename)
        entries: dict[Path, _Entry] = {}
        for path, state in states.items():
            before = old.get(path)
            if before is not None and not everything and before.config_state == state:
                list_path = Path(before.config.file) if before.config else None
                if list_path is None or _state(list_path) == before.list_state:
                    entries[path] = before
                    continue
            entries[path] = _load(path, state, before)
        return entries, None


def _load(path: Path, state: FileState, before: _Entry | None) -> _Entry:
    feed = before.feed if before else None
    config = before.config if before else None
    list_state = before.list_state if before else None
    try:
        config = _load_config(path)
        if not config.enabled:
            return _Entry(state, None, None)
        list_path = Path(config.file)
        list_state = _state(list_path)
        if list_state is not None and list_state.size > config.max_size:
            raise FeedError(f"{list_state.size} bytes are more than max_size = {config.max_size}", file=config.file)
        content = read_feed(config, list_path.read_bytes())
        if len(content.rejected) > config.max_rejected:
            first = content.rejected[0]
            raise FeedError(
                f"{first.why}: {first.text!r} ({len(content.rejected)} lines are no indicators,"
                f" max_rejected = {config.max_rejected})", file=config.file, line=first.line
            )
    except OSError as error:
        problem = SourceError(f"the list cannot be read: {error.strerror}", str(error.filename))
    except PortcullisError as error:
        problem = SourceError.of(error)
    else:
        return _Entry(state, list_state, config, Feed(config, content))
    if feed is not None and config is not None and feed.config.name != config.name:
        feed = None
    return _Entry(state, list_state, config, feed, feed is not None, problem)


def _load_config(path: Path) -> FeedConfig:
    """The configuration with the path of its list resolved against the configuration's folder."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FeedError("the file is not UTF-8", file=str(path)) from error
    config = load_feed_config(text, str(path))
    return msgspec.structs.replace(config, file=str(path.parent / config.file))


def _state(path: Path) -> FileState | None:
    return scan([path], ()).get(path)


def _merge(entries: dict[Path, _Entry], error: SourceError | None) -> SourceSnapshot[Feed]:
    """A feed name that is used twice belongs to the first file."""
    owner: dict[str, Path] = {}
    items: dict[str, tuple[Feed, ...]] = {}
    errors = [error] if error else []
    kept: list[str] = []
    for path in sorted(entries):
        entry = entries[path]
        if entry.error is not None:
            errors.append(entry.error)
        if entry.feed is None:
            continue
        first = owner.setdefault(entry.feed.config.name, path)
        if first != path:
            errors.append(
                SourceError(
                    f'the feed "{entry.feed.config.name}" is already defined in {first}', str(path), field="name"
                )
            )
            continue
        items[str(path)] = (entry.feed,)
        if entry.kept:
            kept.append(str(path))
    return SourceSnapshot(items, tuple(errors), tuple(kept))
