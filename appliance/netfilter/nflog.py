# SPDX-License-Identifier: Apache-2.0
"""Packets that rules of ours tell of with `log group`: a socket to the kernel's log, and what stands in its messages.

Formats: linux/netfilter/nfnetlink_log.h; RFC 791, 8200. Hostile bytes come out as fewer fields, never as an exception.
"""

import errno
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace

from appliance.netfilter import nfnetlink
from appliance.netfilter.backend import NetfilterError
from appliance.netfilter.nfnetlink import (
    F_ACK,
    F_REQUEST,
    NETLINK_NETFILTER,
    NFGEN,
    NLMSG,
    NLMSG_ERROR,
    attribute,
    attributes,
)

SUBSYS_ULOG = 4
_PACKET, _CONFIG = SUBSYS_ULOG << 8, SUBSYS_ULOG << 8 | 1
_CFG_CMD, _CFG_MODE, _CFG_TIMEOUT = 1, 2, 4
_BIND, _COPY_PACKET = 1, 2
_HEADER, _INDEV, _OUTDEV, _PAYLOAD, _PREFIX = 1, 4, 5, 9, 10
_COPIED = 128  # bytes of a packet: addresses and ports behind a few extension headers
_TIMEOUT = 10  # 1/100 s that the kernel may collect
_BUFFER = 1 << 18
MESSAGES = 64  # datagrams read in one go

_PORTED = frozenset((6, 17, 132, 136))
_ICMP = frozenset((1, 58))
_EXTENSIONS = frozenset((0, 43, 60))  # of the form: next header, length in 8 bytes
_FRAGMENT, _AUTHENTICATION = 44, 51
MAPPED = bytes(10) + b"\xff\xff"


@dataclass(frozen=True, slots=True)
class Logged:
    """A packet. src and dst: 16 bytes, as in the C core; ports 0 where there are none or they are not known; length:
    bytes of the whole; hook as NF_INET_*; iif, oif: 0 where there is none."""

    prefix: str
    hook: int = 0
    iif: int = 0
    oif: int = 0
    family: int = 0
    proto: int = 0
    src: bytes = bytes(16)
    dst: bytes = bytes(16)
    sport: int = 0
    dport: int = 0
    icmp_type: int = 0
    icmp_code: int = 0
    length: int = 0


class NfLog:
    """A socket that does not block, bound to a group. fileno() is for an event loop. Raises NetfilterError."""

    def __init__(self, group: int) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER)
        try:
            self._socket.settimeout(5.0)
            self._socket.bind((0, 0))
            self._configure(group, attribute(_CFG_CMD, bytes([_BIND])))
            mode = attribute(_CFG_MODE, struct.pack("!IBx", _COPIED, _COPY_PACKET))
            self._configure(group, mode + attribute(_CFG_TIMEOUT, struct.pack("!I", _TIMEOUT)))
            self._socket.setblocking(False)
        except OSError as error:
            self._socket.close()
            taken = error.errno in (errno.EBUSY, errno.EPERM)
            why = "is bound by another program" if taken else error.strerror or str(error)
            raise NetfilterError(f"log group {group}: {why}", field="netfilter.log_group") from error

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def read(self) -> list[Logged]:
        """What is there, at most MESSAGES datagrams of it."""
        found: list[Logged] = []
        try:
            for _ in range(MESSAGES):
                found += messages(self._socket.recv(_BUFFER))
        except OSError:  # nothing more; or an overrun: those packets are told by their counters alone
            pass
        return found

    def _configure(self, group: int, body: bytes) -> None:
        length = NLMSG.size + NFGEN.size + len(body)
        header = NLMSG.pack(length, _CONFIG, F_REQUEST | F_ACK, 1, 0) + NFGEN.pack(socket.AF_UNSPEC, 0, group)
        self._socket.send(header + body)
        while True:
            data = self._socket.recv(_BUFFER)
            if NLMSG.unpack_from(data)[1] == NLMSG_ERROR:
                code = -struct.unpack_from("=i", data, NLMSG.size)[0]
                if code:
                    raise OSError(code, os.strerror(code))
                return


def messages(data: bytes) -> Iterator[Logged]:
    """The packets of a datagram."""
    for kind, body in nfnetlink.messages(data):
        if kind == _PACKET:
            yield _logged(dict(attributes(body)))


def _logged(found: dict[int, bytes]) -> Logged:
    prefix = found.get(_PREFIX, b"").rstrip(b"\0").decode(errors="replace")
    hook = found.get(_HEADER, b"")[2:3]
    iif, oif = (int.from_bytes(found.get(kind, b"")[:4]) for kind in (_INDEV, _OUTDEV))
    return replace(_packet(found.get(_PAYLOAD, b"")), prefix=prefix, hook=hook[0] if hook else 0, iif=iif, oif=oif)


def _packet(data: bytes) -> Logged:
    version = data[0] >> 4 if data else 0
    if version == 4 and len(data) >= 20:
        logged = Logged("", family=4, proto=data[9], src=MAPPED + data[12:16], dst=MAPPED + data[16:20],
                        length=int.from_bytes(data[2:4]))  # fmt: skip
        first = not int.from_bytes(data[6:8]) & 0x1FFF
        return _with_ports(logged, data[(data[0] & 15) * 4 :]) if first else logged
    if version == 6 and len(data) >= 40:
        proto, at, first = _behind_extensions(data)
        logged = Logged("", family=6, proto=proto, src=data[8:24], dst=data[24:40],
                        length=40 + int.from_bytes(data[4:6]))  # fmt: skip
        return _with_ports(logged, data[at:]) if first else logged
    return Logged("")


def _behind_extensions(data: bytes) -> tuple[int, int, bool]:
    """(protocol, offset of its header, whether this is the first part of the packet)."""
    proto, at, first = data[6], 40, True
    while at + 8 <= len(data):
        if proto in _EXTENSIONS:
            size = 8 + 8 * data[at + 1]
        elif proto == _AUTHENTICATION:
            size = 8 + 4 * data[at + 1]
        elif proto == _FRAGMENT:
            size, first = 8, first and not int.from_bytes(data[at + 2 : at + 4]) & 0xFFF8
        else:
            break
        proto, at = data[at], at + size
    return proto, at, first


def _with_ports(logged: Logged, data: bytes) -> Logged:
    if len(data) < 4:
        return logged
    if logged.proto in _PORTED:
        return replace(logged, sport=int.from_bytes(data[:2]), dport=int.from_bytes(data[2:4]))
    if logged.proto in _ICMP:
        return replace(logged, icmp_type=data[0], icmp_code=data[1])
    return logged
