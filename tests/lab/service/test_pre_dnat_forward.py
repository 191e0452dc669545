# SPDX-License-Identifier: Apache-2.0
"""What preDNAT policy of a host endpoint allowed and DNAT sends on: applyOnForward ingress policy is not asked."""

import os
import signal
import socket
import subprocess
import time

import pytest

from appliance.lab import Namespace
from rules.policy import CompileOptions, load_documents
from rules.policy.explain import DirectoryExplainer
from tests.lab.service.hosts import HOST, addresses, on, policy, reaches
from tests.lab.service.nodes import Node, exchange, serve_echo, wait_until

pytestmark = pytest.mark.timeout(90)

DNAT = """
table inet other {
  chain prerouting {
    type nat hook prerouting priority -100;
    iifname cli0 ip daddr 10.77.1.1 tcp dport { 7003, 7004 } dnat ip to 10.77.2.2:7001
    iifname cli0 ip6 daddr fd00:77:1::1 tcp dport { 7003, 7004 } dnat ip6 to [fd00:77:2::2]:7001
    iifname cli0 ip daddr 10.77.1.1 tcp dport 7000 dnat ip to 10.77.2.2:7000
    iifname cli0 ip6 daddr fd00:77:1::1 tcp dport 7000 dnat ip6 to [fd00:77:2::2]:7000
  }
}
"""
EARLY = (
    policy("early", order=1)
    + """  applyOnForward: true
  preDNAT: true
  types: [Ingress]
  ingress: [{action: Allow, protocol: TCP, destination: {ports: [7000, 7003]}}, {action: Allow, protocol: ICMP}]
"""
)
CLOSED = (
    policy("closed", order=2)
    + """  applyOnForward: true
  types: [Ingress]
  ingress: []
"""
)
OTHER = (
    policy("other", order=3)
    + """  applyOnForward: true
  types: [Ingress]
  ingress: [{action: Deny, protocol: UDP, destination: {ports: [NUMBER]}}]
"""
)
SERVER = """
---
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {name: server, namespace: lab, labels: {role: server}}
spec:
  {node: node, orchestrator: lab, workload: server, endpoint: eth0, interfaceName: srv0,
   ipNetworks: [10.77.2.2/32, "fd00:77:2::2/128"]}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: server}
spec:
  selector: role == "server"
  types: [Ingress]
  ingress: [{action: Allow, protocol: TCP, destination: {ports: [NUMBER]}}]
"""
LEAVING = """
---
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: node-srv0, labels: {host: other}}
spec: {node: node, interfaceName: srv0}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: leaving}
spec:
  {selector: host == "other", applyOnForward: true, types: [Egress], egress: []}
"""
FORWARD = on("cli0", HOST + EARLY + CLOSED)


@pytest.fixture
def behind(listening: Node) -> Node:
    """A node that sends what asks for its ports 7003 and 7004 on to port 7001 of the server."""
    listening.net.node.run(["nft", "-f", "-"], input=DNAT)
    listening.net.server.spawn(serve_echo, 7000)
    listening.net.server.wait_for_port(7000)
    return listening


def told(text: str, namespace: Namespace, port: int, asked: int) -> list[str]:
    """What `explain` says of the same packets, by IP version. asked: the port before DNAT."""
    explainer = DirectoryExplainer(list(load_documents(text, "policy.yaml").resources), CompileOptions(), "node")
    node = ("10.77.1.1", "fd00:77:1::1")
    return [
        explainer.answer({
            "src": ("10.77.1.2", "fd00:77:1::2")[i], "dst": namespace.address((4, 6)[i]), "proto": "tcp",
            "sport": 40000, "dport": port, "path": "forward", "iif": "cli0", "oif": "srv0",
            "preDNATDst": node[i], "preDNATDport": asked,
        }).verdict
        for i in range(2)
    ]  # fmt: skip


