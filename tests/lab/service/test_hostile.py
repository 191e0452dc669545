# SPDX-License-Identifier: Apache-2.0
"""Packets that nobody should send, made with scapy and put on the wire: the service answers each and lives on."""

import socket

import pytest

from appliance.lab.program import read_queues
from tests.lab.service.nodes import INSPECTED, Echo, Node, exchange, wait_until

pytestmark = pytest.mark.timeout(120)


def send_frames(interface: str, frames: list[bytes]) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
        sock.bind((interface, 0))
        for frame in frames:
            sock.send(frame)


def frames(client_mac: str, node_mac: str) -> list[bytes]:
    """Ethernet frames from the client to the node, for the server: deterministic."""
    import random

    from scapy.layers.dns import DNS, DNSQR
    from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption
    from scapy.layers.inet6 import (
        ICMPv6EchoRequest,
        ICMPv6PacketTooBig,
        IPv6,
        IPv6ExtHdrDestOpt,
        IPv6ExtHdrFragment,
        IPv6ExtHdrHopByHop,
        IPv6ExtHdrRouting,
    )
    from scapy.layers.l2 import Ether
    from scapy.layers.sctp import SCTP
    from scapy.packet import Packet, Raw

    v4 = IP(src="10.77.1.2", dst="10.77.2.2")
    v6 = IPv6(src="fd00:77:1::2", dst="fd00:77:2::2")
    chance = random.Random(4711)
    noise = [Raw(chance.randbytes(size)) for size in (1, 3, 7, 19, 40, 500, 1400)]
    tcp = TCP(sport=1234, dport=7000, flags="S")
    payloads: list[Packet] = [
        v4 / tcp / Raw(b"data in a SYN"),
        v4 / TCP(sport=1, dport=7000, flags="SF"),
        v4 / TCP(sport=2, dport=7000, flags=""),
        v4 / TCP(sport=3, dport=7000, flags="FSRPAUEC"),
        v4 / TCP(sport=4, dport=7000, flags="S", dataofs=15),
        v4 / TCP(sport=5, dport=7000, flags="S", dataofs=2),
        v4 / TCP(sport=6, dport=7000, flags="S", options=[("MSS", 0), ("WScale", 255), (250, b"\x00" * 20)]),
        v4 / TCP(sport=0, dport=7000, flags="S"),
        v4 / UDP(sport=9, dport=7000, len=4),
        v4 / UDP(sport=9, dport=7000, len=60000) / Raw(b"short"),
        v4 / UDP(sport=9, dport=7000),
        v4 / UDP(sport=9, dport=53) / DNS(qd=DNSQR(qname="a." * 60)),
        v4 / UDP(sport=9, dport=53) / Raw(b"\x00\x01\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\xc0\x0c\x00\x01\x00\x01"),
        v4 / SCTP(sport=9, dport=7000),
        v4 / ICMP(type=3, code=1) / IP(src="10.77.2.2", dst="10.77.1.2") / TCP(sport=7000, dport=1),
        v4 / ICMP(type=3, code=4) / Raw(b"\x45"),
        v4 / ICMP(type=8) / Raw(b"x" * 1300),
        IP(src="10.77.1.2", dst="10.77.2.2", proto=253) / Raw(b"who knows"),
        IP(src="10.77.2.2", dst="10.77.2.2") / tcp,
        IP(src="127.0.0.1", dst="10.77.2.2") / tcp,
        IP(src="10.77.1.2", dst="10.77.2.2", options=[IPOption(b"\x94\x04\x00\x00")]) / tcp,
        IP(src="10.77.1.2", dst="10.77.2.2", ihl=15) / tcp,
        IP(src="10.77.1.2", dst="10.77.2.2", len=24) / tcp,
        IP(src="10.77.1.2", dst="10.77.2.2", flags="MF", frag=0) / UDP(sport=9, dport=7000) / Raw(b"x" * 24),
        IP(src="10.77.1.2", dst="10.77.2.2", frag=8189) / Raw(b"x" * 40),
        IP(src="10.77.1.2", dst="10.77.2.2", flags="MF", frag=1) / Raw(b"y" * 8),
        v6 / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / IPv6ExtHdrDestOpt() / tcp,
        v6 / IPv6ExtHdrRouting(type=0, addresses=["fd00:77:2::2"] * 3) / tcp,
        v6 / IPv6ExtHdrFragment(offset=0, m=1, id=7) / UDP(sport=9, dport=7000) / Raw(b"x" * 16),
        v6 / IPv6ExtHdrFragment(offset=8191, m=0, id=8) / Raw(b"x" * 16),
        v6 / IPv6ExtHdrFragment(offset=0, m=0, id=9) / tcp,
        IPv6(src="fd00:77:1::2", dst="fd00:77:2::2", nh=59) / Raw(b"nothing"),
        IPv6(src="fd00:77:1::2", dst="fd00:77:2::2", nh=51) / Raw(b"\x06\xff\x00\x00"),
        IPv6(src="fd00:77:1::2", dst="fd00:77:2::2", plen=0) / tcp,
        v6 / ICMPv6PacketTooBig(mtu=1280) / IPv6(src="fd00:77:2::2", dst="fd00:77:1::2") / TCP(sport=7000, dport=1),
        v6 / ICMPv6EchoRequest(data=b"x" * 1200),
    ]
    chain: Packet = v6
    for _ in range(60):
        chain = chain / IPv6ExtHdrDestOpt()
    payloads.append(chain / tcp)
    payloads += [v4 / noise_part for noise_part in noise]
    payloads += [
        IP(src="10.77.1.2", dst="10.77.2.2", proto=proto) / part for proto in (6, 17, 1, 132) for part in noise
    ]
    payloads += [
        IPv6(src="fd00:77:1::2", dst="fd00:77:2::2", nh=nh) / part
        for nh in (0, 6, 17, 43, 44, 51, 58, 60, 132, 135)
        for part in noise
    ]
    head = Ether(src=client_mac, dst=node_mac)
    return [bytes(head / payload) for payload in payloads]


@pytest.mark.parametrize("inspectors", [0, 1], ids=["fastpath", "inspected"])
@pytest.mark.parametrize("mode", ["enforce", "observe"])
def test_hostile_packets_are_answered_and_nothing_breaks(node: Node, echo: Echo, mode: str, inspectors: int) -> None:
    node.configure(mode=mode, inspectors=inspectors)
    if inspectors:
        node.policy(INSPECTED)
    node.start()
    assert node.service.process is not None

    def mac(namespace: object, interface: str) -> str:
        text = namespace.run(["cat", f"/sys/class/net/{interface}/address"]).stdout  # type: ignore[attr-defined]
        return str(text).strip()

    sent = frames(mac(node.net.client, "eth0"), mac(node.net.node, "cli0"))
    for _ in range(3):
        node.net.client.call(send_frames, "eth0", sent)
    with echo.connect() as sock:
        assert exchange(sock)
    assert node.service.process.poll() is None
    assert "inspector_error" not in node.log()
    assert "has ended" not in node.log()
    queues = read_queues(node.net.node)
    assert sum(state.queued for state in queues.values()) > 100, "most of them never came up"
    wait_until(
        lambda: not any(state.waiting for state in read_queues(node.net.node).values()),
        3.0,
        lambda: f"packets wait for ever: {read_queues(node.net.node)}",
    )
