# SPDX-License-Identifier: Apache-2.0
"""Local lists: reading them, and the last good copy of each, for a start with a list that cannot be read. Blocking.

COPIES/NAME.set   what was in force, as portcullis-feeds keeps it (threatfeeds.binary)
"""

import contextlib
import os
import stat
import time
from collections.abc import Iterable
from pathlib import Path

from threatfeeds import Feed, FeedConfig, FeedContent, FeedError, read_feed, rejected_problem
from threatfeeds.binary import LARGEST, SetFeed, decode, encode
from threatfeeds.fetch.store import read_bounded, read_pieces, write_atomically

COPIES = "lists"  # below the service's state folder


def read_list(config: FeedConfig) -> FeedContent:
    """Raises FeedError, also for too many lines that are no indicator, and OSError."""
    content = read_file(config)
    problem = rejected_problem(config, content)
    if problem is not None:
        raise problem
    return content


def read_file(config: FeedConfig) -> FeedContent:
    """Raises FeedError, OSError. Never waits for a pipe, never reads more than the feed may have."""
    descriptor = os.open(config.file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise FeedError("not a regular file", file=config.file)
        if status.st_size > config.max_size:
            raise FeedError(f"{status.st_size} bytes are more than max_size = {config.max_size}", file=config.file)
        return read_feed(config, read_pieces(file, config.max_size + 1))


class Copies:
    """`folder` None: none are kept."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._kept: dict[str, FeedContent] = {}

    def load(self, config: FeedConfig) -> Feed | None:
        """What was in force of the same file, if anything was."""
        if self._folder is None:
            return None
        try:
            found = decode(read_bounded(self._path(config.name), LARGEST))
        except (OSError, FeedError):
            return None
        return next((Feed(config, one.content) for one in found if one.source == config.file), None)

    def keep(self, feeds: Iterable[Feed]) -> None:
        """Those that changed since. A folder that cannot be written costs the copy, no more."""
        if self._folder is None:
            return
        for feed in feeds:
            name = feed.config.name
            if self._kept.get(name) is feed.content:
                continue
            self._kept[name] = feed.content
            made = SetFeed(name, feed.config.file, feed.content, time.time(), len(feed.content.rejected))
            with contextlib.suppress(OSError):
                write_atomically(self._path(name), encode([made]), 0o640)

    def _path(self, name: str) -> Path:
        assert self._folder is not None
        return self._folder / f"{name}.set"
