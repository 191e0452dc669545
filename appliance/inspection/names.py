# SPDX-License-Identifier: Apache-2.0
"""Domain names of feeds, looked up label by label."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from appliance.inspection.messages import FeedNames

_STRENGTH = {"alert": 0, "drop": 1, "reject": 2}


@dataclass(frozen=True, slots=True)
class NameMatch:
    """`name` is the feed's entry that matched."""

    feed: str
    action: str
    name: str


class NameSet:
    """Immutable. A lookup costs one dictionary access a label, whatever the number of names. Where several feeds list
    a name the stronger action wins (reject, drop, alert), then the feed that was given first."""

    def __init__(self, feeds: Iterable[FeedNames]) -> None:
        self._exact: dict[str, tuple[str, str]] = {}
        self._below: dict[str, tuple[str, str]] = {}
        for feed in feeds:
            value = (feed.feed, feed.action)
            for entry in feed.names:
                name = _normal(entry)
                if name.startswith("*."):
                    _add(self._below, name[2:], value)
                elif name:
                    _add(self._exact, name, value)
                    if feed.subdomains:
                        _add(self._below, name, value)

    def __len__(self) -> int:
        return len(self._exact.keys() | self._below.keys())

    def lookup(self, name: str) -> NameMatch | None:
        """The strongest entry that lists `name` (lower case, no final dot)."""
        best: NameMatch | None = None
        for table, entry in self._candidates(name):
            value = table.get(entry)
            if value is not None and (best is None or _STRENGTH[value[1]] > _STRENGTH[best.action]):
                best = NameMatch(value[0], value[1], entry)
        return best

    def _candidates(self, name: str) -> Iterator[tuple[dict[str, tuple[str, str]], str]]:
        yield self._exact, name
        position = name.find(".")
        while position >= 0:
            yield self._below, name[position + 1 :]
            position = name.find(".", position + 1)


def _normal(name: str) -> str:
    name = name.strip().rstrip(".").lower()
    return name[1:] if name.startswith(".") else name


def _add(table: dict[str, tuple[str, str]], name: str, value: tuple[str, str]) -> None:
    known = table.get(name)
    if known is None or _STRENGTH[value[1]] > _STRENGTH[known[1]]:
        table[name] = value


def host_of(name: str) -> str:
    """A Host header's or SNI's name, without a port."""
    host, colon, port = name.rpartition(":")
    return (host if colon and port.isdigit() else name).rstrip(".").lower()
