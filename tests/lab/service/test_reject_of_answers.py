# SPDX-License-Identifier: Apache-2.0
"""A reject that is found in what the server says: the client, which waits for it, learns it at once."""

import socket
import time

import pytest

from tests.lab.service.nodes import INSPECTED, Echo, Node, exchange, serve_echo, wait_until
from tests.lab.service.test_host_endpoints import AUTO
from tests.patience import PATIENCE

pytestmark = pytest.mark.timeout(90)
RULE = 'reject tcp any any -> any any (msg:"banner"; flow:to_client; content:"said"; sid:1;)\n'
OWN = """
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: own, annotations: {portcullis.dev/inspect: "true"}}
spec:
  selector: interface == "srv0"
  types: [Ingress, Egress]
  ingress: [{action: Allow, protocol: TCP}]
  egress: [{action: Allow, protocol: TCP}]
"""


def said(sock: socket.socket) -> float:
    """Seconds until the client was reset, when the server spoke by itself."""
    assert exchange(sock)
    sock.sendall(b"say 0.5")  # acknowledged long before the answer: nothing of the client's is under way
    started = time.monotonic()
    with pytest.raises(ConnectionResetError):
        sock.recv(100)
    return time.monotonic() - started


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("server", ["node", "server"])
def test_the_nodes_own_connections(node: Node, family: int, server: str) -> None:
    """The server's packet leaves the node (output), or arrives at it (input)."""
    (node.directory / "signatures.d" / "banner.rules").write_text(RULE)
    node.configure(inspectors=1, more=AUTO)
    node.policy(OWN)
    here, there = (node.net.node, node.net.server) if server == "node" else (node.net.server, node.net.node)
    here.spawn(serve_echo, 7000)
    here.wait_for_port(7000)
    address = node.net.node.address(family, "srv0") if server == "node" else node.net.server.address(family)
    node.start()
    with there.enter():
        sock = socket.create_connection((address, 7000), 30.0)
    with sock:
        assert said(sock) < 5.0 * PATIENCE


@pytest.mark.parametrize("family", [4, 6])
def test_the_client_is_reset_at_once_and_the_server_when_it_repeats(node: Node, echo: Echo, family: int) -> None:
    (node.directory / "signatures.d" / "banner.rules").write_text(RULE)
    node.configure(inspectors=1)
    node.policy(INSPECTED)
    node.start()
    other = echo.connect(family, timeout=5.0)
    with echo.connect(family, timeout=30.0) as sock:
        port = sock.getsockname()[1]
        assert said(sock) < 5.0 * PATIENCE

    def server_waits() -> bool:
        return f":{port} " in node.net.server.run(["ss", "-Htn", "state", "established"]).stdout

    wait_until(lambda: not server_waits(), 5.0, node.log)
    assert exchange(other)
    assert [record["alert"]["signature_id"] for record in node.events("alert")] == [1]
