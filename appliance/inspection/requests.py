# SPDX-License-Identifier: Apache-2.0
"""Rules with `http`, asked request by request.

The fastpath lets a flow through to an inspector when it meets a rule with `http` (the rule has the flag INSPECT). Here
the same program is asked again with those rules as LOG: the trace then names, in order, each of them that matches all
but the request, and ends with what decides when no request matches.

    chain:   … Allow http A ─ Allow http B ─ … ─ Deny        request matches A or B → allowed by that rule
    trace:       A             B                 Deny        no request, no match   → denied by the last

Rules with `http` exist in ingress alone, and Allow; so chains of egress, and chains whose trace names no such rule,
have said all they have to say in the fastpath.
"""

from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from appliance.inspection.packets import Packet
from fastpath import IdentityMap, Policy, PolicyChange, PolicyTables, Query
from fastpath.layout import IDENTITY_CHAINS, INTERFACE_CHAINS, NONE, RULE, WORLD, Action, Hook
from rules.policy.http import normalize_path, request_matches
from rules.policy.listed import packed
from rules.policy.model import V4_MAPPED, HttpMatch, HttpPath

if TYPE_CHECKING:
    from rules.policy import Program

_ACTION = 13  # of RULE's fields
_MANY = 4000  # steps of one trace that are taken for all of it
_HOST_INGRESS, _FORWARD_INGRESS = 1, 3  # of INTERFACE_CHAINS


class RequestRule(msgspec.Struct, frozen=True):
    """`paths` are (exact, prefix), one of them None."""

    rule: int
    methods: tuple[str, ...]
    paths: tuple[tuple[str | None, str | None], ...]


class RequestPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """A program with `http` rules as it travels: tables and prefix entries packed as in fastpath.layout. early: whether
    the host endpoint of an interface has preDNAT policy; 0: of those not named."""

    rules: bytes
    port_terms: bytes
    chains: bytes
    predicate_offsets: bytes
    predicates: bytes
    n_predicates: int
    identities: bytes
    interfaces: bytes
    entries: bytes
    requests: tuple[RequestRule, ...]
    early: dict[int, bool] = {}


class RequestChange(msgspec.Struct, frozen=True, tag="requests", kw_only=True):
    """From one RequestPolicy to the next. generation: from now on flows are decided under it. base: version of the
    ruleset from which this and the changes before lead on. change, set, remove: for Policy.update() and
    IdentityMap.update(), packed. requests: rules with `http` that came. early: None as it was. ends: there are no rules
    with `http` any more."""

    generation: int
    base: int
    change: PolicyChange | None = None
    set: bytes = b""
    remove: bytes = b""
    requests: tuple[RequestRule, ...] = ()
    early: dict[int, bool] | None = None
    ends: bool = False


def request_policy(program: "Program") -> RequestPolicy | None:
    """None: the program has no rule with `http`."""
    if not program.http:
        return None
    return _request_policy(program.tables, packed(program.entries), program)


def request_policy_of(policy: Policy, identities: IdentityMap, program: "Program") -> RequestPolicy:
    """The same, whatever rules there are, of a program with changes since; the first two are what it has become."""
    return _request_policy(policy.tables(), bytes(identities.export()), program)


def request_rules(http: Mapping[int, HttpMatch]) -> tuple[RequestRule, ...]:
    return tuple(
        RequestRule(rule, match.methods, tuple((path.exact, path.prefix) for path in match.paths))
        for rule, match in sorted(http.items())
    )


def early_hosts(program: "Program") -> dict[int, bool]:
    return {index: chains.pre_dnat_ingress != NONE for index, chains in program.raw_chains.items()}


def _request_policy(tables: PolicyTables, entries: bytes, program: "Program") -> RequestPolicy:
    return RequestPolicy(
        rules=tables.rules,
        port_terms=tables.port_terms,
        chains=tables.chains,
        predicate_offsets=tables.predicate_offsets,
        predicates=tables.predicates,
        n_predicates=tables.n_predicates,
        identities=tables.identities,
        interfaces=tables.interfaces,
        entries=entries,
        requests=request_rules(program.http),
        early=early_hosts(program),
    )


class Place(NamedTuple):
    """Where a packet was seen: netfilter hook (0: unknown) and interfaces, in the packet's own direction."""

    hook: int = 0
    iif: int = 0
    oif: int = 0

    def turned(self) -> "Place":
        """The place of the packet to which this one answers."""
        hook = {Hook.INPUT: Hook.OUTPUT, Hook.OUTPUT: Hook.INPUT}.get(Hook(self.hook)) if self.hook in _HOOKS else None
        return Place(self.hook if hook is None else int(hook), self.oif, self.iif)


NOWHERE = Place()
_HOOKS = frozenset(int(hook) for hook in Hook)


class Denial(NamedTuple):
    """`action` is drop or reject; `rule` is the program's rule id."""

    action: str
    rule: int


@dataclass(frozen=True, slots=True)
class _ChainPlan:
    rules: tuple[HttpMatch, ...]
    otherwise: Denial


class RequestPlan:
    """What decides the requests of one flow. Immutable."""

    __slots__ = ("_chains",)

    def __init__(self, chains: Sequence[_ChainPlan]) -> None:
        self._chains = tuple(chains)

    def request(self, method: str, target: str) -> Denial | None:
        """None: allowed."""
        path = normalize_path(target)
        for chain in self._chains:
            if not any(request_matches(match, method, path) for match in chain.rules):
                return chain.otherwise
        return None

    def other(self) -> Denial:
        """What is not HTTP matches no rule with `http`."""
        return self._chains[0].otherwise


