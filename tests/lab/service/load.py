# SPDX-License-Identifier: Apache-2.0
"""Load from outside, counted at both ends: a flood of datagrams, and open TCP connections that carry data."""

import json
import selectors
import socket
import threading
import time
from pathlib import Path

import pytest

from appliance.lab.program import REPOSITORY
from tests.lab.service.nodes import Node, wait_until
from tests.patience import LOAD

SINK = 9000  # port of the datagrams, which nobody but a rule receives
ECHO = 7000
BUILDS = ("build/meson", "build/editable")


def flood_program() -> Path:
    for build in BUILDS:
        path = REPOSITORY / build / "bench/c/udp_flood"
        if path.exists():
            return path
    pytest.skip("udp_flood is not built: make test builds it")


class Flood:
    """Datagrams of `flows` flows at `rate` a second, as many new flows every two seconds. `arrived` is counted by the
    kernel of the server."""

    def __init__(self, node: Node, rate: int, flows: int = 200) -> None:
        self.node = node
        node.net.server.run(["nft", "add table inet sink; add counter inet sink arrived; add chain inet sink input"
                             " { type filter hook input priority 0; };"
                             f" add rule inet sink input udp dport {SINK} counter name arrived drop"])  # fmt: skip
        self._command = [str(flood_program()), node.net.server.v4, str(SINK), "2000", str(rate), str(flows), "64"]
        self._stop = threading.Event()
        self.sent = 0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            words = self.node.net.client.run(self._command, timeout=60).stdout.split()
            self.sent += int(words[words.index("sent") + 1])

    @property
    def arrived(self) -> int:
        listed = self.node.net.server.run(["nft", "-j", "list counter inet sink arrived"]).stdout
        return next(int(e["counter"]["packets"]) for e in json.loads(listed)["nftables"] if "counter" in e)

    def finish(self) -> None:
        """Returns when all has arrived. Fails if some of it never does."""
        self._stop.set()
        self._thread.join()
        wait_until(lambda: self.arrived >= self.sent, 10.0, lambda: f"{self.sent} sent, {self.arrived} arrived")


class Connections:
    """Open TCP connections, each of which sends a word and waits for its echo, over and over."""

    def __init__(self, node: Node, count: int) -> None:
        self.node = node
        node.net.server.spawn(serve, ECHO)
        node.net.server.wait_for_port(ECHO)
        self._selector = selectors.DefaultSelector()
        self._said: dict[socket.socket, int] = {}
        self.rounds: dict[socket.socket, int] = {}
        with node.net.client.enter():
            sockets = [socket.socket() for _ in range(count)]
        for sock in sockets:
            sock.settimeout(10.0)
            sock.connect((node.net.server.v4, ECHO))
            sock.setblocking(False)
            self._selector.register(sock, selectors.EVENT_READ)
            self.rounds[sock] = 0
        self._stop = threading.Event()
        self.broken: list[str] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        for sock in self.rounds:
            self._say(sock)
        while not self._stop.is_set():
            for key, _ in self._selector.select(0.1):
                assert isinstance(key.fileobj, socket.socket)
                self._hear(key.fileobj)
            time.sleep(0.01 / LOAD)  # a hundred rounds a second at most

    def _say(self, sock: socket.socket) -> None:
        sock.send(b"%08d" % self.rounds[sock])

    def _hear(self, sock: socket.socket) -> None:
        try:
            word = sock.recv(100)
        except OSError as error:
            word = str(error).encode()
        if word != b"%08d" % self.rounds[sock]:
            self.broken.append(repr(word))
            self._selector.unregister(sock)
            return
        self.rounds[sock] += 1
        self._say(sock)

    def all_go_on(self, timeout: float = 30.0) -> None:
        """Each has an answer to something it said from now on."""
        before = dict(self.rounds)
        wait_until(
            lambda: all(self.rounds[sock] > rounds + 1 for sock, rounds in before.items()) or bool(self.broken),
            timeout,
            lambda: f"{sum(self.rounds[s] <= r + 1 for s, r in before.items())} connections stand still",
        )
        assert not self.broken, self.broken[:3]

    def finish(self) -> None:
        self._stop.set()
        self._thread.join()
        for sock in self.rounds:
            sock.close()
        assert not self.broken, self.broken[:3]


def serve(port: int) -> None:
    """Echoes every connection. Until killed."""
    selector = selectors.DefaultSelector()
    with socket.create_server(("", port), backlog=4096) as listener:
        listener.setblocking(False)
        selector.register(listener, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                assert isinstance(key.fileobj, socket.socket)
                if key.fileobj is listener:
                    fresh, _ = listener.accept()
                    fresh.setblocking(False)
                    selector.register(fresh, selectors.EVENT_READ)
                elif data := key.fileobj.recv(100):
                    key.fileobj.send(data)
                else:
                    selector.unregister(key.fileobj)
                    key.fileobj.close()
