# SPDX-License-Identifier: Apache-2.0
"""Bytes of a feed to its content, refusing what is plainly not the feed that was configured."""

import re

from threatfeeds.config import FeedConfig, FeedError
from threatfeeds.content import Collector, FeedContent
from threatfeeds.formats import FORMATS
from threatfeeds.formats.options import FormatOptions

_HTML = re.compile(r"\s*<(?:!doctype\s+html|html|head|body)\b", re.IGNORECASE)


def decode(data: bytes) -> str:
    """UTF-8 with or without BOM, UTF-16 with BOM, otherwise Latin-1, which reads every byte."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", "replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def read_feed(config: FeedConfig, data: bytes) -> FeedContent:
    """Raises FeedError when the feed as a whole is implausible: the caller keeps its last good copy then."""
    if len(data) > config.max_size:
        raise FeedError(f"{len(data)} bytes are more than max_size = {config.max_size}", file=config.file)
    if b"\0" in data[:4096] and not data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise FeedError("this is binary, not a list", file=config.file)
    text = decode(data)
    if _HTML.match(text):
        raise FeedError("this is an HTML page, not a list", file=config.file)
    out = Collector()
    FORMATS[config.format](text, out, FormatOptions(config.column, config.delimiter, config.path))
    content = out.finish()
    entries = len(content)
    if entries < config.min_entries:
        why = f"{entries} entries are fewer than min_entries = {config.min_entries}"
        hint = (
            f"; {len(content.rejected)} lines were rejected, the first: {content.rejected[0].why}"
            if (content.rejected)
            else ""
        )
        raise FeedError(why + hint, file=config.file, line=content.rejected[0].line if content.rejected else None)
    if entries > config.max_entries:
        raise FeedError(f"{entries} entries are more than max_entries = {config.max_entries}", file=config.file)
    return content


def summary(name: str, content: FeedContent) -> dict[str, object]:
    """What a reader saw in a file, for people and as JSON: format, numbers of distinct indicators, rejected lines."""
    return {
        "format": name,
        "indicators": dict(content.counts),
        "duplicates": content.duplicates,
        "comments": content.comments,
        "rejected": [{"line": line.line, "text": line.text, "why": line.why} for line in content.rejected],
    }
