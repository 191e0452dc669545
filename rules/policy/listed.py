# SPDX-License-Identifier: Apache-2.0
"""Facts about millions of prefixes: lists that share their facts as a whole, beside the facts of single prefixes.

    FactMap's own prefixes (few, each with its facts) ─┐
    lists (long, the same facts for all in one) ───────┴─▶ merge in C ─▶ entries, identities

The work on whole lists is fastpath.lists', which is loaded when there is one.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from fastpath.errors import PortcullisError
from fastpath.layout import PREFIX_ENTRY
from rules.policy.model import Net

if TYPE_CHECKING:
    from fastpath.lists import PrefixList

Facts = frozenset[int]
Entry = tuple[bytes, int, int, int]  # address, prefix bits, identity, ifindex
_NONE: Facts = frozenset()
CROWD = 4096  # listed prefixes inside another one that are looked at one by one


class Crowded(PortcullisError):
    """A prefix has so many listed ones inside that everything is better resolved anew."""


class Listed:
    """Lists by number. Each is disjoint."""

    def __init__(self) -> None:
        self._lists: list[tuple[PrefixList, Facts]] = []

    def __bool__(self) -> bool:
        return any(prefixes for prefixes, _ in self._lists)

    def add(self, prefixes: "PrefixList", facts: Iterable[int]) -> None:
        self._lists.append((prefixes, frozenset(facts)))

    def add_empty(self, facts: Iterable[int]) -> None:
        from fastpath.lists import PrefixList

        self.add(PrefixList(), facts)

    def exchange(self, number: int, prefixes: "PrefixList") -> None:
        self._lists[number] = prefixes, self._lists[number][1]

    @property
    def lists(self) -> "tuple[PrefixList, ...]":
        return tuple(prefixes for prefixes, _ in self._lists)

    def facts_of(self, numbers: Iterable[int]) -> Facts:
        return _NONE.union(*(self._lists[number][1] for number in numbers))

    def around(self, net: Net) -> Facts:
        """Of lists with a prefix that covers the net and is not the net itself."""
        return self._facts(net, exact=False)

    def at(self, net: Net) -> Facts:
        """Of lists that have exactly this prefix."""
        return self._facts(net, exact=True)

    def _facts(self, net: Net, *, exact: bool) -> Facts:
        found = _NONE
        if self._lists:
            item = item_of(net)
            for prefixes, facts in self._lists:
                at = prefixes.find(item)
                same = at < len(prefixes) and prefixes[at] == item
                if same if exact else (not same and at > 0 and _covers(prefixes[at - 1], item)):
                    found |= facts
        return found

    def inside(self, net: Net) -> list[Net]:
        """Listed prefixes that the net covers, itself included. Raises Crowded."""
        found: set[Net] = set()
        item = item_of(net)
        end = (item >> 8 | (1 << 128 - net.length) - 1) + 1 << 8
        for prefixes, _ in self._lists:
            start, stop = prefixes.find(item), prefixes.find(end)
            if stop - start > CROWD:
                raise Crowded(f"{stop - start} listed prefixes are inside {net}")
            found.update(inner for listed in prefixes[start:stop] if (inner := net_of(listed)).is_v4 is net.is_v4)
        return sorted(found)


def merged(
    base: Sequence[Entry], listed: Listed, facts_of: Sequence[Facts], number: Callable[[Facts], int]
) -> bytes:
    """Packed entries of both. number: of the identity with these facts."""
    from fastpath.lists import merge_layers, name_entries

    entries, states = merge_layers(packed(sorted(base)), listed.lists)
    name_entries(entries, [number(facts_of[identity] | listed.facts_of(numbers)) for identity, numbers in states])
    return bytes(entries)


def packed(entries: "Iterable[Entry] | bytes") -> bytes:
    return entries if isinstance(entries, bytes) else b"".join([PREFIX_ENTRY.pack(*entry) for entry in entries])


def unpacked(entries: Sequence[Entry] | bytes) -> Iterator[Entry]:
    yield from PREFIX_ENTRY.iter_unpack(entries) if isinstance(entries, bytes) else entries


def item_of(net: Net) -> int:
    return int.from_bytes(net.addr) << 8 | net.length


def net_of(item: int) -> Net:
    return Net((item >> 8).to_bytes(16), item & 0xFF)


def _covers(outer: int, inner: int) -> bool:
    length = outer & 0xFF
    if (length >= 96 and outer >> 40 == 0xFFFF) != (inner & 0xFF >= 96 and inner >> 40 == 0xFFFF):
        return False  # IPv6 says nothing about IPv4
    return length <= inner & 0xFF and (outer >> 8 ^ inner >> 8) >> 128 - length == 0
