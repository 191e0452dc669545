# SPDX-License-Identifier: Apache-2.0
"""From what the sources say to what shall be in force: pure, so that any order of changes ends in the same state."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from appliance.config import Config
from appliance.domains.control import ExpectedNames
from appliance.inspection.messages import SignatureSource
from appliance.service.feeds import feed_prefixes, feed_sets
from appliance.service.interfaces import Interfaces
from appliance.service.sought import DNS_PORTS, Ports, Sought, inspect_ports, sought
from appliance.sources.base import Parts
from appliance.sources.container_endpoints import unique
from appliance.sources.node import host_endpoints
from rules.policy import CompileOptions, Live, Program, Resource, Step, compile_policy
from rules.policy.model import HostEndpointSpec, PolicySpec, WorkloadEndpointSpec
from threatfeeds.allowlist import Allowlist
from threatfeeds.merge import Feed, Merged, merge

PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}
NO_NAMES = ExpectedNames()


Resources = tuple[Resource, ...] | Parts[Resource]


@dataclass(frozen=True)
class Inputs:
    """Everything that is decided from. `resolvers`: addresses this node asks for names."""

    resources: Resources = ()
    feeds: tuple[Feed, ...] = ()
    signatures: tuple[SignatureSource, ...] = ()
    interfaces: Interfaces = field(default_factory=Interfaces)
    resolvers: tuple[str, ...] = ()
    containers: tuple[Resource, ...] = ()


@dataclass(frozen=True)
class Desired:
    """What shall be in force: the program of the fastpath, and what inspectors look for."""

    program: Program
    sought: Sought
    signatures: tuple[SignatureSource, ...]
    merged: Merged
    live: Live | None = None  # follows the program; spent by the first change that it refuses


def calculate(config: Config, inputs: Inputs, names: ExpectedNames = NO_NAMES) -> Desired:
    """`names`: what DNS has told. Raises PortcullisError when an allowlist entry makes no sense; resources and feeds
    are valid already."""
    allowlist = _allowlist(config, inputs)
    merged = merge(inputs.feeds, allowlist)
    looked_for = sought(inputs.feeds, allowlist)
    known = (*resources(config, inputs), *feed_sets(merged))
    program = compile_policy(
        known,
        CompileOptions(
            node=config.node,
            scope=config.scope,
            interfaces=inputs.interfaces.indexes,
            feeds=feed_prefixes(merged),
            deny_action=config.policy.deny_action,
            inspect_default=config.policy.inspect_default,
            inspect_ports=_numbered(inspect_ports(config, looked_for, bool(inputs.signatures))),
            names=names.names,
            name_groups=names.groups,
            requests=bool(config.inspection.inspectors),
            inspect_names=config.domains.agree and config.inspection.inspectors > 0,
            name_ports=_numbered(DNS_PORTS) if config.inspection.inspectors else (),
            interface_addresses=_interface_addresses(inputs.interfaces),
        ),
    )
    return Desired(program, looked_for, inputs.signatures, merged, Live(program, known))


def change(config: Config, desired: Desired, before: Inputs, now: Inputs) -> Step | None:
    """What calculate() makes of `now`, as a change to `desired`, which was made of `before`: only what is different is
    looked at. What feeds list is other_feeds()'s part. None: calculate() must look at everything."""
    live = desired.live
    if live is None:
        return None
    if replace(before, resources=now.resources, containers=now.containers, interfaces=now.interfaces) != now:
        return None
    removed, changed = differences(before.resources, now.resources)
    found_removed, found_changed = differences(before.containers, now.containers)
    theirs = {resource.key for resource in (*before.containers, *now.containers)}
    if not theirs.isdisjoint(resource.key for resource in (*removed, *changed)):
        return None  # of two with one name the operator's counts
    if found_removed or found_changed:
        ours = {resource.key for resource in now.resources}
        if not ours.isdisjoint(resource.key for resource in (*found_removed, *found_changed)):
            return None
    changed, removed = (*changed, *found_changed), (*removed, *found_removed)
    own_removed, own_changed = _own_endpoints(config, before, now, (*removed, *changed))
    return live.apply((*changed, *own_changed), (*removed, *own_removed), _options(desired.program, before, now))


def asks_requests(before: Inputs, now: Inputs) -> bool:
    """Whether rules with `http` are among what is new or different."""
    known = {id(part) for part in parts(before.resources)}
    return any(
        rule.http is not None
        for part in parts(now.resources) if id(part) not in known
        for resource in part if isinstance(resource.spec, PolicySpec)
        for rule in resource.spec.ingress
    )  # fmt: skip


def other_signatures(config: Config, desired: Desired, now: Inputs) -> Desired | None:
    """`desired` with the signatures of `now`, for the inspectors: of signatures the program knows only whether there
    are any. None: it has other ports inspected, and calculate() must look at everything."""
    found = desired.sought
    before = inspect_ports(config, found, bool(desired.signatures))
    if inspect_ports(config, found, bool(now.signatures)) != before:
        return None
    return replace(desired, signatures=now.signatures)


