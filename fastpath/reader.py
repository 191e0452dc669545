# SPDX-License-Identifier: Apache-2.0
"""One NFQUEUE for a program that judges packets in Python: whole packets, read in batches, answers joined in one send.

The contract is ``include/fastpath_reader.h``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from fastpath._binding import check, ffi, lib

BATCH = 64  # packets of one read at most
COPY_RANGE = 65531  # bytes: what an attribute of netlink can carry


class Packet(NamedTuple):
    """A packet that waits for its answer. ``payload`` begins with the IP header; b"": the message made no sense.
    ``joined``: it is several TCP segments in one."""

    id: int
    payload: bytes
    mark: int
    hook: int
    iif: int
    oif: int
    joined: bool


@dataclass(frozen=True, slots=True)
class ReaderCounters:
    """As ``struct fp_reader_counters``."""

    ids_lost: int
    overruns: int
    broken: int
    netlink_errors: int
    verdict_errors: int
    again: int


class Reader:
    """A bound queue. Each packet that was read waits until accept(), drop(), replace() or again() names it and send()
    has been called. One thread."""

    def __init__(
        self,
        queue: int,
        length: int,
        receive_buffer: int,
        *,
        copy_range: int = COPY_RANGE,
        fail_open: bool = False,
        gso: bool = True,
    ) -> None:
        """`length` in packets, the others in bytes. Raises FastpathError: EBUSY where another process has the queue."""
        config = ffi.new(
            "struct fp_reader_config *", (length, receive_buffer, copy_range, queue, int(fail_open), int(gso))
        )
        out = ffi.new("struct fp_reader **")
        check(lib.fp_reader_open(config, out), f"queue {queue}")
        self._reader = ffi.gc(out[0], lib.fp_reader_free)
        self._packets = ffi.new("struct fp_reader_packet[]", BATCH)
        self._empty = ffi.new("int *")

    def fileno(self) -> int:
        return int(lib.fp_reader_fd(self._reader))

    def read(self, most: int) -> tuple[list[Packet], bool]:
        """Up to `most` (and BATCH) waiting packets in order, and whether that was all. Does not wait."""
        n = check(lib.fp_reader_read(self._reader, self._packets, min(most, BATCH), self._empty), "reading packets")
        buffer, joined = ffi.buffer, lib.FP_READER_JOINED
        packets = [
            Packet(
                p.id,
                buffer(p.payload, p.payload_len)[:] if p.payload_len else b"",
                p.mark,
                p.hook,
                p.iif,
                p.oif,
                bool(p.flags & joined),
            )
            for p in self._packets[0:n]
        ]
        return packets, bool(self._empty[0])

    def accept(self, packet: int, mark: int) -> None:
        """The packet goes on with this mark."""
        check(lib.fp_reader_answer(self._reader, packet, 1, mark), "answering")

    def drop(self, packet: int) -> None:
        check(lib.fp_reader_answer(self._reader, packet, 0, 0), "answering")

    def replace(self, packet: int, mark: int, payload: bytes) -> None:
        """It goes on as another one. Not for a packet that is `joined`."""
        check(lib.fp_reader_answer_with(self._reader, packet, mark, payload, len(payload)), "answering")

    def again(self, packet: int) -> None:
        """Queue a packet that is `joined` again, in segments."""
        check(lib.fp_reader_again(self._reader, packet), "answering")

    def send(self) -> None:
        """What was answered leaves now, if it has not yet."""
        check(lib.fp_reader_send(self._reader), "answering")

    def accept_if_empty(self, packets: Sequence[tuple[int, int]]) -> bool:
        """Accepts `packets` (id, mark), at most BATCH, unless others wait to be read; whether it did. What was answered
        before leaves first."""
        ids, marks = zip(*packets, strict=True)
        accepted = lib.fp_reader_accept_if_empty(
            self._reader, ffi.new("uint32_t[]", ids), ffi.new("uint32_t[]", marks), len(packets)
        )
        return bool(check(accepted, "answering"))

    def counters(self) -> ReaderCounters:
        out = ffi.new("struct fp_reader_counters *")
        lib.fp_reader_counters(self._reader, out)
        return ReaderCounters(*(int(getattr(out, name)) for name in ReaderCounters.__slots__))

    def close(self) -> None:
        """Send, then unbind; the kernel drops what still waits. Nothing may be called afterwards."""
        ffi.release(self._reader)
