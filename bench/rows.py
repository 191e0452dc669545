# SPDX-License-Identifier: Apache-2.0
"""The rows of the table: what is sent, what is counted, who is compared with whom."""

import contextlib
import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from appliance.lab import LabError
from bench.rig import BUILD, ECHO_PORT, SINK_PORT, Rig, settle

TCP_SECONDS = 2
HTTP_SECONDS = 2
FLOOD_SECONDS = 1.2
WARM_SECONDS = 0.3
RATE = int(os.environ.get("BENCH_RATE", "100000"))  # packets/s of the row with a fixed rate
FLOWS = 64
SMALL = 64  # bytes, IP header included
ROUND_TRIPS = 4000


@dataclass(frozen=True)
class Row:
    """`baseline` is the peer of the ratios; `targets`: peer → bound of its ratio (a ceiling where less is better)."""

    name: str
    title: str
    unit: str
    sample: Callable[[Rig], float]
    peers: tuple[str, ...]
    baseline: str
    targets: dict[str, float]
    less_is_better: bool = False


@contextlib.contextmanager
def pinned(rig: Rig, cpu: int) -> Iterator[None]:
    """The program's threads on one core for the length of the block; nothing where there is one core or no program."""
    cores = os.sched_getaffinity(0)
    if rig.program is None or len(cores) < 2:
        yield
        return
    pin(rig.program.pid, {cpu})
    try:
        yield
    finally:
        pin(rig.program.pid, cores)


def pin(pid: int, cpus: set[int]) -> None:
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(int(task.name), cpus)


def tcp_flow(rig: Rig) -> float:
    """One iperf3 flow, Gbit/s at the receiver."""
    done = rig.client.run(
        ["iperf3", "--client", rig.server.v4, "--time", str(TCP_SECONDS), "--json"], timeout=TCP_SECONDS + 15
    )
    settle()
    return float(json.loads(done.stdout)["end"]["sum_received"]["bits_per_second"]) / 1e9


def connections(rig: Rig) -> float:
    """HTTP requests/s, a new connection for each."""
    return _wrk(rig, "-H", "Connection: close")


def keep_alive(rig: Rig) -> float:
    """HTTP requests/s over 16 connections that stay open."""
    return _wrk(rig)


def _wrk(rig: Rig, *options: str) -> float:
    command = ["wrk", "-t1", "-c16", f"-d{HTTP_SECONDS}s", "--timeout", "5s", *options, f"http://{rig.server.v4}/"]
    text = rig.client.run(command, timeout=HTTP_SECONDS + 15).stdout
    settle()
    found = re.search(r"Requests/sec:\s+([0-9.]+)", text)
    if not found:
        raise LabError(f"{rig.name}: wrk said: {text}")
    if "Non-2xx" in text or "Socket errors" in text:
        rig.notes.append(" ".join(line.strip() for line in text.splitlines() if "Socket" in line or "Non-2xx" in line))
    return float(found[1])


def _flood(rig: Rig, seconds: float, rate: int) -> list[str]:
    command = [BUILD / "udp_flood", rig.server.v4, SINK_PORT, int(seconds * 1000), rate, FLOWS, SMALL]
    return ["taskset", "-c", str(min(os.sched_getaffinity(0))), *map(str, command)]


def udp_flood(rig: Rig) -> float:
    """64-byte packets that arrive while the sender sends what it can, thousands/s, between two looks in the flood."""
    with pinned(rig, max(os.sched_getaffinity(0))):
        sender = rig.client.popen(_flood(rig, WARM_SECONDS + FLOOD_SECONDS + 0.2, 0), stdout=subprocess.DEVNULL)
        time.sleep(WARM_SECONDS)
        first, at_first = rig.sunk(), time.monotonic()
        time.sleep(FLOOD_SECONDS)
        last, at_last = rig.sunk(), time.monotonic()
        sender.wait(10)
        _run_dry(rig)
    return (last - first) / (at_last - at_first) / 1e3


def cpu_per_packet(rig: Rig) -> float:
    """Microseconds of CPU of the packet-handling threads for each 64-byte packet, at RATE packets/s."""
    with pinned(rig, max(os.sched_getaffinity(0))):
        sender = rig.client.popen(_flood(rig, WARM_SECONDS + FLOOD_SECONDS + 0.2, RATE), stdout=subprocess.DEVNULL)
        time.sleep(WARM_SECONDS)
        before, cpu = rig.queue(), rig.cpu()
        time.sleep(FLOOD_SECONDS)
        loss, used = rig.loss(before), rig.cpu() - cpu
        sender.wait(10)
        _run_dry(rig)
    answered = loss.queued - loss.dropped
    if answered <= 0:
        raise LabError(f"{rig.name}: no packet was answered")
    if loss.queued < 0.9 * RATE * FLOOD_SECONDS:
        rig.notes.append(f"the sender came to {loss.queued / FLOOD_SECONDS:,.0f} packets/s of {RATE:,}")
    if loss.dropped:
        rig.notes.append(f"{loss.dropped} of {loss.queued} packets dropped at {RATE} packets/s")
    return used / answered * 1e6


def round_trip_median(rig: Rig) -> float:
    """Microseconds there and back, one small UDP packet on the way at a time."""
    return _round_trips(rig)[0]


def round_trip_p99(rig: Rig) -> float:
    return _round_trips(rig)[1]


def _round_trips(rig: Rig) -> tuple[float, float]:
    command = [str(BUILD / "round_trips"), "ask", rig.server.v4, str(ECHO_PORT), str(ROUND_TRIPS)]
    text = rig.client.run(command, timeout=30).stdout
    settle()
    found = re.fullmatch(r"p50 (\d+) p99 (\d+) longest \d+ lost (\d+)\s*", text)
    if not found:
        raise LabError(f"{rig.name}: round_trips said: {text}")
    if found[3] != "0":
        rig.notes.append(f"{found[3]} of {ROUND_TRIPS} packets did not come back")
    return int(found[1]) / 1e3, int(found[2]) / 1e3


def _run_dry(rig: Rig) -> None:
    deadline = time.monotonic() + 5
    while rig.program is not None and rig.queue().waiting and time.monotonic() < deadline:
        time.sleep(0.02)
    settle()


QUEUED = ("portcullis-every-packet", "accept-loop", "netfilterqueue", "suricata")
TRACKED = ("kernel", "portcullis", *QUEUED)
ALL = ("kernel", "kernel-untracked", "portcullis", *QUEUED)

ROWS = (
    Row("tcp_flow", "one TCP flow", "Gbit/s", tcp_flow, ALL, "kernel",
        {"portcullis": 0.98, "portcullis-every-packet": 0.8}),
    Row("udp_64", "UDP 64 B delivered", "kpps", udp_flood, ALL, "kernel", {}),
    Row("cpu_per_packet", "worker CPU per small packet", "us", cpu_per_packet, QUEUED, "accept-loop",
        {"portcullis-every-packet": 1.15}, less_is_better=True),
    Row("connections", "new HTTP connections", "1/s", connections, TRACKED, "kernel", {"portcullis": 0.9}),
    Row("keep_alive", "keep-alive HTTP requests", "1/s", keep_alive, TRACKED, "kernel", {}),
    Row("round_trip_p50", "round trip of a small packet, median", "us", round_trip_median, TRACKED, "kernel", {},
        less_is_better=True),
    Row("round_trip_p99", "round trip of a small packet, p99", "us", round_trip_p99, TRACKED, "kernel", {},
        less_is_better=True),
)
