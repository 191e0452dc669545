# SPDX-License-Identifier: Apache-2.0
"""The sealed snapshot: what comes back is what went in, and nothing else is taken for one."""

import fcntl
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.service import handover, resume, snapshot
from appliance.service.snapshot import Snapshot, SnapshotError, comparable
from fastpath import EngineConfig, IdentityMap, Policy, PolicyTables
from fastpath.layout import CHAIN, IDENTITY_CHAINS, NONE, RULE, Action, Failure, Verdict

TABLES = PolicyTables(
    rules=RULE.pack(7, NONE, NONE, *[0] * 9, 0, Action.ALLOW, *[0] * 6),
    chains=CHAIN.pack(0, 1, 99, Action.DENY),
    predicate_offsets=struct.pack("=2I", 0, 0),
    identities=IDENTITY_CHAINS.pack(0, NONE, 0, NONE),
)
ENTRIES = IdentityMap.build([(bytes(10) + b"\xff\xff\x0a\x00\x00\x01", 128, 3, 0)]).export()
CONFIG = EngineConfig(
    queue_count=2, look_queue=32, failure_action={Failure.INSPECTOR_RESTART: Verdict.ALLOW}, cpus=(0, 1), fds=(8, 9, 10)
)
SNAPSHOT = Snapshot(5, True, CONFIG, TABLES, ENTRIES, 7)


@contextmanager
def sealed(found: Snapshot = SNAPSHOT) -> Iterator[int]:
    fd = snapshot.seal(found)
    try:
        yield fd
    finally:
        os.close(fd)


def content(fd: int) -> bytes:
    return os.pread(fd, 1 << 20, 0)


def test_what_comes_back_is_what_went_in() -> None:
    with sealed() as fd:
        found = snapshot.read(fd)
    assert (found.generation, found.observe) == (5, True)
    assert found.tables == TABLES and bytes(found.entries) == bytes(ENTRIES)
    assert found.config == comparable(CONFIG)
    assert Policy(found.tables).tables() == Policy(TABLES).tables()
    assert IdentityMap.build(found.entries).export() == ENTRIES


def test_nobody_can_change_it() -> None:
    with sealed() as fd:
        with pytest.raises(PermissionError):
            os.pwrite(fd, b"x", 0)
        with pytest.raises(PermissionError):
            os.ftruncate(fd, 0)
        with pytest.raises(PermissionError):
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, 0)


def test_what_is_not_sealed_is_not_read() -> None:
    with sealed() as fd:
        data = content(fd)
    loose = os.memfd_create("loose", os.MFD_ALLOW_SEALING)
    with os.fdopen(loose, "wb") as file:
        file.write(data)
        file.flush()
        with pytest.raises(SnapshotError, match="not sealed"):
            snapshot.read(loose)
        fcntl.fcntl(loose, fcntl.F_ADD_SEALS, snapshot.SEALS)
        assert snapshot.read(loose).generation == 5


@pytest.mark.parametrize(
    ("at", "words"), [(0, "something else"), (8, "another version"), (12, "another version"), (16, "bytes where")]
)
def test_each_part_of_the_header_is_looked_at(at: int, words: str) -> None:
    with sealed() as fd:
        data = bytearray(content(fd))
    data[at] ^= 1
    with pytest.raises(SnapshotError, match=words):
        snapshot.parse(bytes(data))


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_any_changed_byte_is_noticed(at: int, flip: int) -> None:
    with sealed() as fd:
        data = bytearray(content(fd))
    data[at % len(data)] ^= flip
    with pytest.raises(SnapshotError):
        snapshot.parse(bytes(data))


@given(st.binary(max_size=200))
def test_anything_else_is_refused(data: bytes) -> None:
    with sealed() as fd:
        good = content(fd)
    for broken in (data, good[: len(data)], good + data[:1] + b"x"):
        with pytest.raises(SnapshotError):
            snapshot.parse(broken)


def test_an_engine_that_is_configured_otherwise_does_not_go_on() -> None:
    assert comparable(CONFIG) == comparable(replace(CONFIG, fds=None, resumed=True, last_ids=(1, 2, 3)))
    assert comparable(CONFIG) != comparable(replace(CONFIG, queue_count=3))
    assert comparable(CONFIG) != comparable(replace(CONFIG, failure_action={}))


def test_without_anything_handed_on_there_is_nothing_to_resume(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LISTEN_PID", raising=False)
    left = resume.resume()
    assert left.engine is None and not left.taken and not left.refused
    assert handover.from_manager({"LISTEN_PID": "1", "LISTEN_FDS": "2"})[1] == -1


def test_what_packets_wait_for_loads_nothing_more_than_it_needs() -> None:
    """Each module that is imported before the engine runs makes the gap longer."""
    code = "import sys, appliance.cli, appliance.service.resume; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    heavy = {"asyncio", "uvloop", "msgspec", "yaml", "pyroute2", "ctypes", "prometheus_client"}
    assert not heavy & set(loaded)
    ours = {name.split(".")[0] for name in loaded} & {"rules", "threatfeeds"}
    assert not ours
