# SPDX-License-Identifier: Apache-2.0
"""Other lists for the feeds of a program that is in force, and other feeds, without a new program.

few prefixes:   their entries ─▶ Step
many:           begin() ─▶ merge() ─▶ name() ─▶ finish() ─▶ settle()
                loop       thread     loop      thread      loop

What an address is may change meanwhile (names are learned): begin() has the prefixes remembered to which that happens,
settle() looks at them once more.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rules.policy.delta import Step
from rules.policy.listed import Crowded, net_of, packed
from rules.policy.model import Net
from rules.policy.program import FeedPrefixes
from rules.policy.seats import without_list

if TYPE_CHECKING:
    from fastpath import IdentityMap, PolicyChange
    from fastpath.lists import PrefixList
    from rules.policy.live import Live

FEW = 512  # prefixes


def exchangeable(old: Sequence[FeedPrefixes], new: Sequence[FeedPrefixes]) -> bool:
    """Nothing but the lists is different."""
    return [without_list(feed) for feed in old] == [without_list(feed) for feed in new]


class Relisting:
    """One exchange of lists. Made by Live.relist(). Everything but merge() and finish() runs where Live does."""

    def __init__(self, live: "Live", feeds: Sequence[FeedPrefixes]) -> None:
        self._live = live
        self._facts = live.state.facts
        self._feeds = tuple(feeds)
        self._old = self._facts.listed.lists
        self._new = live.state.compiler.seats.lists(feeds)
        self._before = self._after = bytearray()
        self._states: list[tuple[int, tuple[int, ...]]] = []
        self._old_states: list[tuple[int, tuple[int, ...]]] = []
        self._base = b""
        self._changed_meanwhile: tuple[Net, ...] = ()
        self._names: tuple[list[int], list[int]] = ([], [])

    def few(self) -> Step | None:
        """The whole exchange at once where few prefixes come or go; None: there are many."""
        touched: list[int] = []
        for old, new in zip(self._old, self._new, strict=True):
            if old is new:
                continue
            if abs(len(old) - len(new)) > FEW:
                return None
            for changed in old.changes(new):
                if len(touched) + len(changed) > FEW:
                    return None
                touched += changed
        nets = tuple(map(net_of, dict.fromkeys(touched)))
        self._exchange(self._new)
        try:
            delta = self._live.entries_of(nets)
        except Crowded:
            self._exchange(self._old)
            return None
        change = self._live.admit(self._feeds)
        return Step(self._live.relisted(), delta, change, redecide=nets, regions=self._live.regions(nets))

    def begin(self) -> None:
        self._facts.watched = {}
        self._base = packed(sorted(self._facts.base()))

    def merge(self) -> None:
        from fastpath.lists import merge_layers

        self._before, self._old_states = merge_layers(self._base, self._old)
        self._after, self._states = merge_layers(self._base, self._new)

    def name(self) -> "PolicyChange | None":
        """For fastpath.Policy.update(): what the identities are that nobody had."""
        facts = self._facts
        before, after = (
            [facts.identity(facts.facts_of[identity] | facts.listed.facts_of(lists)) for identity, lists in states]
            for states in (self._old_states, self._states)
        )
        self._names = before, after
        return self._live.admit(self._feeds)

    def finish(self, identities: "IdentityMap") -> "IdentityMap":
        from fastpath import IdentityMap
        from fastpath.lists import entry_changes, name_entries

        name_entries(self._before, self._names[0])
        name_entries(self._after, self._names[1])
        put, gone = entry_changes(self._before, self._after)
        self._before = bytearray()
        if 2 * (len(put) + len(gone)) > len(self._after):
            return IdentityMap.build(bytes(self._after))  # names that were learned come with settle()
        return identities.update(set=put, remove=gone)

    def settle(self) -> Step:
        """What is still different from the map that finish() made."""
        self.give_up()
        self._exchange(self._new)
        delta = self._live.entries_of(self._changed_meanwhile)
        change = self._live.admit(self._feeds)
        return Step(self._live.relisted(), delta, change, voids=True)

    def give_up(self) -> None:
        """Nothing is remembered from here on."""
        if self._facts.watched is not None:
            self._changed_meanwhile, self._facts.watched = tuple(self._facts.watched), None

    def _exchange(self, lists: "Sequence[PrefixList]") -> None:
        for number, prefixes in enumerate(lists):
            self._facts.listed.exchange(number, prefixes)
