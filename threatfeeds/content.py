# SPDX-License-Identifier: Apache-2.0
"""What a feed says, whatever its format was: indicators, and the lines that could not be read as one."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from fastpath.errors import PortcullisError
from fastpath.lists import RECORD, PrefixList
from threatfeeds import prefix
from threatfeeds.indicator import Fingerprint, Indicator, Kind, classify
from threatfeeds.web import Web, web

FILES: Mapping[Kind, Fingerprint] = {"sha1": "file_sha1", "sha256": "file_sha256", "md5": "file_md5"}
_SEEN: tuple[Literal["ja3", "ja4", "sha1", "sha256", "md5"], ...] = ("ja3", "ja4", "sha1", "sha256", "md5")
FINGERPRINTS: tuple[Fingerprint, ...] = (*_SEEN, *FILES.values())
PREFIXES: tuple[Kind, ...] = ("ipv4", "ipv6", "ipv4_prefix", "ipv6_prefix")
KINDS: tuple[Kind, ...] = (*PREFIXES, "range", "domain", "url", *_SEEN)
ContentKind = Literal["any", "addresses", "names"]
_OF: Mapping[ContentKind, tuple[Kind, ...]] = {"any": KINDS, "addresses": (*PREFIXES, "range"), "names": ("domain",)}

MOST_REJECTED = 1_000_000  # lines; each is kept, and costs some 300 bytes
MOST_ENTRIES = 50_000_000
_SHOWN = 200  # characters of a rejected line that are kept


class NotAList(PortcullisError):
    """What is read has so much wrong with it, or so much in it, that reading on would only cost memory."""


@dataclass(frozen=True)
class RejectedLine:
    """A line, or a record (then `line` is its number), that is no indicator. `foreign`: it is one, but not of
    what the feed is of."""

    line: int
    text: str
    why: str
    foreign: bool = False


@dataclass(frozen=True)
class Domain:
    """A name in its ASCII form, lower case, without a final dot. None: the feed's configuration decides."""

    name: str
    subdomains: bool | None = None


NO_PREFIXES = PrefixList()


@dataclass(frozen=True)
class FeedContent:
    """Indicators of one feed, each once.

    prefixes: as in threatfeeds.prefix, ranges split up. counts: distinct indicators by kind.
    """

    prefixes: PrefixList = NO_PREFIXES
    domains: tuple[Domain, ...] = ()
    urls: tuple[str, ...] = ()
    fingerprints: tuple[tuple[Fingerprint, str], ...] = ()
    rejected: tuple[RejectedLine, ...] = ()
    counts: dict[str, int] = field(default_factory=dict)
    duplicates: int = 0
    comments: int = 0
    expired: int = 0  # entries whose own time is over

    def __len__(self) -> int:
        return sum(self.counts.values())

    def networks(self) -> Iterator[prefix.Network]:
        return (prefix.network(entry) for entry in self.prefixes)

    @cached_property
    def web(self) -> Web:
        """The URLs as they are looked for."""
        return web(self.urls)


