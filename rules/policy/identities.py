# SPDX-License-Identifier: Apache-2.0
"""Facts about prefixes → identities.

A fact is a small number that stands for "belongs to holder 7", "is in the list of networks 3", "listed by feed 1". A
prefix has its own facts and those of every prefix that covers it; equal sets of facts share one identity. Identity 0
has no facts: the world. IPv6 prefixes that happen to cover ::ffff:0:0/96 say nothing about IPv4.
"""

from collections.abc import Iterable

from rules.policy.model import V4_MAPPED, Net, mask

Facts = frozenset[int]
NOTHING: Facts = frozenset()
V4_ROOT = Net(V4_MAPPED + bytes(4), 96)  # 0.0.0.0/0
V6_ROOT = Net(bytes(16), 0)


class FactMap:
    def __init__(self) -> None:
        self._own: dict[Net, list[int]] = {}
        self._claims: dict[Net, list[int]] = {}
        self._identities: dict[Facts, int] = {}

    def add(self, net: Net, fact: int) -> None:
        own = self._own.get(net)
        if own is None:
            self._own[net] = [fact]
        else:
            own.append(fact)

    def add_all(self, nets: Iterable[Net], fact: int) -> None:
        for net in nets:
            self.add(net, fact)

    def discard(self, net: Net, fact: int) -> None:
        own = self._own.get(net, [])
        if fact in own:
            own.remove(fact)
        if not own:
            self._own.pop(net, None)

    def look(self, net: Net) -> tuple[int | None, int, bool]:
        """(identity, ifindex, whether it has facts of its own) of one prefix, after resolve() and what changed since;
        the identity is None if no address had these facts then."""
        facts = set(self._own.get(net, ()))
        for length in range(96 if net.is_v4 else 0, net.length):
            facts.update(self._own.get(Net(mask(net.addr, length), length), ()))
        return self._identities.get(frozenset(facts)), self._source(net), net in self._own

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

    def resolve(self, expected: Iterable[Facts] = ()) -> tuple[list[tuple[bytes, int, int, int]], list[Facts]]:
        """(addr, len, identity, ifindex) entries for the identity map, and the facts of each identity. `expected`:
        facts that an address may come to have beside those of 0.0.0.0/0 or ::/0; they get identities, too."""
        identities: dict[Facts, int] = {NOTHING: 0}
        own_sets: dict[tuple[int, ...], Facts] = {}
        unions: dict[tuple[int, Facts], int] = {}
        facts_of: list[Facts] = [NOTHING]
        self._identities = identities
        entries: list[tuple[bytes, int, int, int]] = []

        def union(parent: int, own: Facts) -> int:
            number = unions.get((parent, own))
            if number is None:
                facts = facts_of[parent] | own
                number = identities.get(facts, -1)
                if number < 0:
                    number = identities[facts] = len(facts_of)
                    facts_of.append(facts)
                unions[parent, own] = number
            return number

        v4: list[Net] = []
        v6: list[Net] = []
        for net in self._own:
            (v4 if net.is_v4 else v6).append(net)
        if v6 and V4_ROOT not in self._own and any(_covers(net, V4_ROOT) for net in v6):
            entries.append((*V4_ROOT, 0, 0))
        for family in (v4, v6):
            family.sort()
            stack: list[tuple[bytes, int, int, int]] = []  # addr as prefix bytes, length, identity, ifindex
            for net in family:
                while stack and not _covers(Net(stack[-1][0], stack[-1][1]), net):
                    stack.pop()
                parent, parent_source = (stack[-1][2], stack[-1][3]) if stack else (0, 0)
                listed = tuple(self._own[net])
                own = own_sets.get(listed)
                if own is None:
                    own = own_sets[listed] = frozenset(listed)
                identity = union(parent, own)
                source = self._source(net)
                stack.append((net.addr, net.length, identity, source))
                # An IPv6 /0 may hide the explicit ::/96 of IPv4 above, so IPv4's root entry always stays.
                if identity != parent or source != parent_source or net == V4_ROOT:
                    entries.append((net.addr, net.length, identity, source))
        roots = {frozenset(self._own.get(root, ())) for root in (V4_ROOT, V6_ROOT)}
        for facts in sorted({root | facts for root in (NOTHING, *roots) for facts in expected}, key=sorted):
            union(0, facts)
        return entries, facts_of


def _covers(outer: Net, inner: Net) -> bool:
    if outer.length > inner.length:
        return False
    whole, rest = divmod(outer.length, 8)
    if outer.addr[:whole] != inner.addr[:whole]:
        return False
    return not rest or (outer.addr[whole] ^ inner.addr[whole]) >> (8 - rest) == 0
