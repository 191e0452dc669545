# SPDX-License-Identifier: Apache-2.0
"""Containers followed through an engine's events; the engine is a stand-in that speaks the recorded API."""

import asyncio
import contextlib
import ipaddress
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from appliance.sources import SourceSnapshot, containers
from appliance.sources.container_links import Links
from appliance.sources.containers import Containers
from rules.policy import Resource
from rules.policy.model import WorkloadEndpointSpec
from tests.appliance.sources.engine_stand_in import Engine, container_id, event, listed

LINKS = Links(owners={ipaddress.ip_address("10.91.0.1"): "br1", ipaddress.ip_address("10.92.0.1"): "br2"})
WEB = listed(1, "web", {"front": "10.91.0.2"}, role="web")
DB = listed(2, "db", {"front": "10.91.0.3"}, role="db")


class Follower:
    """Watches a source and keeps the last snapshot that it told."""

    def __init__(self, source: Containers) -> None:
        self.last: SourceSnapshot[Resource] = SourceSnapshot()
        self._source = source

    async def run(self) -> None:
        self.last = await self._source.snapshot()
        async for snapshot in self._source.watch():
            self.last = snapshot

    def shown(self) -> dict[str, tuple[str, list[str]]]:
        found = {}
        for resource in self.last.all():
            assert isinstance(resource.spec, WorkloadEndpointSpec)
            found[resource.name] = resource.spec.interface, [str(net) for net in resource.spec.addresses]
        return found

    async def until(self, true: Callable[[], bool], seconds: float = 5.0) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not true():  # noqa: ASYNC110
                    await asyncio.sleep(0.005)
        assert true(), (self.shown(), self.last.errors)


@contextlib.asynccontextmanager
async def following(source: Containers) -> AsyncIterator[Follower]:
    follower = Follower(source)
    task = asyncio.create_task(follower.run())
    try:
        yield follower
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def source(engine: Engine, **options: Any) -> Containers:
    return Containers({"docker": str(engine.path)}, "gate", links=lambda pids: LINKS, **options)


def play(tmp_path: Path, scene: Callable[[Engine, Follower], Awaitable[None]], *, piece: int = 1 << 20) -> None:
    """The scene begins with WEB running and the source listening."""

    async def run() -> None:
        engine = Engine(tmp_path / "engine.sock", piece=piece)
        engine.containers = [WEB]
        await engine.start()
        try:
            async with following(source(engine)) as follower:
                await engine.listening()
                await follower.until(lambda: "web" in follower.shown())
                await scene(engine, follower)
        finally:
            await engine.stop()

    asyncio.run(run())


@pytest.mark.parametrize("piece", [1, 7, 1 << 20])
def test_containers_come_and_go(tmp_path: Path, piece: int) -> None:
    async def scene(engine: Engine, follower: Follower) -> None:
        assert follower.shown() == {"web": ("br1", ["10.91.0.2/32"])}
        engine.containers = [WEB, DB]
        await engine.tell(event("container", "create", 2, name="db") + event("container", "start", 2, name="db"))
        await follower.until(lambda: set(follower.shown()) == {"db", "web"})
        engine.containers = [DB]
        await engine.tell(event("container", "die", 1, name="web"))
        await follower.until(lambda: set(follower.shown()) == {"db"})
        assert follower.last.errors == ()

    play(tmp_path, scene, piece=piece)


def test_a_container_that_is_renamed_or_joins_a_network(tmp_path: Path) -> None:
    async def scene(engine: Engine, follower: Follower) -> None:
        engine.containers = [listed(1, "www", {"front": "10.91.0.2"})]
        await engine.tell(event("container", "rename", 1, name="www"))
        await follower.until(lambda: follower.shown() == {"www": ("br1", ["10.91.0.2/32"])})
        engine.containers = [listed(1, "www", {"back": "10.91.0.2", "front": "10.92.0.9"})]
        await engine.tell(event("network", "connect", 1, name="back"))
        await follower.until(
            lambda: (
                follower.shown()
                == {
                    "www.back": ("br1", ["10.91.0.2/32"]),
                    "www.front": ("br2", ["10.92.0.9/32"]),
                }
            )
        )

    play(tmp_path, scene)


def test_events_that_do_not_matter_read_nothing(tmp_path: Path) -> None:
    async def scene(engine: Engine, follower: Follower) -> None:
        await asyncio.sleep(0.05)
        engine.asked.clear()
        await engine.tell(b"\n".join([event("container", f"exec_start: {n}", 1) for n in range(50)]))
        await asyncio.sleep(0.1)
        assert engine.asked == []

    play(tmp_path, scene)


def test_a_burst_of_events_is_read_once_or_twice(tmp_path: Path) -> None:
    async def scene(engine: Engine, follower: Follower) -> None:
        await asyncio.sleep(0.05)
        engine.asked.clear()
        engine.containers = [WEB, DB]
        await engine.tell(b"".join(event("container", "start", n) for n in range(200)))
        await follower.until(lambda: "db" in follower.shown())
        await asyncio.sleep(0.1)
        assert len(engine.asked) <= 2

    play(tmp_path, scene)


