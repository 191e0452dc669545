# SPDX-License-Identifier: Apache-2.0
"""Host endpoints of this node: chains for its interfaces (felix/calc/event_sequencer.go splits policies likewise)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from fastpath.layout import NONE
from rules.policy.chains import ChainBuilder, pair
from rules.policy.describe import note
from rules.policy.endpoints import Member
from rules.policy.model import parse_net
from rules.policy.policies import ActivePolicy
from rules.policy.program import CompileOptions, RawChains, Warning

Row = tuple[int, ...]  # as fastpath.layout.INTERFACE_CHAINS
Chains = tuple[int, int, int, int]
NO_CHAINS: Chains = (NONE, NONE, NONE, NONE)


@dataclass(slots=True)
class HostChains:
    """`rows` and `raw` by ifindex; 0 stands for every interface. `of` and `raw_of`: each endpoint's own, by title."""

    rows: dict[int, Row] = field(default_factory=dict)
    raw: dict[int, RawChains] = field(default_factory=dict)
    of: dict[str, Chains] = field(default_factory=dict)
    raw_of: dict[str, RawChains] = field(default_factory=dict)
    warnings: list[Warning] = field(default_factory=list)

    @property
    def ordered(self) -> list[Row]:
        return [self.rows[ifindex] for ifindex in sorted(self.rows)]

    def numbers(self) -> list[int]:
        """Every chain, once for each use of it."""
        found = [number for row in self.rows.values() for number in row[1:]]
        found += [number for chains in self.of.values() for number in chains]
        for raw in (*self.raw.values(), *self.raw_of.values()):
            found += (
                raw.untracked_ingress, raw.untracked_egress, raw.pre_dnat_ingress,
                raw.staged_untracked_ingress, raw.staged_untracked_egress, raw.staged_pre_dnat_ingress,
            )  # fmt: skip
        return found

    def meaning(self, build: ChainBuilder) -> dict[int, tuple[object, ...]]:
        """What each interface does with packets now, staged policies apart."""
        found: dict[int, tuple[object, ...]] = {}
        for ifindex, row in self.rows.items():
            raw = self.raw[ifindex]
            numbers = (*row[1:5], raw.untracked_ingress, raw.untracked_egress, raw.pre_dnat_ingress)
            found[ifindex] = tuple(map(build.meaning, numbers))
        return found


def host_chains(
    build: ChainBuilder,
    hosts: Iterable[tuple[Member, list[ActivePolicy]]],
    local: Iterable[int],
    options: CompileOptions,
) -> HostChains:
    """`hosts`: those of this node with their policies in order; `local`: interfaces of its workloads."""
    found = HostChains()
    # Of two host endpoints for one interface Felix takes the one whose name comes first.
    for member, policies in sorted(hosts, key=lambda item: item[0].title):
        untracked = [p for p in policies if p.spec.do_not_track]
        pre_dnat = [p for p in policies if p.spec.pre_dnat and not p.spec.do_not_track]
        normal = [p for p in policies if not p.spec.do_not_track and not p.spec.pre_dnat]
        forward = [p for p in normal if p.spec.apply_on_forward]
        host_in, staged_host_in = pair(build, normal, "ingress", member.profiles)
        host_out, staged_host_out = pair(build, normal, "egress", member.profiles)
        forward_in, staged_forward_in = pair(build, forward, "ingress", None)
        forward_out, staged_forward_out = pair(build, forward, "egress", None)
        raw_in, staged_raw_in = pair(build, untracked, "ingress", None, lenient=True)
        raw_out, staged_raw_out = pair(build, untracked, "egress", None, lenient=True)
        early, staged_early = pair(build, pre_dnat, "ingress", None, lenient=True)
        chains = RawChains(raw_in, raw_out, early, staged_raw_in, staged_raw_out, staged_early)
        found.of[member.title] = (host_in, host_out, staged_host_in, staged_host_out)
        found.raw_of[member.title] = chains
        for ifindex in _interfaces(member, options, found.warnings):
            found.rows.setdefault(
                ifindex,
                (
                    ifindex, host_in, host_out, forward_in, forward_out,
                    staged_host_in, staged_host_out, staged_forward_in, staged_forward_out,
                ),
            )  # fmt: skip
            found.raw.setdefault(ifindex, chains)
    everywhere = found.rows.get(0)
    if everywhere is not None:
        # `*` governs forwarding through local workloads' interfaces, but not what they say to the host itself: that is
        # the workload's own egress policy's business, and a host always reaches its own workloads. Nor is
        # what workloads send shown to doNotTrack policy (felix/rules/static.go, chain of raw PREROUTING).
        before_dnat = RawChains(
            pre_dnat_ingress=found.raw[0].pre_dnat_ingress,
            staged_pre_dnat_ingress=found.raw[0].staged_pre_dnat_ingress,
        )
        for ifindex in local:
            if ifindex not in found.rows:
                found.rows[ifindex] = (ifindex, NONE, NONE, *everywhere[3:5], NONE, NONE, *everywhere[7:9])
                found.raw[ifindex] = before_dnat
    return found


def _interfaces(member: Member, options: CompileOptions, warnings: list[Warning]) -> list[int]:
    interfaces: Mapping[str, int] = options.interfaces
    if member.interface == "*":
        return [0]
    if member.interface:
        ifindex = interfaces.get(member.interface)
        if ifindex is not None:
            return [ifindex]
        message = f"interface {member.interface} does not exist on this node"
        warnings.append(note(member.resource, message, "interfaceName"))
        return []
    wanted = set(member.nets)
    found = [
        interfaces[name]
        for name, addresses in options.interface_addresses.items()
        if name in interfaces and any(parse_net(address)[0] in wanted for address in addresses)
    ]
    if not found:
        warnings.append(
            note(member.resource, "no interface of this node has one of the expected addresses", "expectedIPs")
        )
    return found
