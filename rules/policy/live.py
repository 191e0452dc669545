# SPDX-License-Identifier: Apache-2.0
"""Changes without a new program: what a resource touches is compiled again, and nothing else.

endpoint, set ─▶ facts about its addresses ─▶ their entries, a new identity where nobody had these facts
policy ─▶ label sets that it governs or governed ─▶ their chains, and predicates that nobody asked before

What is no longer asked (a predicate, a rule's number) stays behind until the next whole compilation; `left` counts it.
"""

from array import array
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING
from weakref import ref

from fastpath.errors import PortcullisError
from fastpath.layout import INTERFACE_CHAINS, NONE
from rules.policy.chains import side_match
from rules.policy.compile import EndpointKey, State, endpoint_of, local_interface
from rules.policy.delta import Delta, Step
from rules.policy.describe import not_enforced
from rules.policy.endpoints import Member
from rules.policy.identities import V4_ROOT, V6_ROOT, Entry
from rules.policy.labels import bits_of
from rules.policy.listed import Crowded
from rules.policy.model import (
    HostEndpointSpec,
    Net,
    NetworkSetSpec,
    PolicySpec,
    ProfileSpec,
    Resource,
    WorkloadEndpointSpec,
)
from rules.policy.policies import ActivePolicy, activate, all_tiers, deletes
from rules.policy.predicates import pack_rows
from rules.policy.program import Endpoint, FeedPrefixes, IdentityInfo, Program, Warning
from rules.policy.relist import Relisting, exchangeable

if TYPE_CHECKING:
    from fastpath import PolicyChange

Key = tuple[str, str, str, str]
_SLACK = 4  # as many parts left behind as there are in force, times this, and a whole compilation is due


class _Endpoints(Mapping[str, Endpoint]):
    """Made when somebody asks, which few do: there are as many as endpoints."""

    def __init__(self, live: "Live") -> None:
        self._live = ref(live)  # a cycle would keep a whole compiler until somebody looks for cycles

    @cached_property
    def _all(self) -> dict[str, Endpoint]:
        live = self._live()
        return {} if live is None else live.endpoints()

    def __getitem__(self, name: str) -> Endpoint:
        return self._all[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)


