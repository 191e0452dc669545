# SPDX-License-Identifier: Apache-2.0
"""Packets that the kernel's log tells of."""

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.lab import Lab, have_root
from appliance.netfilter import NetfilterError
from appliance.netfilter.nflog import MAPPED, Logged, NfLog, messages
from appliance.netfilter.nfnetlink import NFGEN, NLMSG, attribute

V4 = socket.inet_aton("192.0.2.1"), socket.inet_aton("198.51.100.2")
V6 = socket.inet_pton(socket.AF_INET6, "2001:db8::1"), socket.inet_pton(socket.AF_INET6, "2001:db8::2")
PORTS = struct.pack("!HH", 4711, 80)


def message(payload: bytes, prefix: bytes = b"n0\0", kind: int = 4 << 8) -> bytes:
    body = NFGEN.pack(2, 0, 0) + attribute(1, struct.pack("!HBx", 0x0800, 3)) + attribute(4, struct.pack("!I", 7))
    body += attribute(9, payload) + attribute(10, prefix)
    return NLMSG.pack(NLMSG.size + len(body), kind, 0, 0, 0) + body


def v4(protocol: int, rest: bytes, offset: int = 0) -> bytes:
    header = struct.pack("!BBHHHBBH", 0x46, 0, 900, 0, offset, 64, protocol, 0)
    return header + V4[0] + V4[1] + bytes(4) + rest


def v6(protocol: int, rest: bytes) -> bytes:
    return struct.pack("!IHBB", 6 << 28, 860, protocol, 64) + V6[0] + V6[1] + rest


@pytest.mark.parametrize(
    ("packet", "expected"),
    [
        (v4(6, PORTS), {"proto": 6, "sport": 4711, "dport": 80}),
        (v4(17, PORTS, offset=0x2000), {"proto": 17, "sport": 4711, "dport": 80}),
        (v4(17, PORTS, offset=1), {"proto": 17}),
        (v4(1, b"\x08\x01\0\0"), {"proto": 1, "icmp_type": 8, "icmp_code": 1}),
        (v4(47, PORTS), {"proto": 47}),
        (v4(6, b"\0"), {"proto": 6}),
        (v6(17, PORTS), {"proto": 17, "sport": 4711, "dport": 80}),
        (v6(0, bytes((6, 1)) + bytes(14) + PORTS), {"proto": 6, "sport": 4711, "dport": 80}),
        (v6(51, bytes((17, 1)) + bytes(10) + PORTS), {"proto": 17, "sport": 4711, "dport": 80}),
        (v6(44, bytes((17, 0, 0, 1)) + bytes(4) + PORTS), {"proto": 17, "sport": 4711, "dport": 80}),
        (v6(44, bytes((17, 0, 0, 8)) + bytes(4) + PORTS), {"proto": 17}),
        (v6(58, b"\x80\0\0\0"), {"proto": 58, "icmp_type": 128}),
    ],
)
def test_what_stands_in_a_packet(packet: bytes, expected: dict[str, int]) -> None:
    family = packet[0] >> 4
    sides = {"src": MAPPED + V4[0], "dst": MAPPED + V4[1]} if family == 4 else {"src": V6[0], "dst": V6[1]}
    (logged,) = messages(message(packet))
    assert logged == Logged("n0", hook=3, iif=7, family=family, length=900, **sides, **expected)  # type: ignore[arg-type]


def test_each_packet_of_a_datagram_is_read_and_nothing_else() -> None:
    both = message(v4(6, PORTS), b"a\0") + message(b"", b"b\0", kind=2) + message(b"\x45", b"c\0")
    assert [(logged.prefix, logged.family) for logged in messages(both)] == [("a", 4), ("c", 0)]


@given(st.binary(max_size=120), st.integers(0, 200))
def test_any_bytes_are_read_without_harm(data: bytes, cut: int) -> None:
    for logged in [*messages(data), *messages(message(data)), *messages(message(v6(0, data))[:cut] + data)]:
        assert 0 <= logged.sport <= 0xFFFF and len(logged.src) == 16


@pytest.mark.skipif(not have_root(), reason="namespaces need root")
def test_a_group_belongs_to_one_program() -> None:
    with Lab() as lab, lab.namespace("host").enter():
        first = NfLog(77)
        assert first.read() == []
        with pytest.raises(NetfilterError, match="log group 77: is bound by another program"):
            NfLog(77)
        first.close()
        NfLog(77).close()
