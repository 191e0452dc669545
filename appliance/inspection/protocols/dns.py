# SPDX-License-Identifier: Apache-2.0
"""DNS messages (RFC 1035), over UDP and, with a length in front, over TCP (RFC 7766)."""

import struct
from dataclasses import dataclass

from appliance.inspection.protocols.errors import ParseError

MAX_RECORDS = 512

_HEADER = struct.Struct("!HHHHHH")
_RECORD = struct.Struct("!HHIH")
_NAME_TYPES = frozenset((2, 5, 12, 39))  # NS, CNAME, PTR, DNAME
TYPES = {1: "A", 2: "NS", 5: "CNAME", 6: "SOA", 12: "PTR", 15: "MX", 16: "TXT", 28: "AAAA", 33: "SRV", 65: "HTTPS"}


@dataclass(frozen=True, slots=True)
class DnsQuestion:
    """`name` is lower case without the final dot; bytes that are no printable ASCII are written \\xNN."""

    name: str
    type: int


@dataclass(frozen=True, slots=True)
class DnsRecord:
    """`data` is the record's data as sent; `target` the name in it for NS, CNAME, PTR and DNAME, else ""."""

    name: str
    type: int
    ttl: int
    data: bytes
    target: str


@dataclass(frozen=True, slots=True)
class DnsMessage:
    """`answers` is the answer section. `whole` is False when records after the question could not be read."""

    id: int
    response: bool
    opcode: int
    rcode: int
    questions: tuple[DnsQuestion, ...]
    answers: tuple[DnsRecord, ...]
    whole: bool = True


def parse_dns(data: bytes) -> DnsMessage:
    """One message. Raises ParseError when header or questions make no sense."""
    if len(data) < 12:
        raise ParseError("DNS header is cut")
    number, flags, questions, answers, authority, additional = _HEADER.unpack_from(data)
    if questions > MAX_RECORDS or answers + authority + additional > 4 * MAX_RECORDS:
        raise ParseError("DNS message claims too many records")
    position = 12
    asked = []
    for _ in range(questions):
        name, position = _read_name(data, position)
        if position + 4 > len(data):
            raise ParseError("DNS question is cut")
        asked.append(DnsQuestion(name, int.from_bytes(data[position : position + 2], "big")))
        position += 4
    records, whole = _read_records(data, position, min(answers, MAX_RECORDS))
    return DnsMessage(
        number,
        bool(flags & 0x8000),
        (flags >> 11) & 0xF,
        flags & 0xF,
        tuple(asked),
        records,
        whole and answers <= MAX_RECORDS,
    )


def _read_records(data: bytes, position: int, count: int) -> tuple[tuple[DnsRecord, ...], bool]:
    records: list[DnsRecord] = []
    try:
        for _ in range(count):
            name, position = _read_name(data, position)
            if position + 10 > len(data):
                raise ParseError("DNS record is cut")
            kind, _, ttl, length = _RECORD.unpack_from(data, position)
            position += 10
            if position + length > len(data):
                raise ParseError("DNS record is cut")
            target = _read_name(data, position)[0] if kind in _NAME_TYPES else ""
            records.append(DnsRecord(name, kind, ttl, data[position : position + length], target))
            position += length
    except ParseError:
        return tuple(records), False
    return tuple(records), True


def _read_name(data: bytes, position: int) -> tuple[str, int]:
    """A name and the position behind it. A compression pointer must point to before the name that contains it,
    so that reading ends (RFC 1035 section 4.1.4)."""
    labels: list[str] = []
    size = 0
    behind = -1
    limit = position
    while True:
        if position >= len(data):
            raise ParseError("DNS name is cut")
        length = data[position]
        if length & 0xC0 == 0xC0:
            if position + 2 > len(data):
                raise ParseError("DNS name is cut")
            if behind < 0:
                behind = position + 2
            position = int.from_bytes(data[position : position + 2], "big") & 0x3FFF
            if position >= limit:
                raise ParseError("DNS compression pointer does not point back")
            limit = position
            continue
        if length & 0xC0:
            raise ParseError("DNS label type is unknown")
        position += 1
        if length == 0:
            break
        size += length + 1
        if size > 254:
            raise ParseError("DNS name is too long")
        if position + length > len(data):
            raise ParseError("DNS name is cut")
        labels.append(_label(data[position : position + length]))
        position += length
    return ".".join(labels), position if behind < 0 else behind


def _label(raw: bytes) -> str:
    # A dot inside a label is escaped: "a\\.b" must not pass for two labels.
    return "".join(
        chr(byte).lower() if 0x21 <= byte < 0x7F and byte != 0x2E and byte != 0x5C else f"\\x{byte:02x}" for byte in raw
    )


class DnsTcpDirection:
    """Messages of one direction of a TCP connection."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[DnsMessage]:
        """Raises ParseError; the object is of no use then."""
        messages = []
        self._buffer += data
        while len(self._buffer) >= 2:
            length = int.from_bytes(self._buffer[:2], "big")
            if len(self._buffer) < 2 + length:
                break
            messages.append(parse_dns(bytes(self._buffer[2 : 2 + length])))
            del self._buffer[: 2 + length]
        return messages


class DnsTcpSession:
    """Both directions of a connection."""

    def __init__(self) -> None:
        self._directions = (DnsTcpDirection(), DnsTcpDirection())

    def to_server(self, data: bytes) -> list[DnsMessage]:
        return self._directions[0].feed(data)

    def to_client(self, data: bytes) -> list[DnsMessage]:
        return self._directions[1].feed(data)