class Live:
    """Follows one program. Belongs to one thread; takes over the program's compiler state."""

    def __init__(self, program: Program, resources: Iterable[Resource]) -> None:
        if not isinstance(program.state, State):
            raise ValueError("the program was made without its compiler's state")
        self._program = program
        self._options = program.options
        self._state = program.state
        self._compiler = compiler = program.state.compiler
        self._now: dict[Key, Resource] = {resource.key: resource for resource in resources}
        self._tiers = all_tiers(self._now.values())
        self._gone = {target for resource in self._now.values() if (target := deletes(resource)) is not None}
        self._active: dict[Key, ActivePolicy] = {policy.resource.key: policy for policy in compiler.policies}
        self._next_policy = 1 + max((policy.number for policy in compiler.policies), default=0)
        self._profiles: dict[int, list[EndpointKey]] = {}  # by holder
        for key in compiler.chains_of:
            self._profiles.setdefault(key[0], []).append(key)
        self._identities: dict[EndpointKey, list[int]] = {}
        for identity, owner in enumerate(compiler.keys):
            if owner is not None:
                self._identities.setdefault(owner, []).append(identity)
        self._infos: list[IdentityInfo] = list(program.identities)
        self._users: Counter[int] = Counter()
        for chains in compiler.chains_of.values():
            self._users.update(chains)
        self._host_chains = self._numbers_of_hosts(program)
        self._users.update(self._host_chains)
        self._warnings = program.warnings
        compiler.predicates.extend()  # nothing, but it gets ready
        self._used = {name for key in compiler.chains_of for name in key[1]}  # profiles
        self._admitted: dict[int, IdentityInfo] = {}  # by holders that came since
        self._left = 0
        self._limit = _SLACK * (len(program.rules) + compiler.predicates.count + len(self._infos) + 1000)

    def apply(self, changed: Sequence[Resource], removed: Sequence[Resource] = ()) -> Step | None:
        """None: this needs compile_policy() and a new Live; the old one is spent then. A resource in `changed` takes
        the place of one with its key."""
        if self._program.http or self._left > self._limit:
            return None
        olds = [old for resource in (*removed, *changed) if (old := self._now.pop(resource.key, None)) is not None]
        for resource in changed:
            if resource.key in self._now:
                return None
            self._now[resource.key] = resource
        touched: dict[Net, None] = {}
        redecide: dict[Net, None] = {}
        admitted: set[int] = set()
        if not self._members(olds, changed, touched, redecide, admitted):
            return None
        before = [resource for resource in olds if isinstance(resource.spec, PolicySpec)]
        after = [resource for resource in changed if isinstance(resource.spec, PolicySpec)]
        governed = self._policies(before, after, touched)
        if governed is None:
            return None
        try:
            delta = self._entries(touched)
        except Crowded:
            return None
        if not self._compiler.predicates.extend():
            return None
        self._name_identities()
        change = self._change(governed | admitted)
        if self._compiler.build.http:
            return None
        if before or after:
            self._warn(before, after)
        self._program = replace(
            self._program, parts={}, entries=(), rules=self._compiler.build.infos, identities=self._infos,
            endpoints=_Endpoints(self), warnings=self._warnings,
        )  # fmt: skip
        sets = any(isinstance(resource.spec, NetworkSetSpec) for resource in (*olds, *changed))
        return Step(self._program, delta, change, tuple(redecide), sets or bool(governed))

    def relist(self, feeds: Sequence[FeedPrefixes]) -> Relisting | None:
        """Other lists for the same feeds. None: this needs compile_policy()."""
        return Relisting(self, feeds) if exchangeable(self._options.feeds, feeds) else None

    @property
    def state(self) -> State:
        return self._state

    def entries_of(self, nets: Iterable[Net]) -> Delta:
        """As they are now. Raises Crowded."""
        return self._entries(nets)

    def admit(self) -> "PolicyChange | None":
        """Makes known the identities that came since."""
        if not self._compiler.predicates.extend():
            raise PortcullisError("what held for everybody does no more")
        self._name_identities()
        return self._change(set())

    def relisted(self, feeds: tuple[FeedPrefixes, ...]) -> Program:
        self._options = replace(self._options, feeds=feeds)
        self._program = replace(
            self._program, parts={}, entries=(), identities=self._infos, options=self._options,
        )  # fmt: skip
        return self._program

    def endpoints(self) -> dict[str, Endpoint]:
        """By title, as they are now."""
        found: dict[str, Endpoint] = {}
        for resource in list(self._now.values()):
            if isinstance(resource.spec, WorkloadEndpointSpec | HostEndpointSpec):
                member = self._state.labeller.member(resource)
                holder = self._state.holders.find(member.labels, member.ports)
                chains = self._compiler.chains_of.get((holder, member.profiles)) if holder is not None else None
                governed = member.kind == "workload" and self._governed(member) and chains is not None
                found[member.title] = endpoint_of(member, chains if governed and chains else (NONE, NONE, NONE, NONE))
        return found

    # -- endpoints and sets ----------------------------------------------------------------------------

    def _members(
        self,
        olds: Sequence[Resource],
        changed: Sequence[Resource],
        touched: dict[Net, None],
        redecide: dict[Net, None],
        admitted: set[int],
    ) -> bool:
        """False: somebody is new in a way that the compiler must see."""
        facts = self._state.facts
        for resources, leave in ((olds, True), (changed, False)):
            for resource in resources:
                if isinstance(resource.spec, PolicySpec):
                    continue
                if not isinstance(resource.spec, WorkloadEndpointSpec | NetworkSetSpec):
                    return False
                member = self._state.labeller.member(resource)
                if member.domains:
                    return False
                numbers = self._facts(member)
                if numbers is None and not leave and self._admit(member, touched, admitted):
                    numbers = self._facts(member)
                if numbers is None:
                    return False
                ifindex = local_interface(member, self._options) if member.kind == "workload" else 0
                if ifindex and not leave and not self._governs(ifindex):
                    return False
                for net in member.nets:
                    touched[net] = None
                    if leave:
                        redecide[net] = None
                        facts.release(net, ifindex)
                        for fact in numbers:
                            facts.discard(net, fact)
                    else:
                        for fact in numbers:
                            facts.add(net, fact)
                        if ifindex:
                            facts.bind(net, ifindex)
        return True

    def _governs(self, ifindex: int) -> bool:
        """A host endpoint for every interface has an entry for each one of a local workload (see host_chains)."""
        known = {row[0] for row in self._compiler.interfaces}
        return 0 not in known or ifindex in known

    def _governed(self, member: Member) -> bool:
        return self._options.scope == "gateway" or member.node == self._options.node

    def _admit(self, member: Member, touched: dict[Net, None], admitted: set[int]) -> bool:
        """Makes known labels that nobody had, or of which nobody was governed here. False: the compiler must look."""
        compiler = self._compiler
        ports = self._state.holders.ports
        if any(port.name and (port.proto, port.port) not in ports.get(port.name, ()) for port in member.ports):
            return False  # a named port is compiled into rules
        known = self._state.holders.find(member.labels, member.ports)
        holder = self._state.holders.add(member.labels, member.ports)
        self._state.numbers.number("holder", holder)
        if known is None:
            self._admitted[holder] = IdentityInfo(member.title, member.kind, member.labels, (), 1)
            self._left += 1
        if member.kind != "workload" or not self._governed(member):
            return True
        key = (holder, member.profiles)
        policies = compiler.applied_workloads.get(holder)
        if policies is None:
            matching = self._state.holders.matching
            policies = [policy for policy in compiler.policies if matching(policy.selector) >> holder & 1]
            compiler.applied_workloads[holder] = policies
            if not all(self._ask(policy.spec, policy.resource.namespace, touched) for policy in policies):
                return False
        for name in set(member.profiles) - self._used:
            self._used.add(name)
            profile = compiler.world.profiles.get(name)
            if profile is not None and not self._ask(profile.spec, "", touched):
                return False
        self._state.numbers.number("endpoint", key)
        compiler.chains_of[key] = (NONE, NONE, NONE, NONE)
        self._profiles.setdefault(holder, []).append(key)
        admitted.add(holder)
        return True

    def _facts(self, member: Member) -> tuple[int, ...] | None:
        """None: nobody has had them so far."""
        holder = self._state.holders.find(member.labels, member.ports)
        if holder is None:
            return None
        wanted: list[tuple[str, object]] = [("holder", holder)]
        if member.kind == "workload" and self._governed(member):
            wanted.append(("endpoint", (holder, member.profiles)))
        found = [self._state.numbers.find(kind, what) for kind, what in wanted]
        return None if None in found else tuple(number for number in found if number is not None)

    def _entries(self, touched: Iterable[Net]) -> Delta:
        put: dict[tuple[bytes, int], Entry] = {}
        gone: dict[tuple[bytes, int], Entry] = {}
        for net in touched:
            entries, left = self._state.facts.look_below(net)
            put.update((entry[:2], entry) for entry in entries)
            gone.update((entry[:2], entry) for entry in left)
        return Delta(tuple(put.values()), tuple(gone.values()))

    def _name_identities(self) -> None:
        """Keys and words for identities that are new."""
        compiler = self._compiler
        for identity in range(len(compiler.keys), len(self._state.facts.facts_of)):
            key = compiler.key_of(self._state.facts.facts_of[identity])
            compiler.keys.append(key)
            if key is not None:
                self._identities.setdefault(key, []).append(identity)
            like = compiler.predicates.like(identity)
            info = self._infos[like] if like < len(self._infos) else self._info(identity)
            self._infos.append(self._with_feeds(info, identity))
            self._left += 1

    def _with_feeds(self, info: IdentityInfo, identity: int) -> IdentityInfo:
        kinds = [self._state.numbers.keys[fact] for fact in self._state.facts.facts_of[identity]]
        feeds = tuple(sorted(self._options.feeds[what].name for kind, what in kinds
                             if kind == "feed" and isinstance(what, int)))  # fmt: skip
        if feeds and info.kind in ("world", "net", "feed", "domain"):
            return IdentityInfo(feeds[0], "feed", {}, feeds)
        return info if feeds == info.feeds else replace(info, feeds=feeds)

    def _info(self, identity: int) -> IdentityInfo:
        """Of one with holders that nobody had together."""
        for fact in sorted(self._state.facts.facts_of[identity]):
            kind, what = self._state.numbers.keys[fact]
            if kind == "holder" and isinstance(what, int):
                labels = self._state.holders.all[what].labels
                return self._admitted.get(what, IdentityInfo("", "workload", labels))
        return IdentityInfo("", "net", {})

    # -- policies --------------------------------------------------------------------------------------

    def _policies(
        self, before: Sequence[Resource], after: Sequence[Resource], touched: dict[Net, None]
    ) -> set[int] | None:
        """Holders whose policies are different now."""
        compiler = self._compiler
        governed: set[int] = set()
        gone: list[int] = []
        for resource in before:
            if deletes(resource) is not None:
                return None
            policy = self._active.pop(resource.key, None)
            if policy is not None:
                at = bisect_left(compiler.policies, policy.place, key=lambda other: other.place)
                del compiler.policies[at]
                self._apply_to(policy, governed, leave=True)
                gone.append(policy.number)
                self._left += len(policy.spec.ingress) + len(policy.spec.egress)
        for resource in after:
            if deletes(resource) is not None:
                return None
            policy = activate(self._next_policy, resource, self._tiers, self._gone)
            self._next_policy += 1
            if policy is None:
                continue
            self._active[resource.key] = policy
            insort(compiler.policies, policy, key=lambda other: other.place)
            governs = self._apply_to(policy, governed, leave=False)
            if governs and not self._ask(policy.spec, resource.namespace, touched):
                return None
        compiler.build.forget_policies(gone)
        return governed

    def _apply_to(self, policy: ActivePolicy, governed: set[int], *, leave: bool) -> bool:
        """Whether it governs anybody here."""
        anybody = False
        matching = self._state.holders.matching(policy.selector)
        for applied in (self._compiler.applied_workloads, self._compiler.applied_hosts):
            for holder in bits_of(matching):
                policies = applied.get(holder)
                if policies is None:
                    continue
                anybody = True
                governed.add(holder)
                if leave:
                    policies.remove(policy)
                else:
                    insort(policies, policy, key=lambda other: other.place)
        return anybody

    def _ask(self, spec: PolicySpec | ProfileSpec, namespace: str, touched: dict[Net, None]) -> bool:
        """Facts for what rules ask of addresses. False: names or services that the compiler must look for."""
        numbers, facts = self._state.numbers, self._state.facts
        for rules, direction in ((spec.ingress, "ingress"), (spec.egress, "egress")):
            for rule in rules:
                for entity in (rule.source, rule.destination):
                    match = side_match(entity, namespace, names=direction == "egress")
                    if match.service is not None and numbers.find("service", match.service) is None:
                        return False
                    if any(numbers.find("domain", name) is None for name in match.domains):
                        return False
                    for nets in (match.nets, match.not_nets):
                        if not nets or numbers.find("nets", nets) is not None:
                            continue
                        if self._compiler.asked_names and (V4_ROOT in nets or V6_ROOT in nets):
                            return False  # identities for names are made in advance, beside those of the roots
                        facts.add_all(nets, numbers.number("nets", nets))
                        touched.update(dict.fromkeys(nets))
        return True

    # -- the change ------------------------------------------------------------------------------------

    def _change(self, governed: set[int]) -> "PolicyChange | None":
        compiler, build = self._compiler, self._compiler.build
        build.begin_change()
        identities = compiler.predicates.changed
        unused: list[int] = []
        for holder in governed:
            for key in self._profiles.get(holder, ()):
                old = compiler.chains_of[key]
                new = compiler.endpoint_chains(compiler.applied_workloads[holder], key[1])
                self._exchange(old, new)
                unused += old
                compiler.chains_of[key] = new
                identities.update(self._identities.get(key, ()))
        if not governed.isdisjoint(compiler.applied_hosts):
            warnings = len(compiler.warnings)
            rows, raw = compiler.host_chains(compiler.applied_hosts, {})
            del compiler.warnings[warnings:]  # said when the program was compiled
            compiler.interfaces = rows
            self._program = replace(self._program, raw_chains=raw, interface_chains={row[0]: row[1:] for row in rows})
            old_hosts, self._host_chains = self._host_chains, self._numbers_of_hosts(self._program)
            self._exchange(old_hosts, self._host_chains)
            unused += old_hosts
        build.drop_chains({number for number in unused if number != NONE and self._users[number] <= 0})
        if not identities and not build.numbers and not governed:
            return None
        ordered = sorted(identities)
        identities.clear()
        rows_of = compiler.predicates.rows
        assert rows_of is not None
        offsets, predicates = pack_rows(rows_of[identity] for identity in ordered)
        from fastpath import PolicyChange  # the C extension, which the compiler itself does not need

        return PolicyChange(
            chain_numbers=array("I", build.numbers).tobytes(),
            chains=bytes(build.chains),
            rules=bytes(build.rules),
            port_terms=bytes(build.terms),
            n_predicates=compiler.predicates.count,
            identity_numbers=array("I", ordered).tobytes(),
            identities=b"".join(compiler.packed_chains(compiler.keys[identity]) for identity in ordered),
            predicate_offsets=offsets,
            predicates=predicates,
            interfaces=b"".join(INTERFACE_CHAINS.pack(*row) for row in compiler.interfaces),
        )

    def _exchange(self, old: Iterable[int], new: Iterable[int]) -> None:
        self._users.update(new)
        self._users.subtract(old)

    def _numbers_of_hosts(self, program: Program) -> list[int]:
        numbers = [number for row in program.interface_chains.values() for number in row]
        for raw in program.raw_chains.values():
            numbers += (
                raw.untracked_ingress, raw.untracked_egress, raw.pre_dnat_ingress,
                raw.staged_untracked_ingress, raw.staged_untracked_egress, raw.staged_pre_dnat_ingress,
            )  # fmt: skip
        return numbers

    def _warn(self, before: Sequence[Resource], after: Sequence[Resource]) -> None:
        old = {f"{resource.kind} {resource.title}: " for resource in before}
        kept: list[Warning] = [w for w in self._warnings if not any(w.message.startswith(name) for name in old)]
        tiers = frozenset(self._tiers)
        kept += not_enforced(after, tiers, self._compiler.world.profiles, self._options)
        self._warnings = tuple(kept)
