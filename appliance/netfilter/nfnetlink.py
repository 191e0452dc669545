# SPDX-License-Identifier: Apache-2.0
"""A small nfnetlink socket: requests with acknowledgement, dumps, and blind batches. Blocking, one thread.

Formats: linux/netlink.h, linux/netfilter/nfnetlink.h. The namespace is that of the thread that opens it.
"""

import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator

NETLINK_NETFILTER = 12
NLMSG = struct.Struct("=IHHII")  # length, type, flags, sequence, port
NFGEN = struct.Struct("!BBH")  # family, version, resource id
ATTR = struct.Struct("=HH")
NLMSG_ERROR, NLMSG_DONE = 2, 3
F_REQUEST, F_ACK, F_DUMP = 0x1, 0x4, 0x300
TYPE_MASK = 0x3FFF
NESTED = 0x8000

SUBSYS_CTNETLINK, SUBSYS_QUEUE, SUBSYS_NFT_COMPAT = 1, 3, 11


def attribute(kind: int, payload: bytes) -> bytes:
    return ATTR.pack(4 + len(payload), kind) + payload + b"\0" * (-len(payload) % 4)


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(type without flags, payload) of each; stops at one that does not fit."""
    offset = 0
    while offset + 4 <= len(data):
        length, kind = ATTR.unpack_from(data, offset)
        if length < 4 or offset + length > len(data):
            return
        yield kind & TYPE_MASK, data[offset + 4 : offset + length]
        offset += length + (-length % 4)


def messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(type, attributes) of each nfnetlink message of a datagram; stops at one that does not fit."""
    head = NLMSG.size + NFGEN.size
    offset = 0
    while offset + head <= len(data):
        length, kind = NLMSG.unpack_from(data, offset)[:2]
        if length < head or offset + length > len(data):
            return
        yield kind, data[offset + head : offset + length]
        offset += length + (-length % 4)


class NfNetlink:
    """One socket. Errors of the kernel are raised as OSError with its errno; silence for `timeout` seconds, too."""

    def __init__(self, timeout: float = 5.0) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER)
        self._socket.settimeout(timeout)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self._socket.bind((0, 0))
        self._sequence = 0

    def __enter__(self) -> "NfNetlink":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def _message(self, kind: int, flags: int, family: int, payload: bytes) -> bytes:
        self._sequence += 1
        length = NLMSG.size + NFGEN.size + len(payload)
        return NLMSG.pack(length, kind, flags | F_REQUEST, self._sequence, 0) + NFGEN.pack(family, 0, 0) + payload

    def request(self, kind: int, family: int, payload: bytes) -> None:
        """One message; returns when the kernel has acknowledged it."""
        self._socket.send(self._message(kind, F_ACK, family, payload))
        for _ in self._answers(self._sequence):
            pass

    def dump(self, kind: int, family: int, payload: bytes = b"") -> Iterator[tuple[int, bytes]]:
        """(address family, attributes) of every object. A dump that a change disturbed may miss or repeat some."""
        self._socket.send(self._message(kind, F_DUMP, family, payload))
        for body in self._answers(self._sequence):
            yield body[0], body[NFGEN.size :]

    def batch(self, messages: Iterable[tuple[int, int, bytes]]) -> int:
        """(type, family, attributes) of each, in one send; returns how many failed (objects that are gone)."""
        data = [self._message(kind, 0, family, payload) for kind, family, payload in messages]
        if not data:
            return 0
        # Acknowledge the last: when its answer is here, all have been done, in order.
        length, kind, flags, sequence, port = NLMSG.unpack_from(data[-1])
        data[-1] = NLMSG.pack(length, kind, flags | F_ACK, sequence, port) + data[-1][NLMSG.size :]
        self._socket.send(b"".join(data))
        failed = 0
        while True:
            for got, kind, body in self._receive():
                if kind != NLMSG_ERROR:
                    continue
                failed += int(struct.unpack_from("=i", body)[0] != 0)
                if got == sequence:
                    return failed

    def transaction(self, messages: Iterable[bytes]) -> None:
        """A batch of nf_tables (linux/netfilter/nfnetlink.h) in one send: all of it is done, or OSError.

        Each message but the first and the last asks for an acknowledgement; the kernel ends the batch at its end.
        """
        data = list(messages)
        waiting = {NLMSG.unpack_from(message)[3] for message in data[1:-1]}
        self._socket.send(b"".join(data))
        failed = 0
        while waiting and not failed:
            for got, kind, body in self._receive():
                if kind == NLMSG_ERROR:
                    failed = failed or -struct.unpack_from("=i", body)[0]
                    waiting.discard(got)
        if failed:
            raise OSError(failed, os.strerror(failed))

    def _receive(self) -> Iterator[tuple[int, int, bytes]]:
        data = self._socket.recv(1 << 18)
        offset = 0
        while offset + NLMSG.size <= len(data):
            length, kind, _, sequence, _ = NLMSG.unpack_from(data, offset)
            if length < NLMSG.size or offset + length > len(data):
                raise OSError(errno.EBADMSG, "netlink message does not fit its datagram")
            yield sequence, kind, data[offset + NLMSG.size : offset + length]
            offset += length + (-length % 4)

    def _answers(self, sequence: int) -> Iterator[bytes]:
        while True:
            for got, kind, body in self._receive():
                if got != sequence:
                    continue
                if kind == NLMSG_DONE:
                    return
                if kind == NLMSG_ERROR:
                    code = -struct.unpack_from("=i", body)[0]
                    if code:
                        raise OSError(code, os.strerror(code))
                    return
                yield body
