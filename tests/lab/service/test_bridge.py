# SPDX-License-Identifier: Apache-2.0
"""The node as a bump in the wire: it has no address on the bridge, and decides what crosses it."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.lab import Chain, Lab, Namespace
from appliance.lab.program import read_queues
from tests.lab.service.nodes import Echo, Node, exchange

PORTS = {"client": "cli0", "server": "srv0", "third": "thr0"}
BRIDGE = '[bridge]\ninterfaces = ["br0"]\n'

POLICY = (
    "".join(
        f"""
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {{name: {name}, namespace: lab, labels: {{role: {name}}}}}
spec:
  {{node: node, orchestrator: lab, workload: {name}, endpoint: eth0, interfaceName: {port},
   ipNetworks: [10.78.0.{number}/32, "fd00:78::{number}/128"]}}
---"""
        for number, (name, port) in enumerate(PORTS.items(), 1)
    )
    + """
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: clients}
spec: {selector: role == "client", types: [Egress], egress: [{action: Allow}]}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: server, annotations: {portcullis.dev/inspect: "INSPECT"}}
spec:
  selector: role == "server"
  types: [Ingress]
  ingress:
    - {action: Allow, protocol: TCP, source: {selector: role == "client"}, destination: {ports: [7000]}}
"""
)


class Bridged(Chain):
    """client, node and server as ever, with a third host, all of them ports of one bridge of the node's."""

    third: Namespace


@pytest.fixture
def net() -> Iterator[Bridged]:
    with Lab() as lab:
        names = ("client", "node", "server", "third")
        spaces = {name: lab.namespace(name) for name in names}
        node = spaces["node"]
        node.run(["ip", "link", "add", "br0", "type", "bridge", "mcast_snooping", "0"])
        node.run(["ip", "link", "set", "br0", "up"])
        for number, (name, port) in enumerate(PORTS.items(), 1):
            lab.link((node, port), (spaces[name], "eth0"))
            node.run(["ip", "link", "set", port, "master", "br0"])
            spaces[name].add_address("eth0", f"10.78.0.{number}/24")
            spaces[name].add_address("eth0", f"fd00:78::{number}/64")
        made = Bridged(spaces["client"], node, spaces["server"])
        made.third = spaces["third"]
        yield made


def start(net: Bridged, directory: Path, *, inspected: bool = False) -> Node:
    node = Node(net, directory)
    node.configure(inspectors=int(inspected), more=BRIDGE)
    node.policy(POLICY.replace("INSPECT", str(inspected).lower()))
    node.start()
    return node


@pytest.mark.parametrize("inspected", [False, True])
def test_what_crosses_the_bridge_is_decided_by_the_ports_endpoints(
    net: Bridged, tmp_path: Path, inspected: bool
) -> None:
    start(net, tmp_path, inspected=inspected)
    echo = Echo(net)
    for family in (4, 6):
        with echo.connect(family) as sock:
            assert exchange(sock)
            before = sum(queue.queued for queue in read_queues(net.node).values())
            assert all(exchange(sock) for _ in range(20))
            up = sum(queue.queued for queue in read_queues(net.node).values()) - before
            assert up == 0 if not inspected else up > 0  # the kernel carries the fate on, here as well
    net.third.spawn(_serve_one, 7000)
    with net.client.enter():
        sock = socket.socket()
    sock.settimeout(1)
    with sock, pytest.raises(TimeoutError):
        sock.connect((net.third.v4, 7000))  # nothing lets it in


def _serve_one(port: int) -> None:
    with socket.create_server(("", port)) as listener:
        listener.accept()


def listener(space: Namespace, port: int, group: str = "") -> socket.socket:
    with space.enter():
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(("", port))
        if group:
            member = socket.inet_aton(group) + socket.inet_aton(space.v4)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
    sock.settimeout(1)
    return sock


def send(space: Namespace, to: tuple[str, int], source: int = 0) -> None:
    with space.enter():
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(space.v4))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
        sock.bind(("", source))
        sock.sendto(b"to all", to)


def hears(sock: socket.socket) -> bool:
    try:
        return sock.recv(100) == b"to all"
    except TimeoutError:
        return False


def test_floods_to_several_ports_arrive_at_each(net: Bridged, tmp_path: Path) -> None:
    start(net, tmp_path)
    both = (net.server, net.third)
    dhcp, mdns = [listener(space, 67) for space in both], [listener(space, 5353, "224.0.0.251") for space in both]
    late = [listener(space, 9999) for space in both]
    for _ in range(20):
        send(net.client, ("255.255.255.255", 67), 68)  # DHCP: nobody's policy is asked
        assert [hears(sock) for sock in dhcp] == [True, True]
        send(net.client, ("224.0.0.251", 5353))  # the client may send what it likes, packet by packet
        assert [hears(sock) for sock in mdns] == [True, True]
        send(net.client, ("10.78.0.255", 9999))
        assert [hears(sock) for sock in late] == [True, True]
    send(net.server, ("224.0.0.251", 5353))  # the server may not
    send(net.client, ("224.0.0.251", 5353))
    assert hears(mdns[1])
    assert not hears(mdns[1])
    for sock in (*dhcp, *mdns, *late):
        sock.close()


def test_neighbours_find_each_other_again(net: Bridged, tmp_path: Path) -> None:
    start(net, tmp_path)
    echo = Echo(net)
    for family in (4, 6):
        net.client.run(["ip", "neighbour", "flush", "all"])
        net.server.run(["ip", "neighbour", "flush", "all"])
        with echo.connect(family) as sock:
            assert exchange(sock)


def test_a_bridge_that_is_not_there_is_named(net: Bridged, tmp_path: Path) -> None:
    node = Node(net, tmp_path)
    node.configure(more='[bridge]\ninterfaces = ["br7"]\n')
    done = node.run()
    assert done.returncode == 2
    assert "there is no bridge br7" in done.stdout + done.stderr


def test_the_bridge_is_left_as_it_was(net: Bridged, tmp_path: Path) -> None:
    node = start(net, tmp_path)
    show = ["ip", "-d", "link", "show", "br0"]
    assert "nf_call_iptables 1 nf_call_ip6tables 1" in net.node.run(show).stdout
    node.service.stop()
    assert "nf_call_iptables 0 nf_call_ip6tables 0" in net.node.run(show).stdout
    assert "portcullis" not in net.node.run(["nft", "list", "tables"]).stdout
