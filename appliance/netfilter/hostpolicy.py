# SPDX-License-Identifier: Apache-2.0
"""The table of host policy (see hostrules) in the kernel. Blocking: call it from a thread."""

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from appliance.netfilter import nft, tables
from appliance.netfilter.hostrules import empty_script, host_rules
from appliance.netfilter.ruleset import HOST_TABLE as TABLE
from appliance.netfilter.ruleset import NetfilterSettings
from appliance.netfilter.surroundings import bound_queues, table_exists
from rules.policy import Program, RuleInfo


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
        self._in_force: str | None = None  # as text
        self._program: Program | None = None
        self._counters: Mapping[str, int] = {}  # name → rule of the program
        self._state: tables.State = {}  # of the table as we made it
        self._lock = threading.Lock()
        self._removed = False

    def apply(self, program: Program | None) -> bool:
        """True: the rules changed. None: nothing is enforced. Without such policy a table that is there is emptied.
        Raises HostPolicyError, too: nothing has changed then."""
        with self._lock:
            return not self._removed and self._apply(program, again=False)

    def _apply(self, program: Program | None, *, again: bool) -> bool:
        if program is None or not (program.needs_raw_hook or program.needs_pre_dnat_hook):
            if self._in_force == "":
                return False
            objects = self._objects()
            if objects:
                nft.run(empty_script(_parts(objects)))
            changed, self._in_force = bool(self._in_force), ""
            self._program, self._counters, self._state = None, {}, {}
            return changed
        made = host_rules(program, self._settings, "a", group=self.group)
        changed = again or made.text != self._in_force
        if changed:
            self._put(program)
            self._state = tables.state(TABLE, elements=True)
            self._in_force = made.text
        self._program, self._counters = program, made.counters
        return changed

    def _put(self, program: Program) -> None:
        old = _parts(self._objects())
        prefix = "b" if any(name.startswith("a_") for _, name in old) else "a"
        try:
            nft.run(host_rules(program, self._settings, prefix, old, group=self.group).text)
        except nft.NftError:
            if self.group is None:
                raise
            nft.run(host_rules(program, self._settings, prefix, old).text)
            self.group = None  # it was the log that the kernel lacks

    def rule(self, name: str) -> tuple[int, RuleInfo] | None:
        """The rule of the program whose counter has this name, and its number."""
        with self._lock:
            number = self._counters.get(name)
            return None if number is None or self._program is None else (number, self._program.rules[number])

    def hits(self) -> list[Counted]:
        """Of each rule that decides, since it was first there."""
        with self._lock:
            program, counters = self._program, self._counters
        if program is None:
            return []
        packets = tables.counters(TABLE)
        return [Counted(program.rules[number], packets.get(name, 0)) for name, number in counters.items()]

    def mend(self, elements: bool) -> list[str]:
        """Makes again what another program took away or changed; returns what it was. elements: also looks at those of
        sets."""
        with self._lock:
            if self._removed or self._program is None or not (gone := self._lost(elements)):
                return []
            self._apply(self._program, again=True)
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
