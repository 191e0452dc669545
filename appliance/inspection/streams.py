# SPDX-License-Identifier: Apache-2.0
"""TCP reassembly for one direction of a flow (RFC 9293), bounded.

    base          next                     delivered in order up to `next`; [base, next) is kept until it is
     |  delivered  |   gap  |  pending |   acknowledged, so that a retransmission can be compared with it

Overlap policy: the first copy wins. The packet that carries a second, different copy is a *conflict*: the inspector
drops it, so the receiver never sees bytes that were not inspected, whichever copy its own stack would prefer.
Memory: `pending` and the kept bytes of a stream count against its cap and against the budget that all streams share;
out-of-order bytes that do not fit raise StreamMemoryError, delivered bytes are kept only as far as there is room.
"""

from bisect import bisect_left
from dataclasses import dataclass

from fastpath.errors import PortcullisError

_WRAP = 1 << 32
_HALF = 1 << 31


class StreamMemoryError(PortcullisError):
    """Out-of-order data exceeds the cap of the stream or of all streams."""


class Budget:
    """Bytes that all streams of an inspector may hold together."""

    __slots__ = ("limit", "used")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0


@dataclass(frozen=True, slots=True)
class Delivery:
    """`data`: bytes that are now in order. `conflict`: the segment contradicts bytes seen before."""

    data: bytes = b""
    conflict: bool = False


_NOTHING = Delivery()
_CONFLICT = Delivery(conflict=True)


class Stream:
    """One direction. Offsets are counted from the first byte seen and do not wrap; `offset` is the next in order."""

    __slots__ = ("_budget", "_cap", "_first", "_kept", "_pending", "_starts", "finished", "held", "offset")

    def __init__(self, cap: int, budget: Budget) -> None:
        self._cap = cap
        self._budget = budget
        self._first: int | None = None
        self._kept = bytearray()
        self._pending: dict[int, bytes] = {}
        self._starts: list[int] = []
        self.held = 0
        self.offset = 0
        self.finished = False

    @property
    def started(self) -> bool:
        return self._first is not None

    @property
    def gap(self) -> bool:
        """Bytes wait for others that are missing."""
        return bool(self._starts)

    def start(self, seq: int) -> None:
        """`seq` is the sequence number of the first byte (the SYN's plus one)."""
        if self._first is None:
            self._first = seq % _WRAP

    def has_sent(self, ack: int) -> bool:
        """Whether `ack` acknowledges no more than was seen."""
        return self._first is not None and (ack - self._first) % _WRAP <= self.offset

    def segment(self, seq: int, payload: bytes) -> Delivery:
        """Take a segment's payload. Raises StreamMemoryError; the stream is unchanged then."""
        if not payload:
            return _NOTHING
        if self._first is None:
            self.start(seq)
        assert self._first is not None
        distance = (seq - self._first - self.offset) % _WRAP
        if distance >= _HALF:
            distance -= _WRAP
        start = self.offset + distance
        if self._contradicts(start, payload):
            return _CONFLICT
        if distance > 0:
            self._hold(start, payload)
            return _NOTHING
        fresh = payload[-distance:] if distance else payload
        if not fresh:
            return _NOTHING
        if not self._starts:
            self._deliver(fresh)
            return Delivery(fresh)
        return Delivery(self._join(fresh))

    def acknowledged(self, ack: int) -> None:
        """The receiver has everything before `ack`: it need not be compared any more."""
        if self._first is None or not self._kept:
            return
        behind = (self._first + self.offset - ack) % _WRAP
        if behind < len(self._kept):
            self._trim(len(self._kept) - behind)

    def release(self) -> None:
        """Give up everything held; the stream takes no more data."""
        self._budget.used -= self.held
        self.held = 0
        self._kept.clear()
        self._pending.clear()
        self._starts.clear()

    def _contradicts(self, start: int, payload: bytes) -> bool:
        end = start + len(payload)
        base = self.offset - len(self._kept)
        low, high = max(start, base), min(end, self.offset)
        if low < high and self._kept[low - base : high - base] != payload[low - start : high - start]:
            return True
        for other in self._starts:
            if other >= end:
                break
            held = self._pending[other]
            low, high = max(start, other), min(end, other + len(held))
            if low < high and held[low - other : high - other] != payload[low - start : high - start]:
                return True
        return False

    def _hold(self, start: int, payload: bytes) -> None:
        known = self._pending.get(start)
        if known is not None and len(known) >= len(payload):
            return
        grown = len(payload) - (len(known) if known is not None else 0)
        while self.held + grown > self._cap and self._kept:
            self._trim(min(len(self._kept), self.held + grown - self._cap))
        if self.held + grown > self._cap:
            raise StreamMemoryError(f"more than {self._cap} bytes wait for a missing segment")
        if self._budget.used + grown > self._budget.limit:
            raise StreamMemoryError(f"all streams together hold {self._budget.limit} bytes")
        if known is None:
            self._starts.insert(bisect_left(self._starts, start), start)
        self._pending[start] = payload
        self._count(grown)

    def _join(self, fresh: bytes) -> bytes:
        """Deliver `fresh` and every pending segment that it connects."""
        parts = [fresh]
        end = self.offset + len(fresh)
        used = 0
        for start in self._starts:
            if start > end:
                break
            held = self._pending.pop(start)
            self._count(-len(held))
            used += 1
            if start + len(held) > end:
                parts.append(held[end - start :])
                end = start + len(held)
        del self._starts[:used]
        data = b"".join(parts)
        self._deliver(data)
        return data

    def _deliver(self, data: bytes) -> None:
        self.offset += len(data)
        self._kept += data
        self._count(len(data))
        excess = max(self.held - self._cap, self._budget.used - self._budget.limit)
        if excess > 0:
            self._trim(min(excess, len(self._kept)))

    def _trim(self, size: int) -> None:
        del self._kept[:size]
        self._count(-size)

    def _count(self, size: int) -> None:
        self.held += size
        self._budget.used += size
