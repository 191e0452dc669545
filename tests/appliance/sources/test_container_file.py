# SPDX-License-Identifier: Apache-2.0
"""What the discovery unit writes, the service reads; and what it makes of a file that is old, broken or hostile."""

import asyncio
import contextlib
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.sources.base import SourceError, SourceSnapshot
from appliance.sources.container_endpoints import endpoints
from appliance.sources.container_file import ContainerFile, touch, write
from appliance.sources.engine_api import read_containers
from rules.policy import Resource
from tests.appliance.sources.engine_stand_in import listed

SOCKET = "/run/docker.sock"


def found(*containers: Any, interface: str = "br1") -> tuple[Resource, ...]:
    body = json.dumps(list(containers)).encode()
    made = endpoints(
        read_containers(body), engine="docker", node="gate", origin=SOCKET, interface_of=lambda *_: interface
    )
    assert not made.problems
    return made.resources


WEB = found(listed(1, "web", {"front": "10.91.0.2"}, role="web"))
SNAPSHOT = SourceSnapshot({SOCKET: WEB})


def read(path: Path, **options: Any) -> SourceSnapshot[Resource]:
    return asyncio.run(ContainerFile(path, **options).snapshot())


@pytest.mark.parametrize("interface", ["br1", ""])
def test_the_service_reads_what_the_unit_wrote(tmp_path: Path, interface: str) -> None:
    many = found(
        listed(1, "web", {"front": "10.91.0.2", "back": "10.92.0.2"}, role="web"),
        listed(2, "db", {"back": "10.92.0.3"}),
        interface=interface,
    )  # fmt: skip
    snapshot = SourceSnapshot({SOCKET: many}, (SourceError("docker: it is slow", SOCKET),), (SOCKET,))
    write(tmp_path / "c.json", snapshot)
    assert read(tmp_path / "c.json") == snapshot


def test_no_file_is_said_and_stops_nobody(tmp_path: Path) -> None:
    snapshot = read(tmp_path / "c.json")
    assert snapshot.items == {}
    assert "portcullis-containers.service" in str(snapshot.errors[0])


def test_a_unit_that_is_silent_is_believed_for_a_while_only(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    write(path, SNAPSHOT)
    late = time.time() + 400
    assert read(path).items == {SOCKET: WEB}
    assert read(path, clock=lambda: late).items == {}
    assert "silent" in str(read(path, clock=lambda: late).errors[0])
    os.utime(path, (1, 1))
    assert read(path).items == {}
    touch(path)
    assert read(path).items == {SOCKET: WEB}


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"engines": 7, "errors": []}', "[" * 5000, '{"engines": null}'])
def test_a_broken_file_leaves_what_was_known(tmp_path: Path, text: str) -> None:
    async def dialogue() -> None:
        path = tmp_path / "c.json"
        write(path, SNAPSHOT)
        source = ContainerFile(path)
        await source.snapshot()
        path.write_text(text)
        snapshot = await source.resync()
        assert snapshot.items == {SOCKET: WEB}
        assert snapshot.kept == (SOCKET,)
        assert "cannot be read" in str(snapshot.errors[0])

    asyncio.run(dialogue())


def test_what_is_no_workload_endpoint_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    write(path, SNAPSHOT)
    value = json.loads(path.read_text())
    rogue = {"apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy", "metadata": {"name": "open"},
             "spec": {"ingress": [{"action": "Allow"}]}}  # fmt: skip
    value["engines"][0]["endpoints"] += [rogue, 7, {}, {**value["engines"][0]["endpoints"][0], "spec": {}}]
    path.write_text(json.dumps(value))
    snapshot = read(path)
    assert snapshot.items == {SOCKET: WEB}
    assert len(snapshot.errors) == 4


Json = st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=8), lambda inner: (
    st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["engines", "errors", "origin", "endpoints", "kept", "message", "file"]), inner)
), max_leaves=12)  # fmt: skip


@given(Json)
def test_no_file_makes_the_reader_raise(value: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "c.json")
        path.write_text(json.dumps(value))
        read(path)


def test_a_change_is_told_at_once(tmp_path: Path) -> None:
    async def dialogue() -> None:
        path = tmp_path / "c.json"
        write(path, SourceSnapshot())
        source = ContainerFile(path)
        told: asyncio.Queue[SourceSnapshot[Resource]] = asyncio.Queue()

        async def follow() -> None:
            async for snapshot in source.watch():
                told.put_nowait(snapshot)

        await source.snapshot()
        task = asyncio.create_task(follow())
        await asyncio.sleep(0.1)
        write(path, SNAPSHOT)
        async with asyncio.timeout(10):
            assert (await told.get()).items == {SOCKET: WEB}
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(dialogue())
