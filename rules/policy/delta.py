# SPDX-License-Identifier: Apache-2.0
"""Endpoints that come, go or change their labels without a new program.

As long as somebody had the same labels, ports and profiles before, only the addresses' entries in the identity map
change: microseconds, however many policies and endpoints there are.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rules.policy.compile import State, local_interface
from rules.policy.endpoints import Member
from rules.policy.model import Net, Resource, WorkloadEndpointSpec
from rules.policy.program import Program

Entry = tuple[bytes, int, int, int]


@dataclass(frozen=True, slots=True)
class Delta:
    """For fastpath.IdentityMap.update(): entries to set, and entries (identity and ifindex 0) to remove."""

    set: tuple[Entry, ...]
    remove: tuple[Entry, ...]


class Live:
    """Follows the workload endpoints of one program. Belongs to one thread; takes over the program's compiler state."""

    def __init__(self, program: Program, resources: Iterable[Resource]) -> None:
        if not isinstance(program.state, State):
            raise ValueError("the program was made without its compiler's state")
        self._options = program.options
        self._state = program.state
        self._now: dict[tuple[str, str, str, str], Resource] = {
            resource.key: resource for resource in resources if isinstance(resource.spec, WorkloadEndpointSpec)
        }

    def apply(self, changed: Sequence[Resource], removed: Sequence[Resource] = ()) -> Delta | None:
        """None: this needs compile_policy() and a new Live; the old one is spent then."""
        if any(not isinstance(resource.spec, WorkloadEndpointSpec) for resource in (*changed, *removed)):
            return None
        touched: dict[Net, None] = {}
        for resource in (*removed, *changed):
            old = self._now.pop(resource.key, None)
            if old is not None:
                member = self._state.labeller.member(old)
                facts = self._facts(member)
                ifindex = local_interface(member, self._options)
                for net in member.nets:
                    touched[net] = None
                    self._state.facts.release(net, ifindex)
                    for fact in facts or ():
                        self._state.facts.discard(net, fact)
        for resource in changed:
            member = self._state.labeller.member(resource)
            facts = self._facts(member)
            if facts is None or resource.key in self._now:
                return None
            self._now[resource.key] = resource
            ifindex = local_interface(member, self._options)
            for net in member.nets:
                touched[net] = None
                for fact in facts:
                    self._state.facts.add(net, fact)
                if ifindex:
                    self._state.facts.bind(net, ifindex)
        return self._entries(touched)

    def _facts(self, member: Member) -> tuple[int, ...] | None:
        """None: nobody had them when the program was compiled."""
        holder = self._state.holders.find(member.labels, member.ports)
        if holder is None:
            return None
        wanted: list[tuple[str, object]] = [("holder", holder)]
        if self._options.scope == "gateway" or member.node == self._options.node:
            wanted.append(("endpoint", (holder, member.profiles)))
        found = [self._state.numbers.find(kind, what) for kind, what in wanted]
        return None if None in found else tuple(number for number in found if number is not None)

    def _entries(self, touched: Iterable[Net]) -> Delta | None:
        put: list[Entry] = []
        gone: list[Entry] = []
        for net in touched:
            identity, ifindex, exists = self._state.facts.look(net)
            if identity is None:
                return None
            if exists:
                put.append((net.addr, net.length, identity, ifindex))
            else:
                gone.append((net.addr, net.length, 0, 0))
        return Delta(tuple(put), tuple(gone))
