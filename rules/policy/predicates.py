# SPDX-License-Identifier: Apache-2.0
"""Predicates: what a rule's side asks about an address, decided for every identity when the program is compiled."""

from array import array
from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeAlias

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
        self._slices = 0
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

    def next_slice(self) -> int:
        """For a part of a service's endpoints, nobody else's."""
        self._slices += 1
        return self._slices


Row: TypeAlias = "array[int]"  # predicates, ascending


class _Asked(NamedTuple):
    """A match that has a number."""

    match: Match
    number: int


class Predicates:
    """Numbers for matches. Two that hold for the same identities now may differ for the next one, so each has its own.
    After tables() it follows what changes: `changed` are the identities that came since, or for which something new
    holds."""

    def __init__(self, holders: Holders, numbers: FactNumbers, facts_of: Sequence[Facts]) -> None:
        self._holders = holders
        self._numbers = numbers
        self._facts_of = facts_of
        self._count = len(facts_of)
        self._everyone = (1 << self._count) - 1
        members: list[list[int]] = [[] for _ in numbers.keys]
        for identity, facts in enumerate(facts_of):
            for fact in facts:
                members[fact].append(identity)
        self._fact_bits = [_to_bits(identities, self._count) for identities in members]
        self._holder_bits: dict[tuple[int, bool], int] = {}
        self._by_match: dict[Match, int] = {}
        self._bits: list[int] = []
        self.named = 0  # holders with names
        for kind, what in numbers.keys:
            if kind == "names" and isinstance(what, int):
                self.named |= 1 << what
        self._by_fact: dict[int, list[_Asked]] = {}  # facts about addresses → matches that ask for them
        self._by_selector: dict[Node, list[_Asked]] = {}
        self._of_everybody: list[_Asked] = []  # hold, or do not, whatever can be looked up
        self._like: dict[Facts, int] = {}  # facts about holders → an identity that has them
        self.rows: list[Row] | None = None
        self.changed: set[int] = set()

    def _fact(self, kind: str, what: object) -> int:
        number = self._numbers.find(kind, what)
        return 0 if number is None or number >= len(self._fact_bits) else self._fact_bits[number]

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

    def asks_names(self, match: Match) -> bool:
        """Whether an address may match by the names that DNS gave it."""
        if match.domains:
            return True
        return match.names and match.selector is not None and self._holders.matching(match.selector) & self.named != 0

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
        held, not_held = self._asked_holders(match)
        if held is not None:
            bits &= self._held(held, match.names)
        if not_held is not None:
            bits &= ~self._held(not_held, False)
        return bits

    def _asked_holders(self, match: Match) -> tuple[int | None, int | None]:
        held = not_held = None
        if match.port is not None or match.selector is not None:
            held = self._holders.everyone
            if match.port is not None:
                name, proto, port = match.port
                held &= self._holders.ports.get(name, {}).get((proto, port), 0)
            if match.selector is not None:
                held &= self._holders.matching(match.selector)
        if match.not_selector is not None:
            not_held = self._holders.matching(match.not_selector)
        return held, not_held

    def number(self, match: Match) -> int:
        """fastpath.layout.NONE if it holds for everything."""
        if match == ANY:
            return NONE
        found = self._by_match.get(match)
        if found is None:
            bits = self.evaluate(match)
            if bits == self._everyone and match.nets == () and match.selector is None:
                found = NONE
            else:
                found = self.count
                self._add(bits)
            self._by_match[match] = found
            asked = _Asked(match, found)
            if found != NONE and match.selector is not None:
                self._by_selector.setdefault(match.selector, []).append(asked)
            elif found == NONE or not _wants_fact(match):
                self._of_everybody.append(asked)
            for fact in self._address_facts(match):
                self._by_fact.setdefault(fact, []).append(asked)
        return found

    @property
    def count(self) -> int:
        return len(self._bits)

    def _add(self, bits: int) -> None:
        if self.rows is not None:
            for identity in bits_of(bits):
                self.rows[identity].append(len(self._bits))
                self.changed.add(identity)
        self._bits.append(bits)

    def _address_facts(self, match: Match) -> list[int]:
        asked: list[tuple[str, object]] = [("domain", name) for name in match.domains]
        for kind, what, none in (
            ("nets", match.nets, ()), ("nets", match.not_nets, ()),
            ("service", match.service, None), ("slice", match.slice, None), ("feed", match.feed, None),
        ):  # fmt: skip
            if what != none:
                asked.append((kind, what))
        found = [self._numbers.find(kind, what) for kind, what in asked]
        return [number for number in found if number is not None]

    # -- identities that come later --------------------------------------------------------------------

    def extend(self) -> bool:
        """Rows for the identities that facts_of has gained. False: something does not hold for everybody any more."""
        assert self.rows is not None
        if not self._like:
            for identity in range(self._count):
                self._like.setdefault(self._about_holders(self._facts_of[identity]), identity)
        first = self._count
        for identity in range(first, len(self._facts_of)):
            facts = self._facts_of[identity]
            like = self._like.setdefault(self._about_holders(facts), identity)
            row = self._row(facts, None if like == identity else like)
            if row is None:
                return False
            self.rows.append(row)
            self.changed.add(identity)
            for fact in facts:
                while fact >= len(self._fact_bits):
                    self._fact_bits.append(0)
                self._fact_bits[fact] |= 1 << identity
        if len(self._facts_of) > first:
            self._count = len(self._facts_of)
            self._everyone = (1 << self._count) - 1
            self._holder_bits.clear()
        return True

    def like(self, identity: int) -> int:
        """An identity that has the same holders; itself if there is none before it."""
        return self._like.get(self._about_holders(self._facts_of[identity]), identity)

    def _about_holders(self, facts: Facts) -> Facts:
        keys = self._numbers.keys
        return frozenset(fact for fact in facts if keys[fact][0] in ("holder", "names", "endpoint"))

    def _row(self, facts: Facts, like: int | None) -> "Row | None":
        """`like`: an identity with the same holders, so that only what is asked of addresses can differ."""
        assert self.rows is not None
        held = named = 0
        for fact in facts:
            kind, what = self._numbers.keys[fact]
            if kind == "holder":
                held |= 1 << what  # type: ignore[operator]
            elif kind == "names":
                named |= 1 << what  # type: ignore[operator]
        asked: list[_Asked] = []
        if like is None:
            row = set[int]()
            asked += self._of_everybody
            for holder in bits_of(held | named):
                for selector in self._holders.selecting(holder):
                    asked += self._by_selector.get(selector, ())
        else:
            row = set(self.rows[like])
        for fact in facts if like is None else facts ^ self._facts_of[like]:
            asked += self._by_fact.get(fact, ())
        said: dict[int, bool] = {}
        for match, number in asked:
            holds = self._addressed(match, facts)
            if holds:
                wanted, unwanted = self._asked_holders(match)
                if wanted is not None:
                    holds = bool(wanted & (held | named if match.names else held))
                if holds and unwanted is not None:
                    holds = not unwanted & held
            if number == NONE and not holds:
                return None
            said[number] = holds
        for number, holds in said.items():
            if holds and number != NONE:
                row.add(number)
            else:
                row.discard(number)
        return array("I", sorted(row))

    def _addressed(self, match: Match, facts: Facts) -> bool:
        find = self._numbers.find
        return (
            (not match.nets or find("nets", match.nets) in facts)
            and (not match.not_nets or find("nets", match.not_nets) not in facts)
            and (not match.domains or any(find("domain", name) in facts for name in match.domains))
            and (match.service is None or find("service", match.service) in facts)
            and (match.slice is None or find("slice", match.slice) in facts)
            and (match.feed is None or find("feed", match.feed) in facts)
        )

    def tables(self) -> tuple[bytes, bytes, int]:
        """predicate_offsets, predicates, n_predicates."""
        of: list[Row] = [array("I") for _ in range(self._count)]
        for number, bits in enumerate(self._bits):
            for identity in bits_of(bits):
                of[identity].append(number)
        self.rows = of
        return (*pack_rows(of), len(self._bits))


def _wants_fact(match: Match) -> bool:
    """Whether it holds only for addresses with some fact that it names."""
    return bool(match.nets or match.domains) or any(
        one is not None for one in (match.service, match.slice, match.feed)
    )


def pack_rows(rows: Iterable[Row]) -> tuple[bytes, bytes]:
    """Offsets and numbers."""
    offsets = array("I", [0])
    packed = bytearray()
    for numbers in rows:
        packed += numbers.tobytes()
        offsets.append(len(packed) // numbers.itemsize)
    return offsets.tobytes(), bytes(packed)


def _to_bits(identities: list[int], count: int) -> int:
    raw = bytearray(count // 8 + 1)
    for identity in identities:
        raw[identity >> 3] |= 1 << (identity & 7)
    return int.from_bytes(raw, "little")
