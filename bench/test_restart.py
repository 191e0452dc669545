# SPDX-License-Identifier: Apache-2.0
"""Changes and restarts under load: what is lost at BENCH_RATE packets/s, and how long packets wait for a successor."""

import os
import re
import select
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from appliance.lab import LabError
from appliance.lab.program import Service
from bench.conftest import Results
from bench.measures import measure
from bench.rig import BUILD, ECHO_PORT, SINK_PORT, Rig, make_rig
from bench.rows import FLOWS, RATE, SMALL
from bench.test_policy import run_once

pytestmark = pytest.mark.timeout(300)

CHANGES, RESTARTS = 6, 3
ROUNDS = 8
FLOOD = 14_000  # milliseconds
PAUSE = 1.0  # seconds between two changes
STEADY = 0.001  # seconds between two datagrams of the stream that waits
GAP = 200.0  # milliseconds
LISTED = 100_000


@contextmanager
def rig_of(name: str, directory: Path) -> Iterator[Rig]:
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    made = make_rig(name, directory)
    try:
        yield made
    finally:
        made.close()


def change_policy(rig: Rig, number: int) -> None:
    """One rule more, for a port that nobody uses; returns when it is in force."""
    service = service_of(rig)
    path = rig.directory / "policy.d/bench.yaml"
    text = path.read_text()
    seen = service.output().count(" in force after ")
    fresh = path.with_suffix(".new")
    fresh.write_text(re.sub(r"ports: \[80, 5201[^]]*\]", f"ports: [80, 5201, {20_000 + number}]", text))
    fresh.replace(path)
    until(lambda: service.output().count(" in force after ") > seen, service)


def restart(rig: Rig, number: int) -> None:
    """SIGHUP with another configuration: the process executes itself again. Returns when the successor is ready."""
    service = service_of(rig)
    config = rig.directory / "portcullis.toml"
    text = re.sub(r"\nflow_idle = \d+", "", config.read_text())
    config.write_text(f"{text.rstrip()}\nflow_idle = {100 + number}\n")
    service.forget()
    os.kill(service.pid, signal.SIGHUP)
    service.wait_for("READY=1", 30)


def service_of(rig: Rig) -> Service:
    assert isinstance(rig.program, Service)
    return rig.program


def until(true: object, service: Service, patience: float = 20.0) -> None:
    assert callable(true)
    deadline = time.monotonic() + patience
    while not true():
        if time.monotonic() > deadline:
            raise LabError(f"not in force after {patience} s:\n{service.output()[-2000:]}")
        time.sleep(0.01)


def test_loss(tmp_path: Path, results: Results, benchmark: BenchmarkFixture) -> None:
    """Policy changes and restarts while the sender sends at RATE over open flows: sent against arrived."""
    with rig_of("portcullis", tmp_path / "rig") as rig:
        before = rig.sunk()
        command = [BUILD / "udp_flood", rig.server.v4, SINK_PORT, FLOOD, RATE, FLOWS, SMALL]
        sender = rig.client.popen(list(map(str, command)), stdout=subprocess.PIPE, text=True)
        time.sleep(PAUSE)
        for number in range(CHANGES):
            change_policy(rig, number)
            time.sleep(PAUSE / 2)
        for number in range(RESTARTS):
            restart(rig, number)
            time.sleep(PAUSE)
        told = sender.communicate(timeout=60)[0]
        time.sleep(0.5)
        arrived = rig.sunk() - before
    sent, nanoseconds = (int(value) for value in re.findall(r"sent (\d+) .* nanoseconds (\d+)", told)[0])
    results.measures += [
        measure("restart/lost_packets", "packets", [float(sent - arrived)], 0.0),
        measure("restart/sent_packets_a_second", "1/s", [float(f"{sent / nanoseconds * 1e9:.4g}")]),
    ]
    run_once(benchmark, [float(sent - arrived)])


class Steady:
    """A datagram each STEADY seconds to the reflector and back; the longest that one took, and how many never came."""

    def __init__(self, rig: Rig) -> None:
        with rig.client.enter():
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)  # SO_RCVBUFFORCE
        self._socket.connect((rig.server.v4, ECHO_PORT))
        self._socket.setblocking(False)
        self.longest = 0.0
        self.sent = self.back = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        due = time.monotonic()
        while not self._stop.is_set():
            now = time.monotonic()
            if now >= due:
                self._socket.send(str(now).encode())
                self.sent += 1
                due = max(due + STEADY, now)
            self._collect(max(0.0, due - time.monotonic()))

    def _collect(self, seconds: float) -> None:
        if select.select([self._socket], [], [], seconds)[0]:
            begun = float(self._socket.recv(100))
            self.longest = max(self.longest, time.monotonic() - begun)
            self.back += 1

    def finish(self) -> int:
        """How many never came back."""
        self._stop.set()
        self._thread.join()
        deadline = time.monotonic() + 3
        while self.back < self.sent and time.monotonic() < deadline:
            self._collect(0.1)
        self._socket.close()
        return self.sent - self.back


@pytest.mark.parametrize("listed", [0, LISTED])
def test_gap(listed: int, tmp_path: Path, results: Results, benchmark: BenchmarkFixture) -> None:
    """Every packet in user space: how long the longest of them waits while one process ends and the next begins."""
    waits: list[float] = []
    lost = 0
    with rig_of("portcullis-every-packet", tmp_path / "rig") as rig:
        if listed:
            text = "".join(f"11.{at >> 16}.{at >> 8 & 255}.{at & 255}\n" for at in range(listed))
            (rig.directory / "list.txt").write_text(text)
            feed = f'name = "list"\nfile = "{rig.directory}/list.txt"\naction = "drop"\n'
            (rig.directory / "feeds.d/list.toml").write_text(feed)
            until(lambda: " in force after " in service_of(rig).output(), service_of(rig))
            time.sleep(3)  # it is in the snapshot, too
        for number in range(ROUNDS):
            stream = Steady(rig)
            time.sleep(PAUSE)
            quiet = stream.longest
            restart(rig, number)
            time.sleep(PAUSE)
            lost += stream.finish()
            waits.append(max(stream.longest - quiet, 0.0) * 1e3)
    name = f"restart/gap_{listed}_listed" if listed else "restart/gap"
    results.measures += [
        measure(name, "ms", waits, GAP),
        measure(f"{name}_longest", "ms", [max(waits)], GAP),
        measure(f"{name}_lost_packets", "packets", [float(lost)], 0.0),
    ]
    run_once(benchmark, waits)
