# SPDX-License-Identifier: Apache-2.0
"""Failsafe ports are the host's: what a local workload sends there is its own egress policy's business."""

import socket

import pytest

from appliance.lab import Namespace
from rules.policy import CompileOptions, load_documents
from rules.policy.explain import DirectoryExplainer
from tests.lab.service.hosts import HOST, addresses, on, reaches
from tests.lab.service.nodes import Node, exchange, serve_echo, wait_until

pytestmark = pytest.mark.timeout(90)

EVERYWHERE = on('"*"', HOST)  # no policy, no profile: denies all but failsafe ports
SERVER = """
---
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {name: server, namespace: lab, labels: {role: server}}
spec:
  {node: node, orchestrator: lab, workload: server, endpoint: eth0, interfaceName: srv0,
   ipNetworks: [10.77.2.2/32, "fd00:77:2::2/128"], profiles: [projectcalico-default-allow]}
"""
LEAVING = """
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: leaving}
spec:
  selector: role == "server"
  types: [Egress]
  egress: [{action: Allow, protocol: TCP, destination: {ports: [7001]}}]
"""


def told(text: str, source: Namespace, interface: str, address: str, port: int) -> bool:
    """What `explain` says of the same packets."""
    explainer = DirectoryExplainer(load_documents(text, "policy.yaml").resources, CompileOptions(), "node")
    src = source.address(6 if ":" in address else 4, "eth0")
    question = {"src": src, "dst": address, "proto": "tcp", "sport": 40000, "dport": port}
    return explainer.answer(question | {"path": "input", "iif": interface}).verdict == "allow"


@pytest.mark.parametrize("host", ["", EVERYWHERE], ids=["no host endpoint", "every interface"])
def test_a_workloads_egress_policy_holds_for_failsafe_ports_of_its_node(listening: Node, host: str) -> None:
    node, net = listening, listening.net
    text = host + SERVER + LEAVING
    node.policy(text)
    node.start()
    for source, interface, port, expected in (
        (net.server, "srv0", 22, False), (net.server, "srv0", 7001, True), (net.server, "srv0", 7002, False),
        (net.client, "cli0", 22, True), (net.client, "cli0", 7001, not host),
    ):  # fmt: skip
        for address in addresses(net.node, interface):
            assert reaches(source, address, port) is expected, (address, port)
            assert told(text, source, interface, address, port) is expected


def test_it_comes_and_goes_with_the_endpoint_and_cuts_what_is_open(listening: Node) -> None:
    node, net = listening, listening.net
    net.node.spawn(serve_echo, 6443)
    net.node.wait_for_port(6443)
    address = net.node.address(4, "srv0")
    node.policy(EVERYWHERE)
    node.start()
    with net.server.enter():
        sock = socket.create_connection((address, 6443), timeout=3)
    with sock:
        assert exchange(sock)
        assert reaches(net.server, address, 22), "nobody knows whose interface it is"
        node.policy(EVERYWHERE + SERVER + LEAVING)
        wait_until(lambda: not reaches(net.server, address, 22), 10, node.log)
        assert not exchange(sock)
    node.policy(EVERYWHERE)
    wait_until(lambda: reaches(net.server, address, 22), 10, node.log)
