# SPDX-License-Identifier: Apache-2.0
"""Policies and profiles → rule and chain tables.

    chain := (tier: policies' rules, end of tier)* profiles' rules, end

A policy's rules are packed once for each direction and copied into every chain that asks it; only PASS rules differ
from chain to chain, in where they go on.
"""

import struct
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from fastpath.layout import CHAIN, NONE, PORT_TERM, RULE, Action, RuleFlag
from rules.policy.endpoints import Profile, World
from rules.policy.labels import Holders
from rules.policy.model import ANYTHING, EntityRule, HttpMatch, PortRange, Rule, ServiceEndpointsSpec
from rules.policy.policies import DENY_ACTION, INSPECT, ActivePolicy, peer_selector
from rules.policy.predicates import ANY, NEVER, Match, Predicates
from rules.policy.program import PROFILE_TIER, CompileOptions, RuleInfo
from rules.policy.selector import Not, both

_PASS_TO = struct.Struct("=I")
_PASS_TO_AT = 12  # bytes into RULE
_ACTIONS = {"Allow": Action.ALLOW, "Deny": Action.DENY, "Pass": Action.PASS, "Log": Action.LOG}
_TCP = 6
_SHOWING = (80, 443)  # ports of HTTP and TLS
IMPOSSIBLE = RuleFlag.V4 | RuleFlag.V6  # no packet is both: somewhere for PASS to go on at the end of a chain


@dataclass(frozen=True, slots=True)
class Block:
    """Packed rules, and where among them the PASS rules stand."""

    rules: bytes
    passes: tuple[int, ...]

    @property
    def count(self) -> int:
        return len(self.rules) // RULE.size


def side_match(entity: EntityRule, namespace: str, *, names: bool) -> Match:
    """What a side of a rule asks of its address, ports aside."""
    if entity is ANYTHING:
        return ANY
    selector = peer_selector(entity, namespace)
    not_selector = entity.not_selector
    if selector is not None and not_selector is not None:  # Calico joins the two: one holder must answer both
        selector, not_selector = both(selector, Not(not_selector)), None
    service = None
    if entity.services is not None:
        service = (entity.services.namespace or namespace, entity.services.name)
    uses_names = names and selector is not None
    return Match(
        entity.nets, entity.not_nets, selector, not_selector, service, domains=entity.domains, names=uses_names
    )


