# SPDX-License-Identifier: Apache-2.0
"""`portcullis feeds parse`: what a reader sees in a file."""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from appliance.commands.files import PathError
from threatfeeds import FeedConfig, FeedError, guess_format
from threatfeeds.content import Collector
from threatfeeds.fetch.store import read_pieces
from threatfeeds.formats import FORMATS
from threatfeeds.formats.options import FormatOptions
from threatfeeds.read import read_text, summary, text_of

LARGEST = FeedConfig().max_size  # bytes, also after decompression
_REASONS = 10  # shown to a person, and of each
_LINES = 3
_WIDEST = 100  # characters of a line
_NAMES = {
    "ipv4": "IPv4 addresses", "ipv6": "IPv6 addresses", "ipv4_prefix": "IPv4 networks", "ipv6_prefix": "IPv6 networks",
    "range": "ranges of addresses", "domain": "names", "url": "URLs", "ja3": "JA3", "ja4": "JA4", "sha1": "SHA-1",
    "sha256": "SHA-256", "md5": "MD5",
}  # fmt: skip
# Formats whose entries have no lines of their own.
_RECORDS = frozenset({"json", "misp", "stix", "stix1"})


def parse(data: bytes, name: str | None, options: FormatOptions, file: str = "") -> dict[str, object]:
    """The summary of a list; `name` None: the format is guessed. Raises FeedError for what cannot be a list."""
    text = text_of(data, LARGEST, file or None)
    format_name = name or guess_format(text)
    return summary(format_name, read_text(text, format_name, Collector(), options, file or None))


def run_parse(arguments: argparse.Namespace) -> int:
    if arguments.format is not None and arguments.format not in FORMATS:
        raise FeedError(f"there is no format {arguments.format!r}; known are {', '.join(sorted(FORMATS))}")
    options = FormatOptions(column=arguments.column, path=arguments.path)
    found = parse(read_bounded(arguments.file), arguments.format, options, str(arguments.file))
    if arguments.json:
        print(json.dumps(found))
        return 0
    print(f"{arguments.file}: format {found['format']}{'' if arguments.format else ' (guessed)'}")
    for line in told(found):
        print(line)
    return 0


def told(found: dict[str, Any]) -> Iterator[str]:
    """A summary for people: what there is, then why the rest is not, the most frequent reason first."""
    rejected = found["rejected"]
    for kind, number in found["indicators"].items():
        if number:
            yield f"{number:>12,}  {_NAMES[kind]}"
    if not any(found["indicators"].values()):
        yield "          no  indicators"
    yield f"{found['duplicates']:>12,}  repeated"
    yield f"{found['comments']:>12,}  comments"
    yield f"{len(rejected):>12,}  rejected{':' if rejected else ''}"
    reasons: dict[str, list[dict[str, Any]]] = {}
    for line in rejected:
        reasons.setdefault(line["why"], []).append(line)
    place = "record" if found["format"] in _RECORDS else "line"
    ordered = sorted(reasons, key=lambda why: -len(reasons[why]))
    for why in ordered[:_REASONS]:
        lines = reasons[why]
        yield f"{'':14}{len(lines):,} × {printable(why)}"
        for line in lines[:_LINES]:
            yield f"{'':18}{place} {line['line']}: {printable(line['text'])}"
        if len(lines) > _LINES:
            yield f"{'':18}and {len(lines) - _LINES:,} more"
    if len(ordered) > _REASONS:
        yield f"{'':14}and {len(ordered) - _REASONS} more reasons"
    if any(len(lines) > _LINES for lines in reasons.values()) or len(ordered) > _REASONS:
        yield f"{'':14}(--json shows all)"


def printable(text: str) -> str:
    """Nothing in a list reaches the terminal that moves its cursor or changes its colours."""
    shown = text if len(text) <= _WIDEST else text[:_WIDEST] + "…"
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in shown)


def read_bounded(path: Path) -> bytes:
    """Raises PathError."""
    try:
        with path.open("rb") as file:
            data = read_pieces(file, LARGEST + 1)
    except OSError as error:
        raise PathError(f"cannot be read: {error.strerror}", file=str(path)) from error
    if len(data) > LARGEST:
        raise PathError(f"more than {LARGEST} bytes", file=str(path))
    return data
