# SPDX-License-Identifier: Apache-2.0
"""Facts about prefixes → identities.

A fact is a small number that stands for "belongs to holder 7", "is in the list of networks 3", "listed by feed 1". A
prefix has its own facts and those of every prefix that covers it; equal sets of facts share one identity. Identity 0
has no facts: the world. IPv6 prefixes that happen to cover ::ffff:0:0/96 say nothing about IPv4.
"""

from bisect import bisect_left, insort
from collections.abc import Iterable

from rules.policy.listed import Entry as Entry
from rules.policy.listed import Facts as Facts
from rules.policy.listed import Listed, merged
from rules.policy.model import V4_MAPPED, Net, mask

NOTHING: Facts = frozenset()
V4_ROOT = Net(V4_MAPPED + bytes(4), 96)  # 0.0.0.0/0
V6_ROOT = Net(bytes(16), 0)


class FactMap:
    def __init__(self) -> None:
        self.listed = Listed()
        self.watched: dict[Net, None] | None = None  # prefixes whose own facts changed, while somebody asks for them
        self._own: dict[Net, list[int]] = {}
        self._claims: dict[Net, list[int]] = {}
        self._identities: dict[Facts, int] = {NOTHING: 0}
        self._unions: dict[tuple[int, tuple[int, ...]], int] = {}
        self.facts_of: list[Facts] = [NOTHING]
        self._v4: list[Net] = []  # in order, once resolved
        self._v6: list[Net] = []
        self._resolved = False

    def add(self, net: Net, fact: int) -> None:
        if self.watched is not None:
            self.watched[net] = None
        own = self._own.get(net)
        if own is None:
            self._own[net] = [fact]
            if self._resolved:
                insort(self._family(net), net)
        else:
            own.append(fact)

    def _family(self, net: Net) -> list[Net]:
        return self._v4 if net.is_v4 else self._v6

    def add_all(self, nets: Iterable[Net], fact: int) -> None:
        for net in nets:
            self.add(net, fact)

    def discard(self, net: Net, fact: int) -> None:
        if self.watched is not None:
            self.watched[net] = None
        own = self._own.get(net, [])
        if fact in own:
            own.remove(fact)
        if not own and self._own.pop(net, None) is not None and self._resolved:
            family = self._family(net)
            at = bisect_left(family, net)
            if at < len(family) and family[at] == net:
                del family[at]

    def discard_all(self, nets: Iterable[Net], fact: int) -> None:
        for net in nets:
            self.discard(net, fact)

    def _around(self, net: Net) -> Facts:
        """Facts of the prefixes that cover it."""
        facts: set[int] = set()
        for length in range(96 if net.is_v4 else 0, net.length):
            facts.update(self._own.get(Net(mask(net.addr, length), length), ()))
        return self.listed.around(net).union(facts)

    def _at(self, net: Net) -> Facts:
        return self.listed.at(net).union(self._own.get(net, ()))

    def facts(self, net: Net) -> Facts:
        """Everything about a prefix."""
        return self._around(net) | self._at(net)

    def has(self, net: Net) -> bool:
        """It has facts of its own, so that the map has an entry for it."""
        return bool(self._at(net)) or net == V4_ROOT

    def find(self, facts: Facts) -> int | None:
        return self._identities.get(facts)

    def entry(self, net: Net) -> Entry:
        """What an address that is exactly this prefix is now; facts that nobody had get an identity."""
        return (net.addr, net.length, self._identity(self.facts(net)), self._source(net))

    def expect(self, expected: Iterable[Facts]) -> None:
        """Facts that an address may come to have beside those of 0.0.0.0/0 or ::/0 get identities."""
        roots = {frozenset(self._own.get(root, ())) for root in (V4_ROOT, V6_ROOT)}
        for facts in sorted({root | facts for root in (NOTHING, *roots) for facts in expected}, key=sorted):
            self._identity(facts)

    def look(self, net: Net) -> tuple[int | None, int, bool]:
        """(identity, ifindex, whether it has facts of its own) of one prefix, after resolve() and what changed since;
        the identity is None if no address had these facts then."""
        return self._identities.get(self.facts(net)), self._source(net), bool(self._at(net))

    def look_below(self, net: Net) -> tuple[list[Entry], list[Entry]]:
        """Entries of the prefix and of all inside it as they are now, and those that are no more (of `net` alone).
        Facts that nobody had get identities at the end of `facts_of`. Raises Crowded."""
        entries: list[Entry] = []
        family = self._family(net)
        outside = self._identity(self._around(net))
        at = bisect_left(family, net)
        end = at
        while end < len(family) and _covers(net, family[end]):
            end += 1
        inside = self.listed.inside(net)
        self._walk(sorted({*inside, *family[at:end]}) if inside else family[at:end], outside, 0, entries)
        if V4_ROOT not in self._own and _covers(net, V4_ROOT):
            entries.append((*V4_ROOT, 0, 0))
        return entries, [] if self._at(net) or net == V4_ROOT else [(net.addr, net.length, 0, 0)]

    def outside(self, net: Net) -> int:
        """The identity of an address of the prefix that no entry of look_below() covers."""
        return self._identity(self._around(net))

    def bind(self, net: Net, ifindex: int) -> None:
        """Its packets may only come from that interface; claims of several interfaces bind nothing."""
        self._claims.setdefault(net, []).append(ifindex)

    def release(self, net: Net, ifindex: int) -> None:
        claims = self._claims.get(net, [])
        if ifindex in claims:
            claims.remove(ifindex)

    def _source(self, net: Net) -> int:
        claims = self._claims.get(net)
        return claims[0] if claims and claims.count(claims[0]) == len(claims) else 0

    def _identity(self, facts: Facts) -> int:
        number = self._identities.get(facts, -1)
        if number < 0:
            number = self._identities[facts] = len(self.facts_of)
            self.facts_of.append(facts)
        return number

    def _union(self, parent: int, own: tuple[int, ...]) -> int:
        number = self._unions.get((parent, own))
        if number is None:
            number = self._unions[parent, own] = self._identity(self.facts_of[parent].union(own))
        return number

    def _walk(self, nets: Iterable[Net], outside: int, outside_source: int, entries: list[Entry]) -> None:
        """Entries for nets in order, those first that cover others."""
        stack: list[Entry] = []
        for net in nets:
            while stack and not _covers(Net(stack[-1][0], stack[-1][1]), net):
                stack.pop()
            parent, parent_source = (stack[-1][2], stack[-1][3]) if stack else (outside, outside_source)
            own = tuple(self._own.get(net, ()))
            if self._resolved and (listed := self.listed.at(net)):
                own += tuple(sorted(listed))
            entry = (net.addr, net.length, self._union(parent, own), self._source(net))
            stack.append(entry)
            # An IPv6 /0 may hide the explicit ::/96 of IPv4 above, so IPv4's root entry always stays.
            if self._resolved or self.listed or entry[2:] != (parent, parent_source) or net == V4_ROOT:
                entries.append(entry)

    def base(self) -> list[Entry]:
        """Entries as if nothing were listed."""
        entries: list[Entry] = []
        listed, self.listed = self.listed, Listed()
        for family in (self._v4, self._v6):
            self._walk(family, 0, 0, entries)
        self.listed = listed
        return entries

    def identity(self, facts: Facts) -> int:
        """Facts that nobody had get an identity."""
        return self._identity(facts)

    def resolve(self, expected: Iterable[Facts] = ()) -> tuple[list[Entry] | bytes, list[Facts]]:
        """(addr, len, identity, ifindex) entries for the identity map, and the facts of each identity; see expect()."""
        entries: list[Entry] = []
        self._v4 = sorted(net for net in self._own if net.is_v4)
        self._v6 = sorted(net for net in self._own if not net.is_v4)
        if self._v6 and V4_ROOT not in self._own and any(_covers(net, V4_ROOT) for net in self._v6):
            entries.append((*V4_ROOT, 0, 0))
        for family in (self._v4, self._v6):
            self._walk(family, 0, 0, entries)
        self.expect(expected)
        self._resolved = True
        if self.listed:
            return merged(entries, self.listed, self.facts_of, self._identity), self.facts_of
        return entries, self.facts_of


def _covers(outer: Net, inner: Net) -> bool:
    if outer.length > inner.length:
        return False
    whole, rest = divmod(outer.length, 8)
    if outer.addr[:whole] != inner.addr[:whole]:
        return False
    return not rest or (outer.addr[whole] ^ inner.addr[whole]) >> (8 - rest) == 0
