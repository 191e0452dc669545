# SPDX-License-Identifier: Apache-2.0
"""The ledger under flood, against counters of the sender and of the receiver: exact, fail-closed and fail-open."""

import json
import signal
import socket
import time

import pytest

from appliance.lab import Namespace
from appliance.lab.program import read_queues
from tests.lab.service.nodes import Node, wait_until
from tests.lab.service.test_operator import portcullis

pytestmark = pytest.mark.timeout(90)

PACKETS = 20_000


def flood(address: str, count: int) -> None:
    """Datagrams of one flow to a port where nobody answers, as fast as they go."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16 << 20)
        sock.connect((address, 7000))
        for number in range(count):
            sock.send(number.to_bytes(4, "big"))


def receive(namespace: Namespace) -> socket.socket:
    """A socket at port 7000 with room for everything."""
    with namespace.enter():
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
    sock.bind(("", 7000))
    sock.setblocking(False)
    return sock


def drain(sock: socket.socket) -> int:
    count = 0
    try:
        while sock.recv(64):
            count += 1
    except BlockingIOError:
        return count


@pytest.mark.parametrize("action", ["drop", "allow"], ids=["fail-closed", "fail-open"])
def test_every_packet_of_a_flood_is_accounted_for(node: Node, action: str) -> None:
    node.configure(more=f'[failures]\nqueue_full = "{action}"\n[fastpath]\nfates = false\n')
    node.config.write_text(node.config.read_text().replace("count = 2", "count = 2\nlength = 256"))
    node.start()
    receiver = receive(node.net.server)
    process = node.service.process
    assert process is not None
    # A worker that stands still for a moment: the queue must overflow, whatever the machine's speed.
    process.send_signal(signal.SIGSTOP)
    node.net.client.call_for(30.0, flood, node.net.server.v4, PACKETS // 2)
    process.send_signal(signal.SIGCONT)
    node.net.client.call_for(30.0, flood, node.net.server.v4, PACKETS // 2)
    wait_until(
        lambda: not any(row.waiting for row in read_queues(node.net.node).values()),
        10.0,
        lambda: "packets wait for ever",
    )
    time.sleep(0.3)
    received = drain(receiver)
    receiver.close()
    ledger = json.loads(portcullis(node, "status", "--json").stdout)["ledger"]
    assert ledger["hits"] >= PACKETS
    assert ledger["unaccounted"] == 0, ledger
    assert ledger["waiting"] == 0
    others = ledger["hits"] - PACKETS  # neighbour discovery and the like that came up as well
    if action == "drop":
        assert ledger["queue_full"] + ledger["ids_lost"] > 0
        assert PACKETS - received == ledger["queue_full"] + ledger["ids_lost"]
        assert ledger["answered"] == received + others
    else:
        assert received == PACKETS
        assert ledger["passed"] > 0
        assert ledger["passed"] == ledger["unanswered"]
        assert ledger["answered"] + ledger["passed"] == ledger["hits"]
