# SPDX-License-Identifier: Apache-2.0
"""Resources → program.

members with labels ─▶ holders ─▶ which policies each endpoint has ─▶ what their rules ask ─▶ facts about prefixes
                                                                                                    │
tables ◀─ chains ◀─ packed rules ◀─ predicates, one bit set over identities each ◀─ identities ◀────┘

The compiler's state stays: rules.policy.live changes it in place, a resource at a time.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

from fastpath.layout import IDENTITY_CHAINS, INTERFACE_CHAINS, NONE, Action, RuleFlag
from rules.policy.asked import policy_atoms, rule_atoms
from rules.policy.chains import ChainBuilder, pair
from rules.policy.describe import Owners, Words, not_enforced
from rules.policy.endpoints import Member, World, collect
from rules.policy.hosts import NO_CHAINS, Chains, HostChains, host_chains
from rules.policy.identities import FactMap, Facts
from rules.policy.labels import Holders, bits_of
from rules.policy.model import NamedPort, Net, PolicySpec, ProfileSpec, Resource, ServiceEndpointsSpec
from rules.policy.names import NameFacts
from rules.policy.packing import RulePacker, Service, side_match
from rules.policy.policies import ActivePolicy, sort_policies, tier_names
from rules.policy.predicates import FactNumbers, Match, Predicates
from rules.policy.program import FEED_TIER, CompileOptions, Endpoint, Endpoints, Program, RuleInfo, Warning
from rules.policy.seats import Seats
from rules.policy.selector import Node

EndpointKey = tuple[int, tuple[str, ...]]  # holder, profiles


def compile_policy(resources: Sequence[Resource], options: CompileOptions) -> Program:
    """A program for validated resources. Never fails on them; what it cannot enforce is in `warnings`."""
    return Compiler(resources, options).run()


@dataclass(frozen=True, slots=True)
class State:
    """What the compiler knew, for changes that need no new program (rules.policy.live, rules.policy.learned)."""

    facts: FactMap
    names: NameFacts
    compiler: "Compiler"


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a member stands: as what it is known, whether it is governed here, and by which interface it speaks."""

    member: Member
    holder: int
    governed: bool
    ifindex: int

    @property
    def key(self) -> EndpointKey:
        return self.holder, self.member.profiles

    def same(self, other: "Standing") -> bool:
        """Nothing about its addresses is different."""
        mine, others = self.member, other.member
        return (self.holder, self.governed, self.ifindex, mine.kind, mine.nets, mine.profiles, mine.domains) == (
            other.holder, other.governed, other.ifindex, others.kind, others.nets, others.profiles, others.domains,
        )  # fmt: skip


