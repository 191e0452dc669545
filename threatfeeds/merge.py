# SPDX-License-Identifier: Apache-2.0
"""Contents of all feeds and the allowlist → what is enforced, and what was left out and why. Pure."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from fastpath.lists import RECORD, PrefixList
from rules.hostnames import ascii_name
from threatfeeds import prefix
from threatfeeds.allowlist import Allowlist
from threatfeeds.config import FeedConfig
from threatfeeds.content import FeedContent

# A prefix shorter than these is a mistake, whoever publishes it.
SHORTEST_IPV4 = 8
SHORTEST_IPV6 = 16
_SHORT = re.compile(rb"[\x00-\x67]")  # lengths below that of an IPv4 /8


@dataclass(frozen=True)
class Feed:
    """first_seen: when each name, then each URL, then each fingerprint was listed first (seconds since 1970), as far as
    it is known."""

    config: FeedConfig
    content: FeedContent
    first_seen: Sequence[int] = field(default=(), compare=False, repr=False)


@dataclass(frozen=True)
class LeftOut:
    """An entry that is not enforced, in whole or (`part`) as far as the allowlist reaches."""

    feed: str
    entry: str
    why: str
    part: bool = False


@dataclass(frozen=True)
class MergedFeed:
    """What one feed contributes. prefixes: disjoint, without the allowlist."""

    config: FeedConfig
    prefixes: PrefixList

    @property
    def name(self) -> str:
        return self.config.name

    def networks(self) -> Iterator[prefix.Network]:
        return (prefix.network(entry) for entry in self.prefixes)

    def find(self, address: prefix.Address) -> prefix.Network | None:
        """The entry that lists the address."""
        wanted = prefix.of_address(address)
        index = self.prefixes.find(wanted + 1) - 1
        if index >= 0 and prefix.contains(self.prefixes[index], wanted):
            return prefix.network(self.prefixes[index])
        return None


@dataclass(frozen=True)
class NameEntry:
    """One feed's opinion of a name."""

    feed: str
    subdomains: bool


@dataclass(frozen=True)
class _Part:
    """What became of one feed. names: with whether their subdomains count."""

    feed: Feed
    merged: MergedFeed
    names: tuple[tuple[str, bool], ...]
    saved: tuple[LeftOut, ...]
    refused: tuple[LeftOut, ...]


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
    allowlist: Allowlist = field(default_factory=Allowlist)
    parts: Mapping[str, _Part] = field(default_factory=dict)  # by feed

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


def merge(feeds: Sequence[Feed], allowlist: Allowlist, known: "Merged | None" = None) -> Merged:
    """The allowlist always wins: a listed prefix around an allowed address is split around it. `known`: an earlier
    result; what it says of the same feed under the same allowlist is taken from there, and so are lists that come out
    the same."""
    parts = {} if known is None else known.parts
    as_known = known is not None and known.allowlist == allowlist
    found: dict[str, _Part] = {}
    names: dict[str, list[NameEntry]] = {}
    for feed in feeds:
        part = parts.get(feed.config.name)
        if part is None or part.feed is not feed or not as_known:
            before, part = part, _part(feed, allowlist)
            if before is not None and before.merged == part.merged:
                part = replace(part, merged=before.merged)
        found[feed.config.name] = part
        for name, subdomains in part.names:
            names.setdefault(name, []).append(NameEntry(feed.config.name, subdomains))
    by_name = {name: tuple(entries) for name, entries in names.items()}
    return Merged(
        tuple(part.merged for part in found.values()),
        by_name,
        tuple(left for part in found.values() for left in part.saved),
        tuple(left for part in found.values() for left in part.refused),
        frozenset(allowlist.names),
        allowlist,
        found,
    )


def _part(feed: Feed, allowlist: Allowlist) -> _Part:
    config = feed.config
    kept, refused = _plausible(config.name, feed.content.prefixes)
    spared, saved = _spare(config.name, kept.disjoint(), allowlist.prefixes)
    names: list[tuple[str, bool]] = []
    for domain in feed.content.domains:
        allowed_because = allowlist.name_reason(domain.name)
        if allowed_because is not None:
            saved.append(LeftOut(config.name, domain.name, allowed_because))
            continue
        names.append((domain.name, config.subdomains if domain.subdomains is None else domain.subdomains))
    return _Part(feed, MergedFeed(config, spared), tuple(names), tuple(saved), tuple(refused))


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


def _plausible(feed: str, entries: PrefixList) -> tuple[PrefixList, list[LeftOut]]:
    """Without what is too wide. 104 is an IPv4 /8: whatever is longer needs no closer look."""
    lengths = entries.packed[RECORD - 1 :: RECORD]
    refused: list[LeftOut] = []
    parts: list[bytes] = []
    done = 0
    for match in _SHORT.finditer(lengths):
        at = match.start()
        why = _too_wide(entries[at])
        if why is not None:
            refused.append(LeftOut(feed, prefix.text(entries[at]), why))
            parts.append(entries.packed[done * RECORD : at * RECORD])
            done = at + 1
    if not refused:
        return entries, refused
    return PrefixList(b"".join([*parts, entries.packed[done * RECORD :]])), refused


def _spare(feed: str, listed: PrefixList, allowed: Mapping[int, str]) -> tuple[PrefixList, list[LeftOut]]:
    """Takes what is allowed out of a disjoint list."""
    saved: list[LeftOut] = []
    split: dict[int, list[int]] = {}  # index of an entry → what is left of it
    for entry in PrefixList.of(allowed).disjoint():
        why = f"{allowed[entry]} {prefix.text(entry)}"
        start = listed.find(entry)
        if start and prefix.contains(listed[start - 1], entry):
            saved.append(LeftOut(feed, prefix.text(listed[start - 1]), why, part=True))
            pieces = split.get(start - 1, [listed[start - 1]])
            outer = next(piece for piece in pieces if prefix.contains(piece, entry))
            split[start - 1] = [piece for piece in pieces if piece != outer] + prefix.without(outer, entry)
            continue
        for at in range(start, listed.find((prefix.last(entry) + 1) << 8)):
            saved.append(LeftOut(feed, prefix.text(listed[at]), why))
            split[at] = []
    if not split:
        return listed, saved
    parts: list[bytes] = []
    done = 0
    for at in sorted(split):
        parts += [listed.packed[done * RECORD : at * RECORD], PrefixList.of(split[at]).packed]
        done = at + 1
    return PrefixList(b"".join([*parts, listed.packed[done * RECORD :]])), saved
