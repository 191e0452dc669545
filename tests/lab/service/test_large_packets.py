# SPDX-License-Identifier: Apache-2.0
"""Inspection of what is longer than a frame: jumbo frames, joined TCP segments, reassembled datagrams, and datagrams
that were sent in one go. Inspectors see all of it, and what they find in it is acted on."""

import json
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.lab import Lab
from tests.lab.service.nodes import INSPECTED, Echo, Node, wait_until
from tests.lab.service.test_operator import portcullis
from tests.lab.service.test_packet_shapes import echoed, udp

pytestmark = pytest.mark.timeout(120)
FAMILIES = pytest.mark.parametrize("family", [4, 6])
MTUS = pytest.mark.parametrize("mtu", [1500, 9000])
NEEDLE = b"seek and you shall find"
RULES = "\n".join(
    f'{action} {protocol} any any -> any any (msg:"m"; content:"{NEEDLE.decode()} {action}"; sid:{sid};)'
    for sid, (action, protocol) in enumerate([("drop", "tcp"), ("reject", "tcp"), ("drop", "udp")], 1)
)
SPEAKING = 80
UDP_SEGMENT = 103


@pytest.fixture
def node(tmp_path: Path, mtu: int) -> Iterator[Node]:
    with Lab() as lab:
        made = Node(lab.chain(mtu=mtu), tmp_path)
        yield made
        if made.service.process is not None and made.service.process.poll() is None:
            made.service.stop()


def start(node: Node, reader: str = "fastpath", more: str = "") -> None:
    """Everything is inspected, however long it takes."""
    node.configure(inspectors=1, more=more)
    settings = f'[inspection]\nreader = "{reader}"\ndepth = {1 << 40}\n'
    node.config.write_text(node.config.read_text().replace("[inspection]\n", settings))
    (node.directory / "signatures.d/local.rules").write_text(RULES + "\n")
    node.policy(INSPECTED)
    node.start()


def counters(node: Node) -> dict[str, int]:
    """Of the inspector, once it has told them: every second."""
    status = json.loads(portcullis(node, "status", "--json").stdout)
    (found,) = status["inspectors"].values()
    assert status["ledger"]["unaccounted"] == 0
    return dict(found)


def no_failure(node: Node) -> bool:
    found = counters(node)
    return not any(found[f"failure_{name}"] for name in ("truncated_packet", "decode_error", "inspector_error"))


@FAMILIES
@MTUS
def test_datagrams_of_every_length(node: Node, echo: Echo, family: int) -> None:
    start(node)
    with udp(node, family) as sock:
        for size in (1472, 3988, 4000, 4097, 8900, 20_000, 65_000):
            assert echoed(sock, b"u" * size), size
        sock.settimeout(0.5)
        assert not echoed(sock, b"v" * 8800 + NEEDLE + b" drop" + b"v" * 9000)
    wait_until(lambda: counters(node).get("packets", 0) >= 15, 10.0, node.log)
    assert no_failure(node)


def swallow(port: int) -> None:
    """Answers `ok` to what ends with a full stop. Until killed."""
    with socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
        connection, _ = listener.accept()
        while data := connection.recv(1 << 20):
            if data.endswith(b"."):
                connection.sendall(b"ok")


@FAMILIES
@MTUS
def test_joined_segments_are_inspected_to_the_last_byte(node: Node, family: int) -> None:
    node.net.server.spawn(swallow, SPEAKING)
    start(node)
    wait_until(lambda: ":80" in node.net.server.run(["ss", "-tln"]).stdout, 10.0, node.log)
    with node.net.client.enter():
        sock = socket.create_connection((node.net.server.address(family), SPEAKING), timeout=20.0)
    with sock:
        sock.sendall(b"x" * (16 << 20) + b".")
        assert sock.recv(100) == b"ok"
        sock.settimeout(1.0)
        sock.sendall(b"x" * 200_000 + NEEDLE + b" drop.")
        with pytest.raises(TimeoutError):
            sock.recv(100)
    wait_until(lambda: counters(node).get("bytes", 0) >= 16 << 20, 10.0, node.log)
    found = counters(node)
    # Acknowledgements, which carry nothing, are among the packets.
    assert found["bytes"] / found["packets"] > 3000, "no segments were joined"
    assert found["verdict_errors"] == 0 and no_failure(node)


