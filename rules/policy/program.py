# SPDX-License-Identifier: Apache-2.0
"""What the compiler makes: tables for the C engine, and the words to explain its answers with."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from ipaddress import IPv4Network, IPv6Network
from typing import TYPE_CHECKING

from fastpath.layout import NONE
from rules.policy.early import EarlyChain
from rules.policy.model import HttpMatch

if TYPE_CHECKING:
    from fastpath import PolicyTables
    from fastpath.lists import PrefixList

PROFILE_TIER = "__PROFILE__"
FEED_TIER = "__FEED__"


@dataclass(frozen=True, slots=True)
class FeedPrefixes:
    """A threat feed's addresses. action: alert, drop, reject; direction: source, destination, both. prefixes: networks,
    or a disjoint fastpath.lists.PrefixList. network_set: title of a set that has these prefixes, too."""

    name: str
    action: str
    direction: str
    prefixes: "Sequence[IPv4Network | IPv6Network] | PrefixList"
    network_set: str = ""

    def listed(self) -> "PrefixList":
        """Loads the C extension."""
        from fastpath.lists import PrefixList

        if isinstance(self.prefixes, PrefixList):
            return self.prefixes
        return PrefixList.of(_item(network) for network in self.prefixes).disjoint()


def _item(network: IPv4Network | IPv6Network) -> int:
    shift = 96 if network.version == 4 else 0
    return (int(network.network_address) | (0xFFFF << 32 if shift else 0)) << 8 | shift + network.prefixlen


@dataclass(frozen=True, slots=True)
class CompileOptions:
    """`interfaces`: name → ifindex of this node; `interface_addresses`: for host endpoints that name only addresses;
    `names`: the addresses that DNS has given for names in policies and network sets; `name_groups`: names that one
    address may come to have together; `requests`: there are inspectors, which hold requests against http matches."""

    node: str = ""
    scope: str = "node"  # or "gateway"
    interfaces: Mapping[str, int] = field(default_factory=dict)
    feeds: tuple[FeedPrefixes, ...] = ()
    deny_action: str = "drop"  # or "reject"
    inspect_default: bool = False
    inspect_ports: tuple[tuple[int, int, int], ...] = ()  # (protocol, first, last)
    interface_addresses: Mapping[str, Sequence[str]] = field(default_factory=dict)
    names: Mapping[str, Sequence[str]] = field(default_factory=dict)
    name_groups: tuple[tuple[str, ...], ...] = ()
    name_ports: tuple[tuple[int, int, int], ...] = ()  # inspected, too, if the policy asks for names
    inspect_names: bool = False  # HTTP and TLS to names are inspected: the name they show has to agree
    requests: bool = True


@dataclass(frozen=True, slots=True)
class RuleInfo:
    """A rule, by its id. rule_index -1: the end of the tier. `policy` is `name` or `namespace/name`."""

    tier: str
    policy: str
    kind: str
    rule_index: int
    action: str  # allow, deny, pass, log
    direction: str = ""  # ingress, egress
    staged: bool = False
    file: str = ""
    line: int = 0

    @property
    def text(self) -> str:
        return f"{self.tier}|{self.policy}|{'end of tier' if self.rule_index < 0 else self.rule_index}|{self.action}"


@dataclass(frozen=True, slots=True)
class IdentityInfo:
    """kind: world, workload, host, set, feed, domain or net. `name` is of one of them where it stands for several."""

    name: str
    kind: str
    labels: Mapping[str, str]
    feeds: tuple[str, ...] = ()
    count: int = 0  # how many endpoints and sets share it


@dataclass(frozen=True, slots=True)
class RawChains:
    """Chains of a host endpoint that no table of the engine knows: asked before connection tracking and before DNAT."""

    untracked_ingress: int = NONE
    untracked_egress: int = NONE
    pre_dnat_ingress: int = NONE
    staged_untracked_ingress: int = NONE
    staged_untracked_egress: int = NONE
    staged_pre_dnat_ingress: int = NONE


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A known endpoint and the numbers of its chains (fastpath.layout.NONE: not governed here)."""

    name: str  # namespace/name, or the host endpoint's name
    kind: str  # workload or host
    node: str
    interface: str
    addresses: tuple[str, ...]
    labels: Mapping[str, str]
    ingress: int = NONE
    egress: int = NONE
    staged_ingress: int = NONE
    staged_egress: int = NONE
    raw: RawChains | None = None  # of a host endpoint that is governed here


class Endpoints(Mapping[str, Endpoint]):
    """Made when somebody asks, which few do: there are as many as endpoints."""

    def __init__(self, make: Callable[[], dict[str, Endpoint]]) -> None:
        self._make = make

    @cached_property
    def _all(self) -> dict[str, Endpoint]:
        return self._make()

    def __getitem__(self, name: str) -> Endpoint:
        return self._all[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)


@dataclass(frozen=True, slots=True)
class Warning:
    message: str
    file: str = ""
    line: int = 0
    field: str = ""

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}: " if self.file else ""
        return f"{where}{self.field + ': ' if self.field else ''}{self.message}"


@dataclass(frozen=True)
class Program:
    """Immutable. `entries` are (16 address bytes, prefix bits, identity, ifindex) for fastpath.IdentityMap.build(),
    packed where feeds list addresses."""

    parts: Mapping[str, object]
    entries: Sequence[tuple[bytes, int, int, int]] | bytes
    rules: Sequence[RuleInfo]
    identities: Sequence[IdentityInfo]
    endpoints: Mapping[str, Endpoint]
    raw_chains: Mapping[int, RawChains]
    early: Mapping[int, EarlyChain]  # what they are made of, by number
    interface_chains: Mapping[int, tuple[int, ...]]
    warnings: tuple[Warning, ...]
    options: CompileOptions
    state: object = None  # what rules.policy.delta needs of the compiler
    http: Mapping[int, HttpMatch] = field(default_factory=dict)  # by rule id: what the rule allows, if it matches this
    domains: tuple[str, ...] = ()  # every name that policies and sets ask about
    workload_interfaces: frozenset[int] = frozenset()  # what comes in there is a workload's, and not a host endpoint's
    owners: Mapping[bytes, str] = field(default_factory=dict)  # 16 address bytes → the endpoint's title, as it is now

    @cached_property
    def tables(self) -> "PolicyTables":
        """Loads the C extension, which the compiler itself does not need."""
        from fastpath import PolicyTables

        return PolicyTables(**self.parts)  # type: ignore[arg-type]

    @property
    def needs_raw_hook(self) -> bool:
        """doNotTrack policy exists on a host endpoint of this node."""
        return any(c.untracked_ingress != NONE or c.untracked_egress != NONE for c in self.raw_chains.values())

    @property
    def needs_pre_dnat_hook(self) -> bool:
        return any(chains.pre_dnat_ingress != NONE for chains in self.raw_chains.values())

    def rule(self, number: int) -> RuleInfo | None:
        return self.rules[number] if 0 <= number < len(self.rules) else None
