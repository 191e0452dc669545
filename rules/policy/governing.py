# SPDX-License-Identifier: Apache-2.0
"""Who is governed by what while a program changes: policies in their places, and the chains of those they govern.

One change goes through the methods in their order in this file; what it means for flows is in `voids` then.
"""

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from itertools import chain

from fastpath.layout import NONE
from rules.policy.asked import Atom, policy_atoms, rule_atoms
from rules.policy.compile import Compiler, EndpointKey, Standing
from rules.policy.endpoints import Labeller, Profile
from rules.policy.hosts import NO_CHAINS
from rules.policy.labels import bits_of
from rules.policy.model import Net, PolicySpec, ProfileSpec, Resource, ServiceEndpointsSpec, TierSpec
from rules.policy.packing import Owner, Service
from rules.policy.policies import ActivePolicy, Tier, activate, all_tiers, deletes, placed
from rules.policy.read_resources import TIERS

Key = tuple[str, str, str, str]
Meaning = tuple[bytes | None, ...] | None


class Governing:
    """`voids`: flows that were decided may have another verdict by rules that changed. `existing`: profiles that came
    or went; `existing_services` likewise. `other_rows`: the interfaces' chains are others."""

    def __init__(self, compiler: Compiler, resources: Iterable[Resource]) -> None:
        self._compiler = compiler
        known = list(resources)
        self.tiers = all_tiers(known)
        self._gone = {target for resource in known if (target := deletes(resource)) is not None}
        self._active: dict[Key, ActivePolicy] = {policy.resource.key: policy for policy in compiler.policies}
        self._by_number = {policy.number: policy for policy in compiler.policies}
        self._next = 1 + max(self._by_number, default=0)
        self._keys_of: dict[int, list[EndpointKey]] = {}  # by holder
        for key in compiler.chains_of:
            self._keys_of.setdefault(key[0], []).append(key)
        self._profiles = compiler.used_profiles()
        self._chain_users: Counter[int] = Counter(compiler.host.numbers())
        for chains in compiler.chains_of.values():
            self._chain_users.update(chains)
        self._ports = dict[str, int]()  # named port → how many numbers it had
        self._note_ports()
        self._local = self._locals()
        self._left = 0
        self._begin()

    def _begin(self) -> None:
        self.voids = False
        self.existing: set[str] = set()
        self.existing_services: set[Service] = set()
        self.other_rows = False
        self._fresh: list[ActivePolicy] = []
        self._replaced: list[tuple[ActivePolicy, ActivePolicy]] = []
        self._governed: set[int] = set()  # holders whose policies are different
        self._stale: set[EndpointKey] = set()
        self._renewed: set[str] = set()  # profiles
        self._asking: list[tuple[PolicySpec | ProfileSpec, str]] = []
        self._unused: list[int] = []
        self._otherwise = False  # a label, value or port is asked for no more, or anew
        self._hosts = False

    # -- what the change is ----------------------------------------------------------------------------

    def begin(self, olds: Sequence[Resource], changed: Sequence[Resource]) -> None:
        """Tiers and policies, not yet in their places."""
        self._begin()
        tiers = {resource.name for resource in (*olds, *changed) if isinstance(resource.spec, TierSpec)}
        for name in tiers:
            self.tiers.pop(name, None)
            if name in TIERS:
                action, order = TIERS[name]
                self.tiers[name] = Tier(name, order, action, True)
        for resource in changed:
            if isinstance(resource.spec, TierSpec):
                self.tiers[resource.name] = Tier(resource.name, resource.spec.order, resource.spec.default_action, True)
        before = {target for resource in olds if (target := deletes(resource)) is not None}
        now = {target for resource in changed if (target := deletes(resource)) is not None}
        self._gone = (self._gone - before) | now
        leaving = {resource.key for resource in olds}
        others = [policy for policy in self._compiler.policies if policy.spec.tier in tiers] if tiers else []
        others += [self._active[key] for key in before ^ now if key in self._active]
        for policy in {policy.number: policy for policy in others}.values():
            again = placed(policy, self.tiers, self._gone)
            if policy.resource.key not in leaving and again != policy:
                self._replaced.append((policy, again))
        for resource in changed:
            if isinstance(resource.spec, PolicySpec):
                made = activate(self._number(), resource, self.tiers, self._gone)
                if made is not None:
                    self._fresh.append(made)

    def new_atoms(self) -> Iterable[Atom]:
        return chain.from_iterable(map(policy_atoms, self._fresh))

    def asks_otherwise(self) -> None:
        """Of labels or ports, by what comes."""
        self._otherwise = True

    def exchange_profiles(self, before: Labeller, names: Collection[str]) -> None:
        """These profiles came, went or changed; what they ask of labels is known already."""
        asked, now = self._compiler.holders.asked, self._compiler.world.labeller
        for name in names:
            old, new = before.profiles.get(name), now.profiles.get(name)
            if old is not None:
                self._otherwise |= asked.drop(rule_atoms(old.spec, ""))
                self._compiler.ask_names(old.spec, leave=True)
            if new is not None:
                self._compiler.ask_names(new.spec)
            if (old is None) is not (new is None):
                self.existing.add(name)
            if _rules(old) != _rules(new):
                self._renew_profile(name)

    def _renew_profile(self, name: str) -> None:
        self._compiler.build.renew_profile(name)
        self._renewed.add(name)
        profile = self._compiler.world.profiles.get(name)
        if profile is not None:
            self._left += len(profile.spec.ingress) + len(profile.spec.egress)
            if name in self._profiles:
                self._asking.append((profile.spec, ""))

    # -- policies and services -------------------------------------------------------------------------

    def exchange_policies(self, olds: Iterable[Resource]) -> None:
        gone: list[int] = []
        for resource in olds:
            policy = self._active.get(resource.key)
            if policy is not None:
                self._leave(policy)
                self._otherwise |= self._compiler.holders.asked.drop(policy_atoms(policy))
                self._compiler.ask_names(policy.spec, leave=True)
                gone.append(policy.number)
        for old, new in self._replaced:
            self._leave(old)
            self._enter(new)
        for policy in self._fresh:
            self._compiler.ask_names(policy.spec)
            if self._enter(policy):
                self._asking.append((policy.spec, policy.resource.namespace))
        self._compiler.build.forget_policies(gone)

    def exchange_services(self, olds: Iterable[Resource], changed: Iterable[Resource]) -> None:
        compiler = self._compiler
        services = compiler.world.services
        touched: dict[Service, bool] = {}  # whether it was known
        for resources, leave in ((olds, True), (changed, False)):
            for resource in resources:
                spec = resource.spec
                if isinstance(spec, ServiceEndpointsSpec):
                    service = (resource.namespace, spec.service)
                    touched.setdefault(service, bool(services.get(service)))
                    if leave:
                        services[service].remove(spec)
                    else:
                        services.setdefault(service, []).append(spec)
        for service, known in touched.items():
            if bool(services[service]) is not known:
                self.existing_services.add(service)
            if compiler.numbers.find("service", service) is not None and compiler.give_service(
                service, services[service]
            ):
                self._renew(compiler.packer.of_service.pop(service, ()))

    def _leave(self, policy: ActivePolicy) -> None:
        policies = self._compiler.policies
        del policies[bisect_left(policies, policy.place, key=lambda other: other.place)]
        alike = self._compiler.by_selector[policy.selector]
        alike.remove(policy)
        if not alike:
            del self._compiler.by_selector[policy.selector]
        del self._active[policy.resource.key], self._by_number[policy.number]
        for applied, holder in self._governed_by(policy):
            mine = applied[holder]
            del mine[bisect_left(mine, policy.place, key=lambda other: other.place)]

    def _enter(self, policy: ActivePolicy) -> bool:
        """Whether it governs anybody here."""
        insort(self._compiler.policies, policy, key=lambda other: other.place)
        self._compiler.by_selector.setdefault(policy.selector, []).append(policy)
        self._active[policy.resource.key] = self._by_number[policy.number] = policy
        anybody = False
        for applied, holder in self._governed_by(policy):
            insort(applied[holder], policy, key=lambda other: other.place)
            anybody = True
        return anybody

    def _governed_by(self, policy: ActivePolicy) -> Iterable[tuple[dict[int, list[ActivePolicy]], int]]:
        compiler = self._compiler
        matching = compiler.holders.matching(policy.selector)
        for holder in bits_of(matching):
            for applied in (compiler.applied_workloads, compiler.applied_hosts):
                if holder in applied:
                    self._governed.add(holder)
                    yield applied, holder

    def _renew(self, owners: Iterable[Owner]) -> None:
        """Their rules were packed with what is different now."""
        for owner in owners:
            if isinstance(owner, str):
                self._renew_profile(owner)
            elif (policy := self._by_number.get(owner)) is not None:
                self._leave(policy)
                self._enter(replace(policy, number=self._number()))
                self._compiler.build.forget_policies((owner,))
                self._left += len(policy.spec.ingress) + len(policy.spec.egress)

    def _number(self) -> int:
        self._next += 1
        return self._next - 1

    # -- who is governed -------------------------------------------------------------------------------

    def place(self, leaving: Iterable[Standing], entering: Iterable[Standing]) -> None:
        """Keys that are new, and those that nobody has any more."""
        compiler = self._compiler
        for standing in (*leaving, *entering):
            if standing.governed and standing.member.kind == "host":
                self._hosts = True
            elif standing.governed:
                key = standing.key
                if compiler.users[key] and key not in compiler.chains_of:
                    self._admit(key)
                elif not compiler.users[key] and key in compiler.chains_of:
                    self._release(key)
        if self._hosts:
            self._apply_to_hosts()

    def _admit(self, key: EndpointKey) -> None:
        compiler, holder = self._compiler, key[0]
        compiler.chains_of[key] = NO_CHAINS
        self._stale.add(key)
        self._keys_of.setdefault(holder, []).append(key)
        if holder not in compiler.applied_workloads:
            compiler.applied_workloads[holder] = policies = compiler.applied_to(holder)
            self._asking += [(policy.spec, policy.resource.namespace) for policy in policies]
        self._use_profiles(key[1])

    def _release(self, key: EndpointKey) -> None:
        compiler, holder = self._compiler, key[0]
        chains = compiler.chains_of.pop(key)
        self._chain_users.subtract(chains)
        self._unused += chains
        self._stale.discard(key)
        del compiler.users[key]
        self._keys_of[holder].remove(key)
        if not self._keys_of[holder]:
            del self._keys_of[holder], compiler.applied_workloads[holder]

    def _apply_to_hosts(self) -> None:
        compiler = self._compiler
        holders = {standing.holder for standing in compiler.hosts.values()}
        for holder in compiler.applied_hosts.keys() - holders:
            del compiler.applied_hosts[holder]
        for holder in holders - compiler.applied_hosts.keys():
            compiler.applied_hosts[holder] = policies = compiler.applied_to(holder)
            self._asking += [(policy.spec, policy.resource.namespace) for policy in policies]
        for standing in compiler.hosts.values():
            self._use_profiles(standing.member.profiles)

    def _use_profiles(self, names: Iterable[str]) -> None:
        for name in names:
            if name not in self._profiles:
                self._profiles.add(name)
                profile = self._compiler.world.profiles.get(name)
                if profile is not None:
                    self._asking.append((profile.spec, ""))

    def asked(self) -> list[Net]:
        """Prefixes that rules ask for and nobody asked for before."""
        return self._compiler.ask_networks(self._asking)

    def renew_packed(self) -> None:
        """Rules that name a port which has other numbers now, or select a set that has names now, or no more."""
        compiler = self._compiler
        for name in self._note_ports():
            self._renew(compiler.packer.of_port.pop(name, ()))
        named = sum(1 << holder for holder, sets in compiler.named.items() if sets)
        other = named ^ compiler.predicates.named
        compiler.predicates.named = named
        if other:
            of_names = compiler.packer.of_names
            for selector in [node for node in of_names if compiler.holders.matching(node) & other]:
                self._renew(of_names.pop(selector))

    def _note_ports(self) -> list[str]:
        """Named ports that have more numbers than they had."""
        found = []
        for name, numbers in self._compiler.holders.ports.items():
            if self._ports.get(name) != len(numbers):
                self._ports[name] = len(numbers)
                found.append(name)
        return found

    def contested(self) -> Collection[int]:
        """Identities for which the answer which endpoint they are may be another."""
        return tuple(self._compiler.contested) if self._otherwise else ()

    # -- their chains ----------------------------------------------------------------------------------

    def meaning(self, key: EndpointKey | None) -> Meaning:
        """What the chains in force of an endpoint do; None: it is not governed."""
        chains = self._compiler.chains_of.get(key) if key is not None else None
        return None if chains is None else tuple(map(self._compiler.build.meaning, chains[:2]))

    def rebuild(self, *, other_hosts: bool) -> list[EndpointKey]:
        """Returns those that have other chains. `other_hosts`: interfaces of the node are others."""
        compiler, build = self._compiler, self._compiler.build
        keys = {key for holder in self._governed for key in self._keys_of.get(holder, ())}
        if self._renewed:
            keys |= {key for key in compiler.chains_of if not self._renewed.isdisjoint(key[1])}
        rebuilt: list[EndpointKey] = []
        for key in keys | self._stale:
            old, meant = compiler.chains_of[key], self.meaning(key)
            new = compiler.endpoint_chains(key)
            if new != old:
                self._exchange(old, new)
                compiler.chains_of[key] = new
                self.voids |= key not in self._stale and meant != self.meaning(key)
                rebuilt.append(key)
        local, self._local = self._local, self._locals()
        if (
            self._hosts or other_hosts or (0 in compiler.host.rows and local != self._local)
            or not self._governed.isdisjoint(compiler.applied_hosts)
            or any(not self._renewed.isdisjoint(s.member.profiles) for s in compiler.hosts.values())
        ):  # fmt: skip
            before, meaning = compiler.host, compiler.host.meaning(build)
            compiler.host = compiler.make_hosts()
            self._exchange(before.numbers(), compiler.host.numbers())
            self.voids |= meaning != compiler.host.meaning(build)
            self.other_rows = before.rows != compiler.host.rows
        build.drop_chains({number for number in self._unused if number != NONE and self._chain_users[number] <= 0})
        return rebuilt

    def _exchange(self, old: Sequence[int], new: Sequence[int]) -> None:
        self._chain_users.update(new)
        self._chain_users.subtract(old)
        self._unused += old

    def _locals(self) -> set[int]:
        return {ifindex for ifindex, users in self._compiler.local.items() if users}

    def take_left(self) -> int:
        """Parts of the program that this change left behind."""
        left, self._left = self._left, 0
        return left


def _rules(profile: Profile | None) -> tuple[object, ...]:
    """What of a profile chains are made of: its labels are its endpoints'."""
    if profile is None:
        return ()
    return profile.spec.ingress, profile.spec.egress, profile.file, profile.line