def speak(port: int) -> None:
    """Says much to everybody who says anything, the words that are rejected at the end of it. Until killed."""
    with socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
        while True:
            connection, _ = listener.accept()
            if connection.recv(100):
                connection.sendall(b"s" * 60_000 + NEEDLE + b" reject" + b"s" * 5000)


@FAMILIES
@pytest.mark.parametrize(
    ("reader", "mtu"), [("fastpath", 1500), ("fastpath", 9000), ("netfilterqueue", 1500)]
)
def test_a_server_that_is_rejected_in_joined_segments(node: Node, family: int, reader: str) -> None:
    """The client is reset, and does not wait for what will not come; nor has it seen the words."""
    node.net.server.spawn(speak, SPEAKING)
    node.net.server.wait_for_port(SPEAKING)
    start(node, reader)
    with node.net.client.enter():
        sock = socket.create_connection((node.net.server.address(family), SPEAKING), timeout=10.0)
    received = b""
    with sock, pytest.raises(ConnectionResetError):
        sock.sendall(b"go on")
        while True:
            data = sock.recv(65536)
            assert data, "closed as if that were all"
            received += data
    assert NEEDLE not in received
    assert counters(node).get("verdict_errors", 0) == 0


def query(name: str, number: int) -> bytes:
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return struct.pack("!HHHHHH", number, 0x100, 1, 0, 0, 0) + labels + b"\0\0\1\0\1"


@FAMILIES
@MTUS
def test_datagrams_sent_in_one_go_are_inspected_one_by_one(node: Node, echo: Echo, family: int) -> None:
    """UDP_SEGMENT: the kernel carries them as one packet, of which a parser of messages would read the first."""
    (node.directory / "feeds.d/names.toml").write_text('file = "names.txt"\naction = "drop"\n')
    (node.directory / "feeds.d/names.txt").write_text("evil.test\n")
    start(node)
    with udp(node, family) as sock:
        assert echoed(sock, query("good.test", 1))  # conntrack knows the flow
        sock.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, len(query("good.test", 1)))
        sock.send(b"".join(query(name, at) for at, name in enumerate(["good.test", "evil.test"] * 3, 2)))
        sock.settimeout(1.0)
        back = []
        try:
            while True:
                back.append(sock.recv(65536))
        except TimeoutError:
            pass
    assert sorted(back) == sorted(query("good.test", at) for at in (2, 4, 6))
    wait_until(lambda: counters(node).get("segmented", 0) >= 1, 10.0, node.log)
    assert no_failure(node)


LONGEST = {4: 65_507, 6: 65_527}  # bytes that UDP carries


@FAMILIES
@pytest.mark.parametrize("mtu", [9000])
@pytest.mark.parametrize("action", ["allow", "drop"])
@pytest.mark.parametrize(("reader", "most"), [("fastpath", 65_400), ("netfilterqueue", 3900)])
def test_what_is_longer_than_the_reader_shows(
    node: Node, echo: Echo, family: int, action: str, reader: str, most: int
) -> None:
    start(node, reader, f'[failures]\ntruncated_packet = "{action}"\n')
    with udp(node, family) as sock:
        assert echoed(sock, b"t" * most)
        sock.settimeout(1.0)
        assert echoed(sock, b"t" * LONGEST[family]) is (action == "allow")
        assert echoed(sock, b"once more")
    wait_until(lambda: counters(node)["failure_truncated_packet"] == 1 + (action == "allow"), 10.0, node.log)
