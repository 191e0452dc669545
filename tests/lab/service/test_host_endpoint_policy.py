# SPDX-License-Identifier: Apache-2.0
"""Policy of host endpoints on real packets: what comes to the node, leaves it, and passes through it."""

import socket
from collections.abc import Iterator

import pytest

from appliance.lab import Chain, Namespace
from tests.lab.service.nodes import Node

pytestmark = pytest.mark.timeout(60)

HOST = """
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: node-cli0, labels: {host: node}}
spec: {node: node, interfaceName: INTERFACE}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: host}
spec:
  selector: host == "node"
  types: [Ingress, Egress]
  ingress:
    - {action: Allow, protocol: TCP, destination: {ports: [7001]}}
  egress:
    - {action: Allow, protocol: TCP, destination: {ports: [7001]}}
"""
FORWARD = """
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: forward}
spec:
  selector: host == "node"
  applyOnForward: true
  order: 1
  types: [Ingress]
  ingress:
    - {action: Deny, protocol: TCP, destination: {ports: [7002]}}
    - {action: Allow}
"""
PORTS = (22, 7001, 7002)


def accept(ports: tuple[int, ...]) -> None:
    """Listeners that say `hi`, until killed."""
    import selectors

    watched = selectors.DefaultSelector()
    for port in ports:
        listener = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
        watched.register(listener, selectors.EVENT_READ)
    while True:
        for key, _ in watched.select():
            assert isinstance(key.fileobj, socket.socket)
            with key.fileobj.accept()[0] as connection:
                connection.sendall(b"hi")


@pytest.fixture
def listening(node: Node) -> Iterator[Node]:
    for namespace in (node.net.client, node.net.node, node.net.server):
        namespace.spawn(accept, PORTS)
        for port in PORTS:
            namespace.wait_for_port(port)
    yield node


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


def addresses(net: Chain, namespace: Namespace, interface: str) -> list[str]:
    return [namespace.address(family, interface) for family in (4, 6)]


@pytest.mark.parametrize("interface", ["cli0", '"*"'], ids=["named", "every interface"])
def test_host_endpoint_governs_input_and_output_and_spares_failsafe_ports(listening: Node, interface: str) -> None:
    node, net = listening, listening.net
    node.policy(HOST.replace("INTERFACE", interface))
    node.start()
    for address in addresses(net, net.node, "cli0"):
        assert reaches(net.client, address, 7001), "ingress policy allows it"
        assert not reaches(net.client, address, 7002), "ingress policy ends in deny"
        assert reaches(net.client, address, 22), "a failsafe port"
    for address in addresses(net, net.client, "eth0"):
        assert reaches(net.node, address, 7001), "egress policy allows it"
        assert not reaches(net.node, address, 7002), "egress policy ends in deny"
        assert not reaches(net.node, address, 22), "a failsafe port inward only"


def test_an_interface_that_no_host_endpoint_names_is_left_alone(listening: Node) -> None:
    node, net = listening, listening.net
    node.policy(HOST.replace("INTERFACE", "cli0"))
    node.start()
    for address in addresses(net, net.node, "srv0"):
        assert reaches(net.server, address, 7002)
    for address in addresses(net, net.server, "eth0"):
        assert reaches(net.node, address, 7002)


def test_forwarded_traffic_is_governed_only_by_policy_that_applies_on_forward(listening: Node) -> None:
    node, net = listening, listening.net
    node.policy(HOST.replace("INTERFACE", "cli0"))
    node.start()
    for address in addresses(net, net.server, "eth0"):
        assert reaches(net.client, address, 7002), "normal policy of a host says nothing about what passes through"
    node.policy(HOST.replace("INTERFACE", "cli0") + FORWARD)
    node.wait_for("generation 2 in force")
    for address in addresses(net, net.server, "eth0"):
        assert not reaches(net.client, address, 7002)
        assert reaches(net.client, address, 7001)
        assert reaches(net.client, address, 22), "allowed by policy; failsafe ports are no matter of forwarding"


def test_a_host_always_reaches_its_own_workloads(listening: Node) -> None:
    node, net = listening, listening.net
    workload = """
---
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {name: server, namespace: lab, labels: {role: server}}
spec:
  {node: node, orchestrator: lab, workload: server, endpoint: eth0, interfaceName: srv0,
   ipNetworks: [10.77.2.2/32, "fd00:77:2::2/128"]}
"""
    node.policy(HOST.replace("INTERFACE", '"*"') + workload)
    node.start()
    for address in addresses(net, net.server, "eth0"):
        assert reaches(net.node, address, 7002)
        assert not reaches(net.client, address, 7002), "the workload has no policy that allows it, and no profile"