class ChainBuilder:
    def __init__(
        self,
        predicates: Predicates,
        holders: Holders,
        world: World,
        slices: dict[tuple[str, str], list[tuple[int, ServiceEndpointsSpec]]],
        options: CompileOptions,
    ) -> None:
        self.predicates = predicates
        self.holders = holders
        self.world = world
        self.slices = slices
        self.options = options
        self.rules = bytearray()
        self.terms = bytearray()
        self.chains = bytearray()
        self.infos: list[RuleInfo] = []
        self.http: dict[int, HttpMatch] = {}
        self.numbers: list[int] = []  # of the chains in `chains`
        self.count = 0  # chains that ever were
        self._free: list[int] = []
        self._first_term = 0  # number of the first one in `terms`
        self._term_lists: dict[tuple[tuple[int, int, int, int], ...], tuple[int, int]] = {}
        self._blocks: dict[tuple[object, ...], Block] = {}
        self._ends: dict[tuple[object, ...], int] = {}
        self._built: dict[tuple[object, ...], int] = {}
        self._deny = Action.REJECT if options.deny_action == "reject" else Action.DENY

    @property
    def next_rule(self) -> int:
        return len(self.rules) // RULE.size

    def info(self, info: RuleInfo) -> int:
        self.infos.append(info)
        return len(self.infos) - 1

    def term_list(self, terms: Sequence[tuple[int, int, int, int]]) -> tuple[int, int]:
        """(first, count) of (predicate, first port, last port, protocol) terms; equal lists are stored once."""
        if not terms:
            return 0, 0
        key = tuple(terms)
        found = self._term_lists.get(key)
        if found is None:
            found = self._term_lists[key] = (self._first_term + len(self.terms) // PORT_TERM.size, len(key))
            for term in key:
                self.terms += PORT_TERM.pack(*term)
        return found

    def _ports(self, ports: Sequence[PortRange | str], match: Match, proto: int | None) -> tuple[int, int]:
        if not ports:
            return 0, 0
        terms: list[tuple[int, int, int, int]] = []
        for port in ports:
            if isinstance(port, PortRange):
                terms.append((NONE, port.first, port.last, 0))
                continue
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

    def _showing(self, rule: Rule, namespace: str, direction: str, action: Action) -> Rule | None:
        """What of a rule with names is HTTP or TLS by its port, where the client shows the name it means; or None."""
        if not self.options.inspect_names or direction != "egress" or action is not Action.ALLOW:
            return None
        if rule.proto not in (None, _TCP) or rule.not_proto == _TCP or rule.http is not None:
            return None
        entity = rule.destination
        if not self.predicates.asks_names(side_match(entity, namespace, names=True)):
            return None
        ports = tuple(
            PortRange(port, port)
            for port in _SHOWING
            if not entity.ports
            or any(isinstance(given, PortRange) and given.first <= port <= given.last for given in entity.ports)
        )
        return replace(rule, proto=_TCP, destination=replace(entity, ports=ports)) if ports else None

    def _block(
        self, rules: Sequence[Rule], info: RuleInfo, namespace: str, deny: Action, *, inspect: bool, in_profile: bool
    ) -> Block:
        packed: list[bytes] = []
        passes: list[int] = []
        for index, rule in enumerate(rules):
            action = deny if rule.action == "Deny" else _ACTIONS[rule.action]
            if in_profile and action is Action.PASS:  # there is nowhere to pass to (Dikastes: deny)
                action = deny
            number = self.info(
                RuleInfo(
                    info.tier, info.policy, info.kind, index, rule.action.lower(), info.direction, info.staged,
                    info.file, rule.line or info.line,
                )
            )  # fmt: skip
            if rule.http is not None:
                self.http[number] = rule.http
            watched = None if inspect else self._showing(rule, namespace, info.direction, action)
            if watched is not None:
                packed.append(self.pack(number, watched, namespace, info.direction, action, inspect=True))
            if action is Action.PASS:
                passes.append(len(packed))
            packed.append(
                self.pack(number, rule, namespace, info.direction, action, inspect=inspect or rule.http is not None)
            )
        return Block(b"".join(packed), tuple(passes))

    def policy_block(self, policy: ActivePolicy, direction: str) -> Block:
        key = (policy.number, direction)
        block = self._blocks.get(key)
        if block is None:
            rules = policy.spec.ingress if direction == "ingress" else policy.spec.egress
            resource = policy.resource
            info = RuleInfo(
                policy.tier.name,
                policy.title,
                policy.kind,
                0,
                "",
                direction,
                policy.staged,
                resource.file,
                resource.line,
            )
            deny = {"reject": Action.REJECT, "drop": Action.DENY}.get(policy.annotated(DENY_ACTION), self._deny)
            wish = policy.annotated(INSPECT)
            inspect = wish == "true" or (self.options.inspect_default and wish != "false")
            block = self._block(rules, info, resource.namespace, deny, inspect=inspect, in_profile=False)
            self._blocks[key] = block
        return block

    def profile_block(self, name: str, direction: str) -> Block:
        key = ("profile", name, direction)
        block = self._blocks.get(key)
        if block is None:
            profile = self.world.profiles.get(name)
            if profile is None:  # Felix drops what an endpoint with an unknown profile sends until it is known
                info = RuleInfo(PROFILE_TIER, name, "Profile", -1, "deny", direction)
                block = Block(self.plain(self.info(info), self._deny), ())
            else:
                block = self._profile(profile, direction)
            self._blocks[key] = block
        return block

    def _profile(self, profile: Profile, direction: str) -> Block:
        rules = profile.spec.ingress if direction == "ingress" else profile.spec.egress
        info = RuleInfo(PROFILE_TIER, profile.name, "Profile", 0, "", direction, False, profile.file, profile.line)
        return self._block(rules, info, "", self._deny, inspect=self.options.inspect_default, in_profile=True)

    @staticmethod
    def plain(number: int, action: Action, flags: int = 0, source: int = NONE, destination: int = NONE) -> bytes:
        """A rule that asks for addresses at most."""
        return RULE.pack(number, source, destination, 0, *[0] * 8, flags, action, 0, 0, 0, 0, 0, 0)

    def plain_chain(self, rules: Sequence[bytes]) -> int:
        """A chain of packed rules that has no opinion where none of them decides."""
        first = self.next_rule
        self.rules += b"".join(rules)
        self.chains += CHAIN.pack(first, len(rules), NONE, Action.NEXT)
        return self._number()

    def _number(self) -> int:
        """Of the chain that was just added."""
        if self._free:
            number = self._free.pop()
        else:
            number = self.count
            self.count += 1
        self.numbers.append(number)
        return number

    def begin_change(self) -> None:
        """What is added from here on is a fastpath.PolicyChange to what was there."""
        self._first_term += len(self.terms) // PORT_TERM.size
        self.rules, self.terms, self.chains = bytearray(), bytearray(), bytearray()
        self.numbers = []

    def forget_policies(self, numbers: Collection[int]) -> None:
        """These policies are asked by no chain that is still to be built."""
        for number in numbers:
            for direction in ("ingress", "egress"):
                self._blocks.pop((number, direction), None)

    def drop_chains(self, unused: Collection[int]) -> None:
        """Their numbers may be given to others in the next change; until then they are empty."""
        for key in [key for key, number in self._built.items() if number in unused]:
            del self._built[key]
        for number in unused:
            self.chains += CHAIN.pack(self.next_rule, 0, NONE, Action.NEXT)
            self.numbers.append(number)
        self._free += unused

    def _end(self, policy: ActivePolicy, direction: str, action: str) -> int:
        """The rule at the end of a tier, reported under the tier's last policy, as Calico's flow logs do."""
        key = (policy.number, direction, action)
        number = self._ends.get(key)
        if number is None:
            resource = policy.resource
            number = self._ends[key] = self.info(
                RuleInfo(
                    policy.tier.name, policy.title, policy.kind, -1, action, direction, policy.staged,
                    resource.file, resource.line,
                )
            )  # fmt: skip
        return number

    def chain(
        self,
        policies: Sequence[ActivePolicy],
        direction: str,
        profiles: tuple[str, ...] | None,
        *,
        lenient: bool = False,
    ) -> int:
        """The number of the chain. `profiles` None: nothing follows the tiers and what they pass has no verdict here.
        `lenient`: every tier's default is Pass (doNotTrack and preDNAT policy)."""
        key = (direction, profiles, lenient, tuple(policy.number for policy in policies))
        number = self._built.get(key)
        if number is not None:
            return number
        first = self.next_rule
        waiting: list[int] = []  # PASS rules whose tier has not ended yet
        at = 0
        while at < len(policies):
            tier = policies[at].tier
            while at < len(policies) and policies[at].tier == tier:
                block = self.policy_block(policies[at], direction)
                waiting += [self.next_rule + index for index in block.passes]
                self.rules += block.rules
                at += 1
            last = policies[at - 1]
            if tier.default_action == "Pass" or lenient:
                waiting.append(self.next_rule)
                self.rules += self.plain(self._end(last, direction, "pass"), Action.PASS)
            else:
                self.rules += self.plain(self._end(last, direction, "deny"), self._deny)
            self._land(waiting)
        default = self._finish(profiles, direction)
        if profiles is None and policies:
            self.rules += self.plain(NONE, Action.LOG, IMPOSSIBLE)
        count = self.next_rule - first
        self.chains += CHAIN.pack(first, count, *default)
        number = self._built[key] = self._number()
        return number

    def _land(self, waiting: list[int]) -> None:
        """What passed a tier goes on here."""
        target = _PASS_TO.pack(self.next_rule)
        for rule in waiting:
            at = rule * RULE.size + _PASS_TO_AT
            self.rules[at : at + _PASS_TO.size] = target
        waiting.clear()

    def _finish(self, profiles: tuple[str, ...] | None, direction: str) -> tuple[int, int]:
        """Profiles and the end; returns the chain's default rule and action."""
        if profiles is None:
            return NONE, Action.NEXT
        for name in profiles:
            self.rules += self.profile_block(name, direction).rules
        key = ("no profile matched", direction)
        number = self._ends.get(key)
        if number is None:
            number = self._ends[key] = self.info(RuleInfo(PROFILE_TIER, "", "Profile", -1, "deny", direction))
        self.rules += self.plain(number, self._deny)
        return number, self._deny
