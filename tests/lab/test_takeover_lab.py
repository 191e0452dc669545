# SPDX-License-Identifier: Apache-2.0
"""Two processes, one queue: the second takes the first one's sockets over, and no packet is lost in between."""

import contextlib
import errno
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.lab import Chain, Lab
from fastpath import Engine, EngineConfig, FastpathError, IdentityMap, Policy, PolicyTables
from fastpath.layout import Verdict
from fastpath.takeover import HeldQueue, held_queues
from tests.lab.service.nodes import wait_until

PORT = 5001
SO_RCVBUFFORCE = 33  # beyond net.core.rmem_max
RULES = """
table inet takeover_test {
    chain classify { type filter hook forward priority 149; policy accept; udp dport 5001 meta mark set 0x84000000; }
}
"""
# Everything is allowed: nothing governs it. Says its sockets through descriptor 3 and works until it is killed.
PREDECESSOR = """
import socket, sys, time
from fastpath import Engine, EngineConfig, IdentityMap, Policy, PolicyTables
store = socket.socket(fileno=int(sys.argv[1]))
engine = Engine(EngineConfig(queue_first=0, queue_count=1, look_queue=9), IdentityMap.build([]),
                Policy(PolicyTables()), 1)
engine.start()
socket.send_fds(store, [b"x"], list(engine.fds()))
time.sleep(60)
"""