class Requests:
    """A RequestPolicy made ready. Immutable. Raises FastpathError if its tables make no sense."""

    def __init__(self, source: RequestPolicy) -> None:
        self._matches = _matches(source.requests)
        self._identities = IdentityMap.build(source.entries)
        self._chains = source.identities
        self._early = source.early
        self._interfaces = {row[0]: row for row in INTERFACE_CHAINS.iter_unpack(source.interfaces)}
        self._policy = Policy(
            PolicyTables(
                rules=self._as_log(source.rules),
                port_terms=source.port_terms,
                chains=source.chains,
                predicate_offsets=source.predicate_offsets,
                predicates=source.predicates,
                n_predicates=source.n_predicates,
                identities=source.identities,
                interfaces=source.interfaces,
            )
        )

    def changed(self, change: RequestChange) -> "Requests":
        """The next one, which shares what did not change with this one. Raises FastpathError likewise."""
        made = copy(self)
        made._matches = {**self._matches, **_matches(change.requests)}
        if change.set or change.remove:
            made._identities = self._identities.update(set=change.set, remove=change.remove)
        if change.early is not None:
            made._early = change.early
        if change.change is not None:
            made._policy = self._policy.update(replace(change.change, rules=made._as_log(change.change.rules)))
            made._chains = _patched(self._chains, change.change)
            made._interfaces = {row[0]: row for row in INTERFACE_CHAINS.iter_unpack(change.change.interfaces)}
        return made

    def plan(self, packet: Packet, place: Place, *, reply: bool) -> RequestPlan | None:
        """None: requests decide nothing about the packet's flow."""
        if reply:
            place = place.turned()
            src, dst, sport, dport = packet.dst, packet.src, packet.dport, packet.sport
        else:
            src, dst, sport, dport = packet.src, packet.dst, packet.sport, packet.dport
        source, home = self._identities.lookup(_wide(src))
        if home and place.iif and home != place.iif:
            source = WORLD  # an endpoint's address that came from elsewhere is not the endpoint's
        destination = self._identities.lookup(_wide(dst))[0]
        query = Query(
            source, destination, place.iif, place.oif, sport, dport, packet.protocol, packet.family, hook=place.hook
        )
        early = self._early.get(query.iif, self._early.get(0, False))
        plans = [self._ask(chain, query, answered=early and host) for chain, host in self._ingress(query)]
        found = [plan for plan in plans if plan is not None]
        return RequestPlan(found) if found else None

    def _as_log(self, rules: bytes) -> bytes:
        out = bytearray(rules)
        numbers = memoryview(rules).cast("I")[:: RULE.size // 4]  # the first field of each
        for index, number in enumerate(numbers):
            if number in self._matches:
                fields = list(RULE.unpack_from(rules, index * RULE.size))
                fields[_ACTION] = Action.LOG
                RULE.pack_into(out, index * RULE.size, *fields)
        return bytes(out)

    def _ingress(self, query: Query) -> list[tuple[int, bool]]:
        """The ingress chains that the fastpath asks (plan_make in fp_policy_walk.c), and which are a host's."""
        row = self._interfaces.get(query.iif) or self._interfaces.get(0)
        chains: list[tuple[int, bool]] = []
        if row is not None and query.hook == Hook.FORWARD:
            chains.append((row[_FORWARD_INGRESS], True))
        if row is not None and query.hook == Hook.INPUT:
            chains.append((row[_HOST_INGRESS], True))
        offset = query.destination * IDENTITY_CHAINS.size
        if query.hook in (0, Hook.FORWARD) and offset < len(self._chains):
            chains.append((IDENTITY_CHAINS.unpack_from(self._chains, offset)[0], False))
        return [(chain, host) for chain, host in chains if chain != NONE]

    def _ask(self, chain: int, query: Query, *, answered: bool) -> _ChainPlan | None:
        """answered: preDNAT policy may have answered for this chain, which a packet here does not show."""
        action, steps = self._policy.trace_chain(chain, query)
        matches = tuple(self._matches[step.rule] for step in steps if step.rule in self._matches)
        if action not in (Action.DENY, Action.REJECT) and len(steps) < _MANY:
            return None  # it lets through with or without a request
        if answered and not matches:
            return None  # the fastpath allowed what is denied here: preDNAT policy has
        # No match at all: the fastpath allowed what is denied here, so the two know different things. Deny.
        return _ChainPlan(matches, Denial("reject" if action is Action.REJECT else "drop", steps[-1].rule))


def _matches(requests: Iterable[RequestRule]) -> dict[int, HttpMatch]:
    return {item.rule: HttpMatch(item.methods, tuple(HttpPath(*path) for path in item.paths)) for item in requests}


def _patched(chains: bytes, change: PolicyChange) -> bytes:
    """Chains by identity, with those of the change."""
    out = bytearray(chains)
    size = IDENTITY_CHAINS.size
    for at, number in enumerate(memoryview(change.identity_numbers).cast("I")):
        if (missing := (number + 1) * size - len(out)) > 0:
            out += IDENTITY_CHAINS.pack(NONE, NONE, NONE, NONE) * (missing // size)
        out[number * size : (number + 1) * size] = change.identities[at * size : (at + 1) * size]
    return bytes(out)


def _wide(address: bytes) -> bytes:
    return V4_MAPPED + address if len(address) == 4 else address
