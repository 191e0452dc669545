# SPDX-License-Identifier: Apache-2.0
"""Domain names of feeds, looked up label by label; names that no feed may block."""

from collections.abc import Iterable, Iterator

from appliance.inspection.indicators import Listed, Opinion, Opinions, strongest
from appliance.inspection.messages import FeedNames
from rules.hostnames import as_name, ascii_name


class NameSet:
    """Immutable. A lookup costs one dictionary access a label, whatever the number of names. Where several feeds list
    a name the stronger action wins (reject, drop, alert), then the feed that was given first."""

    def __init__(self, feeds: Iterable[FeedNames]) -> None:
        self._exact: dict[str, tuple[Opinion, ...]] = {}
        self._below: dict[str, tuple[Opinion, ...]] = {}
        opinions = Opinions()
        for feed in feeds:
            opinion = Opinion(feed.feed, feed.action)
            for entry in feed.names:
                name = _normal(entry)
                if name.startswith("*."):
                    opinions.add(self._below, name[2:], opinion)
                elif name:
                    opinions.add(self._exact, name, opinion)
                    if feed.subdomains:
                        opinions.add(self._below, name, opinion)

    def __len__(self) -> int:
        return len(self._exact.keys() | self._below.keys())

    def lookup(self, name: str) -> Listed | None:
        """Who lists `name` (as as_name() has it), or something that it is below of."""
        return strongest((entry, table.get(entry, ())) for table, entry in self._candidates(name))

    def _candidates(self, name: str) -> Iterator[tuple[dict[str, tuple[Opinion, ...]], str]]:
        yield self._exact, name
        position = name.find(".")
        while position >= 0:
            yield self._below, name[position + 1 :]
            position = name.find(".", position + 1)


class AllowedNames:
    """Immutable. Names that no feed blocks, with everything below them."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(_normal(name).removeprefix("*.") for name in names)

    def holds(self, name: str) -> bool:
        while name:
            if name in self._names:
                return True
            name = name.partition(".")[2]
        return False


def _normal(name: str) -> str:
    name = name.strip().rstrip(".").lower()
    wild = "*." if name.startswith("*.") else ""
    name = name.removeprefix("*.").removeprefix(".")
    return wild + (name if name.isascii() else ascii_name(name) or name)


def host_of(name: str) -> str:
    """A Host header's or SNI's name, without a port."""
    host, colon, port = name.rpartition(":")
    return as_name(host if colon and port.isdigit() else name)
