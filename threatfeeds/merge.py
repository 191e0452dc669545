# SPDX-License-Identifier: Apache-2.0
"""Contents of all feeds and the allowlist → what is enforced, and what was left out and why. Pure."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from rules.hostnames import ascii_name
from threatfeeds import prefix
from threatfeeds.allowlist import Allowlist
from threatfeeds.config import FeedConfig
from threatfeeds.content import FeedContent

# A prefix shorter than these is a mistake, whoever publishes it.
SHORTEST_IPV4 = 8
SHORTEST_IPV6 = 16


@dataclass(frozen=True)
class Feed:
    config: FeedConfig
    content: FeedContent


@dataclass(frozen=True)
class LeftOut:
    """An entry that is not enforced, in whole or (`part`) as far as the allowlist reaches."""

    feed: str
    entry: str
    why: str
    part: bool = False


@dataclass(frozen=True)
class MergedFeed:
    """What one feed contributes. prefixes: sorted, disjoint, without the allowlist."""

    config: FeedConfig
    prefixes: tuple[int, ...]

    @property
    def name(self) -> str:
        return self.config.name

    def networks(self) -> Iterator[prefix.Network]:
        return (prefix.network(entry) for entry in self.prefixes)

    def find(self, address: prefix.Address) -> prefix.Network | None:
        """The entry that lists the address."""
        wanted = prefix.of_address(address)
        index = bisect_left(self.prefixes, wanted + 1) - 1
        if index >= 0 and prefix.contains(self.prefixes[index], wanted):
            return prefix.network(self.prefixes[index])
        return None


@dataclass(frozen=True)
class NameEntry:
    """One feed's opinion of a name."""

    feed: str
    subdomains: bool


@dataclass(frozen=True)
class Merged:
    """saved: entries that the allowlist kept from being enforced. refused: entries too wide to be meant.

    allowed_names: names of the allowlist. Whoever matches names must ask them first: a listed name may be above one.
    """

    feeds: tuple[MergedFeed, ...]
    names: Mapping[str, tuple[NameEntry, ...]]
    saved: tuple[LeftOut, ...]
    refused: tuple[LeftOut, ...]
    allowed_names: frozenset[str] = frozenset()

    def find_address(self, address: prefix.Address) -> list[tuple[str, prefix.Network]]:
        """(feed, entry) of every feed that lists the address."""
        found = ((feed.name, feed.find(address)) for feed in self.feeds)
        return [(name, entry) for name, entry in found if entry is not None]

    def find_name(self, name: str) -> list[tuple[str, str]]:
        """(feed, listed name) of every feed that lists the name or, where subdomains count, one of its parents."""
        found: list[tuple[str, str]] = []
        wanted = ascii_name(name) or ""
        if _or_parent(wanted, self.allowed_names):
            return found
        candidate = wanted
        while candidate:
            for entry in self.names.get(candidate, ()):
                if entry.subdomains or candidate == wanted:
                    found.append((entry.feed, candidate))
            candidate = candidate.partition(".")[2]
        return found


def merge(feeds: Sequence[Feed], allowlist: Allowlist) -> Merged:
    """The allowlist always wins: a listed prefix around an allowed address is split around it."""
    merged: list[MergedFeed] = []
    names: dict[str, list[NameEntry]] = {}
    saved: list[LeftOut] = []
    refused: list[LeftOut] = []
    allowed_prefixes = list(_disjoint(sorted(allowlist.prefixes)))
    for feed in feeds:
        config = feed.config
        kept: list[int] = []
        for entry in feed.content.prefixes:
            # 104: an IPv4 /8. Whatever is longer needs no closer look.
            why = _too_wide(entry) if entry & 0xFF < 104 else None
            if why is None:
                kept.append(entry)
            else:
                refused.append(LeftOut(config.name, prefix.text(entry), why))
        ordered = list(_disjoint(kept))
        for allowed in allowed_prefixes:
            saved += _spare(config.name, ordered, allowed, allowlist.prefixes[allowed])
        merged.append(MergedFeed(config, tuple(ordered)))
        for domain in feed.content.domains:
            allowed_because = allowlist.name_reason(domain.name)
            if allowed_because is not None:
                saved.append(LeftOut(config.name, domain.name, allowed_because))
                continue
            subdomains = config.subdomains if domain.subdomains is None else domain.subdomains
            names.setdefault(domain.name, []).append(NameEntry(config.name, subdomains))
    by_name = {name: tuple(entries) for name, entries in names.items()}
    return Merged(tuple(merged), by_name, tuple(saved), tuple(refused), frozenset(allowlist.names))


def _or_parent(name: str, names: frozenset[str]) -> bool:
    while name:
        if name in names:
            return True
        name = name.partition(".")[2]
    return False


def _too_wide(entry: int) -> str | None:
    if prefix.is_ipv4(entry):
        if prefix.length(entry) - 96 < SHORTEST_IPV4:
            return f"shorter than /{SHORTEST_IPV4}"
    elif prefix.length(entry) < SHORTEST_IPV6:
        return f"shorter than /{SHORTEST_IPV6}"
    elif prefix.length(entry) < 96 and prefix.contains(entry, prefix.make(prefix.MAPPED, 96)):
        return "contains every IPv4 address (::ffff:0:0/96)"
    return None


def _disjoint(ordered: Iterable[int]) -> Iterator[int]:
    """Without the prefixes that another one contains; `ordered` is sorted."""
    end = -1
    for entry in ordered:
        if entry >> 8 > end:
            end = prefix.last(entry)
            yield entry


def _spare(feed: str, ordered: list[int], allowed: int, reason: str) -> list[LeftOut]:
    """Takes `allowed` out of the sorted, disjoint list, in place."""
    why = f"{reason} {prefix.text(allowed)}"
    start = bisect_left(ordered, allowed)
    if start and prefix.contains(ordered[start - 1], allowed):
        outer = ordered[start - 1]
        ordered[start - 1 : start] = sorted(prefix.without(outer, allowed))
        return [LeftOut(feed, prefix.text(outer), why, part=True)]
    end = bisect_left(ordered, (prefix.last(allowed) + 1) << 8, start)
    found = [LeftOut(feed, prefix.text(entry), why) for entry in ordered[start:end]]
    del ordered[start:end]
    return found