def test_it_goes_past_applyonforward_policy_of_the_interface_it_came_in_by(behind: Node) -> None:
    node, net = behind, behind.net
    node.policy(FORWARD)
    node.start()
    for address in addresses(net.node, "cli0"):
        assert reaches(net.client, address, 7003), "allowed by preDNAT policy"
        assert not reaches(net.client, address, 7004), "of which it has no opinion"
    assert not any(reaches(net.client, address, 7001) for address in addresses(net.server))
    assert told(FORWARD, net.server, 7001, 7003) == ["allow", "allow"]
    assert told(FORWARD, net.server, 7001, 7004) == ["deny", "deny"]
    told_of = {event["portcullis"].get("pre_dnat", False): event["verdict"]["action"] for event in node.events("flow")}
    assert told_of == {True: "pass", False: "drop"}
    assert "preDNAT:" not in node.log(), "there is nothing to warn about"
    node.policy(FORWARD + LEAVING)
    node.wait_for("generation 2 in force")
    for address in addresses(net.node, "cli0"):
        assert not reaches(net.client, address, 7003), "the host endpoint it leaves by denies it"
    assert told(FORWARD + LEAVING, net.server, 7001, 7003) == ["deny", "deny"]


def test_policy_of_a_workload_is_asked_all_the_same(behind: Node) -> None:
    node, net = behind, behind.net
    denied, allowed = (FORWARD + SERVER.replace("NUMBER", number) for number in ("7009", "7001"))
    node.policy(denied)
    node.start()
    for address in addresses(net.node, "cli0"):
        assert not reaches(net.client, address, 7003)
    assert told(denied, net.server, 7001, 7003) == ["deny", "deny"]
    node.policy(allowed)
    node.wait_for("generation 2 in force")
    for address in addresses(net.node, "cli0"):
        assert reaches(net.client, address, 7003)
        assert not reaches(net.client, address, 7004)
    assert told(allowed, net.server, 7001, 7003) == ["allow", "allow"]


def test_policy_of_a_workload_that_speaks_to_the_host_is_asked_all_the_same(behind: Node) -> None:
    node, net = behind, behind.net
    client = SERVER.replace("server", "client").replace("srv0", "cli0").replace("77.2.2", "77.1.2").replace(
        "77:2::", "77:1::").replace("Ingress", "Egress").replace("ingress", "egress")  # fmt: skip
    text = on('"*"', HOST + EARLY.replace("7003", "7001, 7002")) + client.replace("NUMBER", "7001")
    node.policy(text)
    node.start()
    for address in addresses(net.node, "srv0"):
        assert reaches(net.client, address, 7001)
        assert not reaches(net.client, address, 7002)


@pytest.mark.parametrize("family", [4, 6])
def test_a_change_of_policy_decides_it_alike_whoever_speaks_first(behind: Node, family: int) -> None:
    node, net = behind, behind.net
    node.policy(FORWARD)
    node.start()
    address = net.node.address(family, "cli0")
    with net.client.enter():
        first, second = (socket.create_connection((address, 7000), timeout=5) for _ in range(2))
    with first, second:
        assert exchange(first) and exchange(second)
        os.kill(node.service.pid, signal.SIGHUP)
        node.wait_for("reloaded")
        assert exchange(first)
        for generation in (2, 3, 4):
            second.sendall(b"say 1.5")
            node.policy(FORWARD + OTHER.replace("NUMBER", str(generation)))
            node.wait_for(f"generation {generation} in force")
            assert exchange(first), "the client speaks first"
            assert second.recv(10) == b"said", "the server speaks first"
        node.policy(FORWARD.replace("[7000, 7003]", "[7003]"))
        node.wait_for("generation 5 in force")
        first.settimeout(0.5)
        assert not exchange(first), "preDNAT policy does not allow it any more"


def test_a_ping_loses_nothing_when_policy_changes(behind: Node) -> None:
    node, net = behind, behind.net
    node.policy(FORWARD)
    node.start()
    with net.client.popen(["ping", "-i", "0.02", "-c", "100", "10.77.2.2"], text=True, stdout=subprocess.PIPE) as ping:
        for generation in range(2, 8):
            time.sleep(0.2)
            node.policy(FORWARD + OTHER.replace("NUMBER", str(generation)))
            node.wait_for(f"generation {generation} in force")
        assert ", 0% packet loss" in ping.communicate(timeout=30)[0]


def test_the_end_of_the_policy_is_the_end_of_what_it_allowed(behind: Node) -> None:
    node, net = behind, behind.net
    node.policy(FORWARD)
    node.start()
    assert reaches(net.client, "10.77.1.1", 7003)
    node.policy(on("cli0", HOST + CLOSED))
    node.wait_for("generation 2 in force")
    assert not reaches(net.client, "10.77.1.1", 7003)
    node.policy(FORWARD)
    wait_until(lambda: reaches(net.client, "10.77.1.1", 7003), 10, node.log)
