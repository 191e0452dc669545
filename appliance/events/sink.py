# SPDX-License-Identifier: Apache-2.0
"""Where EVE records go: a file or standard output, written by a thread so that the event loop never waits."""

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import msgspec

from fastpath.errors import PortcullisError

_CAPACITY = 65536  # records
_BATCH = 512  # records in one write
_CHECK = 1.0  # seconds between looks whether the file was moved away
_CLOSE = 5.0  # seconds


class EventsError(PortcullisError):
    """The event file cannot be written."""


class EventSink:
    """Takes records, keeps at most `capacity` of them waiting, and counts what it could not keep or write.

    target: a path, "-" for standard output, "" for none. types: event types that are wanted.
    A file that was moved away (logrotate) is made anew within a second; reopen() does it at once.
    Raises EventsError when the file cannot be opened.
    """

    def __init__(self, target: str, types: Collection[str], *, capacity: int = _CAPACITY) -> None:
        self._path = Path(target) if target not in ("", "-") else None
        self._types = frozenset(types) if target else frozenset()
        self._capacity = capacity
        self._waiting: deque[Mapping[str, Any]] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._reopen = False
        self.written = 0
        self.lost = 0
        self.error = ""  # the last failure to write, "" after a success
        self._descriptor = self._open() if target else -1
        self._thread = threading.Thread(target=self._run, name="events", daemon=True)
        if target:
            self._thread.start()

    def wants(self, event_type: str) -> bool:
        return event_type in self._types

    def write(self, record: Mapping[str, Any]) -> None:
        """Never blocks for longer than the lock. A record of a type that is not wanted is ignored."""
        if record.get("event_type") not in self._types:
            return
        with self._changed:
            if self._closing or len(self._waiting) >= self._capacity:
                self.lost += 1
                return
            self._waiting.append(record)
            self._changed.notify()

    def reopen(self) -> None:
        """Opens the file again by its name, after what waits was written to the old one."""
        with self._changed:
            self._reopen = True
            self._changed.notify()

    def close(self) -> None:
        """Writes what waits, for a few seconds at most."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(_CLOSE)

    def _open(self) -> int:
        if self._path is None:
            return sys.stdout.fileno()
        try:
            return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        except OSError as error:
            raise EventsError(
                f"the event file cannot be opened: {error.strerror}", file=str(self._path), field="events.file"
            ) from error

    def _run(self) -> None:
        checked = time.monotonic()
        while True:
            with self._changed:
                if not (self._waiting or self._closing or self._reopen):
                    self._changed.wait(_CHECK)
                batch = [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]
                finished = self._closing and not self._waiting
                reopen, self._reopen = self._reopen and not self._waiting, self._reopen and bool(self._waiting)
            if batch:
                self._write(batch)
            if reopen or time.monotonic() - checked >= _CHECK:
                checked = time.monotonic()
                if reopen or self._moved():
                    self._switch()
            if finished:
                if self._path is not None:
                    os.close(self._descriptor)
                return

    def _write(self, batch: list[Mapping[str, Any]]) -> None:
        lines = [line for line in map(_line, batch) if line]
        if len(lines) < len(batch):
            with self._changed:
                self.lost += len(batch) - len(lines)
        data = memoryview(b"".join(lines))
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError as error:
            self.error = error.strerror or str(error)
            with self._changed:
                self.lost += len(lines)
        else:
            self.error = ""
            self.written += len(lines)

    def _moved(self) -> bool:
        if self._path is None:
            return False
        here = os.fstat(self._descriptor)
        try:
            there = self._path.stat()
        except OSError:
            return True
        return (here.st_dev, here.st_ino) != (there.st_dev, there.st_ino)

    def _switch(self) -> None:
        if self._path is None:
            return
        try:
            fresh = self._open()
        except EventsError as error:
            self.error = error.message
            return
        os.close(self._descriptor)
        self._descriptor = fresh


def _line(record: Mapping[str, Any]) -> bytes:
    """Empty for a record that JSON cannot hold (text that is not Unicode): it must not take the writer down."""
    try:
        return msgspec.json.encode(record) + b"\n"
    except (TypeError, ValueError, RecursionError):
        return b""
