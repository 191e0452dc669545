# SPDX-License-Identifier: Apache-2.0
import contextlib

import dpkt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.inspection.packets import ACK, SYN, TCP, UDP, DecodeError, TruncatedError, parse_packet


def tcp4(payload: bytes = b"data", flags: int = ACK) -> bytes:
    tcp = dpkt.tcp.TCP(sport=1000, dport=80, seq=7, ack=9, flags=flags, data=payload)
    ip = dpkt.ip.IP(src=b"\x0a\0\0\1", dst=b"\x0a\0\0\2", p=TCP, data=tcp)
    ip.len = 40 + len(payload)
    return bytes(ip)


def udp6(payload: bytes, extensions: bytes = b"", first: int = UDP) -> bytes:
    udp = dpkt.udp.UDP(sport=53, dport=5353, ulen=8 + len(payload), data=payload)
    body = extensions + bytes(udp)
    return bytes((0x60, 0, 0, 0)) + len(body).to_bytes(2, "big") + bytes((first, 64)) + b"\1" * 16 + b"\2" * 16 + body


def test_tcp_over_ipv4() -> None:
    packet = parse_packet(tcp4(b"hello", SYN | ACK))
    assert (packet.family, packet.protocol, packet.sport, packet.dport) == (4, TCP, 1000, 80)
    assert (packet.src, packet.dst) == (b"\x0a\0\0\1", b"\x0a\0\0\2")
    assert (packet.seq, packet.ack, packet.flags, packet.payload) == (7, 9, SYN | ACK, b"hello")


def test_bytes_behind_the_packet_are_no_payload() -> None:
    assert parse_packet(tcp4(b"x") + b"padding").payload == b"x"


def test_extension_headers_are_skipped() -> None:
    hop = bytes((60, 0)) + b"\1\4\0\0\0\0"
    destination = bytes((UDP, 0)) + b"\1\4\0\0\0\0"
    packet = parse_packet(udp6(b"query", hop + destination, first=0))
    assert (packet.family, packet.protocol, packet.sport, packet.payload) == (6, UDP, 53, b"query")


@pytest.mark.parametrize("size", [0, 1, 19, 20, 39, 43])
def test_cut_packet_is_told_from_a_bad_one(size: int) -> None:
    with pytest.raises(DecodeError if size == 0 else TruncatedError):
        parse_packet(tcp4()[:size])


def test_fragment_is_refused() -> None:
    data = bytearray(tcp4())
    data[6] = 0x20
    with pytest.raises(DecodeError, match="fragment"):
        parse_packet(bytes(data))
    fragment = bytes((UDP, 0, 0, 8)) + b"\0\0\0\1"
    with pytest.raises(DecodeError, match="fragment"):
        parse_packet(udp6(b"x", fragment, first=44))


def test_endless_extension_headers_end() -> None:
    with pytest.raises(DecodeError, match="too many"):
        parse_packet(udp6(b"", (bytes((60, 0)) + b"\1\4\0\0\0\0") * 40, first=60))


@given(st.binary(max_size=120) | st.binary(max_size=80).map(lambda tail: b"\x60\0\0\0\0\x30" + tail))
def test_hostile_bytes_raise_decode_error_only(data: bytes) -> None:
    with contextlib.suppress(DecodeError):
        parse_packet(data)


@given(st.integers(0, 200), st.integers(0, 255), st.binary(max_size=60))
def test_damaged_packet_raises_decode_error_only(position: int, value: int, payload: bytes) -> None:
    for data in (tcp4(payload), udp6(payload, bytes((UDP, 0)) + b"\1\4\0\0\0\0", first=60)):
        damaged = bytearray(data)
        damaged[position % len(damaged)] = value
        with contextlib.suppress(DecodeError):
            parse_packet(bytes(damaged))


@given(st.binary(max_size=200), st.integers(0, 65535), st.integers(0, 0xFFFFFFFF))
def test_same_fields_as_dpkt(payload: bytes, port: int, seq: int) -> None:
    tcp = dpkt.tcp.TCP(sport=port, dport=443, seq=seq, data=payload)
    ip = dpkt.ip.IP(src=b"abcd", dst=b"efgh", p=TCP, data=tcp)
    ip.len = 40 + len(payload)
    packet, oracle = parse_packet(bytes(ip)), dpkt.ip.IP(bytes(ip))
    assert (packet.sport, packet.seq, packet.payload) == (oracle.data.sport, oracle.data.seq, bytes(oracle.data.data))
