# SPDX-License-Identifier: Apache-2.0
"""Which names a connection may show (SNI, Host), where policy allows it by the names of its address.

Addresses are shared: whoever may reach `www.example.com` could reach everything else behind its address by asking for
another name. So policy is asked what it would say if the address had no name, and then each of its names alone.
"""

from collections import OrderedDict
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address

from appliance.domains.addresses import address_of
from appliance.inspection.messages import Names, NamesAsked
from fastpath import IdentityMap, Policy, Query
from fastpath.layout import Verdict
from rules.policy import LearnedNames, NameIndex
from rules.policy.names import specimen

_ANSWERS = 4096  # kept
_ALIASES = 65536
_ACTIONS = {Verdict.DROP: "drop", Verdict.REJECT: "reject"}


class Aliases:
    """Names that a client asked for and that lead to a name of policy: it shows the former. Bounded, the oldest go."""

    def __init__(self) -> None:
        self._of: dict[str, set[str]] = {}  # name of policy → aliases
        self._order: OrderedDict[tuple[str, str], None] = OrderedDict()

    def add(self, alias: str, name: str) -> None:
        self._order[alias, name] = None
        self._order.move_to_end((alias, name))
        self._of.setdefault(name, set()).add(alias)
        if len(self._order) > _ALIASES:
            (old, of), _ = self._order.popitem(last=False)
            self._of[of].discard(old)
            if not self._of[of]:
                del self._of[of]

    def of(self, name: str) -> Iterable[str]:
        return self._of.get(name, ())

    def pairs(self) -> tuple[tuple[str, str], ...]:
        """(alias, name)."""
        return tuple(self._order)


class Agreement:
    """Answers for one program and what becomes of it; kept while the policy in the engine is the same."""

    def __init__(self, learned: LearnedNames, patterns: Iterable[str]) -> None:
        self._learned = learned
        self._patterns = tuple(patterns)
        self._policy: Policy | None = None
        self._known: dict[Query, tuple[tuple[str, ...] | None, str, int]] = {}

    def names(
        self, asked: NamesAsked, has: Iterable[str], aliases: Aliases, snapshot: tuple[IdentityMap, Policy]
    ) -> Names:
        """`has`: the names of the destination."""
        src, dst = address_of(asked.src), address_of(asked.dst)
        if src is None or dst is None or not has:
            return Names(asked.flow, None)
        identities, policy = snapshot
        nameless = self._learned.identity(str(dst), ())
        if nameless is None:
            return Names(asked.flow, None)
        query = Query(
            identities.lookup(src)[0], nameless, asked.iif, asked.oif, asked.sport, asked.dport, 6, _family(dst),
            hook=asked.hook,
        )  # fmt: skip
        key = query._replace(sport=0)
        if policy is not self._policy:
            self._policy = policy
            self._known.clear()
        known = self._known.get(key)
        if known is None:
            if len(self._known) >= _ANSWERS:
                self._known.clear()
            known = self._known[key] = self._ask(query, str(dst), policy)
        patterns, action, rule = known
        if patterns is None:
            return Names(asked.flow, None)
        index = NameIndex(patterns)
        also = {alias for name in has if index.matching(name) for alias in aliases.of(name)}
        return Names(asked.flow, (*patterns, *sorted(also)), action, rule)

    def _ask(self, query: Query, address: str, policy: Policy) -> tuple[tuple[str, ...] | None, str, int]:
        decision = policy.decide(query)
        action = _ACTIONS.get(decision.verdict)
        if action is None:
            return None, "", 0  # allowed whatever the name
        allowed = []
        for pattern in self._patterns:
            identity = self._learned.identity(address, (specimen(pattern),))
            if identity is None or policy.decide(query._replace(destination=identity)).verdict not in _ACTIONS:
                allowed.append(pattern)
        return tuple(allowed), action, decision.rule


def _family(address: IPv4Address | IPv6Address) -> int:
    return 6 if isinstance(address, IPv6Address) else 4
