# SPDX-License-Identifier: Apache-2.0
"""Files that change: what is there now, and a signal when it is not the same any more."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from appliance.sources.inotify import Inotify

QUIET = 0.02  # seconds in which nothing happens end a burst
RESCAN = 2.0  # seconds; finds directories that appeared, or were replaced behind inotify's back


@dataclass(frozen=True)
class FileState:
    """Two equal states: the file need not be read again."""

    modified: int  # nanoseconds
    size: int  # bytes
    inode: int


def scan(paths: Iterable[Path], suffixes: Sequence[str]) -> dict[Path, FileState]:
    """Files with one of the suffixes in each directory, and each path that is itself a file. Hidden files are skipped.

    Paths that do not exist are left out. Raises OSError when a directory cannot be read.
    """
    found: dict[Path, FileState] = {}
    for path in paths:
        if path.is_dir():
            names = [entry for entry in path.iterdir() if entry.suffix in suffixes and not entry.name.startswith(".")]
        else:
            names = [path]
        for name in sorted(names):
            try:
                status = name.stat()
            except FileNotFoundError:
                continue
            if not name.is_dir():
                found[name] = FileState(status.st_mtime_ns, status.st_size, status.st_ino)
    return found


async def changes(
    watched: Callable[[], Iterable[Path]], suffixes: Sequence[str] = ()
) -> AsyncIterator[frozenset[Path] | None]:
    """Yields when files changed: those that did, or None where anything may have, which is also said every two
    seconds, so that nothing is missed for ever.

    One file that was replaced, removed, or closed by its writer, is told at once; several are a burst, told when it
    is over. `suffixes`: of the files that matter; (): all. `watched` names files and directories; it is asked again
    after every change, since configuration may name others. A file is watched through its directory: editors and
    package managers replace files instead of writing them.
    """
    while True:
        named = tuple(watched())
        directories = await asyncio.to_thread(_directories, named)
        identity = await asyncio.to_thread(_identity, directories)
        try:
            inotify = Inotify(directories)
        except OSError:  # it went away between the check and the watch, or there are too many watches
            await asyncio.sleep(RESCAN)
            yield None
            continue
        try:
            while True:
                told = await _burst(inotify, suffixes)
                yield told
                named, before = tuple(watched()), named
                if told is not None and named == before:
                    continue  # a file, and nothing about directories: who takes it up needs the processor now
                now = await asyncio.to_thread(_directories, named)
                if now != directories or await asyncio.to_thread(_identity, now) != identity:
                    break
        finally:
            inotify.close()
        yield None  # what happened between two watches


async def _burst(inotify: Inotify, suffixes: Sequence[str]) -> frozenset[Path] | None:
    loop = asyncio.get_running_loop()
    end = loop.time() + RESCAN
    settled: set[Path] = set()
    writing: set[Path] = set()
    created: set[Path] = set()  # and nothing more: a link, or a writer who takes time
    other = False  # directories, hidden files: what can be seen only by looking
    wait = RESCAN
    while wait >= 0 and (events := await inotify.read(wait)):
        for event in events:
            if event.directory is None or not event.name or event.name.startswith("."):
                other = True
                continue
            if suffixes and not event.name.endswith(tuple(suffixes)):
                continue
            path = event.directory / event.name
            for group in (settled, writing, created):
                group.discard(path)
            (settled if event.settled else writing if event.written else created).add(path)
        wait = end - loop.time()
        several = other or bool(created) or len(settled) > 1
        if not writing and (several or settled):
            # One file, and nobody is in the middle of anything: a look whether there is more, and no wait.
            wait = min(wait, QUIET if several else 0.0)
    return None if other or writing or created or not settled else frozenset(settled)


def _directories(paths: Iterable[Path]) -> tuple[Path, ...]:
    folders = {path if path.is_dir() else path.parent for path in paths}
    return tuple(sorted(folder for folder in folders if folder.is_dir()))


def _identity(directories: tuple[Path, ...]) -> tuple[tuple[int, int], ...]:
    found = []
    for directory in directories:
        try:
            status = directory.stat()
        except OSError:
            found.append((0, 0))
        else:
            found.append((status.st_dev, status.st_ino))
    return tuple(found)
