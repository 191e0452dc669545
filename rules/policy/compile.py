# SPDX-License-Identifier: Apache-2.0
"""Resources → program.

members with labels ─▶ holders ─▶ which policies each endpoint has ─▶ what their rules ask ─▶ facts about prefixes
                                                                                                    │
tables ◀─ chains ◀─ packed rules ◀─ predicates, one bit set over identities each ◀─ identities ◀────┘
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from fastpath.layout import IDENTITY_CHAINS, INTERFACE_CHAINS, NONE, Action, RuleFlag
from rules.policy.chains import ChainBuilder, side_match
from rules.policy.describe import identity_infos, not_enforced, note
from rules.policy.endpoints import Labeller, Member, World, collect
from rules.policy.identities import FactMap, Facts
from rules.policy.labels import Holders, bits_of
from rules.policy.model import (
    NamedPort,
    Net,
    Resource,
    Rule,
    ServiceEndpointsSpec,
    parse_net,
)
from rules.policy.names import NameFacts
from rules.policy.policies import ActivePolicy, sort_policies, tier_names, view
from rules.policy.predicates import FactNumbers, Match, Predicates
from rules.policy.program import (
    FEED_TIER,
    CompileOptions,
    Endpoint,
    Program,
    RawChains,
    RuleInfo,
    Warning,
)

EndpointKey = tuple[int, tuple[str, ...]]  # holder, profiles
Views = tuple[list[ActivePolicy], list[ActivePolicy]]  # in force, pending


def compile_policy(resources: Sequence[Resource], options: CompileOptions) -> Program:
    """A program for validated resources. Never fails on them; what it cannot enforce is in `warnings`."""
    return Compiler(resources, options).run()


@dataclass(frozen=True, slots=True)
class State:
    """What the compiler knew, for changes that need no new program (rules.policy.live, rules.policy.learned)."""

    labeller: Labeller
    holders: Holders
    numbers: FactNumbers
    facts: FactMap
    names: NameFacts
    compiler: "Compiler"


@dataclass(slots=True)
class _Governed:
    """An endpoint whose traffic is decided here."""

    member: Member
    holder: int


class Compiler:
    def __init__(self, resources: Sequence[Resource], options: CompileOptions) -> None:
        self.resources = resources
        self.options = options
        self.world: World = collect(resources)
        self.policies = sort_policies(resources)
        self.holders = Holders()
        self.numbers = FactNumbers()
        self.facts = FactMap()
        self.workloads: list[_Governed] = []
        self.hosts: list[_Governed] = []
        self.slices: dict[tuple[str, str], list[tuple[int, ServiceEndpointsSpec]]] = {}
        self.asked_names: dict[str, set[int]] = {}  # pattern → facts
        self.warnings: list[Warning] = []
        self.applied_workloads: dict[int, list[ActivePolicy]] = {}  # policies by holder, in order
        self.applied_hosts: dict[int, list[ActivePolicy]] = {}
        self.chains_of: dict[EndpointKey, tuple[int, int, int, int]] = {}
        self.keys: list[EndpointKey | None] = []  # by identity
        self.interfaces: list[tuple[int, ...]] = []

    # -- who is there ------------------------------------------------------------------------------

    def _members(self) -> None:
        options = self.options
        for member in self.world.members:
            holder = self.holders.add(member.labels, member.ports)
            fact = self.numbers.number("holder", holder)
            self.facts.add_all(member.nets, fact)
            for pattern in member.domains:
                self.asked_names.setdefault(pattern, set()).add(self.numbers.number("names", holder))
            if member.kind == "workload":
                self._workload(member, holder)
            elif member.kind == "host" and member.node == options.node:
                self.hosts.append(_Governed(member, holder))

    def _workload(self, member: Member, holder: int) -> None:
        options = self.options
        if options.scope != "gateway" and member.node != options.node:
            return
        self.workloads.append(_Governed(member, holder))
        fact = self.numbers.number("endpoint", (holder, member.profiles))
        self.facts.add_all(member.nets, fact)
        ifindex = local_interface(member, options)
        if ifindex:
            for net in member.nets:
                self.facts.bind(net, ifindex)

    # -- what is asked about them --------------------------------------------------------------------

    def _applied(self, governed: Sequence[_Governed]) -> dict[int, list[ActivePolicy]]:
        """Policies by holder, in order."""
        wanted = 0
        for item in governed:
            wanted |= 1 << item.holder
        applied: dict[int, list[ActivePolicy]] = {holder: [] for holder in bits_of(wanted)}
        for policy in self.policies:
            for holder in bits_of(self.holders.matching(policy.selector) & wanted):
                applied[holder].append(policy)
        return applied

    def _rules(self, applied: Iterable[list[ActivePolicy]]) -> Iterable[tuple[Rule, str, str]]:
        """(rule, namespace, direction) of everything that may be asked."""
        active = {policy.number: policy for policies in applied for policy in policies}
        for policy in active.values():
            namespace = policy.resource.namespace
            for rule in policy.spec.ingress:
                yield rule, namespace, "ingress"
            for rule in policy.spec.egress:
                yield rule, namespace, "egress"
        for name in {name for item in (*self.workloads, *self.hosts) for name in item.member.profiles}:
            profile = self.world.profiles.get(name)
            if profile is not None:
                for rule in profile.spec.ingress:
                    yield rule, "", "ingress"
                for rule in profile.spec.egress:
                    yield rule, "", "egress"

    def _asked(self, rules: Iterable[tuple[Rule, str, str]]) -> None:
        """Facts for the networks, services and names of rules."""
        known: set[tuple[Net, ...]] = set()
        services: set[tuple[str, str]] = set()
        names: set[str] = set()
        for rule, namespace, direction in rules:
            for entity in (rule.source, rule.destination):
                match = side_match(entity, namespace, names=direction == "egress")
                known.update(nets for nets in (match.nets, match.not_nets) if nets)
                names.update(match.domains)
                if match.service is not None:
                    services.add(match.service)
        for nets in known:
            self.facts.add_all(nets, self.numbers.number("nets", nets))
        for name in names:
            self.asked_names.setdefault(name, set()).add(self.numbers.number("domain", name))
        number = 0
        for service in sorted(services):
            fact = self.numbers.number("service", service)
            for spec in self.world.services.get(service, ()):
                self.facts.add_all(spec.addresses, fact)
                self.facts.add_all(spec.addresses, self.numbers.number("slice", number))
                self.slices.setdefault(service, []).append((number, spec))
                number += 1

    def _feeds(self) -> None:
        sets = {member.title: member for member in self.world.members if member.kind == "set"}
        for index, feed in enumerate(self.options.feeds):
            facts = [self.numbers.number("feed", index)]
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
        self._members()
        workload_policies = self.applied_workloads = self._applied(self.workloads)
        host_policies = self.applied_hosts = self._applied(self.hosts)
        self._asked(self._rules((*workload_policies.values(), *host_policies.values())))
        self._feeds()
        names = self._learned()
        entries, facts_of = self.facts.resolve(names.expected(self.options.name_groups))
        self.predicates = Predicates(self.holders, self.numbers, facts_of)
        self.build = ChainBuilder(self.predicates, self.holders, self.world, self.slices, self.options)
        feed_chain = self._feed_chain()
        endpoints = self._workload_chains(workload_policies)
        interfaces, raw = self.host_chains(host_policies, endpoints)
        self.interfaces = interfaces
        identity_chains = self._identity_chains(facts_of)
        ports = self.options.inspect_ports
        if self.asked_names:
            ports = tuple(dict.fromkeys((*ports, *self.options.name_ports)))
        inspect = self.build.term_list(
            [(NONE, first, last, proto) for proto, first, last in ports]
        )
        offsets, predicates, count = self.predicates.tables()
        self.warnings += not_enforced(self.resources, tier_names(self.resources), self.world.profiles, self.options)
        parts: dict[str, object] = {
            "rules": bytes(self.build.rules),
            "port_terms": bytes(self.build.terms),
            "chains": bytes(self.build.chains),
            "predicate_offsets": offsets,
            "predicates": predicates,
            "n_predicates": count,
            "identities": identity_chains,
            "interfaces": b"".join(INTERFACE_CHAINS.pack(*row) for row in interfaces),
            "feed_chain": feed_chain,
            "inspect": inspect,
        }
        return Program(
            parts,
            entries,
            self.build.infos,
            identity_infos(self.world.members, self.holders, self.numbers, facts_of, self.options),
            endpoints,
            raw,
            {row[0]: row[1:] for row in interfaces},
            tuple(self.warnings),
            self.options,
            State(self.world.labeller, self.holders, self.numbers, self.facts, names, self),
            self.build.http,
            tuple(sorted(self.asked_names)),
        )

    def _feed_chain(self) -> int:
        rules: list[bytes] = []
        for index, feed in enumerate(self.options.feeds):
            predicate = self.predicates.number(Match(feed=index))
            action = {"alert": Action.LOG, "drop": Action.DENY, "reject": Action.REJECT}[feed.action]
            for at, (direction, wanted) in enumerate((("ingress", "source"), ("egress", "destination"))):
                if feed.direction not in (wanted, "both"):
                    continue
                info = RuleInfo(FEED_TIER, feed.name, "ThreatFeed", at, feed.action, direction)
                sides = (predicate, NONE) if wanted == "source" else (NONE, predicate)
                rules.append(self.build.plain(self.build.info(info), action, RuleFlag(0), *sides))
        return self.build.plain_chain(rules) if rules else NONE

    def _views(self, policies: Sequence[ActivePolicy], direction: str) -> Views:
        wanted = direction.capitalize()
        asked = [policy for policy in policies if wanted in policy.spec.types]
        return view(asked, pending=False), view(asked, pending=True)

    def _workload_chains(self, applied: Mapping[int, list[ActivePolicy]]) -> dict[str, Endpoint]:
        chains = self.chains_of
        endpoints: dict[str, Endpoint] = {}
        for item in self.workloads:
            member = item.member
            key = (item.holder, member.profiles)
            numbers = chains.get(key)
            if numbers is None:
                numbers = chains[key] = self.endpoint_chains(applied[item.holder], member.profiles)
            endpoints[member.title] = endpoint_of(member, numbers)
        for member in self.world.members:
            if member.kind == "workload" and member.title not in endpoints:
                endpoints[member.title] = endpoint_of(member, (NONE, NONE, NONE, NONE))
        return endpoints

    def endpoint_chains(
        self, policies: Sequence[ActivePolicy], profiles: tuple[str, ...]
    ) -> tuple[int, int, int, int]:
        normal = [policy for policy in policies if not policy.spec.do_not_track and not policy.spec.pre_dnat]
        ingress, staged_ingress = self._pair(normal, "ingress", profiles)
        egress, staged_egress = self._pair(normal, "egress", profiles)
        return ingress, egress, staged_ingress, staged_egress

    def _pair(
        self,
        policies: Sequence[ActivePolicy],
        direction: str,
        profiles: tuple[str, ...] | None,
        *,
        lenient: bool = False,
    ) -> tuple[int, int]:
        """Chain in force and pending chain. Without profiles, no policy means no chain."""
        numbers = []
        for asked in self._views(policies, direction):
            if profiles is None and not asked:
                numbers.append(NONE)
            else:
                numbers.append(self.build.chain(asked, direction, profiles, lenient=lenient))
        return numbers[0], numbers[1]

    def host_chains(
        self, applied: Mapping[int, list[ActivePolicy]], endpoints: dict[str, Endpoint]
    ) -> tuple[list[tuple[int, ...]], dict[int, RawChains]]:
        rows: dict[int, tuple[int, ...]] = {}
        raw: dict[int, RawChains] = {}
        # Of two host endpoints for one interface Felix takes the one whose name comes first.
        for item in sorted(self.hosts, key=lambda item: item.member.title):
            member = item.member
            policies = applied[item.holder]
            untracked = [p for p in policies if p.spec.do_not_track]
            pre_dnat = [p for p in policies if p.spec.pre_dnat and not p.spec.do_not_track]
            normal = [p for p in policies if not p.spec.do_not_track and not p.spec.pre_dnat]
            forward = [p for p in normal if p.spec.apply_on_forward]
            host_in, staged_host_in = self._pair(normal, "ingress", member.profiles)
            host_out, staged_host_out = self._pair(normal, "egress", member.profiles)
            forward_in, staged_forward_in = self._pair(forward, "ingress", None)
            forward_out, staged_forward_out = self._pair(forward, "egress", None)
            raw_in, staged_raw_in = self._pair(untracked, "ingress", None, lenient=True)
            raw_out, staged_raw_out = self._pair(untracked, "egress", None, lenient=True)
            early, staged_early = self._pair(pre_dnat, "ingress", None, lenient=True)
            chains = RawChains(raw_in, raw_out, early, staged_raw_in, staged_raw_out, staged_early)
            endpoints[member.title] = endpoint_of(member, (host_in, host_out, staged_host_in, staged_host_out))
            for ifindex in self._interfaces(member):
                rows.setdefault(
                    ifindex,
                    (
                        ifindex, host_in, host_out, forward_in, forward_out,
                        staged_host_in, staged_host_out, staged_forward_in, staged_forward_out,
                    ),
                )  # fmt: skip
                raw.setdefault(ifindex, chains)
        if 0 in rows:
            self._spare_workloads(rows, raw)
        return [rows[ifindex] for ifindex in sorted(rows)], raw

    def _spare_workloads(self, rows: dict[int, tuple[int, ...]], raw: dict[int, RawChains]) -> None:
        """`*` governs forwarding through local workloads' interfaces, but not what they say to the host itself: that is
        the workload's own egress policy's business, and a host always reaches its own workloads."""
        everywhere = rows[0]
        for item in self.workloads:
            if item.member.node == self.options.node:
                ifindex = self.options.interfaces.get(item.member.interface)
                if ifindex and ifindex not in rows:
                    rows[ifindex] = (ifindex, NONE, NONE, *everywhere[3:5], NONE, NONE, *everywhere[7:9])
                    raw[ifindex] = raw[0]

    def _interfaces(self, member: Member) -> list[int]:
        options = self.options
        if member.interface == "*":
            return [0]
        if member.interface:
            ifindex = options.interfaces.get(member.interface)
            if ifindex is None:
                self.warnings.append(
                    note(member.resource, f"interface {member.interface} does not exist on this node", "interfaceName")
                )
                return []
            return [ifindex]
        wanted = set(member.nets)
        found = [
            options.interfaces[name]
            for name, addresses in options.interface_addresses.items()
            if name in options.interfaces and any(parse_net(address)[0] in wanted for address in addresses)
        ]
        if not found:
            self.warnings.append(
                note(member.resource, "no interface of this node has one of the expected addresses", "expectedIPs")
            )
        return found

    def _identity_chains(self, facts_of: Sequence[Facts]) -> bytes:
        for facts in facts_of:
            self.keys.append(self.key_of(facts))
        return b"".join(self.packed_chains(key) for key in self.keys)

    def key_of(self, facts: Facts) -> EndpointKey | None:
        """The endpoints that have these facts; of several on one address the same one whatever came first."""
        keys: list[EndpointKey] = []
        for fact in facts:
            kind, what = self.numbers.keys[fact]
            if kind == "endpoint":
                keys.append(what)  # type: ignore[arg-type]
        return min(keys, key=self._by_labels) if len(keys) > 1 else keys[0] if keys else None

    def _by_labels(self, key: EndpointKey) -> tuple[list[tuple[str, str]], tuple[NamedPort, ...], tuple[str, ...]]:
        holder = self.holders.all[key[0]]
        return sorted(holder.labels.items()), holder.ports, key[1]

    def packed_chains(self, key: EndpointKey | None) -> bytes:
        return IDENTITY_CHAINS.pack(*(self.chains_of[key] if key is not None else (NONE, NONE, NONE, NONE)))


def local_interface(member: Member, options: CompileOptions) -> int:
    """Where a workload's packets may come from; 0: anywhere."""
    return options.interfaces.get(member.interface, 0) if member.node == options.node else 0


def endpoint_of(member: Member, chains: tuple[int, int, int, int]) -> Endpoint:
    addresses = tuple(str(net).partition("/")[0] for net in member.nets)
    ingress, egress, staged_ingress, staged_egress = chains
    return Endpoint(
        member.title, member.kind, member.node, member.interface, addresses, member.labels,
        ingress, egress, staged_ingress, staged_egress,
    )  # fmt: skip
