# SPDX-License-Identifier: Apache-2.0
"""What every source of desired state offers, be it a directory, a feed set or a datastore.

A source keeps the last good state itself: what a snapshot contains is always valid. Errors travel beside it.
"""

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Generic, Protocol, TypeVar

from fastpath.errors import PortcullisError

Item = TypeVar("Item", covariant=True)


class SourcesError(PortcullisError):
    """A source that was configured explicitly cannot be used at all."""


@dataclass(frozen=True)
class SourceError:
    """Something in a source that is not in force, or only in an earlier version."""

    message: str
    file: str | None = None
    line: int | None = None
    field: str | None = None
    feed: str = ""  # the feed that it is about
    state: str = ""  # of that feed, where it is worth an alert: failed, quarantined, stale, expired, empty

    @classmethod
    def of(cls, error: PortcullisError) -> "SourceError":
        return cls(error.message, error.file, error.line, error.field)

    def __str__(self) -> str:
        return str(PortcullisError(self.message, file=self.file, line=self.line, field=self.field))


class Parts(Generic[Item]):
    """Items of many origins, one after the other. The parts of origins that stay are the same objects: a hundred
    thousand items need not be touched to see that one is another, `parts` can be told apart by identity."""

    __slots__ = ("_length", "parts")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, parts: Iterable[tuple[Item, ...]]) -> None:
        self.parts = tuple(parts)
        self._length = sum(map(len, self.parts))

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Item]:
        return chain.from_iterable(self.parts)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Parts):
            if len(self) != len(other):
                return False
            alike = len(self.parts) == len(other.parts)
            return self.parts == other.parts if alike else tuple(self) == tuple(other)
        return isinstance(other, tuple) and tuple(self) == other

    def __repr__(self) -> str:
        return f"Parts({self.parts!r})"


@dataclass(frozen=True)
class SourceSnapshot(Generic[Item]):
    """Items in force by origin (a file path, a datastore key prefix) and what is wrong with the source now.

    `kept` names the origins whose items are, in part or whole, an earlier good version. `warnings`: what deserves
    attention and does not keep the source from being used.
    """

    items: Mapping[str, tuple[Item, ...]] = field(default_factory=dict)
    errors: tuple[SourceError, ...] = ()
    kept: tuple[str, ...] = ()
    warnings: tuple[SourceError, ...] = ()

    def all(self) -> tuple[Item, ...]:
        """Items of all origins in the order of the origins' names."""
        return tuple(self.parts())

    def parts(self) -> Parts[Item]:
        """The same, by origin."""
        return Parts(self.items[origin] for origin in sorted(self.items))


class Source(Protocol[Item]):
    """Snapshot, watch, resync."""

    @property
    def name(self) -> str: ...

    async def snapshot(self) -> SourceSnapshot[Item]:
        """State in force; the first call reads it. Raises SourcesError when the source cannot be used at all."""
        ...

    def watch(self) -> AsyncIterator[SourceSnapshot[Item]]:
        """Yields a snapshot after every change of items or errors, until closed. One watcher at a time."""
        ...

    async def resync(self) -> SourceSnapshot[Item]:
        """Reads everything again, trusting nothing that was remembered except the last good items."""
        ...
