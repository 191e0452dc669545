# SPDX-License-Identifier: Apache-2.0
"""What one rule of a program asks → what nft rules ask, one rule or several. Pure."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from appliance.netfilter.addresses import Asked, merge
from appliance.netfilter.ruleset import HOST_TABLE as TABLE
from fastpath.errors import PortcullisError
from fastpath.layout import NONE, RuleFlag
from rules.policy.early import EarlyChain, Interval, Term

MOST = 256  # rules that one rule may become

_ALL = frozenset(range(256))
_WITH_PORTS = frozenset((6, 17, 132, 136))
_ICMP = frozenset((1, 58))
_FIELD = re.compile(r"^(?:ip6? [sd]addr|th [sd]port)")
_ICMP_FIELD = re.compile(r"@th,(?P<at>[08]),8 (?P<not>!=)? ?(?P<value>\d+)")
_ORIGINAL = {"th sport": "proto-src", "th dport": "proto-dst"}

Terms = tuple[int, int]  # first, count


class HostPolicyError(PortcullisError):
    """A rule that nft rules cannot express."""


@dataclass(frozen=True)
class _Case:
    """All of these together. addresses: (is the source, predicate, has it)."""

    families: frozenset[int] = frozenset((4, 6))
    protocols: frozenset[int] = _ALL
    matches: tuple[str, ...] = ()
    addresses: tuple[tuple[bool, int, bool], ...] = ()

    def __and__(self, other: "_Case") -> "_Case":
        return _Case(
            self.families & other.families, self.protocols & other.protocols,
            self.matches + other.matches, self.addresses + other.addresses,
        )  # fmt: skip


class Matches:
    """Of the rules of one program. prefix: of the names of sets. sets: name → what it consists of, of those that were
    needed so far."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._terms: Mapping[tuple[int, int], tuple[Term, ...]] = {}
        self.sets: dict[str, Asked] = {}

    def of_rule(self, rule: Sequence[int], chain: EarlyChain) -> Iterator[tuple[str, ...]]:
        self._terms = chain.terms
        for case in self._cases(rule):
            if not case.protocols or not case.families:
                continue
            protocol = _protocols(case.protocols)
            if not case.addresses:
                family = () if len(case.families) == 2 else (f"meta nfproto ipv{min(case.families)}",)
                yield (*family, *protocol, *case.matches)
                continue
            for version in sorted(case.families):
                yield (f"meta nfproto ipv{version}", *self._address_matches(version, case), *protocol, *case.matches)

    def _address_matches(self, version: int, case: _Case) -> list[str]:
        """Also where nobody has what is asked for: somebody may come."""
        found = []
        for source, predicate, wanted in dict.fromkeys(case.addresses):
            name = f"{self._prefix}_p{predicate}v{version}"
            self.sets[name] = Asked(predicate, version)
            protocol, side = ("ip" if version == 4 else "ip6"), ("saddr" if source else "daddr")
            found.append(f"{protocol} {side} {'' if wanted else '!= '}@{name}")
        return found

    def _cases(self, rule: Sequence[int]) -> list[_Case]:
        """One of these: what struct fp_rule asks, in the order of fastpath.layout.RULE."""
        source, destination = rule[1], rule[2]
        sport, not_sport, dport, not_dport = (rule[4], rule[5]), (rule[6], rule[7]), (rule[8], rule[9]), rule[10:12]
        flags = RuleFlag(rule[12])
        _, proto, not_proto, icmp_type, icmp_code, not_icmp_type, not_icmp_code = rule[13:20]
        cases = [_Case()]

        def also(options: Iterable[_Case]) -> None:
            chosen = list(options)
            cases[:] = [made for case in cases for option in chosen if (made := case & option).protocols]
            if len(cases) > MOST:
                raise HostPolicyError("too many negated named ports in one rule")

        if flags & RuleFlag.V4:
            also([_Case(families=frozenset((4,)))])
        if flags & RuleFlag.V6:
            also([_Case(families=frozenset((6,)))])
        if flags & RuleFlag.PROTO:
            also([_Case(protocols=frozenset((proto,)))])
        if flags & RuleFlag.NOT_PROTO:
            also([_Case(protocols=_ALL - {not_proto})])
        if flags & (RuleFlag.ICMP_TYPE | RuleFlag.ICMP_CODE | RuleFlag.NOT_ICMP_TYPE | RuleFlag.NOT_ICMP_CODE):
            also([_Case(protocols=_ICMP)])
        if flags & RuleFlag.ICMP_TYPE:
            also([_Case(matches=(f"@th,0,8 {icmp_type}",))])
        if flags & RuleFlag.ICMP_CODE:
            also([_Case(matches=(f"@th,8,8 {icmp_code}",))])
        if flags & RuleFlag.NOT_ICMP_TYPE:
            other = [_Case(matches=(f"@th,0,8 != {not_icmp_type}",))]
            if flags & RuleFlag.NOT_ICMP_CODE:
                other.append(_Case(matches=(f"@th,8,8 != {not_icmp_code}",)))
            also(other)
        if source != NONE:
            also([_Case(addresses=((True, source, True),))])
        if destination != NONE:
            also([_Case(addresses=((False, destination, True),))])
        if sport[1] or not_sport[1] or dport[1] or not_dport[1]:
            without = []
            negated = (*self._chosen(not_sport), *self._chosen((not_dport[0], not_dport[1])))
            if not sport[1] and not dport[1] and all(term[3] for term in negated):
                without = [case & _Case(protocols=_ALL - _WITH_PORTS) for case in cases]
            also([_Case(protocols=_WITH_PORTS)])
            for terms, field, is_source in ((sport, "sport", True), (dport, "dport", False)):
                if terms[1]:
                    also(self._on(terms, field, is_source))
            for terms, field, is_source in ((not_sport, "sport", True), ((not_dport[0], not_dport[1]), "dport", False)):
                for group in self._groups(terms):
                    also(self._not_on(group, field, is_source))
            cases += (case for case in without if case.protocols)
        return cases

    def _chosen(self, terms: Terms) -> Sequence[Term]:
        return self._terms[terms] if terms[1] else ()

    def _groups(self, terms: Terms) -> list[tuple[int, int, str]]:
        """(predicate, protocol, ports as text) for each predicate and protocol."""
        ports: dict[tuple[int, int], list[Interval]] = {}
        for predicate, first, last, proto in self._chosen(terms):
            ports.setdefault((predicate, proto), []).append((first, last))
        return [(*key, _ranges(merge(found))) for key, found in ports.items()]

    def _on(self, terms: Terms, field: str, is_source: bool) -> Iterator[_Case]:
        for predicate, proto, ports in self._groups(terms):
            addresses = () if predicate == NONE else ((is_source, predicate, True),)
            yield _Case(protocols=frozenset((proto,)) if proto else _ALL, matches=(f"th {field} {{ {ports} }}",),
                        addresses=addresses)  # fmt: skip

    @staticmethod
    def _not_on(group: tuple[int, int, str], field: str, is_source: bool) -> Iterator[_Case]:
        predicate, proto, ports = group
        yield _Case(matches=(f"th {field} != {{ {ports} }}",))
        if proto:
            yield _Case(protocols=_ALL - {proto})
        if predicate != NONE:
            yield _Case(addresses=((is_source, predicate, False),))


