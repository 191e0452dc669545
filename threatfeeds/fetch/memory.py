# SPDX-License-Identifier: Apache-2.0
"""What goes between a source and whoever asks it."""

from dataclasses import dataclass

import msgspec


class Memory(msgspec.Struct, frozen=True):
    """What a source wants to know again at the next fetch."""

    url: str = ""  # FeedConfig.source of which the rest speaks
    etag: str = ""
    last_modified: str = ""  # of a file: its state
    added_after: str = ""  # TAXII


@dataclass(frozen=True)
class Fetched:
    """data: bytes to read and to keep, None: nothing is new."""

    data: bytes | None
    memory: Memory
