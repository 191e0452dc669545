# SPDX-License-Identifier: Apache-2.0
"""Endpoints of containers in a file: what the discovery unit found, for the service that may not ask the engines.

    portcullis-containers.service ── containers.json ─▶ portcullis.service

One JSON object: `{"engines": [{"origin", "kept", "endpoints": [WorkloadEndpoint, ...]}], "errors": [{"message",
"file"}]}`. It is replaced whole, and touched every RELIST seconds by a unit that is well. The reader checks every
endpoint as if a stranger had written it.
"""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from appliance.sources.base import SourceError, SourceSnapshot
from appliance.sources.container_endpoints import document, read_document
from appliance.sources.containers import GRACE
from appliance.sources.files import changes
from rules.policy import Resource, ResourceError

MAX_BYTES = 64 << 20


def write(path: Path, snapshot: SourceSnapshot[Resource]) -> None:
    """Replaces the file. Blocking; raises OSError."""
    value = {
        "engines": [
            {"origin": origin, "kept": origin in snapshot.kept, "endpoints": [document(item) for item in items]}
            for origin, items in sorted(snapshot.items.items())
        ],
        "errors": [{"message": error.message, "file": error.file} for error in snapshot.errors],
    }
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_text(json.dumps(value))
    fresh.replace(path)


def touch(path: Path) -> None:
    """Says that what the file has still holds. Blocking; raises OSError."""
    os.utime(path)


class ContainerFile:
    """A Source of WorkloadEndpoint resources. grace: seconds for which a file that nobody touches is believed."""

    name = "containers"

    def __init__(self, path: Path, *, grace: float = GRACE, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._grace = grace
        self._clock = clock
        self._read: tuple[int, SourceSnapshot[Resource]] | None = None  # inode, which each new file has anew
        self._current: SourceSnapshot[Resource] | None = None
        self._lock = asyncio.Lock()

    async def snapshot(self) -> SourceSnapshot[Resource]:
        return self._current if self._current is not None else await self._refresh(everything=False)

    async def resync(self) -> SourceSnapshot[Resource]:
        return await self._refresh(everything=True)

    async def watch(self) -> AsyncIterator[SourceSnapshot[Resource]]:
        told = await self.snapshot()
        async for _ in changes(lambda: [self._path]):
            current = await self._refresh(everything=False)
            if current is not told:
                told = current
                yield current

    async def _refresh(self, *, everything: bool) -> SourceSnapshot[Resource]:
        """Keeps the snapshot object when nothing changed, so that identity tells."""
        async with self._lock:
            fresh = await asyncio.to_thread(self._look, everything)
            if self._current is None or fresh != self._current:
                self._current = fresh
            return self._current

    def _look(self, everything: bool) -> SourceSnapshot[Resource]:
        file = str(self._path)
        before = self._current.items if self._current is not None else {}
        try:
            status = self._path.stat()
            if status.st_size > MAX_BYTES:
                raise ValueError(f"it has more than {MAX_BYTES >> 20} MiB")
            if self._read is None or everything or self._read[0] != status.st_ino:
                self._read = status.st_ino, _snapshot(json.loads(self._path.read_bytes()), file)
        except FileNotFoundError:
            problem = SourceError("nothing is known of containers yet: is portcullis-containers.service running?", file)
            return SourceSnapshot({}, (problem,))
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            return SourceSnapshot(before, (SourceError(f"it cannot be read: {reason}", file),), tuple(before))
        if self._clock() - status.st_mtime > self._grace:
            problem = SourceError("portcullis-containers.service is silent: its endpoints are given up", file)
            return SourceSnapshot({}, (problem,))
        return self._read[1]


def _snapshot(value: Any, file: str) -> SourceSnapshot[Resource]:
    """Raises ValueError, TypeError, KeyError or AttributeError for what is not as `write` makes it."""
    items: dict[str, tuple[Resource, ...]] = {}
    errors = [SourceError(str(entry["message"]), entry["file"] and str(entry["file"])) for entry in value["errors"]]
    kept = []
    for engine in value["engines"]:
        origin = str(engine["origin"])
        found = []
        for entry in engine["endpoints"]:
            try:
                found.append(read_document(entry, origin))
            except ResourceError as error:
                errors.append(SourceError(error.message, file))
        items[origin] = tuple(found)
        if engine["kept"]:
            kept.append(origin)
    return SourceSnapshot(items, tuple(errors), tuple(kept))
