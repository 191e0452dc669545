# SPDX-License-Identifier: Apache-2.0
import contextlib

import dpkt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6

from appliance.inspection.packets import (
    ACK,
    RST,
    SYN,
    TCP,
    UDP,
    DecodeError,
    TruncatedError,
    parse_packet,
    reset_instead,
)


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


def tcp6(payload: bytes, extensions: bytes = b"", first: int = TCP) -> bytes:
    body = extensions + bytes(dpkt.tcp.TCP(sport=443, dport=5000, seq=1 << 31, ack=9, flags=ACK, data=payload))
    return bytes((0x60, 0, 0, 0)) + len(body).to_bytes(2, "big") + bytes((first, 64)) + b"\1" * 16 + b"\2" * 16 + body


@given(st.binary(max_size=100), st.sampled_from([ACK, SYN | ACK, 0x18]))
def test_a_segment_becomes_the_reset_at_its_place_without_its_data(payload: bytes, flags: int) -> None:
    data = tcp4(payload, flags)
    reset = reset_instead(data)
    assert reset is not None and len(reset) == 40
    packet = parse_packet(reset)
    assert (packet.src, packet.dst, packet.sport, packet.dport) == (data[12:16], data[16:20], 1000, 80)
    assert (packet.seq, packet.ack, packet.flags, packet.payload) == (7, 9, RST | ACK, b"")
    again = IP(reset)
    del again.chksum, again.payload.chksum
    assert bytes(again) == reset  # the checksums are right


@pytest.mark.parametrize("extensions", [b"", bytes((TCP, 0)) + b"\1\4\0\0\0\0"])
def test_ipv6_keeps_its_headers(extensions: bytes) -> None:
    data = tcp6(b"certificate", extensions, first=60 if extensions else TCP)
    reset = reset_instead(data)
    assert reset is not None and len(reset) == 60 + len(extensions)
    assert reset[6 : 40 + len(extensions)] == data[6 : 40 + len(extensions)]
    packet = parse_packet(reset)
    assert (packet.seq, packet.flags, packet.payload) == (1 << 31, RST | ACK, b"")
    again = IPv6(reset)
    del again.plen, again.lastlayer().chksum
    assert bytes(again) == reset


@given(st.one_of(st.binary(max_size=80), st.just(udp6(b"x")), st.just(tcp4(flags=RST))))
def test_what_is_no_segment_or_a_reset_stays(data: bytes) -> None:
    with contextlib.suppress(DecodeError):
        packet = parse_packet(data)
        if packet.protocol == TCP and not packet.flags & RST:
            return
    assert reset_instead(data) is None
