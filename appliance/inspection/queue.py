# SPDX-License-Identifier: Apache-2.0
"""The slow queue through NetfilterQueue: packets are read in batches and answered later, in order."""

import errno
import os
import socket
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from appliance.inspection.requests import NOWHERE, Place
from fastpath.errors import PortcullisError

# The library asks the kernel for 4016 bytes of a packet at most; a longer one arrives cut (`truncated_packet`).
_COPY_RANGE = 4016
_ATTRIBUTE = struct.Struct("=HH")
_DATAGRAM = 8192  # bytes, the packet's netlink attributes included
_PROC = Path("/proc/net/netfilter/nfnetlink_queue")


class QueueError(PortcullisError):
    """The queue cannot be bound. `taken`: another process owns it."""

    def __init__(self, message: str, *, taken: bool = False) -> None:
        super().__init__(message)
        self.taken = taken


@dataclass(frozen=True, slots=True)
class Received:
    """A packet that waits for its verdict; `handle` is NetfilterQueue's."""

    handle: Any
    payload: bytes
    mark: int
    place: Place = NOWHERE


class _BatchSocket:
    """What NetfilterQueue.run_socket() reads from. It ends a batch after `left` datagrams, where the library alone
    would read for as long as packets come, says whether the queue was empty, and counts lost packets."""

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=os.dup(fd))
        self.left = 0
        self.empty = False
        self.overruns = 0

    def recv(self, _size: int) -> bytes:
        if self.left <= 0:
            raise BlockingIOError(errno.EAGAIN, "batch is full")
        self.left -= 1
        try:
            return self._socket.recv(_DATAGRAM, socket.MSG_DONTWAIT)
        except BlockingIOError:
            self.empty = True
            raise
        except OSError as error:
            if error.errno == errno.ENOBUFS:
                self.overruns += 1
            raise

    def send(self, message: bytes) -> None:
        self._socket.send(message)

    def close(self) -> None:
        self._socket.close()


class SlowQueue:
    """One bound NFQUEUE."""

    def __init__(self, number: int, length: int, receive_buffer: int, *, fail_open: bool = False) -> None:
        """`length` in packets, `receive_buffer` in bytes. `fail_open`: what does not fit passes. Raises QueueError."""
        from netfilterqueue import NetfilterQueue

        self._batch: list[Received] = []
        self._queue = NetfilterQueue()
        try:
            self._queue.bind(number, self._take, max_len=length, range=_COPY_RANGE, sock_len=receive_buffer)
        except OSError as error:
            owner = _owner(number)
            if owner is not None:
                raise QueueError(f"queue {number} is taken (netlink port {owner})", taken=True) from None
            raise QueueError(f"queue {number} cannot be bound, which needs CAP_NET_ADMIN: {error}") from None
        self._socket = _BatchSocket(self._queue.get_fd())
        if fail_open:
            self._socket.send(_fail_open(number))
        self.unread = 0

    def fileno(self) -> int:
        return int(self._queue.get_fd())

    @property
    def overruns(self) -> int:
        """How often the kernel had to drop because the socket buffer was full."""
        return self._socket.overruns

    def read(self, most: int) -> tuple[list[Received], bool]:
        """Up to `most` waiting packets in order, and whether that was all. Does not wait."""
        self._batch = []
        self._socket.left = most
        self._socket.empty = False
        self._queue.run_socket(cast(socket.socket, self._socket))
        return self._batch, self._socket.empty

    def close(self) -> None:
        """Unbind; the kernel drops what still waits."""
        self._queue.unbind()
        self._socket.close()

    def _take(self, handle: Any) -> None:
        try:
            place = Place(int(handle.hook), int(handle.indev), int(handle.outdev))
            self._batch.append(Received(handle, handle.get_payload(), int(handle.get_mark()), place))
        except Exception:
            # Whatever this is, the kernel must not wait for ever; bytes we never saw do not pass.
            self.unread += 1
            handle.drop()


def _fail_open(number: int) -> bytes:
    """NFQNL_MSG_CONFIG with NFQA_CFG_F_FAIL_OPEN (linux/netfilter/nfnetlink_queue.h), which the library does not know.
    Only the queue's own socket may send it. No answer is asked for: packets may stand before it."""
    flag = struct.pack("!I", 1)
    payload = struct.pack("!BBH", 0, 0, number) + _ATTRIBUTE.pack(8, 4) + flag + _ATTRIBUTE.pack(8, 5) + flag
    return struct.pack("=IHHII", 16 + len(payload), 3 << 8 | 2, 1, 0, 0) + payload


def _owner(number: int) -> str | None:
    """The netlink port that owns a queue, from /proc (readable by root)."""
    try:
        lines = _PROC.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        fields = line.split()
        if len(fields) > 1 and fields[0] == str(number):
            return fields[1]
    return None
