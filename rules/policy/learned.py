# SPDX-License-Identifier: Apache-2.0
"""Addresses that DNS gives to the names of a policy, without a new program.

As long as some address had the same names and lay in the same networks when the program was compiled (the compiler
makes such an identity for each name in advance), only the address's entry in the identity map changes.
"""

from collections.abc import Iterable, Mapping

from rules.policy.compile import State
from rules.policy.delta import Delta, Entry
from rules.policy.model import Net, parse_net
from rules.policy.program import Program


class LearnedNames:
    """Follows the names of one program. Belongs to one thread; shares the program's compiler state with Live."""

    def __init__(self, program: Program) -> None:
        if not isinstance(program.state, State):
            raise ValueError("the program was made without its compiler's state")
        self._state = program.state
        self._now: dict[Net, frozenset[int]] = dict(program.state.names.of_addresses(program.options.names))

    @property
    def patterns(self) -> frozenset[str]:
        """The names that the program asks about."""
        return self._state.names.index.patterns

    def apply(self, changes: Mapping[str, Iterable[str]]) -> Delta | None:
        """`changes`: address → all the names that it has now. None: some address has a set of names for which there is
        no identity, and this needs compile_policy() with those names; what was changed stays noted."""
        put: list[Entry] = []
        gone: list[Entry] = []
        known = True
        facts = self._state.facts
        for address, names in changes.items():
            net = parse_net(address)[0]
            wanted = self._state.names.of(names)
            before = self._now.get(net, frozenset())
            for fact in before - wanted:
                facts.discard(net, fact)
            for fact in wanted - before:
                facts.add(net, fact)
            if wanted:
                self._now[net] = wanted
            else:
                self._now.pop(net, None)
            identity, ifindex, exists = facts.look(net)
            if identity is None:
                known = False
            elif exists:
                put.append((net.addr, net.length, identity, ifindex))
            else:
                gone.append((net.addr, net.length, 0, 0))
        return Delta(tuple(put), tuple(gone)) if known else None