def set_line(name: str, version: int, intervals: Sequence[Interval]) -> str:
    """That makes it."""
    address: type[IPv4Address] | type[IPv6Address] = IPv4Address if version == 4 else IPv6Address
    elements = ", ".join(
        f"{address(first)}" if first == last else f"{address(first)}-{address(last)}" for first, last in intervals
    )
    held = f" elements = {{ {elements} }};" if elements else ""
    return f"add set {TABLE} {name} {{ type ipv{version}_addr; flags interval;{held} }}"


def of_connection(match: Iterable[str]) -> Iterator[str]:
    """The same, asked about the first packet of the connection, as it came."""
    for text in match:
        if icmp := _ICMP_FIELD.fullmatch(text):
            # Of an ICMP query the destination port of the connection is type << 8 | code.
            mask, shift = (0xFF00, 8) if icmp["at"] == "0" else (0x00FF, 0)
            yield f"ct original proto-dst & {mask:#06x} {icmp['not'] or '=='} {int(icmp['value']) << shift}"
        else:
            yield _FIELD.sub(lambda found: f"ct original {_ORIGINAL.get(found[0], found[0])}", text)


def _ranges(intervals: Iterable[Interval]) -> str:
    return ", ".join(f"{first}" if first == last else f"{first}-{last}" for first, last in intervals)


def _protocols(wanted: frozenset[int]) -> tuple[str, ...]:
    if wanted == _ALL:
        return ()
    if len(wanted) > len(_ALL) // 2:
        return (f"meta l4proto != {{ {_ranges((n, n) for n in sorted(_ALL - wanted))} }}",)
    return (f"meta l4proto {{ {_ranges((n, n) for n in sorted(wanted))} }}",)
