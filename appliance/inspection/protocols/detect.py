# SPDX-License-Identifier: Apache-2.0
"""Which protocol a flow speaks, by its first bytes and never by its port."""

import re

from appliance.inspection.protocols.dns import parse_dns
from appliance.inspection.protocols.errors import ParseError
from appliance.inspection.protocols.http import METHODS

UNKNOWN = "unknown"
ENOUGH = 4096  # bytes of one direction after which an undecided flow is unknown

_METHOD = re.compile(rb"[A-Z][A-Z-]{1,19} ")
_REQUEST_LINE = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,32} [^\r\n]{1,4096} HTTP/1\.[0-9]\r?\n")
_SMB = (b"\xffSMB", b"\xfeSMB", b"\xfdSMB")


def detect_tcp(to_server: bytes, to_client: bytes) -> str | None:
    """The protocol's name, UNKNOWN, or None while the bytes of both directions so far could still become one."""
    # Whoever has not spoken yet may still reveal the protocol, unless the other has said a lot.
    undecided = max(len(to_server), len(to_client)) < ENOUGH and not (to_server and to_client)
    for data, client in ((to_server, True), (to_client, False)):
        if not data:
            continue
        found = _by_bytes(data, client=client)
        if found is None:
            undecided = undecided or len(data) < ENOUGH
        elif found != UNKNOWN:
            return found
    return None if undecided else UNKNOWN


def detect_udp(payload: bytes) -> str:
    """DNS or UNKNOWN."""
    return "dns" if _looks_like_dns(payload) else UNKNOWN


def _by_bytes(data: bytes, *, client: bool) -> str | None:
    verdicts = (_tls(data, client), _http(data, client), _smb(data), _text(data, client), _dns_tcp(data))
    for name in verdicts:
        if name is not None and name != UNKNOWN:
            return name
    return None if None in verdicts else UNKNOWN


def _prefix(data: bytes, start: bytes, name: str) -> str | None:
    """`name` if data begins with `start`, None if it is still too short to say, else UNKNOWN."""
    if len(data) >= len(start):
        return name if data.startswith(start) else UNKNOWN
    return None if start.startswith(data) else UNKNOWN


def _tls(data: bytes, client: bool) -> str | None:
    if _prefix(data, b"\x16\x03", "tls") != "tls":
        return _prefix(data, b"\x16\x03", "tls")
    if len(data) < 6:
        return None
    return "tls" if data[5] == (1 if client else 2) else UNKNOWN


def _http(data: bytes, client: bool) -> str | None:
    data = data.lstrip(b"\r\n")
    if not client:
        return _prefix(data, b"HTTP/1.", "http")
    if data.startswith(b"PRI * HTTP/2"):
        return UNKNOWN
    match = _METHOD.match(data)
    if match is not None and match.group()[:-1] in METHODS:
        return "http"
    if b"\n" in data or len(data) > 4096:
        return "http" if _REQUEST_LINE.match(data) else UNKNOWN
    return None if all(0x20 < byte < 0x7F for byte in data.partition(b" ")[0][:33]) else UNKNOWN


def _smb(data: bytes) -> str | None:
    if data[0] != 0:
        return UNKNOWN
    if len(data) < 8:
        return None
    return "smb" if data[4:8] in _SMB else UNKNOWN


def _text(data: bytes, client: bool) -> str | None:
    ssh = _prefix(data, b"SSH-", "ssh")
    if ssh != UNKNOWN or client:
        return ssh
    if not data.startswith(b"220"):
        return _prefix(data, b"220", "smtp")
    if b"\n" not in data:
        return None
    return "smtp" if b"SMTP" in data.upper() else UNKNOWN


def _dns_tcp(data: bytes) -> str | None:
    if len(data) < 2:
        return None
    length = int.from_bytes(data[:2], "big")
    if length < 17:
        return UNKNOWN
    if len(data) < 14:
        return None if len(data) < 5 or data[4] & 0x78 in (0, 0x20, 0x28) else UNKNOWN
    counts = data[6:8]
    if counts != b"\x00\x01" or data[4] & 0x78 not in (0, 0x20, 0x28):
        return UNKNOWN
    if len(data) < 2 + length:
        return None
    return "dns" if _looks_like_dns(data[2 : 2 + length]) else UNKNOWN


def _looks_like_dns(payload: bytes) -> bool:
    # Opcodes 0 query, 4 notify, 5 update; exactly one question in everything that is used.
    if len(payload) < 17 or payload[4:6] != b"\x00\x01" or (payload[2] >> 3) & 0xF not in (0, 4, 5):
        return False
    try:
        message = parse_dns(payload)
    except ParseError:
        return False
    return bool(message.questions)
