# SPDX-License-Identifier: Apache-2.0
"""One of two inspectors stands still: nobody else notices, and its own new flows get the configured action."""

import contextlib
import os
import re
import signal
import socket
import statistics
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.lab.service.nodes import INSPECTED, Echo, Node, exchange, serve_echo, wait_until

pytestmark = pytest.mark.timeout(180)

PLAIN = 7001  # a port whose flows nobody inspects
POLICY = (
    INSPECTED
    + """
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: plain}
spec:
  selector: role == "server"
  order: 1
  types: [Ingress]
  ingress: [{action: Allow, protocol: TCP, destination: {ports: [7001]}}]
"""
)
QUEUES = (64, 65)


def configure(node: Node, action: str, *, patience: int = 300, length: int = 4096) -> None:
    node.configure(inspectors=2, metrics="127.0.0.1:9477", more=f'[failures]\ninspector_overload = "{action}"\n')
    text = node.config.read_text()
    text = text.replace("[inspection]\n", f"[inspection]\npatience = {patience}\n")
    node.config.write_text(text.replace("[queues]\n", f"[queues]\nlength = {length}\n"))
    node.policy(POLICY)
    node.start()


def inspectors(node: Node) -> dict[int, int]:
    """Process by queue."""
    assert node.service.process is not None
    parent = str(node.service.process.pid)
    found = subprocess.run(["pgrep", "-af", "--parent", parent, "inspection.worker"], capture_output=True, text=True)
    return {
        int(queue[1]): int(line.split()[0])
        for line in found.stdout.splitlines()
        if (queue := re.search(r"--queue (\d+)", line))
    }


@contextlib.contextmanager
def stopped(node: Node, queue: int) -> Iterator[None]:
    pid = inspectors(node)[queue]
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def queue_of(node: Node, sock: socket.socket) -> int:
    """Which inspector has the flow: from the event of its decision."""
    port = sock.getsockname()[1]

    def found() -> list[int]:
        records = (r for r in node.events("flow") if r.get("src_port") == port and "portcullis" in r)
        return [record["portcullis"]["queue"] for record in records if "queue" in record["portcullis"]]

    wait_until(lambda: bool(found()), 10.0, node.log)
    return found()[0]


def flows(node: Node, echo: Echo, each: int = 3) -> dict[int, list[socket.socket]]:
    """Open flows, `each` of every inspector at least."""
    found: dict[int, list[socket.socket]] = {queue: [] for queue in QUEUES}
    while min(map(len, found.values())) < each:
        sock = echo.connect(timeout=10.0)
        assert exchange(sock)
        found[queue_of(node, sock)].append(sock)
    return found


def round_trips(socks: list[socket.socket], count: int = 40) -> list[float]:
    """Seconds of each; none may be lost."""
    took = []
    for number in range(count):
        sock = socks[number % len(socks)]
        started = time.perf_counter()
        assert exchange(sock, b"%d" % number), number
        took.append(time.perf_counter() - started)
    return took


def plain(node: Node) -> socket.socket:
    with node.net.client.enter():
        return socket.create_connection((node.net.server.address(4), PLAIN), 5.0)


def refused(node: Node) -> float:
    """The counter of the failure."""
    text = node.net.node.run(["curl", "-s", "http://127.0.0.1:9477/metrics"]).stdout
    found = re.findall(r'portcullis_worker_failures_total\{failure="inspector_overload",[^}]*\} (\S+)', text)
    return sum(map(float, found))


def test_a_stopped_inspector_delays_nobody_else_and_its_new_flows_are_dropped(node: Node, echo: Echo) -> None:
    configure(node, "drop")
    node.net.server.spawn(serve_echo, PLAIN)
    node.net.server.wait_for_port(PLAIN)
    open_flows = flows(node, echo)
    straight = plain(node)
    before = round_trips([*open_flows[65], straight])
    with stopped(node, 64):
        # It holds a packet of a flow that it has, and of nobody else.
        open_flows[64][0].sendall(b"waits")
        node.wait_for("the inspector of queue 64 is overloaded: its new flows: drop")
        during = round_trips([*open_flows[65], straight])
        passed, lost = 0, 0
        for _ in range(16):  # a few seconds: after 15 the inspector would be taken for dead
            try:
                with echo.connect(timeout=0.4) as sock:
                    passed += exchange(sock) and queue_of(node, sock) == 65
            except TimeoutError:
                lost += 1
        with plain(node) as fresh:
            assert exchange(fresh)
        assert passed and lost and refused(node)
        after = round_trips([*open_flows[65], straight])
    middle = statistics.median(before)
    assert statistics.median([*during, *after]) < 5 * middle + 0.005, (middle, statistics.median(during))
    # It reads what has waited, and gets new flows again.
    node.wait_for("the inspector of queue 64 keeps up again")
    assert open_flows[64][0].recv(100) == b"waits"
    assert round_trips(open_flows[64])
    with echo.connect(timeout=10.0) as sock:
        assert exchange(sock)


@pytest.mark.parametrize("action", ["allow", "reject"])
def test_new_flows_of_a_stopped_inspector_pass_or_are_refused(node: Node, echo: Echo, action: str) -> None:
    configure(node, action)
    open_flows = flows(node, echo, 1)
    with stopped(node, 64):
        open_flows[64][0].sendall(b"waits")
        node.wait_for(f"the inspector of queue 64 is overloaded: its new flows: {action}")
        denied = 0
        for _ in range(16):
            try:
                with echo.connect(timeout=5.0) as sock:
                    assert exchange(sock)
            except ConnectionRefusedError:
                denied += 1
        assert refused(node) > 0
        assert bool(denied) == (action == "reject")


def datagrams(node: Node, queue: int) -> socket.socket:
    """A UDP flow of that inspector."""
    while True:
        with node.net.client.enter():
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.settimeout(10.0)
        sock.connect((node.net.server.address(4), 7000))
        assert exchange(sock)
        if queue_of(node, sock) == queue:
            sock.settimeout(0.3)
            return sock
        sock.close()


@pytest.mark.parametrize("action", ["allow", "drop"])
def test_what_does_not_fit_into_a_full_queue(node: Node, echo: Echo, action: str) -> None:
    """Of a flow that the inspector has: passes where the action says so, else the kernel drops it."""
    configure(node, action, patience=60_000, length=8)
    with datagrams(node, 64) as sock, stopped(node, 64):
        came = 0
        for number in range(16):
            sock.send(b"%d" % number)
            with contextlib.suppress(TimeoutError):
                sock.recv(100)
                came += 1
        assert came == (8 if action == "allow" else 0)
        node.wait_for(f"the inspector of queue 64 is overloaded: its new flows: {action}")
