# SPDX-License-Identifier: Apache-2.0
"""Packets of unusual size and shape that are lawful, and cut ones that are not: passed, denied and counted as such."""

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.lab import Lab
from tests.lab.service.nodes import ALLOW, INSPECTED, Echo, Node, exchange, wait_until
from tests.lab.service.test_hostile import send_frames
from tests.lab.service.test_operator import portcullis

pytestmark = pytest.mark.timeout(120)
FAMILIES = pytest.mark.parametrize("family", [4, 6])
INSPECTION = pytest.mark.parametrize("inspectors", [0, 1], ids=["fastpath", "inspected"])
EVERY_PACKET = "[fastpath]\nfates = false\n"
IP_OPTIONS, IPV6_HOPOPTS, IPV6_DSTOPTS = 4, 54, 59


def status(node: Node) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(portcullis(node, "status", "--json").stdout)
    return found


def udp(node: Node, family: int, port: int = 7000) -> socket.socket:
    """A connected socket of the client."""
    with node.net.client.enter():
        sock = socket.socket(socket.AF_INET6 if family == 6 else socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(3.0)
    sock.connect((node.net.server.address(family), port))
    return sock


def echoed(sock: socket.socket, data: bytes) -> bool:
    try:
        sock.send(data)
        return sock.recv(65536) == data
    except TimeoutError:
        return False


def pump(sock: socket.socket, total: int) -> int:
    """Bytes that came back of `total`, sent in large pieces."""
    piece, back = bytes(range(256)) * 256, 0
    for _ in range(total // len(piece)):
        sock.sendall(piece)
        got = b""
        while len(got) < len(piece):
            chunk = sock.recv(len(piece))
            if not chunk:
                return back
            got += chunk
        assert got == piece
        back += len(got)
    return back


@FAMILIES
@INSPECTION
def test_segments_of_64_kib_pass_whole(node: Node, echo: Echo, family: int, inspectors: int) -> None:
    node.configure(inspectors=inspectors, more=EVERY_PACKET)
    if inspectors:
        node.policy(INSPECTED)
    node.start()
    with echo.connect(family, timeout=20.0) as sock:
        assert exchange(sock)
        before = status(node)["fastpath"]
        assert pump(sock, 8 << 20) == 8 << 20
    now = status(node)
    packets = now["fastpath"]["packets"] - before["packets"]
    size = now["fastpath"]["bytes"] - before["bytes"]
    if not inspectors:  # an inspector soon lets such a flow go
        assert size >= 16 << 20, "both directions came up"
        assert size / packets > 3000, "no large packet was among them"
    assert not any(now["failures"].values())
    assert now["ledger"]["unaccounted"] == 0


@pytest.fixture
def jumbo(tmp_path: Path) -> Iterator[Node]:
    with Lab() as lab:
        made = Node(lab.chain(mtu=9000), tmp_path)
        yield made
        if made.service.process is not None and made.service.process.poll() is None:
            made.service.stop()


@FAMILIES
def test_jumbo_frames_pass_whole(jumbo: Node, family: int) -> None:
    echo = Echo(jumbo.net)
    jumbo.configure(more=EVERY_PACKET)
    jumbo.start()
    with udp(jumbo, family) as sock:
        for size in (1472, 4000, 4096, 4097, 8900):
            assert echoed(sock, b"x" * size), size
    with echo.connect(family, timeout=20.0) as stream:
        assert pump(stream, 1 << 20) == 1 << 20
    assert not any(status(jumbo)["failures"].values())


@FAMILIES
def test_datagrams_in_fragments_are_decided_whole(node: Node, echo: Echo, family: int) -> None:
    node.configure(more=EVERY_PACKET)
    node.start()
    with udp(node, family) as sock, udp(node, family, 7001) as denied:
        for size in (1473, 3000, 20_000, 65_000):
            assert echoed(sock, b"y" * size), size
        denied.settimeout(0.5)
        assert not echoed(denied, b"y" * 3000)
    assert not any(status(node)["failures"].values())


@FAMILIES
@INSPECTION
def test_datagrams_without_a_byte(node: Node, echo: Echo, family: int, inspectors: int) -> None:
    node.configure(inspectors=inspectors, more=EVERY_PACKET)
    if inspectors:
        node.policy(INSPECTED)
    node.start()
    with udp(node, family) as sock, udp(node, family, 7001) as denied:
        for _ in range(3):
            assert echoed(sock, b"")
        denied.settimeout(0.5)
        assert not echoed(denied, b"")
    assert not any(status(node)["failures"].values())


OPTIONS = {
    "nop": b"\x01\x01\x01\x00",
    "record route": b"\x07\x0b\x04" + bytes(8) + b"\x00",
    "timestamp": b"\x44\x0c\x05\x00" + bytes(8),
    "timestamp with addresses": b"\x44\x0c\x05\x01" + bytes(8),
    "router alert": b"\x94\x04\x00\x00",
    "security": b"\x82\x0b" + bytes(9) + b"\x00",
    "stream id": b"\x88\x04\x00\x01",
    "unknown": b"\xde\x04\x00\x00",
    "as long as it goes": b"\x01" * 40,
}


@pytest.mark.parametrize("inspectors", [0, 1], ids=["fastpath", "inspected"])
def test_options_of_every_kind(node: Node, echo: Echo, inspectors: int) -> None:
    node.configure(inspectors=inspectors, more=EVERY_PACKET)
    if inspectors:
        node.policy(INSPECTED)
    node.start()
    for name, option in OPTIONS.items():
        with udp(node, 4) as sock, udp(node, 4, 7001) as denied:
            for each in (sock, denied):
                each.setsockopt(socket.IPPROTO_IP, IP_OPTIONS, option)
            assert echoed(sock, name.encode()), name
            denied.settimeout(0.2)
            assert not echoed(denied, name.encode()), name
    padding = b"\x1e\x04" + bytes(4)  # an unknown option that may be skipped, of four bytes
    for kind in (IPV6_HOPOPTS, IPV6_DSTOPTS):
        with udp(node, 6) as sock, udp(node, 6, 7001) as denied:
            for each in (sock, denied):
                each.setsockopt(socket.IPPROTO_IPV6, kind, b"\x00\x00" + padding)
            assert echoed(sock, b"v6")
            denied.settimeout(0.2)
            assert not echoed(denied, b"v6")
    assert not any(status(node)["failures"].values())


TAGGED = ALLOW.replace("cli0", "cli0.5").replace("10.77.1.2", "10.78.1.2").replace("fd00:77:1::2", "fd00:78:1::2")


@FAMILIES
def test_tagged_frames_are_decided_by_their_own_interface(node: Node, echo: Echo, family: int) -> None:
    client, middle = node.net.client, node.net.node
    for namespace, parent, end in ((client, "eth0", 2), (middle, "cli0", 1)):
        command = ["ip", "link", "add", "link", parent, "name", f"{parent}.5", "type", "vlan", "id", "5"]
        done = namespace.run(command, check=False)
        if "Unknown device type" in done.stderr:
            pytest.skip("this kernel has no VLAN interfaces (8021q)")
        namespace.set_link(f"{parent}.5", state="up")
        namespace.add_address(f"{parent}.5", f"10.78.1.{end}/24")
        namespace.add_address(f"{parent}.5", f"fd00:78:1::{end}/64")
    target, gateway = {4: ("10.77.2.0/24", "10.78.1.1"), 6: ("fd00:77:2::/64", "fd00:78:1::1")}[family]
    client.run(["ip", f"-{family}", "route", "replace", target, "via", gateway, "dev", "eth0.5"])
    node.policy(TAGGED)
    node.start()
    with echo.connect(family) as sock:
        assert exchange(sock)
    with pytest.raises(TimeoutError), client.enter():
        socket.create_connection((node.net.server.address(family), 7001), timeout=0.5)
    assert not any(status(node)["failures"].values())


def cut_frames(client_mac: str, node_mac: str) -> dict[str, list[bytes]]:
    """Ethernet frames that end before their headers do, by the failure that they are."""
    from scapy.layers.inet import IP, TCP, UDP
    from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt
    from scapy.layers.l2 import Ether
    from scapy.packet import Raw

    head = Ether(src=client_mac, dst=node_mac)
    v4, v6 = {"src": "10.77.1.2", "dst": "10.77.2.2"}, {"src": "fd00:77:1::2", "dst": "fd00:77:2::2"}
    tcp, datagram = bytes(TCP(sport=1, dport=7000, flags="S")), bytes(UDP(sport=1, dport=7000))
    whole = {
        "decode_error": [
            IP(**v4, proto=proto) / Raw(header[:size])
            for proto, header in ((6, tcp), (17, datagram))
            for size in (1, 4, 7)
        ]
        + [IPv6(**v6, nh=nh) / Raw(header[:size]) for nh, header in ((6, tcp), (17, datagram)) for size in (1, 4, 7)]
        + [IPv6(**v6) / IPv6ExtHdrDestOpt(nh=6, len=9) / Raw(b"short")],
    }
    return {failure: [bytes(head / packet) for packet in packets] for failure, packets in whole.items()}


@pytest.mark.parametrize("action", ["drop", "allow"])
def test_packets_cut_short_are_counted_and_get_their_action(node: Node, echo: Echo, action: str) -> None:
    node.configure(more=f'[failures]\ndecode_error = "{action}"\ntruncated_packet = "{action}"\n')
    node.start()
    assert exchange(echo.connect()) and exchange(echo.connect(6))

    def mac(namespace: Any, interface: str) -> str:
        return str(namespace.run(["cat", f"/sys/class/net/{interface}/address"]).stdout).strip()

    frames = cut_frames(mac(node.net.client, "eth0"), mac(node.net.node, "cli0"))
    with node.net.server.enter():
        seen = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
    seen.bind(("eth0", 3))
    seen.settimeout(0.5)
    before = status(node)["failures"]
    sent = [frame for group in frames.values() for frame in group]
    node.net.client.call(send_frames, "eth0", sent)
    wait_until(lambda: sum(status(node)["failures"].values()) > sum(before.values()), 5.0, lambda: str(before))
    time.sleep(0.3)
    now = status(node)
    arrived = 0
    try:
        while True:
            data = seen.recv(2048)
            arrived += data[0] >> 4 in (4, 6) and len(data) < 60 and not (data[0] >> 4 == 6 and data[6] == 58)
    except TimeoutError:
        seen.close()
    counted = sum(now["failures"].values()) - sum(before.values())
    assert counted == len(sent)
    assert arrived == (len(sent) if action == "allow" else 0)
    assert now["ledger"]["unaccounted"] == 0


SCTP = (
    ALLOW.rstrip()
    + """
    - {action: Allow, protocol: SCTP, source: {selector: role == "client"}, destination: {ports: [7000]}}
"""
)


def sctp_frames(client_mac: str, node_mac: str) -> list[bytes]:
    from scapy.layers.inet import IP
    from scapy.layers.inet6 import IPv6
    from scapy.layers.l2 import Ether
    from scapy.layers.sctp import SCTP, SCTPChunkInit

    head = Ether(src=client_mac, dst=node_mac)
    return [
        bytes(head / ip / SCTP(sport=4711, dport=port) / SCTPChunkInit(init_tag=1, n_out_streams=1, n_in_streams=1))
        for ip in (IP(src="10.77.1.2", dst="10.77.2.2"), IPv6(src="fd00:77:1::2", dst="fd00:77:2::2"))
        for port in (7000, 7001)
    ]


def test_sctp_is_decided_by_its_ports(node: Node, echo: Echo) -> None:
    node.policy(SCTP)
    node.start()
    assert exchange(echo.connect()) and exchange(echo.connect(6))

    def mac(namespace: Any, interface: str) -> str:
        return str(namespace.run(["cat", f"/sys/class/net/{interface}/address"]).stdout).strip()

    frames = sctp_frames(mac(node.net.client, "eth0"), mac(node.net.node, "cli0"))
    node.net.client.call(send_frames, "eth0", frames)

    def decided() -> dict[tuple[str, int], str]:
        flows = [record for record in node.events("flow") if record["proto"] == "SCTP"]
        return {(record["dest_ip"], record["dest_port"]): record["verdict"]["action"] for record in flows}

    wait_until(lambda: len(decided()) == 4, 5.0, lambda: str(decided()))
    assert {(port, action) for (_, port), action in decided().items()} == {(7000, "pass"), (7001, "drop")}
    assert not any(status(node)["failures"].values())
