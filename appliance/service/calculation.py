# SPDX-License-Identifier: Apache-2.0
"""From what the sources say to what shall be in force: pure, so that any order of changes ends in the same state."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from appliance.config import Config
from appliance.domains.control import ExpectedNames
from appliance.inspection.messages import FeedNames, SignatureSource
from appliance.service.feeds import feed_prefixes, feed_sets
from appliance.service.interfaces import Interfaces
from appliance.sources.container_endpoints import unique
from appliance.sources.node import host_endpoints
from rules.policy import CompileOptions, Program, Resource, compile_policy
from threatfeeds.allowlist import Allowlist
from threatfeeds.merge import Feed, Merged, merge

PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}
# Where the names of feeds and the applications of flows show: DNS, HTTP, TLS.
NO_NAMES = ExpectedNames()
DNS_PORTS = ((17, 53, 53), (6, 53, 53))
NAME_PORTS = (("udp", 53, 53), ("tcp", 53, 53), ("tcp", 80, 80), ("tcp", 443, 443))


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
    """What shall be in force: the program of the fastpath and the names and signatures of the inspectors."""

    program: Program
    names: tuple[FeedNames, ...]
    signatures: tuple[SignatureSource, ...]
    merged: Merged


def calculate(config: Config, inputs: Inputs, names: ExpectedNames = NO_NAMES) -> Desired:
    """`names`: what DNS has told. Raises PortcullisError when an allowlist entry makes no sense; resources and feeds
    are valid already."""
    allowlist = Allowlist.build(
        own=(str(address) for address in inputs.interfaces.own),
        resolvers=inputs.resolvers,
        configured=config.feeds.allow,
    )
    merged = merge(inputs.feeds, allowlist)
    listed = feed_names(merged)
    program = compile_policy(
        (*resources(config, inputs), *feed_sets(merged)),
        CompileOptions(
            node=config.node,
            scope=config.scope,
            interfaces=inputs.interfaces.indexes,
            feeds=feed_prefixes(merged),
            deny_action=config.policy.deny_action,
            inspect_default=config.policy.inspect_default,
            inspect_ports=tuple(
                (PROTOCOLS[protocol], first, last)
                for protocol, first, last in inspect_ports(config, bool(listed), bool(inputs.signatures))
            ),
            names=names.names,
            name_groups=names.groups,
            requests=bool(config.inspection.inspectors),
            name_ports=DNS_PORTS if config.inspection.inspectors else (),
            interface_addresses={
                name: tuple(str(address) for address in found) for name, found in inputs.interfaces.addresses.items()
            },
        ),
    )
    return Desired(program, listed, inputs.signatures, merged)


def resources(config: Config, inputs: Inputs) -> tuple[Resource, ...]:
    """What the operator wrote, then what the node found out; of two with one name the operator's counts."""
    known = unique(inputs.resources, inputs.containers)
    if config.identities.host_endpoints == "off":
        return known
    return unique(known, host_endpoints(config.node, inputs.interfaces.addresses, known))


def inspect_ports(config: Config, names: bool, signatures: bool) -> tuple[tuple[str, int, int], ...]:
    """Ports whose allowed flows are inspected: those configured, and those where there is something to see.

    In mode observe the operator is looking around: applications are shown though nothing is searched for.
    """
    configured = config.policy.inspect_terms()
    if not config.inspection.inspectors:
        return ()
    if names or signatures or config.mode == "observe":
        return tuple(dict.fromkeys((*configured, *NAME_PORTS)))
    return configured


def feed_names(merged: Merged) -> tuple[FeedNames, ...]:
    """The names of each feed, those with and those without subdomains apart."""
    actions = {feed.name: feed.config.action for feed in merged.feeds}
    groups: dict[tuple[str, bool], list[str]] = {}
    for name, entries in merged.names.items():
        for entry in entries:
            groups.setdefault((entry.feed, entry.subdomains), []).append(name)
    return tuple(
        FeedNames(feed, actions[feed], tuple(sorted(names)), subdomains)
        for (feed, subdomains), names in sorted(groups.items())
    )


def resolvers(resolv_conf: str) -> tuple[str, ...]:
    """Addresses of the nameserver lines (resolv.conf(5))."""
    words: Sequence[list[str]] = [line.split() for line in resolv_conf.splitlines()]
    return tuple(line[1] for line in words if len(line) > 1 and line[0] == "nameserver")
