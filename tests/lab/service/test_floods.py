# SPDX-License-Identifier: Apache-2.0
"""Who is denied again and again is answered by the kernel, until the policy changes."""

import json
import socket
import struct
import time
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from appliance.lab.program import read_queues
from tests.lab.service.nodes import ALLOW, Echo, Node, exchange, serve_echo, wait_until
from tests.lab.service.test_operator import portcullis

pytestmark = pytest.mark.timeout(120)
FAMILIES = pytest.mark.parametrize("family", [4, 6])
FLOOD = "[flood]\nthreshold = 40\ntimeout = 60\n"
BURST = 300
_PORTS = iter(range(1024, 65536, BURST))  # each burst from other source ports: new flows


def send_burst(
    family: int, protocol: str, port: int, first: int, source: str, apart: int = 1, count: int = BURST
) -> None:
    """New flows to the server, each from a port of its own, or (apart 0) one and the same again and again."""
    target = "10.77.2.2" if family == 4 else "fd00:77:2::2"
    head = IP(src=source, dst=target) if family == 4 else IPv6(src=source, dst=target)
    inner = TCP(sport=first, dport=port, flags="S") if protocol == "tcp" else UDP(sport=first, dport=port)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
        sock.bind(("eth0", 0))
        frame = bytearray(bytes(Ether(src=sock.getsockname()[4], dst=_gateway()) / head / inner))
        ports = len(frame) - len(inner)
        sum_at = ports + (16 if protocol == "tcp" else 6)
        (checksum,) = struct.unpack_from("!H", frame, sum_at)
        for number in (apart * number for number in range(count)):
            struct.pack_into("!H", frame, ports, first + number)
            struct.pack_into("!H", frame, sum_at, 0xFFFF - (0xFFFF - checksum + number) % 0xFFFF)  # RFC 1624
            sock.send(frame)


def _gateway() -> str:
    rows = (line.split() for line in Path("/proc/net/arp").read_text().splitlines()[1:])
    return next(row[3] for row in rows if row[5] == "eth0")


class Flood:
    def __init__(self, node: Node, family: int = 4, source: str = "", apart: int = 1) -> None:
        self.node = node
        self.apart = apart
        self.family = family
        self.source = source or node.net.client.address(family)

    def send(self, port: int, protocol: str = "tcp") -> None:
        self.node.net.client.call_for(
            60.0, send_burst, self.family, protocol, port, next(_PORTS), self.source, self.apart
        )

    def until_answered(self, port: int, protocol: str = "tcp") -> None:
        """Until the service says that the kernel answers."""
        self.send(port, protocol)
        target = self.node.net.server.address(self.family)
        self.node.wait_for(f"flood: {self.source} → {target} {protocol}/{port} was denied 40 times")

    def came_up(self, port: int, protocol: str = "tcp") -> int:
        """Of one more burst."""
        before = queued(self.node)
        self.send(port, protocol)
        time.sleep(0.3)
        return queued(self.node) - before


def queued(node: Node) -> int:
    return sum(row.queued for number, row in read_queues(node.net.node).items() if number < 32)


def status(node: Node) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(portcullis(node, "status", "--json").stdout)
    return found


def start(node: Node, echo: Echo, more: str = FLOOD, deny: str = "drop") -> None:
    node.configure(more=more)
    node.config.write_text(node.config.read_text().replace("[policy]\n", f'[policy]\ndeny_action = "{deny}"\n'))
    node.start()
    node.net.server.spawn(serve_echo, 7001)
    node.net.server.wait_for_port(7001)
    assert exchange(echo.connect())  # neighbours are known


