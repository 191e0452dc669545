# SPDX-License-Identifier: Apache-2.0
"""The node's own interfaces as host endpoints: nobody wrote them down, policies select them."""

import socket

from tests.lab.service.nodes import Node, serve_echo, wait_until

AUTO = '\n[identities]\nhost_endpoints = "auto"\n'
CLOSED = """
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: front}
spec:
  selector: interface == "cli0" && projectcalico.org/created-by == "portcullis"
  types: [Ingress]
  ingress:
    - {action: Allow, protocol: TCP, destination: {ports: [7001]}}
"""
PORTS = (7000, 7001)


def opens(node: Node, side: str, port: int) -> bool:
    """Whether a neighbour reaches the node itself."""
    neighbour, interface = (node.net.client, "cli0") if side == "client" else (node.net.server, "srv0")
    with neighbour.enter():
        sock = socket.socket()
    with sock:
        sock.settimeout(0.5)
        return sock.connect_ex((node.net.node.address(4, interface), port)) == 0


def test_a_policy_selects_an_interface_of_the_node(node: Node) -> None:
    for port in PORTS:
        node.net.node.spawn(serve_echo, port)
        node.net.node.wait_for_port(port)
    node.configure(more=AUTO)
    node.policy("")
    node.start()
    assert all(opens(node, side, port) for side in ("client", "server") for port in PORTS), node.log()
    node.policy(CLOSED)
    wait_until(lambda: not opens(node, "client", 7000), 10, node.log)
    assert opens(node, "client", 7001)
    assert opens(node, "server", 7000), "another interface is not touched"


def test_an_interface_that_appears_is_an_endpoint(node: Node) -> None:
    node.net.node.spawn(serve_echo, 7000)
    node.net.node.wait_for_port(7000)
    node.configure(more=AUTO)
    node.policy(CLOSED.replace("cli0", "late0"))
    node.start()
    assert opens(node, "client", 7000)
    node.net.node.run(["ip", "link", "set", "cli0", "down"])
    node.net.node.run(["ip", "link", "set", "cli0", "name", "late0"])
    node.net.node.run(["ip", "link", "set", "late0", "up"])
    wait_until(lambda: not opens(node, "client", 7000), 10, node.log)


def test_off_is_the_default(node: Node) -> None:
    node.net.node.spawn(serve_echo, 7000)
    node.net.node.wait_for_port(7000)
    node.policy(CLOSED)
    node.start()
    assert opens(node, "client", 7000)
