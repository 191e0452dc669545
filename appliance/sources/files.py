# SPDX-License-Identifier: Apache-2.0
"""Files that change: what is there now, and a signal when it is not the same any more."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from watchfiles import awatch

DEBOUNCE = 20  # milliseconds of quiet before a change is told
_RECHECK = 2000  # milliseconds; finds directories that appeared, or were replaced behind inotify's back


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


async def changes(watched: Callable[[], Iterable[Path]]) -> AsyncIterator[None]:
    """Yields once after each burst of changes, and every two seconds so that nothing is missed for ever.

    `watched` names files and directories; it is asked again after every burst, since configuration may name others.
    A file is watched through its directory: editors and package managers replace files instead of writing them.
    """
    while True:
        directories = await asyncio.to_thread(_directories, watched())
        if not directories:
            await asyncio.sleep(_RECHECK / 1000)
            yield
            continue
        identity = await asyncio.to_thread(_identity, directories)
        watcher = awatch(
            *directories,
            debounce=DEBOUNCE,
            step=DEBOUNCE // 2,
            rust_timeout=_RECHECK,
            yield_on_timeout=True,
            recursive=False,
            ignore_permission_denied=True,
            watch_filter=None,
        )
        try:
            async for _ in watcher:
                yield
                now = await asyncio.to_thread(_directories, watched())
                if now != directories or await asyncio.to_thread(_identity, now) != identity:
                    break
        except FileNotFoundError:
            continue  # it went away between the check and the watch
        finally:
            await watcher.aclose()


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
