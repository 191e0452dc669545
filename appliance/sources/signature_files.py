# SPDX-License-Identifier: Apache-2.0
"""Signature files named by patterns such as /etc/portcullis/signatures.d/*.rules, as text: inspectors compile them."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from appliance.inspection.messages import SignatureSource
from appliance.sources.base import SourceError, SourceSnapshot
from appliance.sources.files import FileState, changes

MAX_SIZE = 64 << 20  # bytes of one file


class SignatureFiles:
    """A Source of signature texts, one item for each file. A file that cannot be read leaves its last text in force."""

    name = "signatures"

    def __init__(self, patterns: Sequence[str]) -> None:
        self._patterns = tuple(Path(pattern) for pattern in patterns)
        self._files: dict[Path, tuple[FileState, SignatureSource]] = {}
        self._current: SourceSnapshot[SignatureSource] | None = None
        self._lock = asyncio.Lock()

    async def snapshot(self) -> SourceSnapshot[SignatureSource]:
        return self._current if self._current is not None else await self.resync()

    async def resync(self) -> SourceSnapshot[SignatureSource]:
        """Keeps the snapshot object when nothing changed, so that identity tells."""
        async with self._lock:
            fresh = await asyncio.to_thread(self._read)
            if self._current is None or fresh != self._current:
                self._current = fresh
            return self._current

    async def watch(self) -> AsyncIterator[SourceSnapshot[SignatureSource]]:
        told = await self.snapshot()
        async for _ in changes(lambda: [pattern.parent for pattern in self._patterns]):
            current = await self.resync()
            if current is not told:
                told = current
                yield current

    def _read(self) -> SourceSnapshot[SignatureSource]:
        errors: list[SourceError] = []
        kept: list[str] = []
        before, self._files = self._files, {}
        for path in sorted({path for pattern in self._patterns for path in pattern.parent.glob(pattern.name)}):
            try:
                status = path.stat()
                state = FileState(status.st_mtime_ns, status.st_size, status.st_ino)
                if path in before and before[path][0] == state:
                    self._files[path] = before[path]
                    continue
                if state.size > MAX_SIZE:
                    raise ValueError(f"the file has {state.size} bytes, more than {MAX_SIZE}")
                text = path.read_bytes().decode("utf-8", errors="surrogateescape").encode(errors="replace").decode()
                self._files[path] = state, SignatureSource(str(path), text)
            except (OSError, ValueError) as error:
                reason = error.strerror if isinstance(error, OSError) else str(error)
                errors.append(SourceError(f"the file cannot be read: {reason}", str(path)))
                if path in before:
                    self._files[path] = before[path]
                    kept.append(str(path))
        items = {str(path): (source,) for path, (_, source) in self._files.items()}
        return SourceSnapshot(items, tuple(errors), tuple(kept))
