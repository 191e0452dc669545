# SPDX-License-Identifier: Apache-2.0
"""Which addresses have a predicate: the identity map of a program, turned around. Pure."""

from array import array
from collections.abc import Iterable

from rules.policy import Program
from rules.policy.listed import unpacked

Interval = tuple[int, int]  # both ends belong to it
_V4 = 0xFFFF << 32  # ::ffff:0:0


class AddressSets:
    """Which addresses have a predicate."""

    def __init__(self, program: Program) -> None:
        tables = program.tables
        self._entries = program.entries
        offsets, predicates = array("I", tables.predicate_offsets), array("I", tables.predicates)
        self._rows = [
            frozenset(predicates[offsets[i] : offsets[i + 1]]) for i in range(len(offsets) - 1)
        ]  # fmt: skip
        self._pieces: dict[int, list[tuple[int, int, int]]] = {}
        self._found: dict[tuple[int, int], list[Interval]] = {}

    def of(self, predicate: int, version: int) -> list[Interval]:
        """Sorted, none touching the next; addresses as numbers of their IP version."""
        if not self._pieces:
            self._pieces = pieces(unpacked(self._entries))
        if (predicate, version) not in self._found:
            having = [
                (first, last) for first, last, identity in self._pieces[version] if self._has(identity, predicate)
            ]  # fmt: skip
            self._found[predicate, version] = merge(having)
        return self._found[predicate, version]

    def _has(self, identity: int, predicate: int) -> bool:
        return bool(self._rows) and predicate in self._rows[identity if identity < len(self._rows) else 0]


def pieces(entries: Iterable[tuple[bytes, int, int, int]]) -> dict[int, list[tuple[int, int, int]]]:
    """By IP version: (first, last, identity) from the first address to the last one without a gap, by the longest
    prefix; identity 0 where no entry is."""
    found: list[tuple[int, int, int]] = []
    open_: list[tuple[int, int]] = [((1 << 128) - 1, 0)]  # last, identity; what lies in what
    at = 0

    def upto(end: int) -> None:
        nonlocal at
        if at <= end:
            found.append((at, end, open_[-1][1]))
            at = end + 1

    for addr, length, identity, _ in sorted(entries, key=lambda entry: entry[:2]):
        first = int.from_bytes(addr)
        while open_[-1][0] < first:
            upto(open_[-1][0])
            open_.pop()
        upto(first - 1)
        open_.append((first | ((1 << (128 - length)) - 1), identity))
    while open_:
        upto(open_[-1][0])
        open_.pop()
    v4, v6 = [], []
    end = _V4 + last_address(4)
    for first, last, identity in found:
        if first <= end and last >= _V4:
            v4.append((max(first, _V4) - _V4, min(last, end) - _V4, identity))
        if first < _V4:
            v6.append((first, min(last, _V4 - 1), identity))
        if last > end:
            v6.append((max(first, end + 1), last, identity))
    # No packet of IPv6 has an address of IPv4: its range goes with what follows it.
    after = next(identity for first, _, identity in v6 if first == end + 1)
    v6.append((_V4, end, after))
    return {4: v4, 6: sorted(v6)}


def merge(intervals: Iterable[Interval]) -> list[Interval]:
    merged: list[Interval] = []
    for first, last in sorted(intervals):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = merged[-1][0], max(last, merged[-1][1])
        else:
            merged.append((first, last))
    return merged


def last_address(version: int) -> int:
    return (1 << (32 if version == 4 else 128)) - 1
