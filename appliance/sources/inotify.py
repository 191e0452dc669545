# SPDX-License-Identifier: Apache-2.0
"""Directories of the kernel's inotify(7), read in the event loop: which file changed, and whether its writer is done.

The libraries for it tell that something changed, milliseconds later, but not that a file was closed: to read it
sooner would be to read half of it.
"""

import asyncio
import contextlib
import ctypes
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MODIFY = 0x00000002
CLOSE_WRITE = 0x00000008
MOVED_FROM = 0x00000040
MOVED_TO = 0x00000080
CREATE = 0x00000100
DELETE = 0x00000200
DELETE_SELF = 0x00000400
MOVE_SELF = 0x00000800
OVERFLOW = 0x00004000
IGNORED = 0x00008000
ONLYDIR = 0x01000000

_WATCHED = MODIFY | CLOSE_WRITE | MOVED_FROM | MOVED_TO | CREATE | DELETE | DELETE_SELF | MOVE_SELF | ONLYDIR
_HEADER = struct.Struct("iIII")  # struct inotify_event: watch, mask, cookie, length of the name
_READ = 65536


@dataclass(frozen=True)
class Event:
    """`name` is "" where the directory itself is meant, or all of them (OVERFLOW)."""

    directory: Path | None
    name: str
    mask: int

    @property
    def settled(self) -> bool:
        """One file is there whole, or gone."""
        return bool(self.name) and bool(self.mask & (CLOSE_WRITE | MOVED_TO | MOVED_FROM | DELETE))

    @property
    def written(self) -> bool:
        """Somebody is writing to it, and will close it."""
        return bool(self.mask & MODIFY)


def parse(data: bytes) -> Iterator[tuple[int, int, str]]:
    """(watch, mask, name) of each event that one read(2) returned; what is cut short is left out."""
    at = 0
    while at + _HEADER.size <= len(data):
        watch, mask, _, length = _HEADER.unpack_from(data, at)
        at += _HEADER.size
        if at + length > len(data):
            return
        yield watch, mask, os.fsdecode(data[at : at + length].rstrip(b"\0"))
        at += length


class Inotify:
    """Watches directories until closed. Raises OSError where the kernel has no more watches, or a directory is gone."""

    def __init__(self, directories: tuple[Path, ...]) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise _error("inotify_init1")
        self._directories: dict[int, Path] = {}
        self._readable = asyncio.Event()
        try:
            for directory in directories:
                self._add(directory)
            asyncio.get_running_loop().add_reader(self._fd, self._readable.set)
        except BaseException:
            os.close(self._fd)
            raise

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._fd)
        os.close(self._fd)

    async def read(self, patience: float) -> list[Event]:
        """What happened; waits up to `patience` seconds for the first event."""
        data = self._take()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                while not data and patience > 0:
                    self._readable.clear()
                    await self._readable.wait()
                    data = self._take()  # nothing, where the loop told of what was taken already
        return [Event(self._directories.get(watch), name, mask) for watch, mask, name in parse(data)]

    def _take(self) -> bytes:
        try:
            return os.read(self._fd, _READ)
        except BlockingIOError:
            return b""

    def _add(self, directory: Path) -> None:
        watch = self._libc.inotify_add_watch(self._fd, os.fsencode(directory), ctypes.c_uint32(_WATCHED))
        if watch < 0:
            raise _error(str(directory))
        self._directories[watch] = directory


def _error(what: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), what)
