# SPDX-License-Identifier: Apache-2.0
"""Changes and restarts under load: what is lost at BENCH_RATE packets/s and of a thousand open connections, how long
they take to be decided again, and how long packets wait for a successor."""

import contextlib
import os
import re
import select
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from appliance.lab import LabError
from appliance.lab.connections import Connections
from appliance.lab.manager import Manager
from appliance.lab.program import Service
from bench.conftest import Results
from bench.measures import measure
from bench.rig import BUILD, ECHO_PORT, SINK_PORT, TCP_PORTS, WORDS_PORT, Rig, make_rig
from bench.rows import FLOWS, RATE, SMALL
from bench.test_policy import run_once

pytestmark = pytest.mark.timeout(300)

CONNECTIONS = 1000
ROUNDS = 8
FLOOD = 300_000  # milliseconds, if it is not ended before
AT_REST = 5.0  # seconds without a change
PAUSE = 3.0  # seconds after a change: flows decided again are told when they have rested for two
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


def until(true: Callable[[], bool], log: Callable[[], str], patience: float = 20.0) -> None:
    deadline = time.monotonic() + patience
    while not true():
        if time.monotonic() > deadline:
            raise LabError(f"not in force after {patience} s:\n{log()[-2000:]}")
        time.sleep(0.01)


class Loaded:
    """A service under a manager, a flood at RATE over FLOWS flows, and CONNECTIONS open connections, all begun."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.config = rig.directory / "portcullis.toml"
        self.manager = Manager(rig.node, self.config, rig.directory)
        self.process = self.manager.start()
        self.connections = Connections(rig.client, rig.server, CONNECTIONS, WORDS_PORT)
        self.connections.all_go_on()
        self._before = rig.sunk()
        command = [BUILD / "udp_flood", rig.server.v4, SINK_PORT, FLOOD, RATE, FLOWS, SMALL]
        self._sender = rig.client.popen(list(map(str, command)), stdout=subprocess.PIPE, text=True)

    def policy(self) -> None:
        path = self.rig.directory / "policy.d/bench.yaml"
        self._put(path, path.read_text().replace(TCP_PORTS, f"{TCP_PORTS[:-1]}, 8080]"))

    def feed(self) -> None:
        folder = self.rig.directory / "feeds.d"
        (folder / "list.txt").write_text("".join(f"198.51.{at // 250}.{at % 250}\n" for at in range(LISTED // 20)))
        self._put(folder / "list.toml", 'name = "list"\nfile = "list.txt"\naction = "drop"\n')

    def signatures(self) -> None:
        rule = 'alert http any any -> any any (msg:"m"; content:"m"; sid:1;)\n'
        self._put(self.rig.directory / "signatures.d/bench.rules", rule, "inspection ruleset")

    def more_of_both(self) -> None:
        self._configure(2, 2)

    def fewer_of_both(self) -> None:
        self._configure(1, 0)

    def restart(self) -> None:
        self.manager.wait_for_snapshot()
        self.process = self.manager.restart(self.process)

    def take_over(self) -> None:
        self.process = self.manager.take_over(self.process)

    def redecided(self) -> list[tuple[int, float]]:
        """(flows, milliseconds) of each change that the service has told of so far."""
        told = re.findall(r"(\d+) open flows decided again, the last after (\d+) ms", self.manager.log())
        return [(int(flows), float(milliseconds)) for flows, milliseconds in told]

    def finish(self) -> tuple[int, float, int]:
        """Packets lost, packets sent in a second, connections broken."""
        self._sender.terminate()
        told = self._sender.communicate(timeout=60)[0]
        sent, nanoseconds = (int(value) for value in re.findall(r"sent (\d+) .* nanoseconds (\d+)", told)[0])
        time.sleep(0.5)
        lost = sent - (self.rig.sunk() - self._before)
        with contextlib.suppress(LabError):
            self.connections.all_go_on()
            self.connections.finish()
        self.process.terminate()
        self.process.wait(20)
        self.manager.close()
        return lost, sent / nanoseconds * 1e9, len(self.connections.broken)

    def _put(self, path: Path, text: str, words: str = " in force after ") -> None:
        seen = self.manager.log().count(words)
        fresh = path.with_suffix(".new")
        fresh.write_text(text)
        fresh.replace(path)
        until(lambda: self.manager.log().count(words) > seen, self.manager.log)

    def _configure(self, workers: int, inspectors: int) -> None:
        text = re.sub(r"\ncount = \d+", f"\ncount = {workers}", self.config.read_text())
        self.config.write_text(re.sub(r"\ninspectors = \d+", f"\ninspectors = {inspectors}", text))
        self.manager.hang_up(self.process)


def test_loss(tmp_path: Path, results: Results, benchmark: BenchmarkFixture) -> None:
    """Everything that can change does so, and the service is restarted and taken over: sent against arrived, said
    against answered."""
    with rig_of("portcullis-not-started", tmp_path / "rig") as rig:
        load = Loaded(rig)
        begun = load.connections.retransmitted()
        time.sleep(AT_REST)
        at_rest = load.connections.retransmitted() - begun
        begun += at_rest
        changing = time.monotonic()
        for change in (
            load.policy, load.feed, load.more_of_both, load.signatures, load.fewer_of_both, load.restart,
            load.take_over,
        ):  # fmt: skip
            change()
            load.connections.all_go_on()
            time.sleep(PAUSE)
        seconds = time.monotonic() - changing
        again = load.connections.retransmitted() - begun
        decided = [milliseconds for flows, milliseconds in load.redecided() if flows >= CONNECTIONS]
        lost, rate, broken = load.finish()
    results.measures += [
        measure("restart/lost_packets", "packets", [float(lost)], 0.0),
        measure("restart/sent_packets_a_second", "1/s", [float(f"{rate:.4g}")]),
        measure("restart/broken_connections", "connections", [float(broken)], 0.0),
        measure("restart/retransmissions_a_second", "1/s", [again / seconds]),
        measure("restart/retransmissions_a_second_at_rest", "1/s", [at_rest / AT_REST]),
        measure("restart/open_flows_decided_again", "ms", decided),
    ]
    run_once(benchmark, [float(lost)])


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
            until(lambda: " in force after " in service_of(rig).output(), service_of(rig).output)
            time.sleep(3)  # it is in the snapshot, too
        for number in range(ROUNDS):
            stream = Steady(rig)
            time.sleep(1.0)
            quiet = stream.longest
            restart(rig, number)
            time.sleep(1.0)
            lost += stream.finish()
            waits.append(max(stream.longest - quiet, 0.0) * 1e3)
    name = f"restart/gap_{listed}_listed" if listed else "restart/gap"
    results.measures += [
        measure(name, "ms", waits, GAP),
        measure(f"{name}_longest", "ms", [max(waits)], GAP),
        measure(f"{name}_lost_packets", "packets", [float(lost)], 0.0),
    ]
    run_once(benchmark, waits)
