# SPDX-License-Identifier: Apache-2.0
"""Changes without a new program: what a resource touches is compiled again, and nothing else.

endpoint, set, what they inherit ─▶ facts about their addresses ─▶ their entries, new identities
tier, policy, profile, service ─▶ label sets that are governed by it ─▶ their chains, predicates that nobody asked

What is no longer asked (a predicate, a rule's number) stays behind until the next whole compilation; `left` counts it.
"""

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING
from weakref import ref

from fastpath.errors import PortcullisError
from fastpath.layout import INTERFACE_CHAINS, NONE
from rules.policy.asked import rule_atoms
from rules.policy.compile import EndpointKey, Standing, State
from rules.policy.delta import Delta, Step
from rules.policy.describe import not_enforced
from rules.policy.early import Region, regions
from rules.policy.endpoints import MemberSpec, inherited_from
from rules.policy.governing import Governing
from rules.policy.identities import V4_ROOT, V6_ROOT, Entry
from rules.policy.listed import Crowded
from rules.policy.model import (
    HostEndpointSpec,
    Net,
    PolicySpec,
    ProfileSpec,
    Resource,
    ServiceEndpointsSpec,
    TierSpec,
    WorkloadEndpointSpec,
)
from rules.policy.moves import asked_anew, inherited, members, renumbered, told_apart
from rules.policy.packing import named_services
from rules.policy.predicates import pack_rows
from rules.policy.program import CompileOptions, Endpoint, Endpoints, FeedPrefixes, Program, Warning
from rules.policy.relist import Relisting, exchangeable

if TYPE_CHECKING:
    from fastpath import PolicyChange

Key = tuple[str, str, str, str]
Place = tuple[bytes, int]
_SLACK = 4  # as many parts left behind as there are in force, times this, and a whole compilation is due
_MOVES = 4096  # members that one change moves beside those that it names: with more a whole compilation is no slower
_LABEL_SETS = 256  # the same for label sets that nobody had


class _Refused(Exception):
    """The whole has to be compiled."""


