# SPDX-License-Identifier: Apache-2.0
"""Predicates: what a rule's side asks about an address, decided for every identity when the program is compiled."""

from array import array
from collections.abc import Sequence
from typing import NamedTuple

from fastpath.layout import NONE
from rules.policy.identities import Facts
from rules.policy.labels import Holders, bits_of
from rules.policy.model import Net
from rules.policy.selector import Node


class Match(NamedTuple):
    """All of it must hold. `selector`: a holder of the address matches; `not_selector`: none does. `port`: the holder
    has that (name, protocol, number). `names`: addresses that DNS gave a network set count as the set's."""

    nets: tuple[Net, ...] = ()
    not_nets: tuple[Net, ...] = ()
    selector: Node | None = None
    not_selector: Node | None = None
    service: tuple[str, str] | None = None
    slice: int | None = None
    domains: tuple[str, ...] = ()
    port: tuple[str, int, int] | None = None
    names: bool = False
    feed: int | None = None


ANY = Match()
NEVER = Match(slice=-1)


class FactNumbers:
    """Numbers for facts, so that an address's facts are a set of small integers."""

    def __init__(self) -> None:
        self.keys: list[tuple[str, object]] = []
        self._numbers: dict[tuple[str, object], int] = {}

    def number(self, kind: str, what: object) -> int:
        key = (kind, what)
        found = self._numbers.get(key)
        if found is None:
            found = self._numbers[key] = len(self.keys)
            self.keys.append(key)
        return found

    def find(self, kind: str, what: object) -> int | None:
        return self._numbers.get((kind, what))


class Predicates:
    """Numbers predicates by the identities for which they hold, so that equal ones are one."""

    def __init__(self, holders: Holders, numbers: FactNumbers, facts_of: Sequence[Facts]) -> None:
        self._holders = holders
        self._numbers = numbers
        self._count = len(facts_of)
        self._everyone = (1 << self._count) - 1
        members: list[list[int]] = [[] for _ in numbers.keys]
        for identity, facts in enumerate(facts_of):
            for fact in facts:
                members[fact].append(identity)
        self._fact_bits = [_to_bits(identities, self._count) for identities in members]
        self._holder_bits: dict[tuple[int, bool], int] = {}
        self._by_match: dict[Match, int] = {}
        self._by_bits: dict[int, int] = {}
        self._bits: list[int] = []

    def _fact(self, kind: str, what: object) -> int:
        number = self._numbers.find(kind, what)
        return 0 if number is None else self._fact_bits[number]

    def _held(self, holders: int, names: bool) -> int:
        """Identities with one of the holders."""
        bits = self._holder_bits.get((holders, names))
        if bits is None:
            bits = 0
            for holder in bits_of(holders):
                bits |= self._fact("holder", holder)
                if names:
                    bits |= self._fact("names", holder)
            self._holder_bits[holders, names] = bits
        return bits

    def evaluate(self, match: Match) -> int:
        bits = self._everyone
        if match.nets:
            bits &= self._fact("nets", match.nets)
        if match.not_nets:
            bits &= ~self._fact("nets", match.not_nets)
        if match.domains:
            named = 0
            for name in match.domains:
                named |= self._fact("domain", name)
            bits &= named
        if match.service is not None:
            bits &= self._fact("service", match.service)
        if match.slice is not None:
            bits &= self._fact("slice", match.slice)
        if match.feed is not None:
            bits &= self._fact("feed", match.feed)
        if match.port is not None or match.selector is not None:
            holders = self._holders.everyone
            if match.port is not None:
                name, proto, port = match.port
                holders &= self._holders.ports.get(name, {}).get((proto, port), 0)
            if match.selector is not None:
                holders &= self._holders.matching(match.selector)
            bits &= self._held(holders, match.names)
        if match.not_selector is not None:
            bits &= ~self._held(self._holders.matching(match.not_selector), False)
        return bits

    def number(self, match: Match) -> int:
        """fastpath.layout.NONE if it holds for everything."""
        if match == ANY:
            return NONE
        found = self._by_match.get(match)
        if found is None:
            bits = self.evaluate(match)
            if bits == self._everyone and match.nets == () and match.selector is None:
                found = NONE
            elif bits in self._by_bits:
                found = self._by_bits[bits]
            else:
                found = self._by_bits[bits] = len(self._bits)
                self._bits.append(bits)
            self._by_match[match] = found
        return found

    def tables(self) -> tuple[bytes, bytes, int]:
        """predicate_offsets, predicates, n_predicates."""
        of: list[array[int]] = [array("I") for _ in range(self._count)]
        for number, bits in enumerate(self._bits):
            for identity in bits_of(bits):
                of[identity].append(number)
        offsets = array("I", [0])
        predicates = array("I")
        for numbers in of:
            predicates.extend(numbers)
            offsets.append(len(predicates))
        return offsets.tobytes(), predicates.tobytes(), len(self._bits)


def _to_bits(identities: list[int], count: int) -> int:
    raw = bytearray(count // 8 + 1)
    for identity in identities:
        raw[identity >> 3] |= 1 << (identity & 7)
    return int.from_bytes(raw, "little")
