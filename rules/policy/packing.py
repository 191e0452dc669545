# SPDX-License-Identifier: Apache-2.0
"""Rules → packed rules: what a side asks becomes a predicate, ports become terms.

What a packed rule was made of beside the rule itself is noted under the `owner` at hand, so that a change of it finds
the rules to be packed again: the numbers that a named port has, the endpoints of a service, sets with names.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from fastpath.layout import NONE, PORT_TERM, RULE, Action, RuleFlag
from rules.policy.early import Term
from rules.policy.labels import Holders
from rules.policy.model import (
    ANYTHING,
    EntityRule,
    PolicySpec,
    PortRange,
    ProfileSpec,
    Rule,
    ServiceEndpointsSpec,
)
from rules.policy.policies import peer_selector
from rules.policy.predicates import ANY, NEVER, Match, Predicates
from rules.policy.program import CompileOptions
from rules.policy.selector import Node, Not, both

_TCP = 6
_SHOWING = (80, 443)  # ports of HTTP and TLS

Owner = int | str  # the number of a policy, or the name of a profile
Service = tuple[str, str]  # namespace, name


def service_of(entity: EntityRule, namespace: str) -> Service | None:
    """The service that a side of a rule names, in the policy's own namespace unless it says otherwise."""
    named = entity.services
    return None if named is None else (named.namespace or namespace, named.name)


def named_services(spec: PolicySpec | ProfileSpec, namespace: str) -> Iterator[Service]:
    """Those that the rules name."""
    for rule in (*spec.ingress, *spec.egress):
        for entity in (rule.source, rule.destination):
            service = service_of(entity, namespace)
            if service is not None:
                yield service


def side_match(entity: EntityRule, namespace: str, *, names: bool) -> Match:
    """What a side of a rule asks of its address, ports aside."""
    if entity is ANYTHING:
        return ANY
    selector = peer_selector(entity, namespace)
    not_selector = entity.not_selector
    if selector is not None and not_selector is not None:  # Calico joins the two: one holder must answer both
        selector, not_selector = both(selector, Not(not_selector)), None
    uses_names = names and selector is not None
    return Match(
        entity.nets, entity.not_nets, selector, not_selector, service_of(entity, namespace), domains=entity.domains,
        names=uses_names,
    )  # fmt: skip


