# SPDX-License-Identifier: Apache-2.0
"""The slow queue: packets are read in batches and answered later, in order.

Two readers, one behaviour. `ReaderQueue` is fastpath's own: whole packets, TCP segments joined up to 64 KiB, answers in
one send. `LibraryQueue` is NetfilterQueue: the kernel cuts joined segments apart before it queues them, and of a packet
longer than 4,016 bytes it shows the beginning, which is the failure `truncated_packet`.
"""

import errno
import os
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

from appliance.inspection.requests import NOWHERE, Place
from fastpath.errors import FastpathError, PortcullisError
from fastpath.reader import Packet, Reader

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


class Handle(Protocol):
    """What a packet is answered by, as NetfilterQueue has it: mark and payload first, if they are to be others."""

    def set_mark(self, mark: int) -> None: ...

    def set_payload(self, data: bytes) -> None: ...

    def accept(self) -> None: ...

    def drop(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Received:
    """A packet that waits for its verdict."""

    handle: Handle
    payload: bytes
    mark: int
    place: Place = NOWHERE


@dataclass(frozen=True, slots=True)
class QueueSettings:
    """`length` in packets, `receive_buffer` in bytes. `fail_open`: what does not fit passes."""

    number: int
    length: int
    receive_buffer: int
    fail_open: bool = False


class SlowQueue(Protocol):
    """One bound NFQUEUE."""

    def fileno(self) -> int: ...

    def read(self, most: int) -> tuple[list[Received], bool]:
        """Up to `most` waiting packets in order, and whether that was all. Does not wait."""
        ...

    def accept_if_empty(self, handles: Sequence[Handle]) -> bool:
        """Accepts these, at most BATCH, with the marks that were set, unless other packets wait to be read: then none
        of them. The kernel is asked right before it is told: hardly a packet comes in between."""
        ...

    def flush(self) -> None:
        """Answers that were given leave now."""
        ...

    def counters(self) -> dict[str, int]: ...

    def close(self) -> None:
        """Unbind; the kernel drops what still waits."""
        ...


def open_queue(settings: QueueSettings, reader: str) -> SlowQueue:
    """reader: "fastpath" or "netfilterqueue". Raises QueueError."""
    return LibraryQueue(settings) if reader == "netfilterqueue" else ReaderQueue(settings)


class _ReaderHandle:
    """One packet of a Reader."""

    __slots__ = ("_mark", "_packet", "_payload", "_reader")

    def __init__(self, reader: Reader, packet: Packet) -> None:
        self._reader = reader
        self._packet = packet
        self._mark = packet.mark
        self._payload: bytes | None = None

    def set_mark(self, mark: int) -> None:
        self._mark = mark

    def set_payload(self, data: bytes) -> None:
        self._payload = data

    @property
    def answer(self) -> tuple[int, int]:
        """The packet's id and the mark that it goes on with."""
        return self._packet.id, self._mark

    def accept(self) -> None:
        if self._payload is None:
            self._reader.accept(self._packet.id, self._mark)
        elif self._packet.joined:
            # It cannot be made into another packet, but its segments can: they come with the mark that it came with,
            # and are judged like it.
            self._reader.again(self._packet.id)
        else:
            self._reader.replace(self._packet.id, self._mark, self._payload)

    def drop(self) -> None:
        self._reader.drop(self._packet.id)


class ReaderQueue:
    """A SlowQueue read by fastpath."""

    def __init__(self, settings: QueueSettings) -> None:
        """Raises QueueError."""
        number = settings.number
        try:
            self._reader = Reader(number, settings.length, settings.receive_buffer, fail_open=settings.fail_open)
        except FastpathError as error:
            raise _not_bound(number, error) from None

    def fileno(self) -> int:
        return self._reader.fileno()

    def read(self, most: int) -> tuple[list[Received], bool]:
        packets, empty = self._reader.read(most)
        received = [
            Received(_ReaderHandle(self._reader, packet), packet.payload, packet.mark, Place(*packet[3:6]))
            for packet in packets
        ]
        return received, empty

    def accept_if_empty(self, handles: Sequence[Handle]) -> bool:
        return self._reader.accept_if_empty([cast(_ReaderHandle, handle).answer for handle in handles])

    def flush(self) -> None:
        self._reader.send()

    def counters(self) -> dict[str, int]:
        found = self._reader.counters()
        return {
            "overruns": found.overruns,
            "unread": found.broken,
            "segmented": found.again,
            "refused": found.verdict_errors,
        }

    def close(self) -> None:
        self._reader.close()


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

    def waiting(self) -> bool:
        try:
            self._socket.recv(1, socket.MSG_DONTWAIT | socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:  # packets were lost: others wait
            self.overruns += 1
        return True

    def send(self, message: bytes) -> None:
        self._socket.send(message)

    def close(self) -> None:
        self._socket.close()


class LibraryQueue:
    """A SlowQueue read by NetfilterQueue."""

    def __init__(self, settings: QueueSettings) -> None:
        """Raises QueueError."""
        from netfilterqueue import NetfilterQueue

        number = settings.number
        self._batch: list[Received] = []
        self._queue = NetfilterQueue()
        try:
            self._queue.bind(
                number, self._take, max_len=settings.length, range=_COPY_RANGE, sock_len=settings.receive_buffer
            )
        except OSError as error:
            raise _not_bound(number, error) from None
        self._socket = _BatchSocket(self._queue.get_fd())
        if settings.fail_open:
            self._socket.send(_fail_open(number))
        self._unread = 0
        self._refused = 0

    def fileno(self) -> int:
        return int(self._queue.get_fd())

    def counters(self) -> dict[str, int]:
        return {"overruns": self._socket.overruns, "unread": self._unread, "refused": self._refused}

    def read(self, most: int) -> tuple[list[Received], bool]:
        self._batch = []
        self._socket.left = most
        self._socket.empty = False
        self._queue.run_socket(cast(socket.socket, self._socket))
        return self._batch, self._socket.empty

    def accept_if_empty(self, handles: Sequence[Handle]) -> bool:
        if self._socket.waiting():
            return False
        for handle in handles:
            try:
                handle.accept()
            except Exception:
                self._refused += 1
        return True

    def flush(self) -> None:
        """The library sends each answer as it is given."""

    def close(self) -> None:
        self._queue.unbind()
        self._socket.close()

    def _take(self, handle: Any) -> None:
        try:
            place = Place(int(handle.hook), int(handle.indev), int(handle.outdev))
            self._batch.append(Received(handle, handle.get_payload(), int(handle.get_mark()), place))
        except Exception:
            # Whatever this is, the kernel must not wait for ever; bytes we never saw do not pass.
            self._unread += 1
            handle.drop()


def _fail_open(number: int) -> bytes:
    """NFQNL_MSG_CONFIG with NFQA_CFG_F_FAIL_OPEN (linux/netfilter/nfnetlink_queue.h), which the library does not know.
    Only the queue's own socket may send it. No answer is asked for: packets may stand before it."""
    flag = struct.pack("!I", 1)
    payload = struct.pack("!BBH", 0, 0, number) + _ATTRIBUTE.pack(8, 4) + flag + _ATTRIBUTE.pack(8, 5) + flag
    return struct.pack("=IHHII", 16 + len(payload), 3 << 8 | 2, 1, 0, 0) + payload


def _not_bound(number: int, error: Exception) -> QueueError:
    owner = _owner(number)
    if owner is not None:
        return QueueError(f"queue {number} is taken (netlink port {owner})", taken=True)
    return QueueError(f"queue {number} cannot be bound, which needs CAP_NET_ADMIN: {error}")


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
