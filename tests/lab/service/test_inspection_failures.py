# SPDX-License-Identifier: Apache-2.0
"""Failures that an inspector, or a worker on the way to it, meets on real packets: what the configuration says happens,
and it is counted. That of an inspector that dies or stands still is in test_failures and test_overload, that of a
packet that is cut in test_large_packets."""

import socket

import pytest

from tests.lab.service.nodes import INSPECTED, Echo, Node, exchange, wait_until

pytestmark = pytest.mark.timeout(120)


def configure(node: Node, failure: str, action: str, more: str = "") -> None:
    node.configure(inspectors=1, metrics="127.0.0.1:9477", more=f'[failures]\n{failure} = "{action}"\n{more}')
    node.policy(INSPECTED)


def counted(node: Node, name: str) -> float:
    """Of workers and inspectors together."""
    text = node.net.node.run(["curl", "-s", "http://127.0.0.1:9477/metrics"]).stdout
    return sum(float(line.split()[-1]) for line in text.splitlines() if name in line and not line.startswith("#"))


def datagram(node: Node, data: bytes) -> bool:
    """Whether its echo came back."""
    with node.net.client.enter():
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sock:
        sock.settimeout(1.0)
        sock.connect((node.net.server.address(4), 7000))
        sock.send(data)
        try:
            return sock.recv(65536) == data
        except TimeoutError:
            return False


@pytest.mark.parametrize("action", ["allow", "drop"])
def test_a_packet_that_nobody_can_read(node: Node, echo: Echo, action: str) -> None:
    """Conntrack calls them invalid, and the worker is asked about them."""
    from scapy.layers.inet import IP, TCP

    configure(node, "decode_error", action)
    node.start()
    ip = IP(src="10.77.1.2", dst="10.77.2.2")
    frames = [bytes(ip / TCP(sport=4000 + number, dport=7000, dataofs=2)) for number in range(8)]
    with node.net.client.enter():
        raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    with node.net.server.enter():
        listener = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
    with raw, listener:
        listener.settimeout(1.0)
        for frame in frames:
            raw.sendto(frame, ("10.77.2.2", 0))
        wait_until(lambda: counted(node, 'failure="decode_error"') >= len(frames), 10.0, node.log)
        try:
            arrived = bool(listener.recv(100))
        except TimeoutError:
            arrived = False
    assert arrived is (action == "allow")
    assert datagram(node, b"it lives on")


@pytest.mark.parametrize("action", ["policy", "allow", "drop", "reject"])
def test_a_flow_that_conntrack_meets_midstream(node: Node, echo: Echo, action: str) -> None:
    """Conntrack has forgotten it: its next packet is the first of an entry, and no SYN."""
    configure(node, "midstream_flow", action)
    node.start()
    sock = echo.connect(timeout=3.0)
    assert exchange(sock)
    node.net.node.run(["conntrack", "-D", "-p", "tcp", "--orig-port-dst", "7000"], check=False)
    assert exchange(sock, b"again") is (action in ("policy", "allow"))
    wait_until(lambda: counted(node, 'failure="midstream_flow"') >= 1, 10.0, node.log)
    if action == "reject":
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            sock.sendall(b"more")
            sock.recv(10)


STRAY = """
---
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {name: stray, namespace: lab, labels: {role: client}}
spec: {node: node, orchestrator: lab, workload: stray, endpoint: eth1, interfaceName: srv0, ipNetworks: [10.77.1.9/32]}
"""


@pytest.mark.parametrize("action", ["allow", "drop", "reject"])
def test_an_endpoint_s_address_that_comes_from_elsewhere(node: Node, echo: Echo, action: str) -> None:
    """The endpoint lives behind the interface to the server, and its address is used by the client."""
    configure(node, "spoofed_source", action)
    node.policy(INSPECTED + STRAY)
    node.start()
    node.net.client.add_address("eth0", "10.77.1.9/24")
    with node.net.client.enter():
        sock = socket.socket()
    with sock:
        sock.settimeout(1.0)
        sock.bind(("10.77.1.9", 0))
        if action == "allow":
            sock.connect((node.net.server.v4, 7000))
            assert exchange(sock)
        else:
            with pytest.raises(TimeoutError if action == "drop" else ConnectionRefusedError):
                sock.connect((node.net.server.v4, 7000))
    wait_until(lambda: counted(node, 'failure="spoofed_source"') >= 1, 10.0, node.log)
    with echo.connect(timeout=5.0) as honest:
        assert exchange(honest)


@pytest.mark.parametrize("action", ["allow", "drop", "reject"])
def test_a_flow_that_fills_the_memory_of_streams(node: Node, echo: Echo, action: str) -> None:
    """One byte never comes, and what follows it has to wait. Conntrack is told not to mind."""
    from scapy.layers.inet import IP, TCP

    configure(node, "stream_memory", action)
    node.net.node.run(["sysctl", "-qw", "net.netfilter.nf_conntrack_tcp_be_liberal=1"])
    node.start()
    with node.net.client.enter():
        sniffer = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
        raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    with sniffer, raw:
        sniffer.settimeout(5.0)
        sock = echo.connect(timeout=2.0)
        port = sock.getsockname()[1]
        seq = ack = None
        while ack is None:
            packet = IP(sniffer.recv(65536))
            if TCP in packet and packet[TCP].dport == port and packet[TCP].flags == "SA":
                seq, ack = packet[TCP].ack, packet[TCP].seq + 1
        assert seq is not None
        for at in range(200):  # of 1400 bytes each, more than the 256 KiB of a stream
            head = TCP(sport=port, dport=7000, seq=seq + 1 + 1400 * at, ack=ack, flags="PA", window=500)
            raw.sendto(bytes(IP(src="10.77.1.2", dst="10.77.2.2") / head / (b"y" * 1400)), ("10.77.2.2", 0))
        wait_until(lambda: counted(node, "failure_stream_memory") >= 1, 10.0, node.log)
    if action == "reject":
        assert not exchange(sock)
    reasons = [record["drop"]["reason"] for record in node.events("drop")]
    assert ("stream memory" in reasons) is (action != "allow")
    with echo.connect(timeout=5.0) as fresh:
        assert exchange(fresh)