@FAMILIES
def test_a_flood_stops_coming_up_and_nothing_else_does(node: Node, echo: Echo, family: int) -> None:
    start(node, echo)
    flood = Flood(node, family)
    flood.until_answered(7001)
    assert flood.came_up(7001) <= 5  # neighbour discovery
    now = status(node)
    assert now["netfilter"]["flood_dropped"] >= BURST
    assert now["flood"] == {"held": 1}
    assert now["ledger"]["unaccounted"] == 0
    assert "floods      1 answered by the kernel" in portcullis(node, "status").stdout
    # the same pair at another port, allowed and denied, and another sender at the same port
    assert exchange(echo.connect(family))
    assert flood.came_up(7002) >= 40
    other = "10.77.1.99" if family == 4 else "fd00:77:1::99"
    assert Flood(node, family, other).came_up(7001) >= 40
    records = [record for record in node.events("drop") if "flood" in record["portcullis"]]
    assert records[0]["dest_port"] == 7001 and records[0]["portcullis"]["flood"] == {"seconds": 60}
    # the policy allows it: at once
    node.policy(ALLOW.replace("[7000, 80]", "[7000, 7001]"))
    node.wait_for("generation 2 in force")
    address = node.net.server.address(family)
    with node.net.client.enter():
        sock = socket.create_connection((address, 7001), timeout=3)
    assert exchange(sock)
    assert status(node)["flood"] == {"held": 0}


@FAMILIES
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_rejected_flows_are_refused_by_the_kernel(node: Node, echo: Echo, family: int, protocol: str) -> None:
    start(node, echo, deny="reject")
    flood = Flood(node, family)
    flood.until_answered(7001, protocol)
    assert flood.came_up(7001, protocol) <= 5
    assert status(node)["netfilter"]["flood_rejected"] >= 1
    # The kernel sends a peer about one ICMP error a second, and the flood had some.
    wait_until(lambda: refused(node, family, protocol), 15, lambda: "nobody says no")


def refused(node: Node, family: int, protocol: str) -> bool:
    """Whether the node answers a new flow to the denied port with a refusal."""
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    with node.net.client.enter():
        sock = socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6, kind)
    sock.settimeout(1.0)
    with sock:
        try:
            sock.connect((node.net.server.address(family), 7001))
            sock.send(b"x")
            sock.recv(1)
        except TimeoutError:
            return False
        except OSError:
            return True
    return False


def send_datagrams(address: str, family: int, port: int, number: int) -> None:
    """From one socket: one flow. Unconnected: no refusal keeps it from sending."""
    with socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.bind(("", 4000))
        for _ in range(number):
            sock.sendto(b"x", (address, port))


def answered(address: str, family: int, port: int) -> bool:
    """Whether the echo server hears the same socket."""
    with socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.bind(("", 4000))
        sock.settimeout(3.0)
        sock.sendto(b"word", (address, port))
        try:
            return sock.recv(16) == b"word"
        except TimeoutError:
            return False


@FAMILIES
@pytest.mark.parametrize("deny", ["drop", "reject"])
def test_one_socket_s_flood_stops_coming_up(node: Node, echo: Echo, family: int, deny: str) -> None:
    start(node, echo, deny=deny)
    client, address = node.net.client, node.net.server.address(family)
    assert client.call_for(10.0, answered, address, family, 7000)  # neighbours are known

    def came_up(port: int, number: int = BURST) -> int:
        before = queued(node)
        client.call_for(30.0, send_datagrams, address, family, port, number)
        return queued(node) - before

    flows = len(node.events("flow"))
    assert came_up(7001) >= 40
    node.wait_for(f"flood: {client.address(family)} → {address} udp/7001 was denied 40 times")
    counter = f"flood_{deny}{'ped' if deny == 'drop' else 'ed'}"
    before = status(node)["netfilter"][counter]
    assert came_up(7001) <= 5
    assert status(node)["netfilter"][counter] - before >= BURST - 5
    # the same pair at another port: allowed, and denied a few times
    assert client.call_for(10.0, answered, address, family, 7000)
    assert came_up(7002, 5) == 5
    # the flow was decided once, and is told once
    wait_until(lambda: any(e["dest_port"] == 7002 for e in node.events("flow")), 10.0, node.log)
    assert [e["dest_port"] for e in node.events("flow")[flows:] if e["proto"] == "UDP"].count(7001) == 1
    drops = [e["portcullis"] for e in node.events("drop") if e["dest_port"] == 7001]
    assert sorted("flood" in drop for drop in drops) == [False, True]
    assert status(node)["ledger"]["unaccounted"] == 0
    # the policy allows it: at once
    node.policy(ALLOW.replace("[7000]", "[7000, 7001]"))
    node.wait_for("generation 2 in force")
    assert client.call_for(10.0, answered, address, family, 7001)
    assert status(node)["flood"] == {"held": 0}
    assert status(node)["ledger"]["unaccounted"] == 0


