# SPDX-License-Identifier: Apache-2.0
"""Listed addresses in kernel sets in front of the queue: a flood from them costs no wake-up in user space.

    table inet portcullis_feeds
        set fN_4_V, fN_6_V      prefixes of feed N
        counter fN_source …     hits
        chain HOOK              priority of classify - 1; new and original packets only: replies are the queue's

A table of its own, for its base chains come with the first feed that asks for it and go with the service: unregistering
a hook drops every queued packet of the namespace, so in between only rules, sets and elements change. Failsafe ports
and loopback are left alone here as they are in classify. Blocking: call it from a thread.
"""

import ipaddress
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from appliance.netfilter import nft, tables

TABLE = "portcullis_feeds"
PRIORITY_OFFSET = -2  # from the queue's priority; classify is at -1
ENDS = ("source", "destination")
LOOKED_AT = 100_000  # prefixes; with more, changes of another program to the elements are not looked for

Nft = Callable[[str], str]


@dataclass(frozen=True)
class OffloadFeed:
    """prefixes: sorted, disjoint, as 128-bit address << 8 | length, IPv4 as ::ffff:0:0/96. source, destination: which
    end is listed."""

    name: str
    prefixes: Sequence[int]
    source: bool = True
    destination: bool = True


@dataclass(frozen=True)
class OffloadSettings:
    hooks: tuple[str, ...] = ("forward", "input", "output")
    priority: int = 150  # of the queue
    failsafe_in: tuple[tuple[str, int], ...] = ()
    failsafe_out: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class _Applied:
    """What the kernel has of a feed. version: of its sets' names."""

    feed: OffloadFeed
    number: int
    version: int = 0


class Offload:
    """One appliance's sets. apply(), hits() and mend() at will, from any thread; remove() at the end. All raise
    NftError."""

    def __init__(self, settings: OffloadSettings, run: Nft = nft.run) -> None:
        self._settings = settings
        self._run = run
        self._feeds: dict[str, _Applied] = {}
        self._made = False
        self._next = 0
        self._lock = threading.Lock()  # of what changes the table
        self._state: tables.State = {}  # of the table as we made it

    def apply(self, feeds: Sequence[OffloadFeed]) -> list[str]:
        """Brings the kernel in step, in one transaction; returns the names of feeds that changed.

        A set that changed is replaced: nft 1.0.6 takes 0.7 s to make one of 100,000 prefixes and 100 ms to delete one
        element of it. Without a feed and without a table nothing is made.
        """
        with self._lock:
            changed = self._apply(feeds)
            if changed:
                self._state = self._found(elements=True)
            return changed

    def _apply(self, feeds: Sequence[OffloadFeed]) -> list[str]:
        wanted = {feed.name: feed for feed in feeds}
        changed = [name for name, feed in wanted.items() if name not in self._feeds or self._feeds[name].feed != feed]
        gone = [name for name in self._feeds if name not in wanted]
        if not changed and not gone:
            return []
        if not self._made:
            self._run(base_script(self._settings))
            self._made = True
        after = {name: self._feeds[name] for name in wanted if name not in changed}
        lines: list[str] = []
        for name in changed:
            known = self._feeds.get(name)
            if known is None:
                after[name] = _Applied(wanted[name], self._next)
                self._next += 1
                lines += [f"add counter inet {TABLE} {_counter(after[name], end)}" for end in ENDS]
            else:
                after[name] = _Applied(wanted[name], known.number, known.version + 1)
            lines += _sets(after[name])
        lines += _rules(self._settings, [after[name] for name in sorted(after)])
        for name in (*changed, *gone):
            old = self._feeds.get(name)
            if old is not None:
                lines += [f"delete set inet {TABLE} {_set(old, family)}" for family in (4, 6)]
        for name in gone:
            lines += [f"delete counter inet {TABLE} {_counter(self._feeds[name], end)}" for end in ENDS]
        self._run("\n".join(lines))
        self._feeds = after
        return [*changed, *gone]

    def mend(self, elements: bool) -> list[str]:
        """Makes again what another program took away or changed; returns what it was. elements: also looks at those of
        sets."""
        with self._lock:
            if not self._made or not (gone := tables.differences(self._state, now := self._found(elements=elements))):
                return []
            self._make_again(now)
            self._state = self._found(elements=True)
            return [f"inet {TABLE} {name}" for name in gone]

    def _found(self, *, elements: bool) -> tables.State:
        few = sum(len(applied.feed.prefixes) for applied in self._feeds.values()) <= LOOKED_AT
        return tables.state(f"inet {TABLE}", elements=elements and few)

    def _make_again(self, now: tables.State) -> None:
        """In one transaction. Chains that still have their hooks keep them."""
        if all(f"chain {hook}" in now for hook in self._settings.hooks):
            lines = [f"flush table inet {TABLE}"]
            own = {f"chain {hook}" for hook in self._settings.hooks}
            lines += [f"delete {kind} inet {TABLE} {name}" for kind, name in map(str.split, now.keys() - own)]
        else:
            lines = [base_script(self._settings)]
        after = {
            name: replace(applied, version=applied.version + 1) for name, applied in sorted(self._feeds.items())
        }  # fmt: skip
        for applied in after.values():
            lines += [f"add counter inet {TABLE} {_counter(applied, end)}" for end in ENDS]
            lines += _sets(applied)
        lines += _rules(self._settings, list(after.values()))
        self._run("\n".join(lines))
        self._feeds = after

    def hits(self) -> dict[str, int]:
        """Packets dropped, by feed, since it was first applied."""
        if not self._made:
            return {}
        packets: dict[str, int] = {}
        for name, value in tables.counters(f"inet {TABLE}").items():
            number = name.partition("_")[0]
            packets[number] = packets.get(number, 0) + value
        return {name: packets.get(f"f{feed.number}", 0) for name, feed in dict(self._feeds).items()}

    def remove(self) -> None:
        """The table and all in it; also one that an earlier run left."""
        with self._lock:
            self._run(f"table inet {TABLE}\ndelete table inet {TABLE}")
            self._feeds.clear()
            self._made = False


