# SPDX-License-Identifier: Apache-2.0
"""IP packets as an inspector sees them: addresses, ports, TCP fields, payload.

IPv4 and plain IPv6 headers are read here; IPv6 extension headers are walked by dpkt, whose exceptions never leave
this module. Hostile bytes raise `DecodeError`, a packet that was cut on its way raises `TruncatedError`.
"""

import struct
from dataclasses import dataclass
from typing import NamedTuple

import dpkt

from fastpath.errors import PortcullisError

TCP = 6
UDP = 17

FIN = 0x01
SYN = 0x02
RST = 0x04
ACK = 0x10

_IPV6_EXTENSIONS = frozenset((0, 43, 44, 51, 60))
_TCP_HEADER = struct.Struct("!HHIIBBHHH")
_UDP_HEADER = struct.Struct("!HHHH")


class DecodeError(PortcullisError):
    """The bytes are not a packet that can be understood."""


class TruncatedError(DecodeError):
    """The packet says that it is longer than the bytes at hand."""


@dataclass(frozen=True, slots=True)
class Packet:
    """Addresses are 4 or 16 bytes in network order, ports in host order; `payload` is what TCP or UDP carries
    (for another protocol: what IP carries). `seq`, `ack` and `flags` are 0 unless TCP."""

    family: int
    protocol: int
    src: bytes
    dst: bytes
    sport: int
    dport: int
    payload: bytes
    length: int
    seq: int = 0
    ack: int = 0
    flags: int = 0


class Ends(NamedTuple):
    """Family, protocol as the IP header has it, and addresses: what can be said of a packet that cannot be parsed."""

    family: int = 0
    protocol: int = 0
    src: bytes = b""
    dst: bytes = b""


def ends_of(data: bytes) -> Ends:
    """Empty where not even the IP header is whole."""
    if len(data) >= 20 and data[0] >> 4 == 4:
        return Ends(4, data[9], data[12:16], data[16:20])
    if len(data) >= 40 and data[0] >> 4 == 6:
        return Ends(6, data[6], data[8:24], data[24:40])
    return Ends()


def parse_packet(data: bytes) -> Packet:
    """Parse one IPv4 or IPv6 packet. Raises DecodeError or TruncatedError, nothing else."""
    if not data:
        raise DecodeError("empty packet")
    version = data[0] >> 4
    if version == 4:
        return _parse_ipv4(data)
    if version == 6:
        return _parse_ipv6(data)
    raise DecodeError(f"IP version {version}")


def reset_instead(data: bytes) -> bytes | None:
    """A TCP segment made into the reset of its connection, for whoever it was going to: the same place in the stream,
    so it is believed at once (RFC 9293, 3.10.7.4), and no data. The IP header keeps its length, which the kernel has
    noted. None: not TCP, a reset already, or it cannot be parsed."""
    try:
        packet = parse_packet(data)
    except DecodeError:
        return None
    if packet.protocol != TCP or packet.flags & RST:
        return None
    offset = (data[0] & 0x0F) * 4 if packet.family == 4 else _skip_extensions(data)[1]
    header = bytearray(data[:offset])
    if packet.family == 4:
        header[2:4] = (offset + _TCP_HEADER.size).to_bytes(2, "big")
        header[10:12] = bytes(2)
        header[10:12] = _checksum(header)
    else:
        header[4:6] = (offset - 40 + _TCP_HEADER.size).to_bytes(2, "big")
    ports = packet.sport, packet.dport
    tcp = bytearray(_TCP_HEADER.pack(*ports, packet.seq, packet.ack, 5 << 4, RST | packet.flags & ACK, 0, 0, 0))
    tcp[16:18] = _checksum(packet.src + packet.dst + bytes((0, TCP, 0, len(tcp))) + tcp)
    return bytes(header + tcp)


def _checksum(data: bytes | bytearray) -> bytes:
    """RFC 1071, of an even number of bytes."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return (~total & 0xFFFF).to_bytes(2, "big")


def _parse_ipv4(data: bytes) -> Packet:
    if len(data) < 20:
        raise TruncatedError("IPv4 header is cut")
    header = (data[0] & 0x0F) * 4
    total = int.from_bytes(data[2:4], "big")
    if header < 20 or total < header:
        raise DecodeError("IPv4 lengths contradict each other")
    if total > len(data):
        raise TruncatedError(f"IPv4 packet of {total} bytes arrived with {len(data)}")
    if int.from_bytes(data[6:8], "big") & 0x3FFF:
        # Conntrack reassembles before the queue; a fragment here means that nobody did.
        raise DecodeError("IPv4 fragment")
    return _transport(4, data[9], data[12:16], data[16:20], data[header:total], total)


def _parse_ipv6(data: bytes) -> Packet:
    if len(data) < 40:
        raise TruncatedError("IPv6 header is cut")
    total = 40 + int.from_bytes(data[4:6], "big")
    if total > len(data):
        raise TruncatedError(f"IPv6 packet of {total} bytes arrived with {len(data)}")
    protocol = data[6]
    offset = 40
    if protocol in _IPV6_EXTENSIONS:
        protocol, offset = _skip_extensions(data[:total])
    return _transport(6, protocol, data[8:24], data[24:40], data[offset:total], total)


def _skip_extensions(data: bytes) -> tuple[int, int]:
    """The transport protocol behind the extension headers and its offset (RFC 8200 section 4)."""
    kind = data[6]
    offset = 40
    for _ in range(16):
        if kind not in _IPV6_EXTENSIONS:
            return kind, offset
        try:
            header = dpkt.ip6.EXT_HDRS_CLS[kind](data[offset:])
            if kind == 44 and (header.frag_off or header.m_flag):
                raise DecodeError("IPv6 fragment")
            length = int(header.length)
            kind = int(header.nxt)
        except DecodeError:
            raise
        except Exception as error:
            # dpkt answers hostile bytes with its own errors, but also with IndexError, struct.error and others.
            raise DecodeError(f"IPv6 extension header: {error}") from None
        if length < 8:
            raise DecodeError("IPv6 extension header is too short")
        offset += length
        if offset > len(data):
            raise DecodeError("IPv6 extension headers run past the packet")
    raise DecodeError("too many IPv6 extension headers")


def _transport(family: int, protocol: int, src: bytes, dst: bytes, rest: bytes, length: int) -> Packet:
    if protocol == TCP:
        if len(rest) < 20:
            raise DecodeError("TCP header is cut")
        sport, dport, seq, ack, offset, flags, _, _, _ = _TCP_HEADER.unpack_from(rest)
        header = (offset >> 4) * 4
        if header < 20 or header > len(rest):
            raise DecodeError("TCP data offset is wrong")
        return Packet(family, TCP, src, dst, sport, dport, rest[header:], length, seq, ack, flags)
    if protocol == UDP:
        if len(rest) < 8:
            raise DecodeError("UDP header is cut")
        sport, dport, size, _ = _UDP_HEADER.unpack_from(rest)
        if size < 8 or size > len(rest):
            raise DecodeError("UDP length is wrong")
        return Packet(family, UDP, src, dst, sport, dport, rest[8:size], length)
    return Packet(family, protocol, src, dst, 0, 0, rest, length)
