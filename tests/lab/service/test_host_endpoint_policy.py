# SPDX-License-Identifier: Apache-2.0
"""Policy of host endpoints on real packets: what comes to the node, leaves it, and passes through it."""

import pytest

from tests.lab.service.hosts import HOST, addresses, on, policy, reaches
from tests.lab.service.nodes import Node

pytestmark = pytest.mark.timeout(60)

GOVERNED = (
    HOST
    + policy("host")
    + """  types: [Ingress, Egress]
  ingress:
    - {action: Allow, protocol: TCP, destination: {ports: [7001]}}
  egress:
    - {action: Allow, protocol: TCP, destination: {ports: [7001]}}
"""
)
FORWARD = (
    policy("forward", order=1)
    + """  applyOnForward: true
  types: [Ingress]
  ingress:
    - {action: Deny, protocol: TCP, destination: {ports: [7002]}}
    - {action: Allow}
"""
)


@pytest.mark.parametrize("interface", ["cli0", '"*"'], ids=["named", "every interface"])
def test_host_endpoint_governs_input_and_output_and_spares_failsafe_ports(listening: Node, interface: str) -> None:
    node, net = listening, listening.net
    node.policy(on(interface, GOVERNED))
    node.start()
    for address in addresses(net.node, "cli0"):
        assert reaches(net.client, address, 7001), "ingress policy allows it"
        assert not reaches(net.client, address, 7002), "ingress policy ends in deny"
        assert reaches(net.client, address, 22), "a failsafe port"
    for address in addresses(net.client):
        assert reaches(net.node, address, 7001), "egress policy allows it"
        assert not reaches(net.node, address, 7002), "egress policy ends in deny"
        assert not reaches(net.node, address, 22), "a failsafe port inward only"


def test_an_interface_that_no_host_endpoint_names_is_left_alone(listening: Node) -> None:
    node, net = listening, listening.net
    node.policy(on("cli0", GOVERNED))
    node.start()
    for address in addresses(net.node, "srv0"):
        assert reaches(net.server, address, 7002)
    for address in addresses(net.server):
        assert reaches(net.node, address, 7002)


def test_forwarded_traffic_is_governed_only_by_policy_that_applies_on_forward(listening: Node) -> None:
    node, net = listening, listening.net
    node.policy(on("cli0", GOVERNED))
    node.start()
    for address in addresses(net.server):
        assert reaches(net.client, address, 7002), "normal policy of a host says nothing about what passes through"
    node.policy(on("cli0", GOVERNED) + FORWARD)
    node.wait_for("generation 2 in force")
    for address in addresses(net.server):
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
    node.policy(on('"*"', GOVERNED) + workload)
    node.start()
    for address in addresses(net.server):
        assert reaches(net.node, address, 7002)
        assert not reaches(net.client, address, 7002), "the workload has no policy that allows it, and no profile"
