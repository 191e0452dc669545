# SPDX-License-Identifier: Apache-2.0
"""Bytes of a feed to its content, refusing what is plainly not the feed that was configured."""

import codecs
import re
import time

from threatfeeds.config import AUTO, FeedConfig, FeedError
from threatfeeds.content import Collector, FeedContent, NotAList
from threatfeeds.formats import FORMATS
from threatfeeds.formats.options import FormatOptions
from threatfeeds.guess import guess_format
from threatfeeds.hashes import head, of_file
from threatfeeds.packed import unpack

_HEAD = 4096
_MARKS = (
    *((codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32")),
    *((codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16")),
)
_LONE_CR = re.compile(r"\r(?!\r*\n)")
_HTML = re.compile(r"\s*<(?:!doctype\s+html|html|head|body)\b", re.IGNORECASE)


def decode(data: bytes) -> str:
    """UTF-8, UTF-16 and UTF-32, with BOM or, where every other byte is zero, without; else Latin-1, which reads every
    byte. Lines may end in CR alone, and a list that was put together of several has more than one BOM.
    """
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), None) or _without_mark(data[:_HEAD])
    if encoding is not None:
        text = data.decode(encoding, "replace")
    else:
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = data.decode("latin-1")
    if "\ufeff" in text:
        text = text.replace("\ufeff", "")
    return _LONE_CR.sub("\n", text) if "\r" in text else text


def _without_mark(head: bytes) -> str | None:
    """UTF-16 of mostly Latin text."""
    odd, even = head[1::2], head[::2]
    if len(odd) < 4:
        return None
    for zeros, others, name in ((odd, even, "utf-16-le"), (even, odd, "utf-16-be")):
        if 4 * zeros.count(0) > 3 * len(zeros) and not others.count(0):
            return name
    return None


def text_of(data: bytes, max_size: int, file: str | None) -> str:
    """A list as it was published, compressed or not. Raises FeedError: too much, damaged, or nothing to read."""
    if len(data) > max_size:
        raise FeedError(f"{len(data)} bytes are more than max_size = {max_size}", file=file)
    try:
        text = decode(unpack(data, max_size))
    except FeedError as error:
        raise FeedError(error.message, file=file) from error
    if "\0" in text[:_HEAD]:
        raise FeedError("this is binary, not a list", file=file)
    return text


def read_feed(config: FeedConfig, data: bytes, now: float | None = None) -> FeedContent:
    """Raises FeedError when the feed as a whole is implausible: the caller keeps its last good copy then.

    now: seconds since 1970; entries that say that their time is over are left out. None: the clock is asked.
    Lines that are no indicator are not judged here: see rejected_problem.
    """
    now = time.time() if now is None else now
    text = text_of(data, config.max_size, config.file or None)
    if _HTML.match(text):
        raise FeedError("this is an HTML page, not a list", file=config.file or None)
    format_name = guess_format(text) if config.format == AUTO else config.format
    out = _collector(config, text)
    options = FormatOptions(config.column, config.delimiter, config.path, now, config.comment)
    content = read_text(text, format_name, out, options, config.file or None)
    entries = len(content)
    if entries < config.min_entries:
        why = f"{entries} entries are fewer than min_entries = {config.min_entries}"
        hint = (
            f"; {len(content.rejected)} lines were rejected, the first: {content.rejected[0].why}"
            if (content.rejected)
            else ""
        )
        line = content.rejected[0].line if content.rejected else None
        raise FeedError(why + hint, file=config.file or None, line=line)
    if entries > config.max_entries:
        raise FeedError(f"{entries} entries are more than max_entries = {config.max_entries}", file=config.file or None)
    return content


def read_text(text: str, format_name: str, out: Collector, options: FormatOptions, file: str | None) -> FeedContent:
    """Raises FeedError for what is no list in that format, whatever it is."""
    try:
        FORMATS[format_name](text, out, options)
    except NotAList as error:
        raise FeedError(error.message, file=file, line=error.line) from error
    return out.finish()


def _collector(config: FeedConfig, text: str) -> Collector:
    """Of the kinds that are configured. What hashes are of: as configured, else as the format says, else as the list or
    its name says."""
    certain = config.hashes != "auto"
    said = config.hashes == "files" if certain else of_file(head(text))
    said = of_file(config.name, config.source) if said is None else said
    return Collector(of_files=said, certain=certain, most=config.max_entries, content=config.content)


def rejected_problem(config: FeedConfig, content: FeedContent) -> FeedError | None:
    """The error when more lines than the feed may have are no indicator. One of another kind says nothing against the
    rest of the list."""
    wrong = [line for line in content.rejected if not line.foreign]
    rejected = len(wrong)
    lines = len(content.rejected) + len(content) + content.duplicates
    if not rejected or 100 * rejected <= config.rejected_limit * lines:
        return None
    first = wrong[0]
    return FeedError(
        f"{first.why}: {first.text!r} ({rejected} of {lines} entries are no indicator,"
        f" max_rejected = {config.rejected_limit:g} percent)",
        file=config.file or None,
        line=first.line,
    )


def rejected_warnings(config: FeedConfig, content: FeedContent, most: int = 5) -> tuple[FeedError, ...]:
    """Lines that are left out of a feed that is in force, the first ones one by one."""
    file = config.file or getattr(config, config.kind)
    found = [FeedError(f"left out: {line.why}: {line.text!r}", file=file, line=line.line) for line in content.rejected]
    if len(found) <= most:
        return tuple(found)
    return (*found[:most], FeedError(f"{len(found) - most} more lines are left out", file=file))


def summary(name: str, content: FeedContent) -> dict[str, object]:
    """What a reader saw in a file, for people and as JSON: format, numbers of distinct indicators, rejected lines."""
    return {
        "format": name,
        "indicators": dict(content.counts),
        "duplicates": content.duplicates,
        "comments": content.comments,
        "rejected": [{"line": line.line, "text": line.text, "why": line.why} for line in content.rejected],
    }
