# SPDX-License-Identifier: Apache-2.0
"""From an inspector to the kernel: a flow that is let go while many of its packets wait arrives in order."""

import contextlib
import os
import signal
import socket
import struct
import threading
import time

import pytest

from appliance.lab.program import read_queues
from tests.lab.service.nodes import INSPECTED, Node, wait_until
from tests.lab.service.test_failures import inspector
from tests.lab.service.test_large_packets import counters
from tests.patience import LOAD

pytestmark = pytest.mark.timeout(120)

RATE = 10_000 * LOAD  # datagrams a second
SENT = 20_000
BEHIND = 2500  # datagrams that wait when the inspector goes on: more than it reads in one cycle
FIRST = 100  # datagrams before that: not enough to be let go
FAMILIES = pytest.mark.parametrize("family", [4, 6])


class Numbered:
    """Sends datagrams with a number in each; the numbers as they arrive are in `arrived`."""

    def __init__(self, node: Node, family: int) -> None:
        kind = socket.AF_INET6 if family == 6 else socket.AF_INET
        with node.net.server.enter():
            self._receiver = socket.socket(kind, socket.SOCK_DGRAM)
        self._receiver.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
        self._receiver.bind((node.net.server.address(family), 7000))
        self._receiver.settimeout(3.0)
        with node.net.client.enter():
            self._sender = socket.socket(kind, socket.SOCK_DGRAM)
        self._sender.connect((node.net.server.address(family), 7000))
        self.arrived: list[int] = []
        self._thread = threading.Thread(target=self._receive)
        self._thread.start()

    def _receive(self) -> None:
        with contextlib.suppress(TimeoutError):
            while len(self.arrived) < SENT:
                self.arrived.append(struct.unpack("!I", self._receiver.recv(100))[0])

    def send(self, first: int, last: int) -> None:
        begun = time.monotonic()
        for number in range(first, last):
            self._sender.send(struct.pack("!I", number))
            if number % 10 == 0 and (wait := begun + (number - first) / RATE - time.monotonic()) > 0:
                time.sleep(wait)

    def finish(self) -> None:
        self._thread.join()
        self._receiver.close()
        self._sender.close()


def overtaken(numbers: list[int]) -> int:
    """Packets that came after one that was sent later."""
    late, newest = 0, -1
    for number in numbers:
        late += number < newest
        newest = max(newest, number)
    return late


def test_what_counts_as_overtaken() -> None:
    assert overtaken([0, 1, 2, 3]) == 0
    assert overtaken([0, 2, 1, 3]) == 1
    assert overtaken([0, 3, 4, 1, 2, 5]) == 2


@FAMILIES
def test_at_most_one_packet_is_overtaken_when_the_kernel_takes_over(node: Node, family: int) -> None:
    """Thousands of datagrams wait when the inspector goes on, and more come meanwhile."""
    node.configure(inspectors=1, more='[failures]\ninspector_overload = "drop"\n')
    text = node.config.read_text().replace("[inspection]\n", "[inspection]\npatience = 20000\n")
    node.config.write_text(text.replace("[queues]\n", "[queues]\nlength = 65535\n"))
    node.policy(INSPECTED)
    node.start()
    numbered = Numbered(node, family)
    numbered.send(0, FIRST)
    wait_until(lambda: len(numbered.arrived) == FIRST, 5.0, node.log)
    pid = inspector(node)
    os.kill(pid, signal.SIGSTOP)
    try:
        sender = threading.Thread(target=numbered.send, args=(FIRST, SENT))
        sender.start()
        wait_until(lambda: read_queues(node.net.node)[64].waiting > BEHIND, 5.0, node.log)
    finally:
        os.kill(pid, signal.SIGCONT)
    sender.join()
    numbered.finish()
    assert len(numbered.arrived) == SENT
    assert read_queues(node.net.node)[64].queued < SENT, "it was never let go"
    wait_until(lambda: "postponed" in counters(node), 5.0, node.log)
    assert overtaken(numbered.arrived) <= 1, counters(node)
