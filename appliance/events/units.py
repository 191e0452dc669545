# SPDX-License-Identifier: Apache-2.0
"""The systemd unit, or the control group, of the program behind a flow that this machine began.

The packet brings the socket's user; its control group is asked of the kernel by the flow's addresses and ports
(sock_diag(7), attribute INET_DIAG_CGROUP_ID), and a control group's number is the inode of its folder. A socket that is
gone by then, or whose addresses were translated, has no unit here: a record without one says nothing.
"""

import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from appliance.netfilter.nfnetlink import NLMSG, attributes

# version 2 of the hierarchy: alone, or beside version 1
ROOTS = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"))
ASKED = 200  # sockets a second, at most: who opens connections decides how many there are
FOLDERS = 20_000  # looked at in one walk, at most
PAUSE = 1.0  # seconds between two walks, at least

_SOCK_DIAG, _BY_FAMILY, _CGROUP_ID = 4, 20, 21
_REQUEST = struct.Struct("=BBBBI")  # struct inet_diag_req_v2 up to its socket id
_ANSWER = 72  # bytes of struct inet_diag_msg, before the attributes
_NO_COOKIE = b"\xff" * 8
_SUFFIXES = (".service", ".scope")


class Units:
    """Answers for the network namespace of the thread that makes it. Methods block for some ten microseconds, and for
    milliseconds when a control group is met for the first time."""

    def __init__(self, roots: tuple[Path, ...] = ROOTS, clock: Callable[[], float] = time.monotonic) -> None:
        self._roots = roots
        self._clock = clock
        self._names: dict[int, str] = {}
        self._walked = -PAUSE
        self._second = 0
        self._asked = 0
        self._socket: socket.socket | None = None

    def unit(self, protocol: int, local: bytes, port: int, remote: bytes, remote_port: int) -> str:
        """Name of the unit; else the path of the control group; "" when it is not known. Addresses have 16 bytes."""
        if protocol not in (socket.IPPROTO_TCP, socket.IPPROTO_UDP) or not self._room():
            return ""
        try:
            group = self._group(protocol, local, port, remote, remote_port)
        except OSError:
            return ""
        return self._name(group) if group else ""

    def _room(self) -> bool:
        second = int(self._clock())
        if second != self._second:
            self._second, self._asked = second, 0
        self._asked += 1
        return self._asked <= ASKED

    def _group(self, protocol: int, local: bytes, port: int, remote: bytes, remote_port: int) -> int:
        if self._socket is None:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, _SOCK_DIAG)
            self._socket.settimeout(0.1)
        self._socket.send(request(protocol, local, port, remote, remote_port))
        return cgroup_of(self._socket.recv(8192))

    def _name(self, group: int) -> str:
        if group not in self._names and self._clock() - self._walked >= PAUSE:
            self._walked = self._clock()
            self._names = {number: unit_of(path) for root in self._roots for number, path in control_groups(root)}
        return self._names.get(group, "")


def request(protocol: int, local: bytes, port: int, remote: bytes, remote_port: int) -> bytes:
    """Asks for the one socket with these ends; of UDP the kernel wants them the other way round."""
    ends = [(local, port), (remote, remote_port)]
    if protocol == socket.IPPROTO_UDP:
        ends.reverse()
    mapped = local.startswith(bytes(10) + b"\xff\xff")
    family = socket.AF_INET if mapped else socket.AF_INET6
    ports = struct.pack("!HH", ends[0][1], ends[1][1])
    addresses = b"".join(address[12:].ljust(16, b"\0") if mapped else address for address, _ in ends)
    body = _REQUEST.pack(family, protocol, 0, 0, 0xFFFFFFFF) + ports + addresses + bytes(4) + _NO_COOKIE
    return NLMSG.pack(NLMSG.size + len(body), _BY_FAMILY, 1, 1, 0) + body


def cgroup_of(answer: bytes) -> int:
    """The control group's number in an answer; 0: no such socket, or it has none."""
    if len(answer) < NLMSG.size + _ANSWER:
        return 0
    length, kind, *_ = NLMSG.unpack_from(answer)
    if kind != _BY_FAMILY or length > len(answer):
        return 0
    for number, payload in attributes(answer[NLMSG.size + _ANSWER : length]):
        if number == _CGROUP_ID and len(payload) == 8:
            return int.from_bytes(payload, "little")
    return 0


def unit_of(path: str) -> str:
    """ "/system.slice/nginx.service" → "nginx.service"; a path without a unit is its own name."""
    return next((part for part in reversed(path.split("/")) if part.endswith(_SUFFIXES)), path)


def control_groups(root: Path) -> Iterator[tuple[int, str]]:
    """(inode, path below the root) of every control group."""
    waiting = [str(root)]
    seen = 0
    while waiting and seen < FOLDERS:
        folder = waiting.pop()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        seen += 1
                        waiting.append(entry.path)
                        yield entry.inode(), entry.path[len(str(root)) :]
        except OSError:
            continue  # it went away
