# SPDX-License-Identifier: Apache-2.0
"""Protocols, addresses and ports of a rule header, with variables, groups and negation (Suricata: Rules Format)."""

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_network

from rules.signatures.model import Header, Sample, SignatureError

TCP = 6
UDP = 17

# protocol name → (IP protocol or None for both, application protocol or "")
PROTOCOLS: dict[str, tuple[int | None, str]] = {
    "ip": (None, ""),
    "tcp": (TCP, ""),
    "tcp-pkt": (TCP, ""),
    "tcp-stream": (TCP, ""),
    "udp": (UDP, ""),
    "http": (TCP, "http"),
    "http1": (TCP, "http"),
    "tls": (TCP, "tls"),
    "ssl": (TCP, "tls"),
    "dns": (None, "dns"),
    "smtp": (TCP, "smtp"),
    "smb": (TCP, "smb"),
    "ssh": (TCP, "ssh"),
}

# Where a configuration names no networks, a node cannot know which are its own.
DEFAULT_VARIABLES: dict[str, str] = {
    "HOME_NET": "any",
    "EXTERNAL_NET": "any",
    **dict.fromkeys(("HTTP_SERVERS", "SQL_SERVERS", "SMTP_SERVERS", "DNS_SERVERS", "TELNET_SERVERS"), "$HOME_NET"),
    **dict.fromkeys(("AIM_SERVERS", "DC_SERVERS", "DNP3_SERVER", "MODBUS_SERVER", "ENIP_SERVER"), "$HOME_NET"),
    "HTTP_PORTS": "80",
    "SHELLCODE_PORTS": "!80",
    "ORACLE_PORTS": "1521",
    "SSH_PORTS": "22",
    "DNP3_PORTS": "20000",
    "MODBUS_PORTS": "502",
    "FILE_DATA_PORTS": "[$HTTP_PORTS,110,143]",
    "FTP_PORTS": "21",
    "GENEVE_PORTS": "6081",
    "VXLAN_PORTS": "4789",
    "TEREDO_PORTS": "3544",
}
_MAX_DEPTH = 16

# (first, last) as integers; addresses carry their length in bytes so that families never mix
Spans = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class Group:
    """What a list says yes and no to. Spans are (family in bytes, or 0 for ports, first, last)."""

    yes: Spans
    no: Spans
    anything: bool

    def holds(self, family: int, value: int) -> bool:
        if any(kind == family and first <= value <= last for kind, first, last in self.no):
            return False
        return self.anything or any(kind == family and first <= value <= last for kind, first, last in self.yes)


@dataclass(frozen=True, slots=True)
class HeaderMatch:
    """A header with its variables resolved. `None` for a group is any."""

    protocol: int | None
    app: str
    src: Group | None
    sport: Group | None
    dst: Group | None
    dport: Group | None
    both: bool

    def holds(self, sample: Sample) -> bool:
        if self.protocol is not None and sample.protocol != self.protocol:
            return False
        if self.app and sample.app != self.app:
            return False
        if self._sides(sample.src, sample.sport, sample.dst, sample.dport):
            return True
        return self.both and self._sides(sample.dst, sample.dport, sample.src, sample.sport)

    def _sides(self, src: bytes, sport: int, dst: bytes, dport: int) -> bool:
        return (
            (self.sport is None or self.sport.holds(0, sport))
            and (self.dport is None or self.dport.holds(0, dport))
            and (self.src is None or self.src.holds(len(src), int.from_bytes(src, "big")))
            and (self.dst is None or self.dst.holds(len(dst), int.from_bytes(dst, "big")))
        )


class Resolver:
    """Turns what headers say into groups; each text is worked out once."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._variables = {**DEFAULT_VARIABLES, **variables}
        self._known: dict[tuple[str, bool], Group | None] = {}

    def header(self, header: Header) -> HeaderMatch:
        """Raises SignatureError."""
        protocol, app = PROTOCOLS[header.protocol]
        return HeaderMatch(
            protocol,
            app,
            self.group(header.src, ports=False),
            self.group(header.sport, ports=True),
            self.group(header.dst, ports=False),
            self.group(header.dport, ports=True),
            header.both,
        )

    def group(self, text: str, *, ports: bool) -> Group | None:
        key = (text, ports)
        if key not in self._known:
            yes, no, anything = self._read(text.strip(), ports, 0)
            plain = anything and not no
            self._known[key] = None if plain else Group(tuple(yes), tuple(no), anything or not yes)
        return self._known[key]

    def _read(
        self, text: str, ports: bool, depth: int
    ) -> tuple[list[tuple[int, int, int]], list[tuple[int, int, int]], bool]:
        """(spans in, spans out, everything is in)"""
        if depth > _MAX_DEPTH:
            raise SignatureError(f"lists or variables are nested more than {_MAX_DEPTH} deep")
        if text.startswith("!"):
            yes, no, anything = self._read(text[1:].strip(), ports, depth + 1)
            if anything and not no:
                raise SignatureError("!any matches nothing")
            if no and yes:
                raise SignatureError(f"{text}: the negation of a list that contains negations")
            return (no, [], False) if no else ([], yes, True)
        if text.startswith("["):
            if not text.endswith("]"):
                raise SignatureError(f"{text}: the list does not end")
            return self._list(text[1:-1], ports, depth)
        if text.startswith("$"):
            value = self._variables.get(text[1:])
            if value is None:
                raise SignatureError(f"variable {text} is not defined")
            return self._read(value.strip(), ports, depth + 1)
        if text.lower() == "any":
            return [], [], True
        return [_port(text) if ports else _network(text)], [], False

    def _list(
        self, text: str, ports: bool, depth: int
    ) -> tuple[list[tuple[int, int, int]], list[tuple[int, int, int]], bool]:
        yes: list[tuple[int, int, int]] = []
        no: list[tuple[int, int, int]] = []
        anything = False
        positive = False
        for part in _split(text):
            part_yes, part_no, part_any = self._read(part, ports, depth + 1)
            yes += part_yes
            no += part_no
            if part_yes or (part_any and not part_no):
                positive = True
                anything = anything or part_any
        return yes, no, anything or not positive


def _split(text: str) -> list[str]:
    """Commas outside brackets."""
    parts = []
    depth = 0
    start = 0
    for position, char in enumerate(text):
        depth += (char == "[") - (char == "]")
        if char == "," and depth == 0:
            parts.append(text[start:position].strip())
            start = position + 1
    parts.append(text[start:].strip())
    if not all(parts):
        raise SignatureError(f"[{text}]: an entry of the list is empty")
    return parts


def _network(text: str) -> tuple[int, int, int]:
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        raise SignatureError(f"{text!r} is no address, network or variable") from None
    size = 4 if network.version == 4 else 16
    return size, int(network.network_address), int(network.broadcast_address)


def _port(text: str) -> tuple[int, int, int]:
    first, colon, last = text.partition(":")
    try:
        low = int(first) if first else 0
        high = (int(last) if last else 65535) if colon else low
    except ValueError:
        raise SignatureError(f"{text!r} is no port, range or variable") from None
    if not 0 <= low <= high <= 65535 or text == ":":
        raise SignatureError(f"port range {text} is empty or out of bounds")
    return 0, low, high