class RulePacker:
    def __init__(
        self,
        predicates: Predicates,
        holders: Holders,
        slices: dict[Service, list[tuple[int, ServiceEndpointsSpec]]],
        options: CompileOptions,
    ) -> None:
        self.predicates = predicates
        self.holders = holders
        self.slices = slices
        self.options = options
        self.terms = bytearray()
        self.owner: Owner = ""
        self.of_port: dict[str, set[Owner]] = {}  # who was packed with the numbers of that named port
        self.of_service: dict[Service, set[Owner]] = {}
        self.of_names: dict[Node, set[Owner]] = {}  # with a look whether a set that it selects has names
        self._first_term = 0  # number of the first one in `terms`
        self._term_lists: dict[tuple[Term, ...], tuple[int, int]] = {}
        self._terms_at: dict[tuple[int, int], tuple[Term, ...]] = {}  # the same, turned around

    def begin_change(self) -> None:
        self._first_term += len(self.terms) // PORT_TERM.size
        self.terms = bytearray()

    def term_list(self, terms: Sequence[tuple[int, int, int, int]]) -> tuple[int, int]:
        """(first, count) of (predicate, first port, last port, protocol) terms; equal lists are stored once."""
        if not terms:
            return 0, 0
        key = tuple(terms)
        found = self._term_lists.get(key)
        if found is None:
            found = self._term_lists[key] = (self._first_term + len(self.terms) // PORT_TERM.size, len(key))
            self._terms_at[found] = key
            for term in key:
                self.terms += PORT_TERM.pack(*term)
        return found

    def terms_of(self, first: int, count: int) -> tuple[Term, ...]:
        """What term_list() gave these numbers."""
        return self._terms_at[first, count]

    def _ports(self, ports: Sequence[PortRange | str], match: Match, proto: int | None) -> tuple[int, int]:
        if not ports:
            return 0, 0
        terms: list[tuple[int, int, int, int]] = []
        for port in ports:
            if isinstance(port, PortRange):
                terms.append((NONE, port.first, port.last, 0))
                continue
            self.of_port.setdefault(port, set()).add(self.owner)
            for term_proto, number in sorted(self.holders.ports.get(port, {})):
                if proto is None or proto == term_proto:
                    named = Match(selector=match.selector, port=(port, term_proto, number))
                    terms.append((self.predicates.number(named), number, number, term_proto))
        return self.term_list(terms)

    def _side(
        self, entity: EntityRule, namespace: str, proto: int | None, *, names: bool, destination: bool
    ) -> tuple[int, tuple[int, int], tuple[int, int]]:
        """(predicate, ports, notPorts) of a side."""
        if entity is ANYTHING:
            return NONE, (0, 0), (0, 0)
        match = side_match(entity, namespace, names=names)
        predicate = self.predicates.number(match)
        ports = self._ports(entity.ports, match, proto)
        if entity.ports and ports[1] == 0:  # a named port that nobody has
            predicate = self.predicates.number(NEVER)
        if match.service is not None and destination:
            self.of_service.setdefault(match.service, set()).add(self.owner)
            terms = [
                (self.predicates.number(Match(slice=number)), port, port, term_proto)
                for number, spec in self.slices.get(match.service, ())
                for term_proto, port in spec.ports
            ]
            ports = self.term_list(terms)
            if not terms:
                predicate = self.predicates.number(NEVER)
        return predicate, ports, self._ports(entity.not_ports, match, proto)

    def pack(self, number: int, rule: Rule, namespace: str, direction: str, action: Action, *, inspect: bool) -> bytes:
        flags = RuleFlag(0)
        # Nothing but TCP carries a request: without one the rule does not match (Dikastes).
        proto = 6 if rule.http is not None and rule.proto is None else rule.proto
        # The names of network sets are for egress Allow rules alone (Calico: allowedEgressDomains): so an address that
        # gains a name is never allowed less.
        named = direction == "egress" and action is Action.ALLOW
        source, sport, not_sport = self._side(rule.source, namespace, proto, names=False, destination=False)
        destination, dport, not_dport = self._side(
            rule.destination, namespace, proto, names=named, destination=True
        )
        # IPv4 networks hold no IPv6 address, so `nets` needs no flag; and `notNets` of IPv4 leave IPv6 alone.
        if rule.ip_version is not None:
            flags |= RuleFlag.V4 if rule.ip_version == 4 else RuleFlag.V6
        if proto is not None:
            flags |= RuleFlag.PROTO
        if rule.not_proto is not None:
            flags |= RuleFlag.NOT_PROTO
        icmp, not_icmp = rule.icmp, rule.not_icmp
        for value, flag in (
            (icmp and icmp.type, RuleFlag.ICMP_TYPE),
            (icmp and icmp.code, RuleFlag.ICMP_CODE),
            (not_icmp and not_icmp.type, RuleFlag.NOT_ICMP_TYPE),
            (not_icmp and not_icmp.code, RuleFlag.NOT_ICMP_CODE),
        ):
            if value is not None:
                flags |= flag
        if inspect and action is Action.ALLOW:
            flags |= RuleFlag.INSPECT
        return RULE.pack(
            number, source, destination, 0, *sport, *not_sport, *dport, *not_dport, flags, action,
            proto or 0, rule.not_proto or 0,
            (icmp and icmp.type) or 0, (icmp and icmp.code) or 0,
            (not_icmp and not_icmp.type) or 0, (not_icmp and not_icmp.code) or 0,
        )  # fmt: skip

    def showing(self, rule: Rule, namespace: str, direction: str, action: Action) -> Rule | None:
        """What of a rule with names is HTTP or TLS by its port, where the client shows the name it means; or None."""
        if not self.options.inspect_names or direction != "egress" or action is not Action.ALLOW:
            return None
        if rule.proto not in (None, _TCP) or rule.not_proto == _TCP or rule.http is not None:
            return None
        entity = rule.destination
        match = side_match(entity, namespace, names=True)
        if match.selector is not None and not match.domains:
            self.of_names.setdefault(match.selector, set()).add(self.owner)
        if not self.predicates.asks_names(match):
            return None
        ports = tuple(
            PortRange(port, port)
            for port in _SHOWING
            if not entity.ports
            or any(isinstance(given, PortRange) and given.first <= port <= given.last for given in entity.ports)
        )
        return replace(rule, proto=_TCP, destination=replace(entity, ports=ports)) if ports else None

    @staticmethod
    def plain(number: int, action: Action, flags: int = 0, source: int = NONE, destination: int = NONE) -> bytes:
        """A rule that asks for addresses at most."""
        return RULE.pack(number, source, destination, 0, *[0] * 8, flags, action, 0, 0, 0, 0, 0, 0)
