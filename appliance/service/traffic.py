# SPDX-License-Identifier: Apache-2.0
"""What was allowed of late, and how much of it a list would block: a list that hits much of it is not believed.

STATE/recent-traffic.json   what is remembered, for the next run: {"saved": seconds since 1970,
                            "pairs": [[source and destination in hex, age in seconds, flows], ...],
                            "names": [[name, age in seconds, times], ...]}
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from fastpath.lists import PrefixList
from rules.hostnames import ascii_name
from threatfeeds import Allowlist, Feed, merge, prefix

PAIRS = 10_000  # that are remembered
NAMES = 10_000
SPAN = 3600.0  # seconds
LEAST = 100  # flows or names shown, below which nothing is said about shares

_AT_MOST = Meta(max_length=max(PAIRS, NAMES))
Key = TypeVar("Key")
Pair = tuple[bytes, bytes]  # source, destination: 16 bytes each


FILE = "recent-traffic.json"
LARGEST = 8 << 20  # bytes of the file

_Age = Annotated[float, Meta(ge=0)]
_Count = Annotated[int, Meta(ge=1)]


class _Kept(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    saved: float
    pairs: Annotated[tuple[tuple[Annotated[str, Meta(pattern="^[0-9a-f]{64}$")], _Age, _Count], ...], _AT_MOST]
    names: Annotated[tuple[tuple[Annotated[str, Meta(max_length=253)], _Age, _Count], ...], _AT_MOST]


@dataclass(frozen=True)
class Seen:
    """Counts of allowed flows by pair of addresses, and of names that clients showed."""

    pairs: tuple[tuple[Pair, int], ...] = ()
    names: tuple[tuple[str, int], ...] = ()

    @property
    def flows(self) -> int:
        return sum(count for _, count in self.pairs)

    @property
    def shown(self) -> int:
        return sum(count for _, count in self.names)


class RecentTraffic:
    """Bounded: what was seen longest ago makes room."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._pairs: OrderedDict[Pair, tuple[float, int]] = OrderedDict()
        self._names: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def flow(self, source: bytes, destination: bytes) -> None:
        _count(self._pairs, (source, destination), self._clock(), PAIRS)

    def name(self, name: str) -> None:
        _count(self._names, name, self._clock(), NAMES)

    def packed(self, now: float) -> bytes:
        """For load(). now: seconds since 1970."""
        clock = self._clock()
        pairs = [(key[0].hex() + key[1].hex(), clock - last, count) for key, (last, count) in self._pairs.items()]
        names = [(name, clock - last, count) for name, (last, count) in self._names.items()]
        return msgspec.json.encode(_Kept(now, tuple(pairs), tuple(names)))

    def load(self, packed: bytes, now: float) -> None:
        """Takes what an earlier run saw within the last hour. Raises ValueError, and takes nothing then."""
        kept = msgspec.json.decode(packed, type=_Kept)
        clock, away = self._clock(), max(0.0, now - kept.saved)
        pairs = {
            (bytes.fromhex(key[:32]), bytes.fromhex(key[32:])): (clock - away - age, count)
            for key, age, count in kept.pairs if away + age < SPAN
        }  # fmt: skip
        self._pairs = OrderedDict(pairs | self._pairs)
        names = {name: (clock - away - age, count) for name, age, count in kept.names if away + age < SPAN}
        self._names = OrderedDict(names | self._names)

    def seen(self) -> Seen:
        """Of the last hour."""
        oldest = self._clock() - SPAN
        return Seen(
            tuple((pair, count) for pair, (last, count) in self._pairs.items() if last >= oldest),
            tuple((name, count) for name, (last, count) in self._names.items() if last >= oldest),
        )


def _count(found: OrderedDict[Key, tuple[float, int]], key: Key, now: float, most: int) -> None:
    _, count = found.pop(key, (0.0, 0))
    found[key] = now, count + 1
    if len(found) > most:
        found.popitem(last=False)


def share(seen: Seen, old: Feed | None, new: Feed, allowlist: Allowlist) -> tuple[float, str]:
    """(percent of what was seen that `new` would block and `old` does not, an example). 0 where too little was seen."""
    before = merge([old] if old is not None else [], allowlist)
    after = merge([new], allowlist)
    listed = after.feeds[0].prefixes
    known = before.feeds[0].prefixes if before.feeds else PrefixList()
    direction = new.config.direction
    hit, total, example = 0, 0, ""
    if seen.flows >= LEAST:
        for (source, destination), count in seen.pairs:
            total += count
            ends = (source,) if direction == "source" else (destination,) if direction == "destination" else (
                source, destination)  # fmt: skip
            for end in ends:
                if _lists(listed, end) and not _lists(known, end):
                    hit += count
                    example = example or _shown(end)
                    break
    if seen.shown >= LEAST and new.content.domains:
        for name, count in seen.names:
            total += count
            if after.find_name(name) and not before.find_name(name):
                hit += count
                example = example or ascii_name(name) or name
    return (100.0 * hit / total if total else 0.0), example


def _lists(prefixes: PrefixList, address: bytes) -> bool:
    wanted = int.from_bytes(address) << 8 | 128
    at = prefixes.find(wanted + 1) - 1
    if at < 0:
        return False
    entry = prefixes[at]
    return (entry >> 8 ^ wanted >> 8) >> 128 - (entry & 0xFF) == 0


def _shown(address: bytes) -> str:
    return prefix.text(int.from_bytes(address) << 8 | 128)
