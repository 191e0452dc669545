# SPDX-License-Identifier: Apache-2.0
"""Names and the addresses that DNS gave them, each pair until it expires. No clock, no I/O.

Time is whatever counts seconds evenly; the caller uses one clock for all calls.
"""

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

MAX_PAIRS = 65536
MAX_ADDRESSES = 512  # of one name


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """Seconds. What DNS says is raised to `floor` and cut to `cap`."""

    floor: float = 10.0
    cap: float = 86400.0

    def of(self, ttl: float) -> float:
        return min(max(ttl, self.floor), self.cap)


@dataclass(frozen=True, slots=True)
class Pair:
    name: str
    address: str
    expires: float


class NameTable:
    """Bounded: where there is no room, what expires first makes it (of the same name, if the name has too many)."""

    def __init__(
        self, lifetimes: Lifetimes, *, most_pairs: int = MAX_PAIRS, most_addresses: int = MAX_ADDRESSES
    ) -> None:
        self._lifetimes = lifetimes
        self._most_pairs = most_pairs
        self._most_addresses = most_addresses
        self._addresses: dict[str, dict[str, float]] = {}  # name → address → when it expires
        self._names: dict[str, set[str]] = {}  # address → names
        self._order: list[tuple[float, str, str]] = []  # heap; a pair that was renewed since is in it once more
        self._count = 0
        self.evicted = 0

    def __len__(self) -> int:
        """Pairs."""
        return self._count

    def __iter__(self) -> Iterator[Pair]:
        for name, addresses in self._addresses.items():
            for address, expires in addresses.items():
                yield Pair(name, address, expires)

    def learn(self, names: Iterable[str], addresses: Iterable[tuple[str, float]], now: float) -> set[str]:
        """`addresses`: (address, TTL in seconds), for each of the names. Returns the addresses whose names are not
        what they were. A shorter TTL never shortens what an earlier answer gave."""
        given = [(address, now + self._lifetimes.of(ttl)) for address, ttl in addresses]
        changed: set[str] = set()
        for name in names:
            for address, expires in given:
                changed |= self._put(name, address, expires)
        return changed

    def restore(self, pairs: Iterable[Pair], now: float) -> set[str]:
        """From an earlier run, or another table. What has expired is left out, and nothing lives longer than a fresh
        answer. Returns the addresses whose names are not what they were."""
        changed: set[str] = set()
        for pair in pairs:
            if pair.expires > now:
                changed |= self._put(pair.name, pair.address, min(pair.expires, now + self._lifetimes.cap))
        return changed

    def expire(self, now: float) -> set[str]:
        """Forgets what has expired. Returns the addresses that lost a name."""
        lost: set[str] = set()
        while self._order and self._order[0][0] <= now:
            expires, name, address = heapq.heappop(self._order)
            if self._addresses.get(name, {}).get(address) == expires:
                self._drop(name, address)
                lost.add(address)
        return lost

    @property
    def names(self) -> int:
        return len(self._addresses)

    @property
    def addresses(self) -> int:
        return len(self._names)

    def names_of(self, address: str) -> tuple[str, ...]:
        return tuple(sorted(self._names.get(address, ())))

    def by_name(self) -> dict[str, tuple[str, ...]]:
        """name → addresses."""
        return {name: tuple(addresses) for name, addresses in self._addresses.items()}

    def by_address(self) -> dict[str, tuple[str, ...]]:
        """address → names."""
        return {address: tuple(sorted(names)) for address, names in self._names.items()}

    def _put(self, name: str, address: str, expires: float) -> set[str]:
        changed: set[str] = set()
        addresses = self._addresses.setdefault(name, {})
        known = addresses.get(address)
        if known is not None and known >= expires:
            return changed
        addresses[address] = expires
        heapq.heappush(self._order, (expires, name, address))
        if known is None:
            self._count += 1
            self._names.setdefault(address, set()).add(name)
            changed.add(address)
            if len(addresses) > self._most_addresses:
                changed.add(self._evict(name, min(addresses, key=lambda other: addresses[other])))
            if self._count > self._most_pairs:
                changed.add(self._evict(*self._first()))
        if len(self._order) > 2 * self._count + 1024:
            self._order = [(pair.expires, pair.name, pair.address) for pair in self]
            heapq.heapify(self._order)
        return changed

    def _first(self) -> tuple[str, str]:
        """The pair that expires first."""
        while True:
            expires, name, address = heapq.heappop(self._order)
            if self._addresses.get(name, {}).get(address) == expires:
                return name, address

    def _evict(self, name: str, address: str) -> str:
        self._drop(name, address)
        self.evicted += 1
        return address

    def _drop(self, name: str, address: str) -> None:
        self._count -= 1
        addresses = self._addresses[name]
        del addresses[address]
        if not addresses:
            del self._addresses[name]
        names = self._names[address]
        names.discard(name)
        if not names:
            del self._names[address]
