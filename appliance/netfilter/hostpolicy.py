# SPDX-License-Identifier: Apache-2.0
"""The table of host policy (see hostrules) in the kernel. Blocking: call it from a thread."""

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from appliance.netfilter import elements, nft, tables
from appliance.netfilter.addresses import AddressSets, Difference, Source
from appliance.netfilter.hostrules import HostRules, empty_script, host_rules
from appliance.netfilter.ruleset import HOST_TABLE as TABLE
from appliance.netfilter.ruleset import NetfilterSettings
from appliance.netfilter.surroundings import bound_queues, table_exists
from rules.policy import Program, RuleInfo
from rules.policy.early import Region

MANY = 500  # elements of sets that netlink alone exchanges in one transaction


@dataclass(frozen=True)
class Counted:
    """A rule that decides before tracking or before DNAT, and how many packets it decided about."""

    rule: RuleInfo
    packets: int


class HostPolicy:
    """The table in the kernel. Every call blocks and raises nft.NftError; the namespace is that of the thread.

    group: to which the kernel tells of denied packets; None: it does not. It becomes None where the kernel cannot.
    """

    def __init__(self, settings: NetfilterSettings) -> None:
        self._settings = settings
        self.group: int | None = None
        self._in_force: HostRules | None = None
        self._program: Program | None = None
        self._addresses: AddressSets | None = None
        self._names = ("", "")  # what the names of chains and of sets begin with
        self._state: tables.State = {}  # of the table as we made it
        self._unread: set[str] = set()  # sets that are other since
        self._emptied = False
        self._exchange = elements.Exchange()
        self._lock = threading.Lock()
        self._removed = False

    @property
    def there(self) -> bool:
        """Something is enforced."""
        return self._program is not None

    def apply(self, program: Program | None) -> bool:
        """True: the rules changed. None: nothing is enforced. Without such policy a table that is there is emptied.
        Raises HostPolicyError, too: nothing has changed then."""
        with self._lock:
            if self._removed:
                return False
            if program is None or not _asked(program):
                return self._empty()
            found = program
            return self._whole(program, AddressSets(lambda: (found.entries, found.tables)))

    def follow(self, program: Program, regions: Sequence[Region] | None, source: Source) -> bool:
        """The same for what a step made of the program: by the least. regions: as Step has them. source: of the
        addresses that have predicates, as they are now."""
        with self._lock:
            if self._removed:
                return False
            if not _asked(program):
                return self._empty()
            before, addresses = self._program, self._addresses
            if before is None or addresses is None:
                return self._whole(program, AddressSets(source))
            self._addresses = None  # unless all goes well
            changed = self._differ(addresses.follow(source, regions))
            if (program.early, program.raw_chains) != (before.early, before.raw_chains):
                self._put(program, addresses, keep=True)
                changed = True
            self._program, self._addresses = program, addresses
            return changed

    def settle(self) -> None:
        """Reads what sets with many elements look like after a change, so that others' changes are seen."""
        with self._lock:
            self._read_sets()

    def _empty(self) -> bool:
        if self._emptied:
            return False
        objects = self._objects()
        if objects:
            nft.run(empty_script(_parts(objects)))
        changed, self._emptied = self._program is not None, True
        self._program = self._addresses = self._in_force = None
        self._state = {}
        self._unread.clear()
        return changed

    def _whole(self, program: Program, addresses: AddressSets, *, again: bool = False) -> bool:
        """Made anew, unless it is the same."""
        if self._in_force is not None and self._addresses is not None and not again:
            known = self._addresses
            made = host_rules(program, self._settings, self._names[0], sets=self._names[1], group=self.group)
            if made == self._in_force and all(known.of(*a) == addresses.of(*a) for a in made.sets.values()):
                self._program, self._addresses = program, addresses
                return False
        self._put(program, addresses, keep=False)
        self._program, self._addresses = program, addresses
        return True

    def _put(self, program: Program, addresses: AddressSets, *, keep: bool) -> None:
        """keep: sets that are there are as they shall be."""
        old = _parts(self._objects())
        chains = _unused("chain", old)
        sets = self._names[1] if keep else _unused("set", old)
        kept = self._in_force.sets.keys() if keep and self._in_force is not None else ()
        made = host_rules(program, self._settings, chains, sets=sets, group=self.group)
        try:
            nft.run(made.script(addresses, old, made.sets.keys() & kept))
        except nft.NftError:
            if self.group is None:
                raise
            made = host_rules(program, self._settings, chains, sets=sets)
            nft.run(made.script(addresses, old, made.sets.keys() & kept))
            self.group = None  # it was the log that the kernel lacks
        addresses.forget(made.sets.values())
        self._in_force, self._names, self._emptied = made, (chains, sets), False
        self._unread.clear()
        self._state = tables.state(TABLE, elements=True)

    def _differ(self, differences: Iterable[Difference]) -> bool:
        """Elements of sets, and nothing else."""
        assert self._in_force is not None
        names = {asked: name for name, asked in self._in_force.sets.items()}
        changes: list[elements.Operation] = []
        for asked, gone, come in differences:
            name = names[asked]
            for drop, intervals in ((True, gone), (False, come)):
                changes += (elements.Range(name, asked.version, *interval, drop) for interval in intervals)
            if gone or come:
                self._unread.add(name)
        if len(changes) > MANY:
            nft.run("\n".join(elements.text(TABLE, changes)) + "\n")
        elif changes:
            self._exchange.commit(TABLE, changes)
        return bool(changes)

    def _read_sets(self) -> None:
        if self._unread:
            self._state = {**self._state, **tables.elements(TABLE, self._unread)}
            self._unread.clear()

    def rule(self, name: str) -> tuple[int, RuleInfo] | None:
        """The rule of the program whose counter has this name, and its number."""
        with self._lock:
            number = self._in_force.counters.get(name) if self._in_force is not None else None
            return None if number is None or self._program is None else (number, self._program.rules[number])

    def hits(self) -> list[Counted]:
        """Of each rule that decides, since it was first there."""
        with self._lock:
            program, made = self._program, self._in_force
        if program is None or made is None:
            return []
        packets = tables.counters(TABLE)
        return [Counted(program.rules[number], packets.get(name, 0)) for name, number in made.counters.items()]

    def mend(self, elements: bool) -> list[str]:
        """Makes again what another program took away or changed; returns what it was. elements: also looks at those of
        sets."""
        with self._lock:
            if self._removed or self._program is None or self._addresses is None:
                return []
            if table_exists(TABLE):
                self._read_sets()
            if not (gone := self._lost(elements)):
                return []
            self._whole(self._program, self._addresses, again=True)
            return gone

    def _lost(self, elements: bool) -> list[str]:
        return [f"{TABLE} {name}" for name in tables.differences(self._state, tables.state(TABLE, elements=elements))]

    def remove(self) -> list[str]:
        """Takes the table away, after Netfilter.remove(); returns what had to stay and why."""
        with self._lock:
            self._removed = True  # what is still on its way makes nothing again
            objects = self._objects()
        if not objects:
            return []
        nft.run(empty_script(_parts(objects)))
        if any(queue.number not in self._settings.own_queues for queue in bound_queues()):
            return [f"table {TABLE} stays, with empty chains: deleting it would drop what waits in another's queue"]
        nft.run(f"delete table {TABLE}\n")
        return []

    @staticmethod
    def _objects() -> list[dict[str, Any]]:
        return nft.query(f"list table {TABLE}", terse=True) if table_exists(TABLE) else []


def _parts(objects: Iterable[dict[str, Any]]) -> list[tuple[str, str]]:
    """Chains without a hook, sets and counters; the limit stays."""
    return [
        (kind, entry[kind]["name"])
        for entry in objects
        for kind in ("chain", "set", "counter")
        if kind in entry and "hook" not in entry[kind]
    ]


def _asked(program: Program) -> bool:
    return program.needs_raw_hook or program.needs_pre_dnat_hook


def _unused(kind: str, old: Iterable[tuple[str, str]]) -> str:
    """What the names of new ones begin with."""
    return "b" if any(part == kind and name.startswith("a_") for part, name in old) else "a"
