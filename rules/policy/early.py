# SPDX-License-Identifier: Apache-2.0
"""Chains that are asked before connection tracking and before DNAT, which is in the kernel: what whoever writes them
there needs to know of them, and of the addresses that they ask about.

Addresses are numbers of 128 bits; those of IPv4 begin at ::ffff:0:0.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from fastpath.layout import NONE, RULE
from rules.policy.identities import Entry, FactMap
from rules.policy.model import Net

Interval = tuple[int, int]  # both ends belong to it
Term = tuple[int, int, int, int]  # as fastpath.layout.PORT_TERM
_ALL = (1 << 128) - 1
_TERM_LISTS = (4, 6, 8, 10)  # where RULE has (first, count) of port terms


@dataclass(frozen=True, slots=True)
class EarlyChain:
    """rules: packed; where PASS goes on is counted from `first`. terms: by what the rules name them, (first, count)."""

    rules: bytes
    first: int
    default_rule: int
    default: int
    terms: Mapping[tuple[int, int], tuple[Term, ...]]

    def predicates(self) -> set[int]:
        """That the rules ask for."""
        found = {term[0] for terms in self.terms.values() for term in terms}
        for rule in RULE.iter_unpack(self.rules):
            found.update(rule[1:3])
        return found - {NONE}


def early_chain(
    rules: bytes, first: int, default: tuple[int, int], terms_of: Callable[[int, int], tuple[Term, ...]]
) -> EarlyChain:
    named = {rule[at : at + 2] for rule in RULE.iter_unpack(rules) for at in _TERM_LISTS if rule[at + 1]}
    return EarlyChain(rules, first, *default, {name: terms_of(*name) for name in named})


@dataclass(frozen=True, slots=True)
class Region:
    """Who has what among the addresses of a prefix, now. having: by predicate, in order."""

    first: int
    last: int
    having: Mapping[int, Sequence[Interval]]


def regions(
    facts: FactMap, rows: Sequence[Iterable[int]], nets: Iterable[Net], predicates: Iterable[int]
) -> tuple[Region, ...]:
    """`nets`: none covers another. rows: predicates by identity. Raises Crowded."""
    found: list[Region] = []
    wanted = frozenset(predicates)
    held: dict[int, frozenset[int]] = {}  # of those that are wanted, by identity
    for net in nets if wanted else ():
        entries, _ = facts.look_below(net)
        first = int.from_bytes(net.addr)
        last = first | ((1 << (128 - net.length)) - 1)
        pieces = spans(entries, first, last, facts.outside(net))
        having: dict[int, list[Interval]] = {predicate: [] for predicate in wanted}
        for begin, end, identity in pieces:
            if identity not in held:
                held[identity] = wanted.intersection(rows[identity])
            for predicate in held[identity]:
                having[predicate].append((begin, end))
        found.append(Region(first, last, having))
    return tuple(found)


def spans(entries: Iterable[Entry], first: int, last: int, outside: int) -> list[tuple[int, int, int]]:
    """(first, last, identity) without a gap from `first` to `last`, by the longest prefix of `entries`, all of which
    lie inside; `outside` where there is none."""
    found: list[tuple[int, int, int]] = []
    open_: list[tuple[int, int]] = [(last, outside)]  # last, identity; what lies in what
    at = first

    def upto(end: int) -> None:
        nonlocal at
        if at <= end:
            found.append((at, end, open_[-1][1]))
            at = end + 1

    for addr, length, identity, _ in sorted(entries, key=lambda entry: entry[:2]):
        begin = int.from_bytes(addr)
        while open_[-1][0] < begin:
            upto(open_[-1][0])
            open_.pop()
        upto(begin - 1)
        open_.append((begin | (_ALL >> length), identity))
    while open_:
        upto(open_[-1][0])
        open_.pop()
    return found
