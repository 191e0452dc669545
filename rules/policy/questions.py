# SPDX-License-Identifier: Apache-2.0
"""Questions about flows, as plain values from JSON or a command line → what they mean."""

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fastpath import PortcullisError
from rules.policy.requested import Request

_PROTOCOLS = {
    "icmp": 1, "igmp": 2, "ipip": 4, "tcp": 6, "udp": 17, "gre": 47, "esp": 50, "ah": 51, "icmpv6": 58,
    "ipv6-icmp": 58, "ospf": 89, "vrrp": 112, "sctp": 132, "udplite": 136,
}  # fmt: skip
_TCP, _ICMPV6 = 6, 58
KNOWN = frozenset((
    "src", "dst", "proto", "sport", "dport", "icmpType", "icmpCode", "endpoint", "direction",
    "node", "path", "iif", "oif", "preDNATDst", "preDNATDport", "reply", "httpMethod", "httpPath",
))  # fmt: skip
_ASKED = {(1, 0): 8, (1, 14): 13, (1, 16): 15, (1, 18): 17, (58, 129): 128}  # (protocol, ICMP type of a reply) → query


class QuestionError(PortcullisError):
    """A question that makes no sense; `field` names what is wrong."""


@dataclass(frozen=True, slots=True)
class Flow:
    """Addresses as text; "": not given."""

    src: str
    dst: str
    proto: int
    sport: int
    dport: int
    icmp_type: int
    icmp_code: int

    @property
    def family(self) -> int:
        """4 or 6. Raises QuestionError where the addresses are of both."""
        versions = {_version(address) for address in (self.src, self.dst) if address}
        if len(versions) > 1:
            raise QuestionError("src and dst are of different IP versions", field="dst")
        return versions.pop() if versions else 6 if self.proto == _ICMPV6 else 4

    @property
    def opening(self) -> "Flow":
        """What this packet would be the answer to."""
        asked = _ASKED.get((self.proto, self.icmp_type), self.icmp_type)
        return Flow(self.dst, self.src, self.proto, self.dport, self.sport, asked, self.icmp_code)

    def of_endpoint(self, addresses: Sequence[str], *, ingress: bool) -> "Flow":
        """Where the question leaves the endpoint's own address out it is the first one of the endpoint that fits."""
        own, other = (self.dst, self.src) if ingress else (self.src, self.dst)
        if own or not addresses:
            return self
        wanted = _version(other) if other else self.family
        fitting = [address for address in addresses if _version(address) == wanted]
        if not fitting and other:
            return self
        own = (fitting or addresses)[0]
        return replace(self, dst=own) if ingress else replace(self, src=own)


def _version(address: str) -> int:
    return 6 if ":" in address else 4


def read_number(question: Mapping[str, Any], field: str, high: int) -> int:
    """0 if it is left out. Decimal digits are a number, too."""
    value = question.get(field)
    if value is None:
        return 0
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= high:
        raise QuestionError(f"expected a number of at most {high}, found {value!r}", field=field)
    return value


def read_address(question: Mapping[str, Any], field: str) -> str:
    """As text; an IPv4 address within IPv6 is that IPv4 address."""
    value = question.get(field)
    if value is None:
        return ""
    try:
        if not isinstance(value, str) or "%" in value:
            raise ValueError
        address = ipaddress.ip_address(value)
    except ValueError:
        raise QuestionError(f"{value!r} is not an address", field=field) from None
    return str((address.version == 6 and address.ipv4_mapped) or address)


def read_name(question: Mapping[str, Any], field: str) -> str | None:
    value = question.get(field)
    if value is not None and not isinstance(value, str):
        raise QuestionError(f"expected a name, found {value!r}", field=field)
    return value


def read_protocol(value: Any) -> int:
    """The number of a protocol given as a number or a name. Raises QuestionError."""
    if isinstance(value, str):
        if value.lower() in _PROTOCOLS:
            return _PROTOCOLS[value.lower()]
        if value.isascii() and value.isdigit() and len(value) < 4 and int(value) < 256:
            return int(value)
    elif isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 255:
        return value
    raise QuestionError(f"expected a protocol's number or name, found {value!r}", field="proto")


def read_flow(question: Mapping[str, Any]) -> Flow:
    return Flow(
        read_address(question, "src"), read_address(question, "dst"), read_protocol(question.get("proto")),
        read_number(question, "sport", 65535), read_number(question, "dport", 65535),
        read_number(question, "icmpType", 255), read_number(question, "icmpCode", 255),
    )  # fmt: skip


def read_direction(question: Mapping[str, Any]) -> str:
    value = question.get("direction")
    direction = value.lower() if isinstance(value, str) else value
    if direction not in ("ingress", "egress"):
        raise QuestionError(f"expected ingress or egress, found {value!r}", field="direction")
    return str(direction)


def read_reply(question: Mapping[str, Any]) -> bool:
    reply = question.get("reply")
    if reply is not None and not isinstance(reply, bool):
        raise QuestionError(f"expected true or false, found {reply!r}", field="reply")
    return bool(reply)


def read_request(question: Mapping[str, Any], proto: int) -> Request | None:
    """The HTTP request of a question. One that gives a method or a path alone means path / or method GET."""
    method, path = read_name(question, "httpMethod"), read_name(question, "httpPath")
    if method is None and path is None:
        return None
    field = "httpPath" if method is None else "httpMethod"
    if proto != _TCP:
        raise QuestionError("only TCP carries an HTTP request", field=field)
    if path is not None and not path.startswith("/"):
        raise QuestionError(f"expected a path that starts with /, found {path!r}", field="httpPath")
    if method is not None and not method:
        raise QuestionError("expected a method, found nothing", field="httpMethod")
    return Request(method or "GET", path or "/")
