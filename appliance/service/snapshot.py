# SPDX-License-Identifier: Apache-2.0
"""The sealed snapshot: all that the engine decides by, in memory that outlives the process and that nobody can change.

    memfd, sealed   header │ meta (JSON) │ tables of the policy … │ prefixes        each part at a multiple of 8 bytes

A successor maps it and answers packets before it has loaded anything else. What does not fit is refused as a whole.
"""

import fcntl
import json
import mmap
import os
import struct
import time
import zlib
from dataclasses import dataclass, fields, replace

from fastpath.engine import EngineConfig
from fastpath.errors import PortcullisError
from fastpath.layout import API_VERSION, CHAIN, PREFIX_ENTRY, RULE, Failure, Verdict
from fastpath.policy import LentTables, PolicyTables

NAME = "snapshot"  # of the stored descriptor
MAGIC = b"portcull"
LAYOUT = 2  # to be raised with every change of what is written here
SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
_PIECE = 64 << 10  # bytes in one system call: on a core whose kernel is not preemptible, others wait for its end
# magic, layout, layout of the engine's structs, bytes of all, CRC-32 of what follows the header, bytes of meta
_HEADER = struct.Struct("=8sIIQII")
# Fields of the configuration that are a new process' own business.
_OWN = ("fds", "last_ids", "resumed")
_TABLES = tuple(field.name for field in fields(PolicyTables) if field.type is bytes)
_NUMBERS = ("n_predicates", "feed_chain", "inspect")

Part = bytes | memoryview


class SnapshotError(PortcullisError):
    """The memory is no snapshot that this version can use."""


@dataclass(frozen=True)
class Snapshot:
    """`entries`: as IdentityMap.build() takes them. `config` is without what belongs to one process. `offset`: of the
    ledger, for a successor with the same queues."""

    generation: int
    observe: bool
    config: EngineConfig
    tables: PolicyTables | LentTables
    entries: Part
    offset: int | None = None


def seal(snapshot: Snapshot, *, idle: int = 0) -> int:
    """Returns the descriptor of a sealed memfd, the caller's. Raises SnapshotError without memory for it. idle: it
    rests so many times as long as it works."""
    parts = [memoryview(getattr(snapshot.tables, name)) for name in _TABLES]
    parts.append(memoryview(snapshot.entries).cast("B"))
    meta = json.dumps(
        {
            "generation": snapshot.generation,
            "observe": snapshot.observe,
            "offset": snapshot.offset,
            "config": _config_out(snapshot.config),
            "policy": {name: getattr(snapshot.tables, name) for name in _NUMBERS},
            "parts": [part.nbytes for part in parts],
        }
    ).encode()
    pieces = [piece for part in (memoryview(meta), *parts) for piece in (part, bytes(-part.nbytes % 8))]
    size = _HEADER.size + sum(len(piece) for piece in pieces)
    checksum = 0
    fd = -1
    try:
        fd = os.memfd_create("portcullis-snapshot", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.lseek(fd, _HEADER.size, os.SEEK_SET)
        for piece in pieces:
            checksum = _write(fd, piece, checksum, idle)
        os.pwrite(fd, _HEADER.pack(MAGIC, LAYOUT, _engine_layout(), size, checksum, len(meta)), 0)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
    except OSError as error:
        if fd >= 0:
            os.close(fd)
        raise SnapshotError(f"no snapshot could be made: {error.strerror}") from error
    return fd


def read(fd: int) -> Snapshot:
    """Of a sealed memfd, whose memory stays mapped while the prefixes are referred to. Raises SnapshotError."""
    try:
        if fcntl.fcntl(fd, fcntl.F_GET_SEALS) & SEALS != SEALS:
            raise SnapshotError("it is not sealed")
        return parse(memoryview(mmap.mmap(fd, 0, mmap.MAP_SHARED | mmap.MAP_POPULATE, mmap.PROT_READ)))
    except (OSError, ValueError) as error:
        raise SnapshotError(f"it cannot be read: {error}") from error


def parse(data: Part) -> Snapshot:
    """Raises SnapshotError for anything but what seal() wrote. What tables refer to is checked when they are built."""
    if len(data) < _HEADER.size:
        raise SnapshotError(f"{len(data)} bytes are too few")
    magic, layout, engine, size, checksum, meta_size = _HEADER.unpack_from(data)
    body = memoryview(data)[_HEADER.size :]
    if magic != MAGIC:
        raise SnapshotError("it is something else")
    if (layout, engine) != (LAYOUT, _engine_layout()):
        raise SnapshotError("it was written by another version")
    if size != len(data) or meta_size > len(body):
        raise SnapshotError(f"{len(data)} bytes where there should be {size}")
    if zlib.crc32(body) != checksum:
        raise SnapshotError("its checksum is wrong")
    try:
        meta = json.loads(bytes(body[:meta_size]))
        parts = _cut(body, meta_size, meta["parts"])
        tables = PolicyTables(
            **{name: bytes(part) for name, part in zip(_TABLES, parts, strict=False)},
            n_predicates=meta["policy"]["n_predicates"],
            feed_chain=meta["policy"]["feed_chain"],
            inspect=tuple(meta["policy"]["inspect"]),
        )
        config = _config_in(meta["config"])
        return Snapshot(meta["generation"], meta["observe"], config, tables, parts[-1], meta["offset"])
    except (ValueError, KeyError, TypeError) as error:
        raise SnapshotError(f"it makes no sense: {error}") from error


def comparable(config: EngineConfig) -> EngineConfig:
    """Without what belongs to one process: equal where one engine can go on for the other."""
    return replace(config, fds=None, last_ids=None, resumed=False)


def _cut(body: memoryview, at: int, sizes: list[int]) -> list[memoryview]:
    if len(sizes) != len(_TABLES) + 1:
        raise ValueError(f"{len(sizes)} parts")
    parts = []
    for size in sizes:
        at += -at % 8
        if not 0 <= size <= len(body) - at:
            raise ValueError("a part ends behind the end")
        parts.append(body[at : at + size])
        at += size
    return parts


def _config_out(config: EngineConfig) -> dict[str, object]:
    values = {field.name: getattr(config, field.name) for field in fields(config) if field.name not in _OWN}
    return {**values, "failure_action": {str(int(key)): int(value) for key, value in config.failure_action.items()}}


def _config_in(values: dict[str, object]) -> EngineConfig:
    actions, cpus, takeover = values["failure_action"], values["cpus"], values["takeover_action"]
    if not isinstance(actions, dict) or not isinstance(takeover, int) or not isinstance(cpus, list | None):
        raise ValueError("the configuration")
    made = {
        **values,
        "failure_action": {Failure(int(key)): int(value) for key, value in actions.items()},
        "cpus": None if cpus is None else tuple(cpus),
        "takeover_action": Verdict(takeover),
    }
    return EngineConfig(**made)  # type: ignore[arg-type]


def _engine_layout() -> int:
    """Differs where the engine's tables do."""
    return API_VERSION << 24 | PREFIX_ENTRY.size << 16 | RULE.size << 8 | CHAIN.size


def _write(fd: int, part: Part, checksum: int, idle: int) -> int:
    """The checksum with this part."""
    left = memoryview(part)
    while left:
        begun = time.thread_time()
        written = os.write(fd, left[:_PIECE])
        checksum = zlib.crc32(left[:written], checksum)
        left = left[written:]
        if idle:
            time.sleep(idle * (time.thread_time() - begun))
    return checksum