class Collector:
    """Fills a FeedContent; every format feeds one of these."""

    def __init__(
        self, *, of_files: bool | None = None, certain: bool = False, most: int = MOST_ENTRIES,
        content: ContentKind = "any",
    ) -> None:  # fmt: skip
        """of_files: what hashes are of where the format does not say it (certain: whatever it says); None: unknown.
        most: names, URLs or fingerprints of one kind that are believed. content: what the feed is of."""
        self._of_files = of_files
        self._certain = certain
        self._most = most
        self._content = content
        self._kinds = _OF[content]
        self._files: dict[Kind, set[str]] = {kind: set() for kind in FILES}
        self._records = bytearray()  # of addresses and prefixes, as they come
        self._seen: dict[Kind, set[int | str | tuple[int, int]]] = {kind: set() for kind in KINDS}
        self._subdomains: dict[str, bool | None] = {}
        self._rejected: list[RejectedLine] = []
        self._duplicates = 0
        self.comments = 0
        self.expired = 0

    def add(
        self, text: str, line: int, *, only: tuple[Kind, ...] | None = None, shown: str | None = None,
        of_file: bool | None = None,
    ) -> bool:  # fmt: skip
        """Reads one token as whatever it is. What is nothing, or not of the kinds asked for, is rejected. of_file:
        whether a hash is one of a file, if that is known."""
        found = classify(text)
        if isinstance(found, str):
            return self.reject(line, shown or text, found)
        if only is not None and found.kind not in only:
            return self.reject(line, shown or text, f"{found.kind} where {' or '.join(only)} was expected")
        return self.put(found, line, shown or text, of_file)

    def put(self, found: Indicator, line: int, shown: str, of_file: bool | None = None) -> bool:
        """Takes what was read, unless the feed is not of its kind."""
        if found.kind not in self._kinds:
            return self.reject(line, shown, f"{found.kind} in a feed of {self._content}", foreign=True)
        self._put(found, of_file)
        return True

    @property
    def takes_prefixes(self) -> bool:
        """Whether put_prefixes may be called."""
        return "ipv4" in self._kinds

    def _put(self, found: Indicator, of_file: bool | None) -> None:
        if found.kind in PREFIXES and isinstance(found.value, int):
            self._records += found.value.to_bytes(RECORD)
            return
        if found.kind in FILES and (self._of_files if of_file is None or self._certain else of_file):
            self._put_file(found.kind, str(found.value))
            return
        seen = self._seen[found.kind]
        before = len(seen)
        seen.add(found.value)
        if len(seen) == before:
            self._duplicates += 1
        elif before >= self._most:
            raise NotAList(f"{before + 1} entries are more than max_entries = {self._most}")
        if found.kind == "domain":
            name = str(found.value)
            self._subdomains[name] = _wider(self._subdomains.get(name, found.subdomains), found.subdomains)

    def _put_file(self, kind: Kind, value: str) -> None:
        before = len(self._files[kind])
        self._files[kind].add(value)
        self._duplicates += len(self._files[kind]) == before

    def put_prefixes(self, records: bytes | bytearray) -> None:
        """Many addresses and prefixes at once: 17 bytes each, as in fastpath.lists."""
        self._records += records

    def reject(self, line: int, text: str, why: str, *, foreign: bool = False) -> Literal[False]:
        """Raises NotAList when it is one too many."""
        if len(self._rejected) >= MOST_REJECTED:
            first = self._rejected[0]
            why = f"more than {MOST_REJECTED} lines are no indicator, the first: {first.why}: {first.text!r}"
            raise NotAList(why, line=first.line)
        self._rejected.append(RejectedLine(line, text[:_SHOWN], why, foreign))
        return False

    def finish(self) -> FeedContent:
        given = len(self._records) // RECORD
        prefixes = PrefixList.sorted(self._records)
        for kind, hashes in self._files.items():  # one that is both is looked for
            both = {value for value in hashes if value in self._seen[kind]}
            hashes -= both
            self._duplicates += len(both)
        counts: dict[str, int] = {kind: len(self._seen[kind]) + len(self._files.get(kind, ())) for kind in KINDS}
        counts.update(zip(PREFIXES, prefixes.kinds(), strict=True))
        duplicates = self._duplicates + given - len(prefixes)
        spans = [value for value in self._seen["range"] if isinstance(value, tuple)]
        if spans:
            parts = [entry.to_bytes(RECORD) for span in spans for entry in prefix.between(*span)]
            prefixes = PrefixList.sorted(bytearray(prefixes.packed) + b"".join(parts))
        self._records = bytearray()
        return FeedContent(
            prefixes=prefixes,
            domains=tuple(Domain(name, self._subdomains[name]) for name in sorted(self._subdomains)),
            urls=tuple(sorted(str(value) for value in self._seen["url"])),
            fingerprints=(
                *((kind, value) for kind in _SEEN for value in sorted(map(str, self._seen[kind]))),
                *((FILES[kind], value) for kind in FILES for value in sorted(self._files[kind])),
            ),
            rejected=tuple(sorted(self._rejected, key=lambda rejected: rejected.line)),
            counts=counts,
            duplicates=duplicates,
            comments=self.comments,
            expired=self.expired,
        )


def _wider(first: bool | None, second: bool | None) -> bool | None:
    return True if first or second else None if first is None or second is None else False