def base_script(settings: OffloadSettings) -> str:
    """The table anew, with chains that let everything go on."""
    priority = settings.priority + PRIORITY_OFFSET
    lines = [f"table inet {TABLE}", f"delete table inet {TABLE}", f"table inet {TABLE} {{"]
    for hook in settings.hooks:
        lines.append(f"chain {hook} {{ type filter hook {hook} priority {priority}; policy accept; }}")
    return "\n".join([*lines, "}"])


def _set(applied: _Applied, family: int) -> str:
    return f"f{applied.number}_{family}_{applied.version}"


def _counter(applied: _Applied, end: str) -> str:
    return f"f{applied.number}_{end}"


def _sets(applied: _Applied) -> Iterator[str]:
    for family, kind in ((4, "ipv4_addr"), (6, "ipv6_addr")):
        elements = [_text(entry) for entry in applied.feed.prefixes if _is_v4(entry) == (family == 4)]
        held = f" elements = {{ {', '.join(elements)} }};" if elements else ""
        yield f"add set inet {TABLE} {_set(applied, family)} {{ type {kind}; flags interval;{held} }}"


def _rules(settings: OffloadSettings, feeds: Sequence[_Applied]) -> Iterator[str]:
    """Chains are emptied and filled again."""
    for hook in settings.hooks:
        yield f"flush chain inet {TABLE} {hook}"
        rule = f"add rule inet {TABLE} {hook}"
        for exempt in _exempt(settings, hook):
            yield f"{rule} {exempt} accept"
        for applied in feeds:
            for end in ENDS:
                if not getattr(applied.feed, end):
                    continue
                for family, address in ((4, "ip"), (6, "ip6")):
                    side = "saddr" if end == "source" else "daddr"
                    yield (
                        f"{rule} {address} {side} @{_set(applied, family)} ct direction original"
                        f" counter name {_counter(applied, end)} drop"
                    )


def _exempt(settings: OffloadSettings, hook: str) -> Iterator[str]:
    """Matches of what no feed blocks: failsafes in both directions, exactly where classify has them."""
    if hook == "forward":
        return
    yield "iif lo" if hook == "input" else "oif lo"
    asked, answered = settings.failsafe_in, settings.failsafe_out
    if hook == "output":
        asked, answered = answered, asked
    for ports, side in ((asked, "dport"), (answered, "sport")):
        for protocol in ("tcp", "udp"):
            numbers = sorted({port for name, port in ports if name == protocol})
            if numbers:
                yield f"{protocol} {side} {{ {', '.join(map(str, numbers))} }}"


def _is_v4(entry: int) -> bool:
    return entry & 0xFF >= 96 and entry >> 40 == 0xFFFF


def _text(entry: int) -> str:
    if _is_v4(entry):
        return f"{ipaddress.IPv4Address(entry >> 8 & 0xFFFFFFFF)}/{(entry & 0xFF) - 96}"
    return f"{ipaddress.IPv6Address(entry >> 8)}/{entry & 0xFF}"
