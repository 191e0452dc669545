# SPDX-License-Identifier: Apache-2.0
"""Listed addresses in kernel sets in front of the queue: a flood from them costs no wake-up in user space.

    table inet portcullis_feeds
        set fN_FAMILY_LENGTH    prefixes of feed N (offload_rules.py)
        counter fN_source …     hits
        chain HOOK              priority of classify - 1; new and original packets only: replies are the queue's

    lists change ─▶ sets and rules for lengths that are new ─▶ new elements ─▶ old elements out ─▶ sets that are empty

A table of its own, for its base chains come with the first feed that asks for it and go with the service: unregistering
a hook drops every queued packet of the namespace, so in between only rules, sets and elements change. Failsafe ports
and loopback are left alone here as they are in classify. Blocking: call it from a thread.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from appliance.netfilter import nft, offload_rules, tables
from appliance.netfilter.elements import Exchange
from appliance.netfilter.offload_rules import TABLE, Kind, Listed, OffloadSettings, base_script
from fastpath.lists import PrefixList

__all__ = ["TABLE", "Offload", "OffloadFeed", "OffloadSettings"]

LOOKED_AT = 100_000  # prefixes; with more, changes of another program to the elements are not looked for
LOOKS = 3  # at elements that differ: a walk that meets a set while it grows may miss some

Nft = Callable[[str], str]


@dataclass(frozen=True)
class OffloadFeed:
    """prefixes: sorted, disjoint, as 128-bit address << 8 | length, IPv4 as ::ffff:0:0/96. source, destination: which
    end is listed."""

    name: str
    prefixes: Sequence[int]
    source: bool = True
    destination: bool = True

    def listed(self) -> PrefixList:
        return self.prefixes if isinstance(self.prefixes, PrefixList) else PrefixList.of(self.prefixes)


@dataclass(frozen=True)
class _Applied:
    """What the kernel has of a feed. numbers: elements by set."""

    prefixes: PrefixList
    listed: Listed
    numbers: dict[Kind, int]


class Offload:
    """One appliance's sets. apply(), hits() and mend() at will, from any thread; remove() at the end. All raise
    NftError."""

    def __init__(self, settings: OffloadSettings, run: Nft = nft.run) -> None:
        self._settings = settings
        self._run = run
        self._wanted: tuple[OffloadFeed, ...] = ()
        self._feeds: dict[str, _Applied] = {}
        self._made = False
        self._broken = False  # a change ended in the middle: what the kernel has is not known
        self._next = 0
        self._lock = threading.Lock()  # of what changes the table
        self._exchange = Exchange()
        self._state: tables.State = {}  # of the table as we made it

    def apply(self, feeds: Sequence[OffloadFeed]) -> list[str]:
        """Brings the kernel in step; returns the names of feeds that changed. What changes is elements, some thousand a
        transaction. Without a feed and without a table nothing is made. Where it raises, the next call begins anew."""
        with self._lock:
            wanted = {feed.name: feed for feed in feeds}
            changed = [name for name, feed in wanted.items() if not self._has(feed)]
            gone = [name for name in self._feeds if name not in wanted]
            if not changed and not gone and not self._broken:
                return []
            self._wanted = tuple(feeds)
            self._put(anew=not self._made or self._broken)
            return [*changed, *gone]

    def _put(self, *, anew: bool) -> None:
        self._broken = True  # until it is done
        if anew:
            self._begin_anew()
        self._change({feed.name: self._after(feed) for feed in self._wanted})
        self._broken = False

    def _has(self, feed: OffloadFeed) -> bool:
        known = self._feeds.get(feed.name)
        if known is None or (known.listed.source, known.listed.destination) != (feed.source, feed.destination):
            return False
        return known.prefixes is feed.prefixes or known.prefixes == feed.listed()

    def _after(self, feed: OffloadFeed) -> _Applied:
        known = self._feeds.get(feed.name)
        if known is None:
            self._next += 1
            return _Applied(feed.listed(), Listed(self._next - 1, feed.source, feed.destination, ()), {})
        ends = replace(known.listed, source=feed.source, destination=feed.destination)
        return _Applied(feed.listed(), ends, dict(known.numbers))

    def _begin_anew(self) -> None:
        """An empty table; its chains keep their hooks where they are there."""
        now = tables.state(f"inet {TABLE}", elements=False)
        if self._made and all(f"chain {hook}" in now for hook in self._settings.hooks):
            own = {f"chain {hook}" for hook in self._settings.hooks}
            lines = [f"flush table inet {TABLE}"]
            lines += [f"delete {kind} inet {TABLE} {name}" for kind, name in map(str.split, now.keys() - own)]
            lines += [f"delete counter inet {TABLE} {name}" for name in tables.counters(f"inet {TABLE}")]
            self._run("\n".join(lines))
        else:
            self._run(base_script(self._settings))
        self._made = True
        self._feeds = {}

    def _change(self, after: dict[str, _Applied]) -> None:
        before, differences = self._feeds, {}
        for name, applied in after.items():
            old = before[name].prefixes if name in before else PrefixList()
            came, went = map(offload_rules.keys, old.changes(applied.prefixes))
            differences[name] = came, went
            for kind, found in came.items():
                applied.numbers[kind] = applied.numbers.get(kind, 0) + len(found)
        # Lengths that are new: their sets, and rules that ask them, before their elements.
        grown = {name: _with_kinds(applied) for name, applied in after.items()}
        self._shape(before, grown)
        for name, (came, _) in differences.items():
            self._exchange_elements(grown[name].listed, came, remove=False)
        for name, (_, went) in differences.items():
            self._exchange_elements(grown[name].listed, went, remove=True)
            for kind, found in went.items():
                grown[name].numbers[kind] -= len(found)
        self._feeds = {name: _with_kinds(applied) for name, applied in grown.items()}
        self._shape(grown, self._feeds)
        self._state = tables.state(f"inet {TABLE}", elements=False)

    def _exchange_elements(self, listed: Listed, keys: dict[Kind, list[bytes]], *, remove: bool) -> None:
        for kind, found in keys.items():
            self._exchange.change(f"inet {TABLE}", listed.set_name(kind), found, remove=remove)

    def _shape(self, before: dict[str, _Applied], after: dict[str, _Applied]) -> None:
        """Sets, counters and rules, in one transaction, where they are others."""
        old, new = ({name: applied.listed for name, applied in found.items()} for found in (before, after))
        if old == new:
            return
        lines: list[str] = []
        for name, listed in new.items():
            known = old.get(name)
            lines += offload_rules.counters(listed, "add") if known is None else []
            kinds = () if known is None else known.kinds
            lines += offload_rules.sets(listed, [kind for kind in listed.kinds if kind not in kinds], "add")
        lines += offload_rules.rules(self._settings, [new[name] for name in sorted(new)])
        for name, listed in old.items():
            kinds = new[name].kinds if name in new else ()
            lines += offload_rules.sets(listed, [kind for kind in listed.kinds if kind not in kinds], "delete")
            lines += offload_rules.counters(listed, "delete") if name not in new else []
        self._run("\n".join(lines))

    def mend(self, elements: bool) -> list[str]:
        """Makes again what another program took away or changed; returns what it was. elements: also looks at those of
        sets."""
        with self._lock:
            if not self._made:
                return []
            gone = self._missing(elements)
            if not gone:
                return []
            self._put(anew=True)
            return [f"inet {TABLE} {name}" for name in gone]

    def _missing(self, elements: bool) -> list[str]:
        if self._broken:
            return ["elements"]
        gone = tables.differences(self._state, tables.state(f"inet {TABLE}", elements=False))
        return self._other_elements() if elements and not gone else gone

    def _other_elements(self) -> list[str]:
        if sum(len(applied.prefixes) for applied in self._feeds.values()) > LOOKED_AT:
            return []
        wanted = {
            applied.listed.set_name(kind): tables.fingerprint(found)
            for applied in self._feeds.values()
            for kind, found in offload_rules.keys(applied.prefixes).items()
        }
        for _ in range(LOOKS):
            found = tables.fingerprints(f"inet {TABLE}")
            if other := sorted(f"set {name}" for name in wanted if found.get(name) != wanted[name]):
                continue
            return []
        return other

    def hits(self) -> dict[str, int]:
        """Packets dropped, by feed, since it was first applied."""
        if not self._made:
            return {}
        packets: dict[str, int] = {}
        for name, value in tables.counters(f"inet {TABLE}").items():
            number = name.partition("_")[0]
            packets[number] = packets.get(number, 0) + value
        return {name: packets.get(f"f{feed.listed.number}", 0) for name, feed in dict(self._feeds).items()}

    def remove(self) -> None:
        """The table and all in it; also one that an earlier run left."""
        with self._lock:
            self._exchange.close()
            self._run(f"table inet {TABLE}\ndelete table inet {TABLE}")
            self._feeds, self._wanted = {}, ()
            self._made = self._broken = False


def _with_kinds(applied: _Applied) -> _Applied:
    """With the sets that have elements."""
    kinds = tuple(sorted(kind for kind, number in applied.numbers.items() if number))
    return replace(applied, listed=replace(applied.listed, kinds=kinds))
