# SPDX-License-Identifier: Apache-2.0
"""One feed of feeds.d/*.toml."""

import re
from pathlib import PurePath
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from fastpath.errors import PortcullisError
from threatfeeds.formats import FORMATS
from threatfeeds.settings import Section, SettingsReader

FeedAction = Literal["alert", "drop", "reject"]
FeedDirection = Literal["source", "destination", "both"]

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?\Z")


class FeedError(PortcullisError):
    """A feed, or its configuration, that cannot be used."""


class FeedConfig(Section, frozen=True):
    """Made by load_feed_config. `file` is relative to the folder of the configuration until a source resolves it."""

    file: str
    name: str = ""  # "" becomes the name of the configuration file without its ending
    format: str = "plain"
    column: str = ""  # csv: header name, or number from 1; "": found by looking
    delimiter: Annotated[str, Meta(max_length=1)] = ""  # csv; "": found by looking
    path: str = ""  # json: such as "data[].ip"; "": found by looking
    enabled: bool = True
    action: FeedAction = "alert"
    direction: FeedDirection = "both"
    subdomains: bool = True  # a name stands for its subdomains, too
    labels: dict[str, str] = {}
    confidence: Annotated[int, Meta(ge=0, le=100)] = 50  # percent
    min_entries: Annotated[int, Meta(ge=0)] = 1  # fewer: the last good copy stays
    max_entries: Annotated[int, Meta(ge=1)] = 5_000_000
    max_rejected: Annotated[int, Meta(ge=0)] = 0  # lines that are no indicator; more: the last good copy stays
    max_size: Annotated[int, Meta(ge=1, le=4 << 30)] = 256 << 20  # bytes


def load_feed_config(text: str, file: str) -> FeedConfig:
    """Raises FeedError with file, line and field."""
    reader = SettingsReader(text, file, FeedError)
    config = reader.read(FeedConfig)
    if not config.name:
        config = msgspec.structs.replace(config, name=PurePath(file).stem)
    if not _NAME.match(config.name):
        raise reader.error(("name",), f"expected lower-case letters, digits, dots and dashes, got {config.name!r}")
    if config.format not in FORMATS:
        raise reader.error(("format",), f"expected one of {', '.join(sorted(FORMATS))}, got {config.format!r}")
    if not config.file:
        raise reader.error(("file",), "expected the path of the list")
    return config
