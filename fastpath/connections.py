# SPDX-License-Identifier: Apache-2.0
"""Fates in the marks of connections, taken back: a walk over conntrack that holds no interpreter lock."""

from collections.abc import Callable, Collection, Iterable
from types import TracebackType
from typing import Self

from fastpath._binding import Address, address_bytes, check, ffi, lib
from fastpath.layout import Fate

PIECE = 4096  # entries looked at together


class Connections:
    """Those that a walk finds. A context manager; blocking, in the network namespace of the thread that makes it.

    Raises :class:`FastpathError`: EPERM (no CAP_NET_ADMIN), EAGAIN (the kernel is silent).
    """

    def __init__(
        self,
        mask: int,
        *,
        cleared: int,
        generations: Iterable[int],
        addresses: Collection[Address] = (),
        fate: Fate = Fate.NONE,
        protocol: int = 0,
        carried: int = 0,
        idle: int = 0,
    ) -> None:
        """`mask`: our eight bits of the mark; `cleared`: those that are taken back. `generations` that connections were
        decided under; 0: under none, and with a previous fate. `addresses`, `fate`, `protocol`: connections
        of these alone, where they are given; `carried`: that have carried so many bytes at least, where the kernel
        counts. `idle`: it rests so many times as long as it works."""
        c = ffi.new("struct fp_conntrack_wanted *")
        c.mask, c.cleared, c.idle = mask, cleared, idle
        c.fate, c.protocol, c.carried = fate, protocol, carried
        c.generations = sum(1 << generation for generation in generations)
        c.addresses = packed = ffi.from_buffer("uint8_t[]", b"".join(map(address_bytes, addresses)) or bytes(1))
        c.n_addresses = len(addresses)
        out = ffi.new("struct fp_conntrack **")
        check(lib.fp_conntrack_open(c, out), "cannot read the connection table")
        del packed
        self._pointer = ffi.gc(out[0], lib.fp_conntrack_close)

    def count(self) -> int:
        """Of all that the walk finds."""
        ids = ffi.new("uint32_t[]", PIECE)
        found = 0
        while piece := check(lib.fp_conntrack_next(self._pointer, ids, PIECE), "cannot read the connection table"):
            found += piece
        return found

    def void(self, spared: Callable[[], Iterable[int]] = tuple) -> int:
        """Takes the bits back; returns from how many. spared(): conntrack ids of those that need it no more, asked once
        for each PIECE. One that is decided after that comes up once more."""
        ids = ffi.new("uint32_t[]", PIECE)
        voided = 0
        while check(lib.fp_conntrack_next(self._pointer, ids, PIECE), "cannot read the connection table"):
            kept = sorted(spared())
            count = lib.fp_conntrack_void(self._pointer, ffi.new("uint32_t[]", kept), len(kept))
            voided += check(count, "cannot change the marks of connections")
        return voided

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        ffi.release(self._pointer)
