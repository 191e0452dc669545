# SPDX-License-Identifier: Apache-2.0
"""Words beside a program: what its identities are called, and what of the resources it does not do."""

from collections.abc import Iterable, Iterator, Sequence

from rules.policy.endpoints import Member
from rules.policy.identities import Facts
from rules.policy.labels import Holders
from rules.policy.model import PolicySpec, ProfileSpec, Resource, WorkloadEndpointSpec
from rules.policy.predicates import FactNumbers
from rules.policy.program import CompileOptions, IdentityInfo, Warning

_RANK = {"workload": 0, "host": 1, "set": 2}


def identity_infos(
    members: Iterable[Member],
    holders: Holders,
    numbers: FactNumbers,
    facts_of: Sequence[Facts],
    options: CompileOptions,
) -> list[IdentityInfo]:
    """Named after an endpoint rather than a set, after a set rather than a feed, after a feed rather than a domain."""
    names: dict[int, tuple[str, str]] = {}
    counts: dict[int, int] = {}
    for member in members:
        holder = holders.add(member.labels, member.ports)
        names.setdefault(holder, (member.title, member.kind))
        counts[holder] = counts.get(holder, 0) + 1
    infos: list[IdentityInfo] = []
    for number, facts in enumerate(facts_of):
        held: list[int] = []
        feeds: list[str] = []
        domains: list[str] = []
        for fact in facts:
            kind, what = numbers.keys[fact]
            if kind in ("holder", "names") and isinstance(what, int):
                held.append(what)
            elif kind == "feed" and isinstance(what, int):
                feeds.append(options.feeds[what].name)
            elif kind == "domain":
                domains.append(str(what))
        if held:
            first = min(held, key=lambda holder: (_RANK[names[holder][1]], holder))
            name, kind = names[first]
            infos.append(IdentityInfo(name, kind, holders.all[first].labels, tuple(sorted(feeds)), counts[first]))
        elif feeds:
            infos.append(IdentityInfo(min(feeds), "feed", {}, tuple(sorted(feeds))))
        elif domains:
            infos.append(IdentityInfo(min(domains), "domain", {}))
        else:
            infos.append(IdentityInfo("", "net", {}) if number else IdentityInfo("world", "world", {}))
    return infos


def note(resource: Resource, message: str, field: str, line: int | None = None) -> Warning:
    return Warning(f"{resource.kind} {resource.title}: {message}", resource.file, line or resource.line, field)


def not_enforced(
    resources: Iterable[Resource], tiers: frozenset[str], profiles: Iterable[str], options: CompileOptions
) -> Iterator[Warning]:
    """Fields that are valid but do nothing on packets, and names that nothing answers to."""
    known = frozenset(profiles)
    for resource in resources:
        spec = resource.spec
        if isinstance(spec, PolicySpec) and spec.tier not in tiers:
            yield note(resource, f"no tier {spec.tier!r}: asked after all tiers, ending in deny", "spec.tier")
        if isinstance(spec, PolicySpec | ProfileSpec):
            for rule in (*spec.ingress, *spec.egress):
                early = isinstance(spec, PolicySpec) and (spec.do_not_track or spec.pre_dnat)
                if rule.http is not None and (early or not options.requests):
                    where = "with doNotTrack or preDNAT" if early else "without inspectors"
                    yield note(resource, f"not enforced {where}: allows every request", "http", rule.line)
                if rule.destination.domains and early:
                    yield note(resource, "domains match nothing with doNotTrack or preDNAT", "domains", rule.line)
                elif rule.destination.domains and not (options.names or options.name_ports):
                    yield note(resource, "domains match nothing where no DNS answers are seen", "domains", rule.line)
        if isinstance(spec, WorkloadEndpointSpec):
            if spec.spoofed:
                yield note(resource, "not enforced on packets", "spec.allowSpoofedSourcePrefixes")
            for name in spec.profiles:
                if name not in known:
                    yield note(resource, f"no profile {name!r}: what reaches it is denied", "spec.profiles")
