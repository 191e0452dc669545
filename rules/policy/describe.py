# SPDX-License-Identifier: Apache-2.0
"""Words beside a program: what its identities are called, and what of the resources it does not do."""

from collections.abc import Iterable, Iterator, Mapping, Sized

from rules.policy.endpoints import Member
from rules.policy.identities import Facts
from rules.policy.model import (
    HostEndpointSpec,
    NetworkSetSpec,
    PolicySpec,
    ProfileSpec,
    Resource,
    WorkloadEndpointSpec,
)
from rules.policy.packing import Service, service_of
from rules.policy.predicates import FactNumbers
from rules.policy.program import CompileOptions, IdentityInfo, Warning
from rules.policy.seats import Seats

_RANK = {"workload": 0, "host": 1, "set": 2}


class Owners:
    """Whose an address is, by title; of several a workload's, then the first in order."""

    def __init__(self) -> None:
        self.titles: dict[bytes, str] = {}
        self._shared: dict[bytes, list[tuple[bool, str]]] = {}  # where it is more than one: (is a host's, title)
        self._hosts: set[bytes] = set()

    def enter(self, member: Member) -> None:
        mine = (member.kind == "host", member.title)
        for net in member.nets:
            if net.length != 128:
                continue
            owner = self.titles.get(net.addr)
            if owner is not None:
                shared = self._shared.setdefault(net.addr, [(net.addr in self._hosts, owner)])
                shared.append(mine)
                self._choose(net.addr, min(shared))
            else:
                self._choose(net.addr, mine)

    def leave(self, member: Member) -> None:
        for net in member.nets:
            if net.length != 128:
                continue
            shared = self._shared.get(net.addr)
            if shared is None:
                del self.titles[net.addr]
                self._hosts.discard(net.addr)
                continue
            shared.remove((member.kind == "host", member.title))
            self._choose(net.addr, min(shared))
            if len(shared) == 1:
                del self._shared[net.addr]

    def _choose(self, address: bytes, owner: tuple[bool, str]) -> None:
        self.titles[address] = owner[1]
        if owner[0]:
            self._hosts.add(address)
        else:
            self._hosts.discard(address)


class Words:
    """What identities are called: after an endpoint rather than a set, after a set rather than a feed, after a feed
    rather than a domain. Of several endpoints with the same labels after the one that came first."""

    def __init__(self, numbers: FactNumbers, seats: Seats) -> None:
        self._numbers = numbers
        self._seats = seats
        self._first: dict[int, Member] = {}  # by holder
        self._counts: dict[int, int] = {}

    def enter(self, member: Member, holder: int) -> None:
        if not self._counts.get(holder):
            self._first[holder] = member
        self._counts[holder] = self._counts.get(holder, 0) + 1

    def leave(self, member: Member, holder: int) -> None:
        self._counts[holder] -= 1

    def info(self, identity: int, facts: Facts) -> IdentityInfo:
        held: list[int] = []
        feeds: list[str] = []
        domains: list[str] = []
        for fact in facts:
            kind, what = self._numbers.keys[fact]
            if kind in ("holder", "names") and isinstance(what, int):
                held.append(what)
            elif kind == "feed" and isinstance(what, int):
                feeds.append(self._seats.name(what))
            elif kind == "domain":
                domains.append(str(what))
        feeds.sort()
        if held:
            holder = min(held, key=lambda holder: (_RANK[self._first[holder].kind], holder))
            first = self._first[holder]
            return IdentityInfo(first.title, first.kind, first.labels, tuple(feeds), self._counts[holder])
        if feeds:
            return IdentityInfo(feeds[0], "feed", {}, tuple(feeds))
        if domains:
            return IdentityInfo(min(domains), "domain", {})
        return IdentityInfo("", "net", {}) if identity else IdentityInfo("world", "world", {})


def note(resource: Resource, message: str, field: str, line: int | None = None) -> Warning:
    return Warning(f"{resource.kind} {resource.title}: {message}", resource.file, line or resource.line, field)


def not_enforced(
    resources: Iterable[Resource],
    tiers: frozenset[str],
    profiles: Iterable[str],
    services: Mapping[Service, Sized],
    options: CompileOptions,
) -> Iterator[Warning]:
    """Fields that are valid but do nothing on packets, and names that nothing answers to. `services`: what is
    described of each."""
    known = frozenset(profiles)
    for resource in resources:
        spec = resource.spec
        if resource.metadata.unused_namespace:
            yield note(resource, f"a {resource.kind} has no namespace: it is for all of them", "metadata.namespace")
        if isinstance(spec, PolicySpec) and spec.tier not in tiers:
            yield note(resource, f"no tier {spec.tier!r}: asked after all tiers, ending in deny", "spec.tier")
        if isinstance(spec, PolicySpec | ProfileSpec):
            yield from _unknown_services(resource, spec, services)
            logging = [rule for rule in (*spec.ingress, *spec.egress) if rule.action == "Log"]
            for rule in logging[:1]:
                message = "Log writes nothing of its own: each flow's event names the rule that decided it"
                yield note(resource, message, "action", rule.line)
            for rule in (*spec.ingress, *spec.egress):
                early = isinstance(spec, PolicySpec) and (spec.do_not_track or spec.pre_dnat)
                if rule.http is not None and (early or not options.requests):
                    where = "with doNotTrack or preDNAT" if early else "without inspectors"
                    yield note(resource, f"not enforced {where}: allows every request", "http", rule.line)
                if rule.destination.domains and early:
                    yield note(resource, "domains match nothing with doNotTrack or preDNAT", "domains", rule.line)
                elif rule.destination.domains and not (options.names or options.name_ports):
                    yield note(resource, "domains match nothing where no DNS answers are seen", "domains", rule.line)
        if isinstance(spec, NetworkSetSpec) and spec.domains and not (options.names or options.name_ports):
            yield note(resource, "domains match nothing where no DNS answers are seen", "spec.allowedEgressDomains")
        if isinstance(spec, WorkloadEndpointSpec):
            for field in (*(["spec.allowSpoofedSourcePrefixes"] if spec.spoofed else []), *spec.unenforced):
                yield note(resource, "not enforced on packets", field)
        if isinstance(spec, HostEndpointSpec | WorkloadEndpointSpec):
            for name in spec.profiles:
                if name not in known:
                    yield note(resource, f"no profile {name!r}: what reaches it is denied", "spec.profiles")


def _unknown_services(
    resource: Resource, spec: PolicySpec | ProfileSpec, services: Mapping[Service, Sized]
) -> Iterator[Warning]:
    """Each at the first rule that names it."""
    said: set[Service] = set()
    for rule in (*spec.ingress, *spec.egress):
        for side, entity in (("source", rule.source), ("destination", rule.destination)):
            service = service_of(entity, resource.namespace)
            if service is not None and service not in said and not services.get(service):
                said.add(service)
                message = f"no EndpointSlice or Endpoints of service {'/'.join(service)}: matches nothing"
                yield note(resource, message, f"{side}.services", rule.line)
