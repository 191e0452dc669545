# SPDX-License-Identifier: Apache-2.0
"""What tests of host endpoints share: listeners in each namespace of a node's lab, and who reaches them."""

import selectors
import socket

from appliance.lab import Chain, Namespace

PORTS = (22, 7001, 7002)
HOST = """
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: node-cli0, labels: {host: node}}
spec: {node: node, interfaceName: INTERFACE}
"""
POLICY = """
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: NAME}
spec:
  selector: host == "node"
"""


def policy(name: str, *, order: int | None = None) -> str:
    """The head of a policy of the host endpoint, to be followed by fields of its spec."""
    return POLICY.replace("NAME", name) + (f"  order: {order}\n" if order is not None else "")


def on(interface: str, text: str) -> str:
    """The text with its host endpoint on that interface."""
    return text.replace("INTERFACE", interface)


def accept(ports: tuple[int, ...]) -> None:
    """Listeners that say `hi`, until killed."""
    watched = selectors.DefaultSelector()
    for port in ports:
        listener = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
        watched.register(listener, selectors.EVENT_READ)
    while True:
        for key, _ in watched.select():
            assert isinstance(key.fileobj, socket.socket)
            with key.fileobj.accept()[0] as connection:
                connection.sendall(b"hi")


def listen(net: Chain) -> None:
    for namespace in (net.client, net.node, net.server):
        namespace.spawn(accept, PORTS)
        for port in PORTS:
            namespace.wait_for_port(port)


def reaches(source: Namespace, address: str, port: int) -> bool:
    with source.enter():
        sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    sock.settimeout(0.8)
    with sock:
        try:
            sock.connect((address, port))
            return sock.recv(10) == b"hi"
        except TimeoutError:
            return False


def addresses(namespace: Namespace, interface: str = "eth0") -> list[str]:
    return [namespace.address(family, interface) for family in (4, 6)]