def lists_otherwise(before: Inputs, now: Inputs) -> bool:
    """Whether feeds list something else, or something else of it is allowed."""
    if now.feeds is not before.feeds or now.resolvers != before.resolvers:
        return True
    return bool(now.feeds) and now.interfaces is not before.interfaces and now.interfaces.own != before.interfaces.own


def other_feeds(config: Config, desired: Desired, now: Inputs) -> Desired | None:
    """`desired` with the feeds and the allowlist of `now`, and its program as it is: what Live.relist() is to follow.
    None: calculate() must look at everything. Raises PortcullisError as that does."""
    if desired.live is None:
        return None
    merged = merge(now.feeds, _allowlist(config, now), desired.merged)
    looked_for = sought(now.feeds, merged.allowlist)
    signed = bool(desired.signatures)
    if inspect_ports(config, looked_for, signed) != inspect_ports(config, desired.sought, signed):
        return None
    if feed_sets(merged) != feed_sets(desired.merged):
        return None
    return replace(desired, merged=merged, sought=looked_for)


def _allowlist(config: Config, inputs: Inputs) -> Allowlist:
    return Allowlist.build(
        own=(str(address) for address in inputs.interfaces.own),
        resolvers=inputs.resolvers,
        configured=config.feeds.allow,
    )


def _options(program: Program, before: Inputs, now: Inputs) -> CompileOptions | None:
    """Those of the program with the interfaces of now; None if they are what they were."""
    was, now_are = before.interfaces, now.interfaces
    if (was.indexes, was.addresses) == (now_are.indexes, now_are.addresses):
        return None
    return replace(program.options, interfaces=now_are.indexes, interface_addresses=_interface_addresses(now_are))


def _interface_addresses(interfaces: Interfaces) -> dict[str, tuple[str, ...]]:
    return {name: tuple(str(address) for address in found) for name, found in interfaces.addresses.items()}


def _own_endpoints(
    config: Config, before: Inputs, now: Inputs, touched: Sequence[Resource]
) -> tuple[tuple[Resource, ...], tuple[Resource, ...]]:
    """(gone or replaced, new or different) of the host endpoints that are made for the node's own interfaces. A look at
    all resources, so only where there is a reason."""
    if config.identities.host_endpoints == "off":
        return (), ()
    addresses = now.interfaces.addresses
    keys = {resource.key for resource in touched}
    spoken = _interfaces(touched) & addresses.keys()
    if spoken:  # of workloads: a bridge has many, and they stay
        for resource in (*now.containers, *now.resources):
            spec = resource.spec
            if isinstance(spec, WorkloadEndpointSpec) and spec.interface in spoken and spec.node == config.node:
                if resource.key not in keys:
                    spoken.discard(spec.interface)
                if not spoken:
                    break
    hosts = any(isinstance(resource.spec, HostEndpointSpec) for resource in touched)
    if not spoken and not hosts and before.interfaces.addresses == addresses:
        return (), ()
    return differences(_made_endpoints(config, before), _made_endpoints(config, now))


def _made_endpoints(config: Config, inputs: Inputs) -> tuple[Resource, ...]:
    known = unique(inputs.resources, inputs.containers)
    written = {resource.key for resource in known if isinstance(resource.spec, HostEndpointSpec)}
    made = host_endpoints(config.node, inputs.interfaces.addresses, known)
    return tuple(resource for resource in made if resource.key not in written)


def differences(before: Resources, now: Resources) -> tuple[tuple[Resource, ...], tuple[Resource, ...]]:
    """(gone or replaced, new or different), without a look at those of origins that stay as they are."""
    was_there = {id(part) for part in parts(before)}
    is_there = {id(part) for part in parts(now)}
    old = [resource for part in parts(before) if id(part) not in is_there for resource in part]
    new = [resource for part in parts(now) if id(part) not in was_there for resource in part]
    was = {resource.key: resource for resource in old}
    will = {resource.key: resource for resource in new}
    return (
        tuple(resource for resource in old if will.get(resource.key) != resource),
        tuple(resource for resource in new if was.get(resource.key) != resource),
    )


def _interfaces(resources: Iterable[Resource]) -> set[str]:
    """Of workloads."""
    return {item.spec.interface for item in resources if isinstance(item.spec, WorkloadEndpointSpec)}


def parts(resources: Resources) -> tuple[tuple[Resource, ...], ...]:
    return resources.parts if isinstance(resources, Parts) else (resources,)


def resources(config: Config, inputs: Inputs) -> tuple[Resource, ...]:
    """What the operator wrote, then what the node found out; of two with one name the operator's counts."""
    known = unique(inputs.resources, inputs.containers)
    if config.identities.host_endpoints == "off":
        return known
    return unique(known, host_endpoints(config.node, inputs.interfaces.addresses, known))


def _numbered(ports: Ports) -> tuple[tuple[int, int, int], ...]:
    return tuple((PROTOCOLS[protocol], first, last) for protocol, first, last in ports)
