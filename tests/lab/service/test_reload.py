# SPDX-License-Identifier: Apache-2.0
"""A change of policy under load: no packet is lost, and every open flow is decided again."""

import signal
import socket
import threading
import time

import pytest

from tests.lab.service.nodes import ALLOW, DENY_7000, Echo, Node, exchange, wait_until
from tests.patience import LOAD

pytestmark = pytest.mark.timeout(90)


def other(port: int) -> str:
    """Another program, which decides the same for the flows here."""
    return ALLOW.replace("[7000, 80]", f"[7000, 80, {port}]")


class Datagrams:
    """Numbered datagrams to the echo server, from many sockets, which of them came back. pause: between two, s."""

    def __init__(self, node: Node, flows: int, pause: float) -> None:
        address = node.net.server.v4
        self._sockets = []
        with node.net.client.enter():
            for _ in range(flows):
                sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                sock.setsockopt(socket.SOL_SOCKET, 33, 4 << 20)  # SO_RCVBUFFORCE
                sock.connect((address, 7000))
                sock.setblocking(False)
                self._sockets.append(sock)
        self._pause = pause / LOAD
        self.sent = 0
        self.received = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            sock = self._sockets[self.sent % len(self._sockets)]
            sock.send(self.sent.to_bytes(4, "big"))
            self.sent += 1
            self._collect()
            time.sleep(self._pause)

    def _collect(self) -> None:
        for sock in self._sockets:
            try:
                while sock.recv(64):
                    self.received += 1
            except BlockingIOError:
                continue

    def finish(self) -> None:
        self._stop.set()
        self._thread.join()
        wait_until(
            lambda: self._collect() is None and self.received >= self.sent,
            3.0,
            lambda: f"{self.sent} sent, {self.received} came back",
        )
        for sock in self._sockets:
            sock.close()


def test_reloads_under_load_lose_no_packet(node: Node, echo: Echo) -> None:
    node.start()
    connections = [echo.connect() for _ in range(50)]
    load = Datagrams(node, flows=20, pause=0.0005)
    for number in range(8):
        sent = load.sent
        node.policy(other(9000 + number))
        node.wait_for(f"generation {number + 2} in force")
        assert all(exchange(sock) for sock in connections)
        wait_until(lambda sent=sent: load.sent > sent + 40, 10, lambda: "nothing is sent")  # each flow twice
    load.finish()
    assert load.received == load.sent
    retransmitted = node.net.client.run(["nstat", "-az", "TcpRetransSegs"]).stdout
    assert retransmitted.split()[-2] == "0", retransmitted
    for sock in connections:
        sock.close()


def test_every_open_flow_is_decided_again(node: Node, echo: Echo) -> None:
    node.start()
    flows = [echo.connect(family, timeout=0.2) for family in (4, 6) for _ in range(10)]
    assert all(exchange(sock) for sock in flows)
    node.policy(DENY_7000)
    node.wait_for("generation 2 in force")
    assert not any(exchange(sock) for sock in flows)
    ports = {sock.getsockname()[1] for sock in flows}
    wait_until(
        lambda: ports <= {drop.get("src_port") for drop in node.events("drop")}, 5.0, lambda: "not every flow was told"
    )


@pytest.mark.parametrize("family", [4, 6])
def test_a_reply_as_the_first_packet_after_the_change_is_decided_in_the_flows_direction(
    node: Node, echo: Echo, family: int
) -> None:
    """The server speaks first after the change. Judged by its own direction a reply would be denied: nobody may
    connect to the client."""
    node.start()
    kept, cut = (echo.connect(family) for _ in range(2))
    for sock in (kept, cut):
        assert exchange(sock)
        sock.sendall(b"say 1.5")
    time.sleep(0.3)
    node.policy(other(9000))
    node.wait_for("generation 2 in force")
    assert kept.recv(100) == b"said"
    assert cut.recv(100) == b"said"
    cut.sendall(b"say 1.5")
    cut.settimeout(3.0)
    time.sleep(0.3)
    node.policy(DENY_7000)
    node.wait_for("generation 3 in force")
    with pytest.raises(TimeoutError):
        cut.recv(100)


def test_generations_go_round(node: Node, echo: Echo) -> None:
    """More changes than there are generations: what was decided 31 changes ago is not taken for current."""
    node.start()
    idle = echo.connect(timeout=1.0)
    assert exchange(idle)
    for number in range(30):
        node.policy(other(9000 + number))
        node.wait_for(f"generation {number + 2} in force")
    node.policy(DENY_7000)
    wait_until(lambda: node.log().count("generation 1 in force") == 1, 5.0, node.log)
    assert not exchange(idle), "the mark of the first generation 1 was taken for that of the second"


def test_a_hangup_signal_reads_everything_again(node: Node, echo: Echo) -> None:
    node.start()
    assert node.service.process is not None
    node.service.process.send_signal(signal.SIGHUP)
    node.wait_for("reloaded")
    with echo.connect() as sock:
        assert exchange(sock)


@pytest.mark.parametrize("family", [4, 6])
def test_a_relabelled_endpoint_s_flows_alone_are_decided_again(node: Node, echo: Echo, family: int) -> None:
    """Others keep what was decided, and the generation with it."""
    node.start()
    flows = [echo.connect(family, timeout=1.0) for _ in range(5)]
    assert all(exchange(sock) for sock in flows)
    node.policy(ALLOW.replace("labels: {role: client}", "labels: {role: stranger}"))
    node.wait_for("flows of 2 addresses alone", 30.0)
    assert not any(exchange(sock) for sock in flows)
    assert "policy generation 1 in force" in node.log()
    node.policy(ALLOW)
    wait_until(lambda: node.log().count("addresses alone") == 2, 30.0, node.log)
    with echo.connect(family) as fresh:
        assert exchange(fresh)
