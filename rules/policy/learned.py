# SPDX-License-Identifier: Apache-2.0
"""Addresses that DNS gives to the names of a policy, without a new program.

As long as some address had the same names and lay in the same networks when the program was compiled (the compiler
makes such an identity for each name in advance), only the address's entry in the identity map changes.
"""

from collections.abc import Iterable, Mapping

from rules.policy.compile import State
from rules.policy.delta import Delta
from rules.policy.identities import NOTHING, Entry, Facts
from rules.policy.model import Net, parse_net
from rules.policy.program import Program


class LearnedNames:
    """Follows the names of one program. Belongs to one thread; shares the program's compiler state with Live."""

    def __init__(self, program: Program) -> None:
        if not isinstance(program.state, State):
            raise ValueError("the program was made without its compiler's state")
        self._state = program.state
        self._now: dict[Net, Facts] = dict(program.state.names.of_addresses(program.options.names))

    def identity(self, address: str, names: Iterable[str]) -> int | None:
        """What the address would be with these names and no others; None if nothing is like that."""
        facts = self._state.facts
        net = parse_net(address)[0]
        around = facts.facts(net) - self._now.get(net, NOTHING)
        return facts.find(around | self._state.names.of(names))

    def apply(self, changes: Mapping[str, Iterable[str]]) -> tuple[Delta, tuple[str, ...]]:
        """`changes`: address → all the names that it has now. Returns what changes in the identity map, and the
        addresses with a set of names for which there is no identity: they stay what they were, and need
        compile_policy() with their names."""
        put: list[Entry] = []
        gone: list[Entry] = []
        unknown: list[str] = []
        facts = self._state.facts
        for address, names in changes.items():
            net = parse_net(address)[0]
            wanted = self._state.names.of(names)
            before = self._now.get(net, NOTHING)
            if wanted == before:
                continue
            for fact in before - wanted:
                facts.discard(net, fact)
            for fact in wanted - before:
                facts.add(net, fact)
            if wanted:
                self._now[net] = wanted
            else:
                del self._now[net]
            identity, ifindex, exists = facts.look(net)
            if identity is None:
                unknown.append(address)
            elif exists:
                put.append((net.addr, net.length, identity, ifindex))
            else:
                gone.append((net.addr, net.length, 0, 0))
        return Delta(tuple(put), tuple(gone)), tuple(unknown)
