# SPDX-License-Identifier: Apache-2.0
"""Lists that are put aside, across restarts: what is in force in their place, why, and which list it was. Blocking.

    STATE/aside.set   a checked set (threatfeeds.binary) of the lists in force; warnings: why, the digest of the list
                      that was put aside, and the bounds that it broke
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fastpath.errors import PortcullisError
from threatfeeds import Feed, FeedConfig, FeedContent, FeedError
from threatfeeds.binary import LARGEST, SetFeed, decode, encode
from threatfeeds.fetch.store import read_bounded, write_atomically

FILE = "aside.set"


class AsideError(PortcullisError):
    """A file that cannot be used."""


@dataclass(frozen=True)
class Aside:
    """in_force: the list before `refused`. why: for people. since: seconds since 1970."""

    in_force: Feed
    refused: Feed
    why: str
    since: float

    def holds(self, config: FeedConfig) -> bool:
        """Nobody has chosen other bounds since."""
        known = self.refused.config
        return (known.source, _bounds(known)) == (config.source, _bounds(config))


@dataclass(frozen=True)
class Remembered:
    """Of an earlier run."""

    content: FeedContent
    why: str
    since: float
    digest: str
    source: str
    bounds: str

    def holds(self, config: FeedConfig) -> bool:
        """Nobody has chosen other bounds since."""
        return (self.source, self.bounds) == (config.source, _bounds(config))

    def is_of(self, content: FeedContent) -> bool:
        return self.digest == _digest(content)


def load(state: Path) -> dict[str, Remembered]:
    """By feed. Raises AsideError."""
    path = state / FILE
    try:
        found = decode(read_bounded(path, LARGEST))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise AsideError(f"the lists put aside cannot be read: {error.strerror}", file=str(path)) from error
    except FeedError as error:
        raise AsideError(f"the lists put aside cannot be read: {error.message}", file=str(path)) from error
    return {
        one.name: Remembered(one.content, one.warnings[0], one.updated, one.warnings[1], one.source, one.warnings[2])
        for one in found
        if len(one.warnings) == 3
    }


def save(state: Path, aside: Mapping[str, Aside]) -> None:
    """Raises AsideError."""
    path = state / FILE
    made = [
        SetFeed(
            name, one.refused.config.source, one.in_force.content, one.since,
            warnings=(one.why, _digest(one.refused.content), _bounds(one.refused.config)),
        )
        for name, one in sorted(aside.items())
    ]  # fmt: skip
    try:
        if made:
            write_atomically(path, encode(made), 0o640)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise AsideError(f"cannot be written: {error.strerror}", file=str(path)) from error


def _digest(content: FeedContent) -> str:
    return hashlib.sha256(encode([SetFeed("", "", content)])).hexdigest()


def _bounds(config: FeedConfig) -> str:
    return f"{config.action} {config.max_share} {config.max_shrink} {config.max_growth}"