@FAMILIES
def test_a_syn_sent_again_and_again_stops_coming_up(node: Node, echo: Echo, family: int) -> None:
    start(node, echo)
    flood = Flood(node, family, apart=0)
    flood.until_answered(7001)
    assert flood.came_up(7001) <= 5
    now = status(node)
    assert now["netfilter"]["flood_dropped"] >= BURST - 5 and now["ledger"]["unaccounted"] == 0
    assert exchange(echo.connect(family))


def test_a_slow_repetition_is_no_flood(node: Node, echo: Echo) -> None:
    start(node, echo)
    address = node.net.server.address(4)
    begun = time.monotonic()
    for number in range(16):  # 5 at a time, 20 a second
        wait_until(lambda number=number: time.monotonic() >= begun + number / 4, 5.0, node.log)  # type: ignore[misc]
        node.net.client.call_for(10.0, send_datagrams, address, 4, 7001, 5)
    assert status(node)["flood"] == {"held": 0} and "flood:" not in node.log()


def test_observe_hands_nothing_over(node: Node, echo: Echo) -> None:
    node.configure(mode="observe", more=FLOOD)
    node.start()
    assert exchange(echo.connect())
    flood = Flood(node)
    flood.send(7001)
    assert flood.came_up(7001) >= BURST
    assert "flood:" not in node.log()
    assert "flood_forward" not in node.net.node.run(["nft", "list", "table", "inet", "portcullis"]).stdout


def test_an_element_expires(node: Node, echo: Echo) -> None:
    start(node, echo, FLOOD.replace("60", "1"))
    flood = Flood(node)
    flood.until_answered(7001)
    time.sleep(1.2)
    assert status(node)["flood"] == {"held": 0}
    assert flood.came_up(7001) >= 40
    wait_until(lambda: node.log().count("flood: ") >= 2, 5.0, node.log)


def test_a_policy_that_asks_for_source_ports_keeps_its_protocol(node: Node, echo: Echo) -> None:
    asked = 'source: {selector: role == "client"}, destination: {ports: [7000, 80]}'
    text = ALLOW.replace(asked, asked.replace("},", ', ports: ["1:65535"]},', 1))
    assert text != ALLOW
    node.policy(text)
    start(node, echo)
    flood = Flood(node)
    flood.send(7001)
    assert flood.came_up(7001) >= BURST
    flood.until_answered(7001, "udp")
    assert flood.came_up(7001, "udp") <= 5


def test_a_source_that_a_feed_blocks_is_answered_for_every_port(node: Node, echo: Echo) -> None:
    (node.directory / "feeds.d/list.txt").write_text("10.77.1.66\n")
    (node.directory / "feeds.d/list.toml").write_text('name = "list"\nfile = "list.txt"\naction = "drop"\n')
    start(node, echo)
    flood = Flood(node, source="10.77.1.66")
    flood.send(7000)
    node.wait_for("flood: everything from 10.77.1.66 was denied 40 times in a second by feed list")
    for port in (7000, 7005):
        assert flood.came_up(port) <= 5
    assert exchange(echo.connect())
    (node.directory / "feeds.d/list.txt").write_text("10.77.1.67\n")
    wait_until(lambda: flood.came_up(7005) >= 40, 15.0, node.log)