class Queue:
    """The node's forwarded UDP goes through queue 0; who answers it is the test's affair."""

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        chain.node.run(["nft", "-f", "-"], input=RULES)
        chain.node.run(
            ["iptables", "-w", "-t", "security", "-A", "FORWARD", "-m", "mark", "--mark", "0x80000000/0x80000000",
             "-j", "NFQUEUE", "--queue-num", "0"]
        )  # fmt: skip
        with chain.server.enter():
            self.server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.server.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 8 << 20)
        self.server.bind((chain.server.v4, PORT))
        self.server.settimeout(2)
        with chain.client.enter():
            self.client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.client.connect((chain.server.v4, PORT))
        self.sent = 0

    def send(self, n: int, pause: float = 0) -> None:
        for _ in range(n):
            self.sent += 1
            self.client.send(b"%d" % self.sent)
            time.sleep(pause)

    def received(self, n: int) -> list[int]:
        got: list[int] = []
        with contextlib.suppress(TimeoutError):
            while len(got) < n:
                got.append(int(self.server.recv(64)))
        self.server.settimeout(0.2)
        with contextlib.suppress(TimeoutError):
            got.append(int(self.server.recv(64)))
        self.server.settimeout(2)
        return got

    def predecessor(self) -> tuple[Any, tuple[int, ...]]:
        """A process that answers the queue, and its sockets as a descriptor store would keep them."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with ours:
            with theirs:
                process = self.chain.node.popen(
                    [sys.executable, "-c", PREDECESSOR, str(theirs.fileno())], pass_fds=[theirs.fileno()]
                )
            ours.settimeout(10)
            _, fds, _, _ = socket.recv_fds(ours, 1, 8)
        assert len(fds) == 2
        return process, tuple(fds)

    def held(self, fds: tuple[int, ...]) -> list[HeldQueue]:
        with self.chain.node.enter():
            return held_queues(fds)

    @contextlib.contextmanager
    def successor(self, fds: tuple[int, ...], action: Verdict = Verdict.DROP, **more: Any) -> Iterator[Engine]:
        config = EngineConfig(look_queue=9, fds=fds, takeover_action=action, **more)
        with self.chain.node.enter():
            engine = Engine(config, IdentityMap.build([]), Policy(PolicyTables()), 1)
        with engine:
            engine.start()
            yield engine


def stop(pid: int) -> None:
    """SIGSTOP, and until every thread has stopped."""
    os.kill(pid, signal.SIGSTOP)
    tasks = Path(f"/proc/{pid}/task")
    wait_until(
        lambda: all("\nState:\tT" in (task / "status").read_text() for task in tasks.iterdir()), 5.0, lambda: "it runs"
    )


@pytest.fixture
def queue() -> Iterator[Queue]:
    with Lab() as lab:
        made = Queue(lab.chain(network=83))
        with made.server, made.client:
            yield made


def test_queue_survives_a_killed_process_and_its_packets_wait_for_the_next(queue: Queue) -> None:
    process, fds = queue.predecessor()
    queue.send(50)
    assert queue.received(50) == list(range(1, 51))
    queue.send(300, pause=0.0005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(5)
    queue.send(500)  # nobody answers
    assert [held.queue for held in queue.held(fds)] == [0, 9]
    # What the killed one had read and not answered is allowed, so all arrive.
    with queue.successor(fds, Verdict.ALLOW) as engine:
        queue.send(100)
        assert sorted(queue.received(900)) == list(range(51, 951))
        counters = engine.counters()[0]
        assert counters.id_gaps == counters.verdict_errors == counters.netlink_errors == counters.dropped == 0
        assert counters.packets >= 600
        assert [held.waiting for held in queue.held(fds)] == [0, 0]


@pytest.mark.parametrize(("action", "arrive"), [(Verdict.ALLOW, True), (Verdict.DROP, False)])
@pytest.mark.parametrize("silent", [False, True])
def test_what_was_read_and_not_answered_is_answered_and_counted(
    queue: Queue, action: Verdict, arrive: bool, silent: bool
) -> None:
    process, fds = queue.predecessor()
    stop(process.pid)  # reads nothing more
    queue.send(30)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(5)
    with socket.socket(fileno=os.dup(fds[0])) as held:  # read as a process does that dies before it answers
        read = 30 if silent else 12
        for _ in range(read):
            assert select.select([held], [], [], 2)[0]
            held.recv(65536, socket.MSG_DONTWAIT)
    assert queue.held(fds)[0][2:] == (30, 30)
    started = time.monotonic()
    with queue.successor(fds, action) as engine:
        expected = list(range(1 if arrive else 1 + read, 31))
        assert queue.received(len(expected)) == expected
        if arrive:
            assert time.monotonic() - started < 1
        time.sleep(0.3)
        counters = engine.counters()[0]
        assert (counters.taken_over, counters.packets) == (read, 30 - read)
        assert counters.id_gaps == counters.verdict_errors == counters.netlink_errors == 0
        assert queue.held(fds)[0].waiting == 0


def test_released_engine_hands_over_within_one_process_without_an_unanswered_packet(queue: Queue) -> None:
    process, fds = queue.predecessor()
    process.kill()
    process.wait(5)
    with queue.successor(fds) as first:
        queue.send(200, pause=0.0002)
        assert first.fds() == fds
        released = first.release()
        queue.send(200)
        with queue.successor(released, queue_length=4096) as second:
            queue.send(200)
            assert queue.received(600) == list(range(1, 601))
            assert sum(engine.counters()[0].packets for engine in (first, second)) == 600
            assert second.counters()[0].taken_over == second.counters()[0].id_gaps == 0
        assert second.fds() == (-1, -1)
    assert queue.held(fds) == []  # closed: the queue is gone


def test_successor_may_have_more_workers(queue: Queue) -> None:
    process, fds = queue.predecessor()
    process.kill()
    process.wait(5)
    queue.send(20)
    config = EngineConfig(queue_count=2, look_queue=9, fds=(fds[0], -1, fds[1]))
    with queue.chain.node.enter(), Engine(config, IdentityMap.build([]), Policy(PolicyTables()), 1) as engine:
        engine.start()
        assert queue.received(20) == list(range(1, 21))
        assert [held.queue for held in held_queues(engine.fds())] == [0, 1, 9]
        assert [counters.packets for counters in engine.counters()] == [20, 0, 0]


def test_descriptor_that_holds_no_queue_is_left_out(queue: Queue) -> None:
    with socket.socketpair()[0] as other, Path(os.devnull).open("rb") as null:
        assert queue.held((other.fileno(), null.fileno())) == []


def test_sockets_in_the_wrong_order_are_refused_and_stay_open(queue: Queue) -> None:
    process, fds = queue.predecessor()
    process.kill()
    process.wait(5)
    with pytest.raises(FastpathError, match=f"descriptor {fds[1]} does not hold queue 0") as caught:
        queue.successor((fds[1], fds[0])).__enter__()
    assert caught.value.errno == errno.EBADF
    assert [held.queue for held in queue.held(fds)] == [0, 9]
    for fd in fds:
        os.close(fd)
