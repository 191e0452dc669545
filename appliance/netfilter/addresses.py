# SPDX-License-Identifier: Apache-2.0
"""Which addresses have a predicate: the identity map of a program, turned around. Pure."""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from fastpath import PolicyTables
from rules.policy.early import Interval, Region, spans
from rules.policy.listed import Entry, unpacked

_V4 = 0xFFFF << 32  # ::ffff:0:0
_ALL = (1 << 128) - 1

Source = Callable[[], tuple[Sequence[Entry] | bytes, PolicyTables]]
"""Entries of the identity map, and tables; asked for the first predicate that is not known yet."""


class Asked(NamedTuple):
    """Of whom a set consists: addresses of this IP version that have the predicate."""

    predicate: int
    version: int


class Difference(NamedTuple):
    """Of one set."""

    asked: Asked
    gone: list[Interval]
    come: list[Interval]


class AddressSets:
    """Which addresses have a predicate: sorted, none touching the next; addresses as numbers of their IP version."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._rows: list[frozenset[int]] = []
        self._pieces: dict[int, list[tuple[int, int, int]]] = {}
        self._found: dict[Asked, list[Interval]] = {}

    def of(self, predicate: int, version: int) -> list[Interval]:
        asked = Asked(predicate, version)
        if asked not in self._found:
            if not self._pieces:
                self._read()
            having = [
                (first, last) for first, last, identity in self._pieces[version] if self._has(identity, predicate)
            ]  # fmt: skip
            self._found[asked] = merge(having)
        return self._found[asked]

    def follow(self, source: Source, regions: Sequence[Region] | None) -> list[Difference]:
        """There are other addresses, those of `regions` (None: anywhere). What is different in the sets so far."""
        self._source, self._pieces, self._rows = source, {}, []
        if regions is None or any(region.first < _V4 <= region.last for region in regions):
            before, self._found = self._found, {}
            return [difference(asked, old, self.of(*asked)) for asked, old in before.items()]
        found: dict[Asked, list[Interval]] = {asked: list(old) for asked, old in self._found.items()}
        for region in regions:
            version, base = (4, _V4) if _V4 <= region.first <= _V4 + last_address(4) else (6, 0)
            for predicate, having in region.having.items():
                if (intervals := found.get(Asked(predicate, version))) is not None:
                    fresh = [(first - base, last - base) for first, last in having]
                    _replace(intervals, region.first - base, region.last - base, fresh)
        before, self._found = self._found, found
        return [difference(asked, old, found[asked]) for asked, old in before.items() if found[asked] != old]

    def forget(self, kept: Iterable[Asked]) -> None:
        """Nobody asks for others any more."""
        self._found = {asked: self._found[asked] for asked in kept}

    def _read(self) -> None:
        entries, tables = self._source()
        offsets, predicates = array("I", tables.predicate_offsets), array("I", tables.predicates)
        self._rows = [frozenset(predicates[offsets[i] : offsets[i + 1]]) for i in range(len(offsets) - 1)]
        self._pieces = pieces(unpacked(entries))

    def _has(self, identity: int, predicate: int) -> bool:
        return bool(self._rows) and predicate in self._rows[identity if identity < len(self._rows) else 0]


def difference(asked: Asked, before: list[Interval], now: list[Interval]) -> Difference:
    old, new = set(before), set(now)
    return Difference(asked, [one for one in before if one not in new], [one for one in now if one not in old])


def _replace(intervals: list[Interval], first: int, last: int, having: list[Interval]) -> None:
    """In sorted intervals that do not touch: from `first` to `last` there are these now, and no others."""
    begin = bisect_left(intervals, first - 1, key=lambda one: one[1])
    end = bisect_right(intervals, last + 1, key=lambda one: one[0])
    beside = intervals[begin:end]
    left = [(a, min(b, first - 1)) for a, b in beside if a < first]
    right = [(max(a, last + 1), b) for a, b in beside if b > last]
    intervals[begin:end] = merge([*left, *having, *right])


def pieces(entries: Iterable[Entry]) -> dict[int, list[tuple[int, int, int]]]:
    """By IP version: (first, last, identity) from the first address to the last one without a gap, by the longest
    prefix; identity 0 where no entry is."""
    v4, v6 = [], []
    end = _V4 + last_address(4)
    for first, last, identity in spans(entries, 0, _ALL, 0):
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
