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
from appliance.sources.container_endpoints import unique
from appliance.sources.node import host_endpoints
from rules.policy import CompileOptions, Live, Program, Resource, Step, compile_policy
from rules.policy.model import WorkloadEndpointSpec
from threatfeeds.allowlist import Allowlist
from threatfeeds.merge import Feed, Merged, merge

PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}
NO_NAMES = ExpectedNames()


@dataclass(frozen=True)
class Inputs:
    """Everything that is decided from. `resolvers`: addresses this node asks for names."""

    resources: tuple[Resource, ...] = ()
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
    allowlist = Allowlist.build(
        own=(str(address) for address in inputs.interfaces.own),
        resolvers=inputs.resolvers,
        configured=config.feeds.allow,
    )
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
            interface_addresses={
                name: tuple(str(address) for address in found) for name, found in inputs.interfaces.addresses.items()
            },
        ),
    )
    return Desired(program, looked_for, inputs.signatures, merged, Live(program, known))


def change(config: Config, desired: Desired, before: Inputs, now: Inputs) -> Step | None:
    """What calculate() makes of `now`, as a change to `desired`, which was made of `before`: only what is different is
    looked at. None: calculate() must look at everything."""
    live = desired.live
    if live is None or _before_tracking(desired.program):
        return None
    if replace(before, resources=now.resources, containers=now.containers) != now:
        return None
    removed, changed = differences(before.resources, now.resources)
    found_removed, found_changed = differences(before.containers, now.containers)
    if config.identities.host_endpoints != "off":
        # An interface that somebody describes has no host endpoint of ours.
        touched = _interfaces((*removed, *changed, *found_removed, *found_changed))
        for interface in touched & now.interfaces.addresses.keys():
            if not all(interface in _interfaces((*inputs.resources, *inputs.containers)) for inputs in (before, now)):
                return None
    theirs = {resource.key for resource in (*before.containers, *now.containers)}
    if not theirs.isdisjoint(resource.key for resource in (*removed, *changed)):
        return None  # of two with one name the operator's counts
    if found_removed or found_changed:
        ours = {resource.key for resource in now.resources}
        if not ours.isdisjoint(resource.key for resource in (*found_removed, *found_changed)):
            return None
    step = live.apply([*changed, *found_changed], [*removed, *found_removed])
    return None if step is None or _before_tracking(step.program) else step  # a step's program has no tables


def other_feeds(config: Config, desired: Desired, before: Inputs, now: Inputs) -> Desired | None:
    """`desired` (made of `before`) with the feeds of `now` and its program as it is: what Live.relist() is to follow.
    None: calculate() must look at everything. Nothing but the feeds may be different."""
    if desired.live is None or desired.program.http or _before_tracking(desired.program):
        return None
    merged = merge(now.feeds, desired.merged.allowlist, desired.merged)
    looked_for = sought(now.feeds, merged.allowlist)
    signed = bool(now.signatures)
    if inspect_ports(config, looked_for, signed) != inspect_ports(config, desired.sought, signed):
        return None
    if feed_sets(merged) != feed_sets(desired.merged):
        return None
    return replace(desired, merged=merged, sought=looked_for)


def _before_tracking(program: Program) -> bool:
    return program.needs_raw_hook or program.needs_pre_dnat_hook


def differences(
    before: tuple[Resource, ...], now: tuple[Resource, ...]
) -> tuple[tuple[Resource, ...], tuple[Resource, ...]]:
    """(gone or replaced, new or different), without a look at each of those that stay where they are."""
    most = min(len(before), len(now))
    head = _common(before, now, most, 0)
    tail = _common(before, now, most - head, -1)
    old = before[head : len(before) - tail]
    new = now[head : len(now) - tail]
    was = {resource.key: resource for resource in old}
    will = {resource.key: resource for resource in new}
    return (
        tuple(resource for resource in old if will.get(resource.key) != resource),
        tuple(resource for resource in new if was.get(resource.key) != resource),
    )


def _interfaces(resources: Iterable[Resource]) -> set[str]:
    """Of workloads."""
    return {item.spec.interface for item in resources if isinstance(item.spec, WorkloadEndpointSpec)}


def _common(a: tuple[Resource, ...], b: tuple[Resource, ...], most: int, end: int) -> int:
    """Length of what both begin with, or for `end` -1 end with: in large strides, which compare pointers."""
    at, stride = 0, 4096
    while stride:
        while at + stride <= most:
            first, second = at, at
            if end:
                first, second = len(a) - at - stride, len(b) - at - stride
            if a[first : first + stride] != b[second : second + stride]:
                break
            at += stride
        stride //= 8
    return at


def resources(config: Config, inputs: Inputs) -> tuple[Resource, ...]:
    """What the operator wrote, then what the node found out; of two with one name the operator's counts."""
    known = unique(inputs.resources, inputs.containers)
    if config.identities.host_endpoints == "off":
        return known
    return unique(known, host_endpoints(config.node, inputs.interfaces.addresses, known))


def _numbered(ports: Ports) -> tuple[tuple[int, int, int], ...]:
    return tuple((PROTOCOLS[protocol], first, last) for protocol, first, last in ports)


def resolvers(resolv_conf: str) -> tuple[str, ...]:
    """Addresses of the nameserver lines (resolv.conf(5))."""
    words: Sequence[list[str]] = [line.split() for line in resolv_conf.splitlines()]
    return tuple(line[1] for line in words if len(line) > 1 and line[0] == "nameserver")