def test_what_shares_the_network_of_another_has_no_endpoint(tmp_path: Path) -> None:
    async def scene(engine: Engine, follower: Follower) -> None:
        engine.containers = [WEB, listed(3, "sidecar", {"front": "10.91.0.2"}, side="car")]
        engine.details = {
            container_id(1): {"Id": container_id(1), "State": {"Pid": 7}, "HostConfig": {"NetworkMode": "bridge"}},
            container_id(3): {
                "Id": container_id(3),
                "State": {"Pid": 8},
                "HostConfig": {"NetworkMode": f"container:{container_id(1)}"},
            },
        }
        await engine.tell(event("container", "start", 3))
        await follower.until(lambda: "side" in follower.last.all()[0].metadata.labels)
        assert set(follower.shown()) == {"web"}

    play(tmp_path, scene)


@pytest.mark.parametrize("answer", [
    b"HTTP/1.1 200 OK\r\nContent-Length: 40\r\n\r\n" + json.dumps([WEB]).encode()[:40],  # truncated JSON
    b"HTTP/1.1 200 OK\r\nContent-Length: 4000\r\n\r\n[]",
    b"HTTP/1.1 500 Server Error\r\n\r\nno",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"fffff\r\n" + b"x" * 0xFFFFF + b"\r\nffffffffff\r\n",
    b"\0" * 100_000,
])  # fmt: skip
def test_an_engine_that_talks_nonsense_leaves_the_last_good_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:
    monkeypatch.setattr(containers, "MAX_LIST", 500_000)

    async def scene(engine: Engine, follower: Follower) -> None:
        engine.raw = answer
        await engine.tell(event("container", "start", 2))
        await follower.until(lambda: bool(follower.last.errors))
        assert set(follower.shown()) == {"web"}
        assert follower.last.kept == (str(engine.path),)
        assert follower.last.errors[0].message.startswith("docker: ")
        engine.raw = None
        engine.containers = [DB]
        await follower.until(lambda: set(follower.shown()) == {"db"} and not follower.last.errors)

    play(tmp_path, scene)


@pytest.mark.parametrize("line", [b"no json\n", b'{"Type": "container", "Action": \n', b"[]\n", b"x" * 3000])
def test_a_broken_event_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: bytes) -> None:
    monkeypatch.setattr(containers, "MAX_EVENT", 2000)

    async def scene(engine: Engine, follower: Follower) -> None:
        engine.containers = [DB]
        await engine.tell(line)
        await follower.until(lambda: set(follower.shown()) == {"db"} and not follower.last.errors)
        assert sum("/events" in target for target in engine.asked) >= 2

    play(tmp_path, scene)


def test_endpoints_stay_while_the_engine_restarts(tmp_path: Path) -> None:
    async def scene(engine: Engine, follower: Follower) -> None:
        await engine.stop()
        await follower.until(lambda: bool(follower.last.errors))
        assert set(follower.shown()) == {"web"}
        engine.containers = [DB]
        await engine.start()
        await follower.until(lambda: set(follower.shown()) == {"db"} and not follower.last.errors)

    play(tmp_path, scene)


def test_endpoints_go_when_the_engine_stays_away(tmp_path: Path) -> None:
    async def run() -> None:
        now = 1000.0
        engine = Engine(tmp_path / "engine.sock")
        engine.containers = [WEB]
        await engine.start()
        async with following(source(engine, grace=60, clock=lambda: now)) as follower:
            await engine.listening()
            await engine.stop()
            await follower.until(lambda: bool(follower.last.errors))
            now += 59
            await asyncio.sleep(0.5)
            assert set(follower.shown()) == {"web"}
            now += 2
            await follower.until(lambda: not follower.shown())
            assert follower.last.kept == ()

    asyncio.run(run())


def test_an_engine_that_comes_later_is_waited_for(tmp_path: Path) -> None:
    async def run() -> None:
        engine = Engine(tmp_path / "engine.sock")
        engine.containers = [WEB]
        watched = source(engine)
        first = await watched.snapshot()
        assert first.all() == ()
        assert "cannot be reached" in first.errors[0].message
        async with following(watched) as follower:
            await engine.start()
            await follower.until(lambda: set(follower.shown()) == {"web"} and not follower.last.errors)
        await engine.stop()

    asyncio.run(run())


def test_a_change_without_an_event_is_found_in_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containers, "RELIST", 0.1)

    async def scene(engine: Engine, follower: Follower) -> None:
        engine.containers = [DB]
        await follower.until(lambda: set(follower.shown()) == {"db"})

    play(tmp_path, scene)


def test_two_engines_with_a_container_of_the_same_name(tmp_path: Path) -> None:
    async def run() -> None:
        engines = [Engine(tmp_path / name) for name in ("d", "p")]
        for number, engine in enumerate(engines):
            engine.containers = [listed(number + 1, "web", {"front": f"10.91.0.{2 + number}"})]
            await engine.start()
        paths = {"docker": str(engines[0].path), "podman": str(engines[1].path)}
        found = await Containers(paths, "gate", links=lambda pids: LINKS).snapshot()
        assert [resource.name for resource in found.all()] == ["web", "web.podman"]
        assert [r.metadata.labels["projectcalico.org/orchestrator"] for r in found.all()] == ["docker", "podman"]
        for engine in engines:
            await engine.stop()

    asyncio.run(run())


def test_without_engines_there_is_nothing_to_do() -> None:
    assert asyncio.run(Containers({}, "gate").snapshot()) == SourceSnapshot()
