# SPDX-License-Identifier: Apache-2.0
"""The service between a client and an echo server, with one large feed, while clients look at every packet."""

import json
import re
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.control.client import ask
from appliance.lab import Lab, LabError
from appliance.lab.program import Service
from bench.feed_probe import ECHO, probe
from bench.rig import BUILD, ECHO_PORT

CONFIG = """
mode = "enforce"
node = "node"
[queues]
count = 2
[policy]
paths = ["{dir}/policy.d"]
[inspection]
inspectors = 0
signatures = []
[feeds]
paths = ["{dir}/feeds.d"]
state = "{dir}/fetched"
[events]
file = "{dir}/eve.json"
types = ["alert"]
[control]
socket = "{dir}/control.sock"
state = "{dir}/state"
[metrics]
listen = ""
"""
# What is listed is half of the traffic here.
FEED = 'max_share = 100\nfile = "../list.txt"\naction = "drop"\nmax_entries = 100000000\nmax_size = 4294967296\n'
REAL_TIME = ("chrt", "--fifo", "10")
ALONE = 5.0  # seconds of round trips without a service
EVERY = 0.004  # seconds between two datagrams of a client
SETTLED = " in force after "


@dataclass(frozen=True)
class Change:
    """Seconds. refused: from the change to the first packet that is; inside: what the service says it took. lost: of
    everybody else's packets, from the change until a second after it; slowest: of those there and back, from a second
    before it on, the programs at the ends in the real-time class, so that it is not their own turn that is waited for.
    """

    refused: float
    inside: float
    lost: int
    sent: int
    slowest: float
    median: float


class FeedWorld:
    """`victim` is the server's IPv4 address, which nobody lists at first; the load goes to its IPv6 address. alone:
    seconds of the slowest round trip before there was a service, as in Change.slowest."""

    def __init__(self, directory: Path, lines: Sequence[str]) -> None:
        self.directory = directory
        self._lab = Lab()
        self._net = self._lab.chain()
        for folder in ("policy.d", "feeds.d"):
            (directory / folder).mkdir()
        (directory / "portcullis.toml").write_text(CONFIG.format(dir=directory))
        if lines:
            (directory / "feeds.d/list.toml").write_text(FEED)
        (directory / "list.txt").write_text("\n".join(lines))
        self._net.server.spawn(echo)
        self._net.server.popen([*REAL_TIME, BUILD / "round_trips", "reflect", str(ECHO_PORT)])
        self._net.server.wait_for_port(ECHO, protocol="udp")
        self.alone = self._longest(ALONE)
        self.service = Service(self._net.node, directory / "portcullis.toml", directory / "log")
        begun = time.perf_counter()
        self.service.start(timeout=300)
        self.started = time.perf_counter() - begun
        self.victim = self._net.server.address(4)
        self._runs = 0

    def __enter__(self) -> "FeedWorld":
        return self

    def __exit__(self, *exception: object) -> None:
        self.service.stop()
        self._lab.close()

    def memory(self, row: str = "VmRSS") -> int:
        """Bytes of the service."""
        assert self.service.process is not None
        status = Path(f"/proc/{self.service.process.pid}/status").read_text()
        return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith(f"{row}:"))

    def replace(self, lines: Sequence[str]) -> Change:
        """The file is replaced by one with these lines, the victim among them where it was not before."""
        fresh = self.directory / "list.new"
        fresh.write_text("\n".join(lines))
        refuses = lines[-1] == self.victim
        return self._watched(lambda: fresh.replace(self.directory / "list.txt"), refuses)

    def list_by_command(self) -> Change:
        return self._watched(lambda: self.tell("feeds_add"))

    def tell(self, what: str) -> dict[str, Any]:
        return ask(self.directory / "control.sock", {"do": what, "entry": self.victim})

    def command(self) -> float:
        """Seconds of the whole command line."""
        command = [sys.executable, "-m", "appliance", "feeds", "add", self.victim]
        begun = time.perf_counter()
        subprocess.run([*command, "--config", str(self.directory / "portcullis.toml")], check=True, capture_output=True)
        return time.perf_counter() - begun

    def quiet(self) -> None:
        """Until nothing is being changed any more."""
        last = -1
        while (now := self.service.output().count(SETTLED)) != last:
            last = now
            time.sleep(1.0)

    def _round_trips(self) -> subprocess.Popen[str]:
        ask = ["ask", self._net.server.address(6), str(ECHO_PORT), "1000000", str(int(EVERY * 1e6))]
        return self._net.client.popen([*REAL_TIME, BUILD / "round_trips", *ask], stdout=subprocess.PIPE, text=True)

    def _longest(self, seconds: float) -> float:
        trips = self._round_trips()
        time.sleep(seconds)
        return _longest(trips)

    def _watched(self, change: Any, refuses: bool = True) -> Change:
        self._runs += 1
        stop, written = self.directory / f"{self._runs}.stop", [self.directory / f"{self._runs}.{f}" for f in (4, 6)]
        for family, file in zip((4, 6), written, strict=True):
            self._net.client.spawn(probe, self._net.server.address(family), str(stop), str(file), EVERY)
        trips = self._round_trips()
        time.sleep(1.0)
        told = self.service.output().count(SETTLED)
        begun = time.monotonic()
        change()
        while self.service.output().count(SETTLED) == told and time.monotonic() < begun + 120:
            time.sleep(0.02)
        time.sleep(1.0)
        stop.touch()
        slowest = _longest(trips)
        while not all(file.exists() and file.stat().st_size for file in written):
            time.sleep(0.05)
        time.sleep(0.2)
        victim, others = (json.loads(file.read_text()) for file in written)
        refused = [sent for sent, answer in victim if answer is None and sent > begun]
        if refuses and not any(answer is not None for sent, answer in victim if sent < begun):
            raise LabError(f"{self.victim} was refused before the change: there is no first refusal to wait for")
        during = [answer for sent, answer in others if sent > begun]
        answers = [answer for answer in during if answer is not None]
        words = self.service.output().splitlines()
        inside = next(line for line in reversed(words) if SETTLED in line).partition(SETTLED)[2].split()[0]
        return Change(
            refused[0] - begun if refused else float("inf"), float(inside) / 1000, during.count(None), len(during),
            slowest, statistics.median(answers),
        )  # fmt: skip


def _longest(trips: subprocess.Popen[str]) -> float:
    trips.terminate()
    return int(re.findall(r"longest (\d+)", trips.communicate(timeout=30)[0])[0]) / 1e9


def echo() -> None:
    """Until killed."""
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.bind(("::", ECHO))
        while True:
            data, sender = sock.recvfrom(2048)
            sock.sendto(data, sender)
