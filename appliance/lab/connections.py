# SPDX-License-Identifier: Apache-2.0
"""Open TCP connections that carry data, each a word and its echo, over and over: what a change or a restart breaks."""

import selectors
import socket
import threading
import time

from appliance.lab.namespaces import LabError, Namespace


class Connections:
    """`count` of them from client to server. Raises LabError where one breaks or stands still."""

    def __init__(self, client: Namespace, server: Namespace, count: int, port: int = 7000) -> None:
        self._ends = client, server
        server.spawn(serve, port)
        server.wait_for_port(port)
        self._selector = selectors.DefaultSelector()
        self._said: dict[socket.socket, int] = {}
        self.rounds: dict[socket.socket, int] = {}
        with client.enter():
            sockets = [socket.socket() for _ in range(count)]
        for sock in sockets:
            sock.settimeout(10.0)
            sock.connect((server.v4, port))
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
            time.sleep(0.01)  # a hundred rounds a second at most

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

    def retransmitted(self) -> int:
        """Segments that either end has sent again since it exists."""
        return sum(retransmissions(end) for end in self._ends)

    def all_go_on(self, timeout: float = 30.0) -> None:
        """Returns when each has an answer to something it said from now on."""
        before = dict(self.rounds)
        deadline = time.monotonic() + timeout
        while still := sum(self.rounds[sock] <= rounds + 1 for sock, rounds in before.items()):
            self._whole()
            if time.monotonic() > deadline:
                raise LabError(f"{still} of {len(before)} connections stand still")
            time.sleep(0.02)

    def finish(self) -> None:
        self._stop.set()
        self._thread.join()
        for sock in self.rounds:
            sock.close()
        self._whole()

    def _whole(self) -> None:
        if self.broken:
            raise LabError(f"{len(self.broken)} connections broke: {self.broken[:3]}")


def retransmissions(namespace: Namespace) -> int:
    """TCP segments that the hosts of a namespace sent again."""
    lines = namespace.run(["cat", "/proc/net/snmp"]).stdout.splitlines()
    names, values = (line.split() for line in lines if line.startswith("Tcp:"))
    return int(values[names.index("RetransSegs")])


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
