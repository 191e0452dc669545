# SPDX-License-Identifier: Apache-2.0
"""URLs and fingerprints of feeds: equal or not. Names have a set of their own (appliance.inspection.names)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from appliance.inspection.messages import FeedEntries, IndicatorKind

_STRENGTH = {"alert": 0, "drop": 1, "reject": 2}


class Opinion(NamedTuple):
    """What one feed asks for."""

    feed: str
    action: str


@dataclass(frozen=True, slots=True)
class Listed:
    """`entry` of `feed` is the strongest opinion; `also`: other feeds that list it, or something above it."""

    feed: str
    action: str
    entry: str
    also: tuple[str, ...] = ()


class Opinions:
    """Fills tables: entries of the same feeds share one tuple, so a million of them cost nothing but their keys."""

    def __init__(self) -> None:
        self._known: dict[tuple[Opinion, ...], tuple[Opinion, ...]] = {}

    def add(self, table: dict[str, tuple[Opinion, ...]], entry: str, opinion: Opinion) -> None:
        before = table.get(entry, ())
        if opinion not in before:
            now = (*before, opinion)
            table[entry] = self._known.setdefault(now, now)


def strongest(found: Iterable[tuple[str, tuple[Opinion, ...]]]) -> Listed | None:
    """(entry, opinions): the strongest of all, the first of equals."""
    best: tuple[str, Opinion] | None = None
    feeds: dict[str, None] = {}
    for entry, opinions in found:
        for opinion in opinions:
            feeds[opinion.feed] = None
            if best is None or _STRENGTH[opinion.action] > _STRENGTH[best[1].action]:
                best = entry, opinion
    if best is None:
        return None
    entry, opinion = best
    return Listed(opinion.feed, opinion.action, entry, tuple(feed for feed in feeds if feed != opinion.feed))


class IndicatorSet:
    """Immutable. One dictionary for each kind."""

    def __init__(self, feeds: Iterable[FeedEntries]) -> None:
        tables: dict[IndicatorKind, dict[str, tuple[Opinion, ...]]] = {}
        opinions = Opinions()
        for feed in feeds:
            table = tables.setdefault(feed.kind, {})
            opinion = Opinion(feed.feed, feed.action)
            for entry in feed.entries:
                opinions.add(table, entry, opinion)
        self._tables: Mapping[IndicatorKind, Mapping[str, tuple[Opinion, ...]]] = tables

    def __len__(self) -> int:
        return sum(map(len, self._tables.values()))

    def __contains__(self, kind: IndicatorKind) -> bool:
        """Whether anything of the kind is listed."""
        return bool(self._tables.get(kind))

    def lookup(self, kind: IndicatorKind, value: str) -> Listed | None:
        table = self._tables.get(kind)
        return strongest(((value, table.get(value, ())),)) if table else None