class Live:
    """Follows one program. Belongs to one thread; takes over the program's compiler state."""

    def __init__(self, program: Program, resources: Iterable[Resource]) -> None:
        if not isinstance(program.state, State):
            raise ValueError("the program was made without its compiler's state")
        self._program = program
        self._state = program.state
        self._compiler = compiler = program.state.compiler
        self._now: dict[Key, Resource] = {resource.key: resource for resource in resources}
        self._governing = Governing(compiler, self._now.values())
        self._identities: dict[EndpointKey, list[int]] = {}
        for identity, owner in enumerate(compiler.keys):
            if owner is not None:
                self._identities.setdefault(owner, []).append(identity)
        self._infos = list(program.identities)
        self._warnings = [warning for warning in program.warnings if warning not in compiler.host.warnings]
        compiler.predicates.extend()  # nothing, but it gets ready
        self._other_feeds = False  # than the chain of feeds asks for
        self._left = 0
        self._limit = _SLACK * (len(program.rules) + compiler.predicates.count + len(self._infos) + 1000)

    def apply(
        self, changed: Sequence[Resource], removed: Sequence[Resource] = (), options: CompileOptions | None = None
    ) -> Step | None:
        """None: this needs compile_policy() and a new Live; the old one is spent then. A resource in `changed` takes
        the place of one with its key. `options`: other interfaces, and nothing else that is different."""
        if self._left > self._limit:
            return None
        try:
            return self._apply(changed, removed, options)
        except (_Refused, Crowded):
            return None

    def relist(self, feeds: Sequence[FeedPrefixes]) -> Relisting | None:
        """Other lists, and feeds that come and go. None: this needs compile_policy()."""
        compiler, now = self._compiler, self._compiler.options.feeds
        if not exchangeable(now, feeds):
            if compiler.feed_chain == NONE or not compiler.seats.take(now, feeds):
                return None
            for seat in range(len(compiler.facts.listed.lists), len(compiler.seats)):
                compiler.facts.listed.add_empty([compiler.numbers.number("feed", seat)])
            self._other_feeds = True
        return Relisting(self, feeds)

    @property
    def state(self) -> State:
        return self._state

    def entries_of(self, nets: Iterable[Net]) -> Delta:
        """As they are now. Raises Crowded."""
        return self._entries(dict.fromkeys(nets))

    def regions(self, nets: Iterable[Net]) -> tuple[Region, ...]:
        """Who has what of the predicates that early chains ask for, now. Raises Crowded."""
        early = self._compiler.build.early.values()
        asked = frozenset[int]().union(*(each.predicates() for each in early))
        rows = self._compiler.predicates.rows
        assert rows is not None
        return regions(self._compiler.facts, rows, _outermost(nets), asked)

    def admit(self, feeds: Sequence[FeedPrefixes]) -> "PolicyChange | None":
        """Makes known the identities that came since, and the feeds."""
        self._compiler.options = replace(self._compiler.options, feeds=tuple(feeds))
        self._governing.begin((), ())
        if not self._compiler.predicates.extend():
            raise PortcullisError("what held for everybody does no more")
        self._name_identities()
        return self._change(other_hosts=False)

    def relisted(self) -> Program:
        """After admit()."""
        compiler = self._compiler
        self._program = replace(
            self._program, parts={}, entries=(), rules=compiler.build.infos, identities=self._infos,
            options=compiler.options,
        )  # fmt: skip
        return self._program

    def _apply(self, changed: Sequence[Resource], removed: Sequence[Resource], options: CompileOptions | None) -> Step:
        compiler, governing = self._compiler, self._governing
        olds = [old for resource in (*removed, *changed) if (old := self._now.pop(resource.key, None)) is not None]
        for resource in changed:
            if resource.key in self._now:
                raise _Refused
        asked_names = bool(compiler.asked_names)
        rules = len(compiler.build.infos)
        governing.begin(olds, changed)
        moved = self._move(olds, changed, options)  # puts `changed` into self._now
        nets = {net: None for standing in moved.leaving + moved.entering for net in standing.member.nets}
        for old in (*olds, *changed):
            if isinstance(old.spec, ServiceEndpointsSpec):
                nets.update(dict.fromkeys(old.spec.addresses))
        before = self._look(nets)
        meant = {identity: governing.meaning(self._key(identity)) for _, _, identity, _ in before.values()}
        for standing in moved.leaving:
            compiler.leave(standing)
        for standing in moved.entering:
            compiler.enter(standing)
        touched = dict.fromkeys(nets)
        governing.exchange_policies(olds)
        governing.exchange_services(olds, changed)
        governing.place(moved.leaving, moved.entering)
        touched.update(dict.fromkeys(governing.asked()))
        names = self._names(asked_names, touched)
        delta = self._entries(touched)
        if not compiler.predicates.extend():
            raise _Refused  # what held for everybody does no more: rules were packed without a look
        self._name_identities()
        after = {place: entry for place, entry in self._look(nets).items() if place in before}
        rows = compiler.predicates.rows
        assert rows is not None
        differs = {place for place in after if rows[before[place][2]] != rows[after[place][2]]}
        change = self._change(other_hosts=options is not None)
        for place, entry in after.items():
            old_entry = before[place]
            if old_entry[3] != entry[3] or meant[old_entry[2]] != governing.meaning(compiler.keys[entry[2]]):
                differs.add(place)
        self._warn(olds, changed)
        # One that holds the compiler would keep it until somebody looks for cycles.
        me = ref(self)
        self._program = replace(
            self._program, parts={}, entries=(), rules=compiler.build.infos, identities=self._infos,
            endpoints=Endpoints(lambda: live.endpoints() if (live := me()) is not None else {}),
            raw_chains=compiler.host.raw, early=dict(compiler.build.early),
            interface_chains={row[0]: row[1:] for row in compiler.host.ordered},
            warnings=(*compiler.host.warnings, *self._warnings), options=compiler.options,
            domains=tuple(sorted(compiler.asked_names)), http=dict(compiler.build.http),
            workload_interfaces=compiler.workload_interfaces(),
        )  # fmt: skip
        requests = {number: match for number, match in self._program.http.items() if number >= rules}
        redecide = tuple(Net(*place) for place in differs)
        where = self.regions(touched)
        return Step(self._program, delta, change, redecide, governing.voids, names, requests, where)

    def endpoints(self) -> dict[str, Endpoint]:
        """By title, as they are now."""
        found: dict[str, Endpoint] = {}
        for resource in list(self._now.values()):
            if isinstance(resource.spec, MemberSpec):
                member = self._compiler.world.labeller.member(resource)
                if member.kind != "set":
                    found[member.title] = self._compiler.endpoint(member)
        return found

    # -- who moves -------------------------------------------------------------------------------------

    def _move(
        self, olds: Sequence[Resource], changed: Sequence[Resource], options: CompileOptions | None
    ) -> "_Moved":
        """Brings up to date what members are known by. Those that stand where they stood are left out."""
        compiler = self._compiler
        labeller, asked = compiler.world.labeller, compiler.holders.asked
        sources = [resource for resource in (*olds, *changed) if inherited_from(resource)]
        before = labeller.copy() if sources else labeller
        profiles = {labeller.put(old, leave=True) for old in olds if inherited_from(old)}
        profiles |= {labeller.put(new) for new in changed if inherited_from(new)}
        written = [labeller.profiles[name] for name in profiles if name in labeller.profiles]
        atoms = list(chain(self._governing.new_atoms(), *(rule_atoms(p.spec, "") for p in written)))
        tests = []
        if anew := asked_anew(asked, atoms):
            tests.append(told_apart(anew, labeller))
        if sources and (different := inherited(before, labeller, sources)):
            tests.append(different.reaches)
        if options is not None:
            tests.append(renumbered(compiler.options.interfaces, options.interfaces, options.node))
        others = [r for r in members(self._now.values()) if any(test(r) for test in tests)] if tests else []
        if len(others) > _MOVES:
            raise _Refused
        leaving = {r.key: compiler.standing(before.member(r)) for r in (*members(olds), *others)}
        if asked.add(atoms):
            self._governing.asks_otherwise()
        self._governing.exchange_profiles(before, profiles)
        if options is not None:
            compiler.options = compiler.packer.options = compiler.build.options = options
        self._now.update((resource.key, resource) for resource in changed)
        known = len(compiler.holders.all)
        entering: dict[Key, Standing] = {}
        for resource in (*members(changed), *others):
            entering[resource.key] = compiler.standing(labeller.member(resource))
            if len(compiler.holders.all) > known + _LABEL_SETS:
                raise _Refused
        for key in leaving.keys() & entering.keys():
            if leaving[key].same(entering[key]) and leaving[key].member.interface == entering[key].member.interface:
                del leaving[key], entering[key]
        lists = {feed.network_set for feed in compiler.options.feeds}
        if any(s.member.kind == "set" and s.member.title in lists for s in (*leaving.values(), *entering.values())):
            raise _Refused  # the prefixes of feeds have facts as a whole
        self._left += len(compiler.holders.all) - known
        return _Moved(list(leaving.values()), list(entering.values()))

    def _key(self, identity: int) -> EndpointKey | None:
        compiler = self._compiler
        if identity < len(compiler.keys):
            return compiler.keys[identity]
        return compiler.key_of(identity, compiler.facts.facts_of[identity])

    def _look(self, nets: Iterable[Net]) -> dict[Place, Entry]:
        """What is at these prefixes and inside them."""
        found: dict[Place, Entry] = {}
        for net in _outermost(nets):
            entries, _ = self._compiler.facts.look_below(net)
            found.update((entry[:2], entry) for entry in entries)
        for net in nets:
            found[net] = self._compiler.facts.entry(net)
        return found

    def _entries(self, touched: Iterable[Net]) -> Delta:
        facts = self._compiler.facts
        put: dict[Place, Entry] = {}
        for net in _outermost(touched):
            entries, _ = facts.look_below(net)
            put.update((entry[:2], entry) for entry in entries)
        gone = [(net.addr, net.length, 0, 0) for net in touched if not facts.has(net)]
        return Delta(tuple(put.values()), tuple(gone))

    def _names(self, asked_before: bool, touched: Iterable[Net]) -> bool:
        """Identities for the names that are asked for. Whether they are others."""
        compiler, names = self._compiler, self._state.names
        if bool(compiler.asked_names) is not asked_before and compiler.options.name_ports:
            raise _Refused  # DNS begins to be inspected, or ends
        others = names.ask(compiler.asked_names)
        if others or V4_ROOT in touched or V6_ROOT in touched:
            compiler.facts.expect(names.expected(compiler.options.name_groups))
        self._governing.renew_packed()
        return others

    def _name_identities(self) -> None:
        """Keys and words for identities that are new."""
        compiler = self._compiler
        for identity in range(len(compiler.keys), len(compiler.facts.facts_of)):
            key = self._key(identity)
            compiler.keys.append(key)
            if key is not None:
                self._identities.setdefault(key, []).append(identity)
            self._infos.append(compiler.words.info(identity, compiler.facts.facts_of[identity]))
            self._left += 1
        for identity in self._governing.contested():
            key = compiler.key_of(identity, compiler.facts.facts_of[identity])
            if key is not None and key != compiler.keys[identity]:
                compiler.keys[identity] = key
                self._identities.setdefault(key, []).append(identity)
                compiler.predicates.changed.add(identity)
                self._governing.voids = True

    # -- the change ------------------------------------------------------------------------------------

    def _change(self, *, other_hosts: bool) -> "PolicyChange | None":
        compiler, build = self._compiler, self._compiler.build
        build.begin_change()
        identities = compiler.predicates.changed
        if self._other_feeds:
            rules = compiler.feed_rules()
            build.exchange_plain_chain(compiler.feed_chain, rules)
            self._left += len(rules)
            self._other_feeds = False
        rebuilt = self._governing.rebuild(other_hosts=other_hosts)
        for key in rebuilt:
            identities.update(self._identities.get(key, ()))
        self._left += self._governing.take_left()
        if not identities and not build.numbers and not self._governing.other_rows:
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
            port_terms=bytes(compiler.packer.terms),
            n_predicates=compiler.predicates.count,
            identity_numbers=array("I", ordered).tobytes(),
            identities=b"".join(compiler.packed_chains(compiler.keys[identity]) for identity in ordered),
            predicate_offsets=offsets,
            predicates=predicates,
            interfaces=b"".join(INTERFACE_CHAINS.pack(*row) for row in compiler.host.ordered),
        )

    def _warn(self, olds: Sequence[Resource], changed: Sequence[Resource]) -> None:
        """What is said of resources that came, went or changed, and of those that speak of their tiers, profiles or
        services."""
        touched = [*olds, *changed]
        tiers = {resource.name for resource in touched if isinstance(resource.spec, TierSpec)}
        profiles = self._governing.existing
        about = list(changed)
        if tiers:
            about += [policy.resource for policy in self._compiler.policies if policy.spec.tier in tiers]
        if profiles:
            about += [
                resource for resource in self._now.values()
                if isinstance(resource.spec, HostEndpointSpec | WorkloadEndpointSpec)
                and not profiles.isdisjoint(resource.spec.profiles)
            ]  # fmt: skip
        if services := self._governing.existing_services:
            about += [
                resource for resource in self._now.values()
                if isinstance(resource.spec, PolicySpec | ProfileSpec)
                and not services.isdisjoint(named_services(resource.spec, resource.namespace))
            ]  # fmt: skip
        gone = {f"{resource.kind} {resource.title}" for resource in (*olds, *about)}
        kept: list[Warning] = [w for w in self._warnings if w.message.partition(": ")[0] not in gone]
        known = {resource.key: resource for resource in about}
        compiler = self._compiler
        names = frozenset(self._governing.tiers)
        world = compiler.world
        told = not_enforced(known.values(), names, world.profiles, world.services, compiler.options)
        self._warnings = [*kept, *told]


class _Moved:
    __slots__ = ("entering", "leaving")

    def __init__(self, leaving: list[Standing], entering: list[Standing]) -> None:
        self.leaving = leaving
        self.entering = entering


def _outermost(nets: Iterable[Net]) -> list[Net]:
    """Those that no other one of them covers."""
    kept: set[Net] = set()
    lengths: list[int] = []
    for net in sorted(nets, key=lambda net: net.length):
        if any(outer in kept and outer.is_v4 is net.is_v4 for outer in map(net.within, lengths)):
            continue
        kept.add(net)
        if not lengths or lengths[-1] != net.length:
            lengths.append(net.length)
    return list(kept)