class Compiler:
    def __init__(self, resources: Sequence[Resource], options: CompileOptions) -> None:
        self.resources: Iterable[Resource] = resources
        self.options = options
        self.world: World = collect(resources)
        self.policies = sort_policies(resources)
        self.by_selector: dict[Node, list[ActivePolicy]] = {}
        for policy in self.policies:
            self.by_selector.setdefault(policy.selector, []).append(policy)
        self.holders = Holders()
        self.numbers = FactNumbers()
        self.facts = FactMap()
        self.seats = Seats(options.feeds)
        self.words = Words(self.numbers, self.seats)
        self.hosts: dict[str, Standing] = {}  # of this node, by title
        self.local: Counter[int] = Counter()  # workloads of this node by ifindex
        self.users: Counter[EndpointKey] = Counter()  # governed workloads
        self.owners = Owners()
        self.slices: dict[Service, list[tuple[int, ServiceEndpointsSpec]]] = {}
        self.asked_names: dict[str, Counter[int]] = {}  # pattern → facts, and how many ask
        self.named: Counter[int] = Counter()  # network sets with names, by holder
        self.applied_workloads: dict[int, list[ActivePolicy]] = {}  # policies by holder, in order
        self.applied_hosts: dict[int, list[ActivePolicy]] = {}
        self.chains_of: dict[EndpointKey, Chains] = {}
        self.keys: list[EndpointKey | None] = []  # by identity
        self.contested: set[int] = set()  # identities of addresses that several endpoints have

    # -- who is there ------------------------------------------------------------------------------

    def standing(self, member: Member) -> Standing:
        options = self.options
        holder = self.holders.add(member.labels, member.ports)
        if member.kind == "workload":
            here = member.node == options.node
            ifindex = options.interfaces.get(member.interface, 0) if here else 0
            governed = here or options.scope == "gateway"
            return Standing(member, holder, governed, ifindex if governed else 0)
        return Standing(member, holder, member.kind == "host" and member.node == options.node, 0)

    def enter(self, standing: Standing) -> None:
        member, holder = standing.member, standing.holder
        self.facts.add_all(member.nets, self.numbers.number("holder", holder))
        self.words.enter(member, holder)
        if member.kind == "set":
            for pattern in member.domains:
                self.ask_name(pattern, self.numbers.number("names", holder))
            self.named[holder] += bool(member.domains)
            return
        self.owners.enter(member)
        if not standing.governed:
            return
        if member.kind == "host":
            self.hosts[member.title] = standing
            return
        self.users[standing.key] += 1
        self.facts.add_all(member.nets, self.numbers.number("endpoint", standing.key))
        if standing.ifindex:
            self.local[standing.ifindex] += 1
            for net in member.nets:
                self.facts.bind(net, standing.ifindex)

    def leave(self, standing: Standing) -> None:
        member, holder = standing.member, standing.holder
        self.facts.discard_all(member.nets, self.numbers.number("holder", holder))
        self.words.leave(member, holder)
        if member.kind == "set":
            for pattern in member.domains:
                self.drop_name(pattern, self.numbers.number("names", holder))
            self.named[holder] -= bool(member.domains)
            return
        self.owners.leave(member)
        if not standing.governed:
            return
        if member.kind == "host":
            del self.hosts[member.title]
            return
        self.users[standing.key] -= 1
        self.facts.discard_all(member.nets, self.numbers.number("endpoint", standing.key))
        if standing.ifindex:
            self.local[standing.ifindex] -= 1
            for net in member.nets:
                self.facts.release(net, standing.ifindex)

    # -- what is asked about them --------------------------------------------------------------------

    def ask_name(self, pattern: str, fact: int) -> None:
        self.asked_names.setdefault(pattern, Counter())[fact] += 1

    def drop_name(self, pattern: str, fact: int) -> None:
        askers = self.asked_names[pattern]
        askers[fact] -= 1
        if not askers[fact]:
            del askers[fact]
        if not askers:
            del self.asked_names[pattern]

    def applied_to(self, holder: int) -> list[ActivePolicy]:
        """In order."""
        found = chain.from_iterable(self.by_selector.get(node, ()) for node in self.holders.selecting(holder))
        return sorted(found, key=lambda policy: policy.place)

    def _applied(self, governed: Iterable[int]) -> dict[int, list[ActivePolicy]]:
        """Policies by holder, in order."""
        applied: dict[int, list[ActivePolicy]] = {holder: [] for holder in governed}
        wanted = 0
        for holder in applied:
            wanted |= 1 << holder
        for policy in self.policies:
            for holder in bits_of(self.holders.matching(policy.selector) & wanted):
                applied[holder].append(policy)
        return applied

    def ask_networks(self, specs: Iterable[tuple[PolicySpec | ProfileSpec, str]]) -> list[Net]:
        """Facts for the networks and services that rules (of a namespace) ask for. Returns prefixes with new facts."""
        known: set[tuple[Net, ...]] = set()
        services: set[Service] = set()
        for spec, namespace in specs:
            for rule in (*spec.ingress, *spec.egress):
                for entity in (rule.source, rule.destination):
                    known.update(nets for nets in (entity.nets, entity.not_nets) if nets)
                    service = side_match(entity, namespace, names=False).service if entity.services else None
                    if service is not None:
                        services.add(service)
        touched: list[Net] = []
        for nets in known:
            if self.numbers.find("nets", nets) is None:
                self.facts.add_all(nets, self.numbers.number("nets", nets))
                touched += nets
        for service in sorted(services):
            if self.numbers.find("service", service) is None:
                self.numbers.number("service", service)
                touched += self.give_service(service, self.world.services.get(service, ()))
        return touched

    def give_service(self, service: Service, specs: Iterable[ServiceEndpointsSpec]) -> list[Net]:
        """These are the endpoints of a service that somebody asks for. Returns prefixes with other facts."""
        fact = self.numbers.number("service", service)
        before = self.slices.get(service, [])
        now = list(specs)
        kept = [(number, spec) for number, spec in before if spec in now]
        touched: list[Net] = []
        for number, spec in before:
            if spec not in now:
                touched += spec.addresses
                self.facts.discard_all(spec.addresses, fact)
                self.facts.discard_all(spec.addresses, self.numbers.number("slice", number))
        for spec in now:
            if all(spec != other for _, other in kept):
                number = self.numbers.next_slice()
                touched += spec.addresses
                self.facts.add_all(spec.addresses, fact)
                self.facts.add_all(spec.addresses, self.numbers.number("slice", number))
                kept.append((number, spec))
        self.slices[service] = kept
        return touched

    def ask_names(self, spec: PolicySpec | ProfileSpec, *, leave: bool = False) -> None:
        """Of every policy and profile, also where they govern nobody: what is learned for them is known at once."""
        for rule in spec.egress:
            for name in rule.destination.domains:
                fact = self.numbers.number("domain", name)
                if leave:
                    self.drop_name(name, fact)
                else:
                    self.ask_name(name, fact)

    def _feeds(self) -> None:
        sets = {member.title: member for member in self.world.members if member.kind == "set"}
        for seat, feed in enumerate(self.options.feeds):
            facts = [self.numbers.number("feed", seat)]
            if (member := sets.get(feed.network_set)) is not None:
                facts.append(self.numbers.number("holder", self.holders.add(member.labels, member.ports)))
            self.facts.listed.add(feed.listed(), facts)

    def _learned(self) -> NameFacts:
        names = NameFacts(self.asked_names)
        for net, facts in names.of_addresses(self.options.names).items():
            for fact in facts:
                self.facts.add(net, fact)
        return names

    # -- the program -----------------------------------------------------------------------------------

    def run(self) -> Program:
        for policy in self.policies:
            self.holders.asked.add(policy_atoms(policy))
            self.ask_names(policy.spec)
        for profile in self.world.profiles.values():
            self.holders.asked.add(rule_atoms(profile.spec, ""))
            self.ask_names(profile.spec)
        for member in self.world.members:
            self.enter(self.standing(member))
        self.applied_workloads = self._applied({holder for holder, _ in self.users})
        self.applied_hosts = self._applied({standing.holder for standing in self.hosts.values()})
        self.ask_networks(self._asking())
        self._feeds()
        names = self._learned()
        entries, facts_of = self.facts.resolve(names.expected(self.options.name_groups))
        self.predicates = Predicates(self.holders, self.numbers, facts_of)
        self.packer = RulePacker(self.predicates, self.holders, self.slices, self.options)
        self.build = ChainBuilder(self.packer, self.world, self.options)
        feed_rules = self.feed_rules()
        self.feed_chain = self.build.plain_chain(feed_rules) if feed_rules else NONE
        for key in self.users:
            self.chains_of[key] = self.endpoint_chains(key)
        self.host = self.make_hosts()
        for identity, facts in enumerate(facts_of):
            self.keys.append(self.key_of(identity, facts))
        identity_chains = b"".join(self.packed_chains(key) for key in self.keys)
        inspect = self.packer.term_list([(NONE, first, last, proto) for proto, first, last in self.inspected()])
        offsets, predicates, count = self.predicates.tables()
        parts: dict[str, object] = {
            "rules": bytes(self.build.rules),
            "port_terms": bytes(self.packer.terms),
            "chains": bytes(self.build.chains),
            "predicate_offsets": offsets,
            "predicates": predicates,
            "n_predicates": count,
            "identities": identity_chains,
            "interfaces": b"".join(INTERFACE_CHAINS.pack(*row) for row in self.host.ordered),
            "feed_chain": self.feed_chain,
            "inspect": inspect,
        }
        return Program(
            parts,
            entries,
            self.build.infos,
            [self.words.info(identity, facts) for identity, facts in enumerate(facts_of)],
            Endpoints(lambda: {m.title: self.endpoint(m) for m in self.world.members if m.kind != "set"}),
            self.host.raw,
            dict(self.build.early),
            {row[0]: row[1:] for row in self.host.ordered},
            (*self.host.warnings, *self._warnings()),
            self.options,
            State(self.facts, names, self),
            dict(self.build.http),
            tuple(sorted(self.asked_names)),
            self.workload_interfaces(),
            self.owners.titles,
        )

    def _warnings(self) -> Iterable[Warning]:
        world = self.world
        return not_enforced(
            self.resources, tier_names(self.resources), world.profiles, world.services, self.options
        )  # fmt: skip

    def _asking(self) -> Iterable[tuple[PolicySpec | ProfileSpec, str]]:
        """Policies that govern somebody, and profiles that somebody has."""
        active: dict[int, ActivePolicy] = {}
        for policies in (*self.applied_workloads.values(), *self.applied_hosts.values()):
            active.update((policy.number, policy) for policy in policies)
        for policy in active.values():
            yield policy.spec, policy.resource.namespace
        for name in self.used_profiles():
            profile = self.world.profiles.get(name)
            if profile is not None:
                yield profile.spec, ""

    def used_profiles(self) -> set[str]:
        used = {name for _, profiles in self.users for name in profiles}
        return used | {name for standing in self.hosts.values() for name in standing.member.profiles}

    def inspected(self) -> tuple[tuple[int, int, int], ...]:
        """(protocol, first, last) of ports whose allowed flows are inspected."""
        ports = self.options.inspect_ports
        return tuple(dict.fromkeys((*ports, *self.options.name_ports))) if self.asked_names else ports

    def feed_rules(self) -> list[bytes]:
        rules: list[bytes] = []
        for feed in self.options.feeds:
            predicate = self.predicates.number(Match(feed=self.seats.of(feed)))
            action = {"alert": Action.LOG, "drop": Action.DENY, "reject": Action.REJECT}[feed.action]
            for at, (direction, wanted) in enumerate((("ingress", "source"), ("egress", "destination"))):
                if feed.direction not in (wanted, "both"):
                    continue
                info = RuleInfo(FEED_TIER, feed.name, "ThreatFeed", at, feed.action, direction)
                sides = (predicate, NONE) if wanted == "source" else (NONE, predicate)
                rules.append(self.packer.plain(self.build.info(info), action, RuleFlag(0), *sides))
        return rules

    def endpoint_chains(self, key: EndpointKey) -> Chains:
        policies = [p for p in self.applied_workloads[key[0]] if not p.spec.do_not_track and not p.spec.pre_dnat]
        ingress, staged_ingress = pair(self.build, policies, "ingress", key[1])
        egress, staged_egress = pair(self.build, policies, "egress", key[1])
        return ingress, egress, staged_ingress, staged_egress

    def make_hosts(self) -> HostChains:
        hosts = [(standing.member, self.applied_hosts[standing.holder]) for standing in self.hosts.values()]
        return host_chains(self.build, hosts, [ifindex for ifindex, users in self.local.items() if users], self.options)

    def workload_interfaces(self) -> frozenset[int]:
        """Of this node's workloads, where no host endpoint names the interface itself."""
        rows = self.host.rows
        used = (ifindex for ifindex, users in self.local.items() if users)
        return frozenset(ifindex for ifindex in used if ifindex not in rows or rows[ifindex][1] == NONE)

    def endpoint(self, member: Member) -> Endpoint:
        """As it is known and governed now."""
        chains, raw = NO_CHAINS, None
        if member.kind == "host":
            chains = self.host.of.get(member.title, NO_CHAINS)
            raw = self.host.raw_of.get(member.title)
        elif self.options.scope == "gateway" or member.node == self.options.node:
            holder = self.holders.add(member.labels, member.ports)
            chains = self.chains_of.get((holder, member.profiles), NO_CHAINS)
        addresses = tuple(str(net).partition("/")[0] for net in member.nets)
        ingress, egress, staged_ingress, staged_egress = chains
        return Endpoint(
            member.title, member.kind, member.node, member.interface, addresses, member.labels,
            ingress, egress, staged_ingress, staged_egress, raw,
        )  # fmt: skip

    def key_of(self, identity: int, facts: Facts) -> EndpointKey | None:
        """The endpoints that have these facts; of several on one address the same one whatever came first."""
        keys: list[EndpointKey] = []
        for fact in facts:
            kind, what = self.numbers.keys[fact]
            if kind == "endpoint":
                keys.append(what)  # type: ignore[arg-type]
        if len(keys) > 1:
            self.contested.add(identity)
            return min(keys, key=self._by_labels)
        return keys[0] if keys else None

    def _by_labels(self, key: EndpointKey) -> tuple[list[tuple[str, str]], tuple[NamedPort, ...], tuple[str, ...]]:
        holder, asked = self.holders.all[key[0]], self.holders.asked
        return asked.asked_now(holder.labels), asked.ports_now(holder.ports), key[1]

    def packed_chains(self, key: EndpointKey | None) -> bytes:
        return IDENTITY_CHAINS.pack(*(self.chains_of.get(key, NO_CHAINS) if key is not None else NO_CHAINS))
