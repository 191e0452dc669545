# SPDX-License-Identifier: Apache-2.0
"""One service ends and the next goes on: no packet lost, whether it was asked to, killed, or restarted."""

import json
import os
import select
import socket
import subprocess
import sys
import time

import pytest

from appliance.lab.program import REPOSITORY, read_queues
from tests.lab.service.nodes import Echo, Node, exchange, wait_until
from tests.lab.service.test_operator import portcullis
from tests.lab.service.test_reload import Datagrams

pytestmark = pytest.mark.timeout(90)


def test_a_takeover_loses_no_packet(node: Node, echo: Echo) -> None:
    node.configure(more="[fastpath]\nfates = false\n")  # every packet needs a worker
    node.start()
    old = node.service.process
    assert old is not None
    sock = echo.connect()
    assert exchange(sock)
    load = Datagrams(node, flows=20, pause=0.0005)
    time.sleep(0.5)
    command = [sys.executable, "-m", "appliance", "run", "--takeover", "--config", str(node.config)]
    with (node.directory / "second").open("wb") as log:
        new = node.net.node.popen(
            command, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}
        )
    said = node.directory / "second"
    wait_until(lambda: "mode enforce" in said.read_text(), 20.0, said.read_text)
    assert old.wait(10) == 0, node.log()
    assert "the queues are handed over" in node.log()
    assert exchange(sock)
    load.finish()
    assert load.sent > 500
    assert load.received == load.sent
    with echo.connect() as fresh:
        assert exchange(fresh)
    wait_until(lambda: not any(row.waiting for row in read_queues(node.net.node).values()), 5.0, lambda: "they wait")
    ledger = json.loads(portcullis(node, "status", "--json").stdout)["ledger"]
    assert ledger["ids_lost"] == 0 and ledger["queue_full"] == 0, ledger
    # Rules and queues cannot be read at one instant: what came in between is off by that much, and no more.
    assert abs(ledger["unaccounted"]) < 20, ledger
    new.terminate()
    assert new.wait(10) == 0
    assert node.net.node.run(["nft", "list", "ruleset"]).stdout == ""


def test_without_a_service_there_is_nothing_to_take_over(node: Node) -> None:
    done = node.net.node.run(
        [sys.executable, "-m", "appliance", "run", "--takeover", "--config", str(node.config)],
        check=False, timeout=20, env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    assert done.returncode == 2
    assert "no service runs here" in done.stderr


class Manager:
    """As much of a service manager as keeps descriptors: a notify socket, and descriptors passed on at start."""

    def __init__(self, node: Node) -> None:
        self.path = node.directory / "manager"
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(self.path))
        self.node = node
        self.stored: list[int] = []
        self.said = ""

    def start(self) -> "subprocess.Popen[bytes]":
        """Runs the service with what is stored as descriptors 3 and up, and LISTEN_PID its own."""
        script = (
            "import os, sys\n"
            "fds = [int(fd) for fd in sys.argv[1].split(',') if fd]\n"
            "moved = [os.dup(fd) for fd in fds]\n"
            "high = [os.dup2(fd, 100 + i) for i, fd in enumerate(moved)]\n"
            "for i, fd in enumerate(high): os.dup2(fd, 3 + i)\n"
            "if fds: os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(fds)),"
            " LISTEN_FDNAMES=':'.join(['queue'] * len(fds)))\n"
            "os.execv(sys.executable, [sys.executable, '-m', 'appliance', 'run', '--config', sys.argv[2]])\n"
        )
        self.said = ""
        with (self.node.directory / "log").open("ab") as log:
            process = self.node.net.node.popen(
                [sys.executable, "-c", script, ",".join(map(str, self.stored)), str(self.node.config)],
                pass_fds=self.stored, stdout=log, stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONPATH": str(REPOSITORY), "NOTIFY_SOCKET": str(self.path)},
            )  # fmt: skip
        wait_until(self._ready, 20.0, self.node.log)
        return process

    def _ready(self) -> bool:
        while select.select([self.socket], [], [], 0)[0]:
            message, fds, _, _ = socket.recv_fds(self.socket, 4096, 64)
            self.said += message.decode() + "\n"
            if b"FDSTORE=1" in message.split(b"\n"):
                for fd in self.stored:
                    os.close(fd)
                self.stored = list(fds)
        return "READY=1" in self.said.splitlines()


@pytest.mark.parametrize("family", [4, 6])
def test_after_a_crash_packets_have_waited_in_the_queue(node: Node, echo: Echo, family: int) -> None:
    node.configure(more="[fastpath]\nfates = false\n")
    manager = Manager(node)
    process = manager.start()
    assert len(manager.stored) == 3  # two workers and the look-only one
    assert "FDPOLL=0" in manager.said
    sock = echo.connect(family, timeout=10.0)
    assert exchange(sock)
    process.kill()
    process.wait(10)
    sock.sendall(b"sent while nobody was there")
    second = manager.start()
    assert sock.recv(100) == b"sent while nobody was there"
    with echo.connect(family) as fresh:
        assert exchange(fresh)
    second.terminate()
    assert second.wait(10) == 0
    assert "FDSTOREREMOVE=1" in _rest(manager)


def _rest(manager: Manager) -> str:
    manager._ready()
    return manager.said
