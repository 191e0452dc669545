# SPDX-License-Identifier: Apache-2.0
"""One indicator at the beginning of each line; comments (#, ;, //), anything behind the indicator is ignored."""

import re

from fastpath.lists import read_lines
from threatfeeds.content import Collector
from threatfeeds.formats.lines import COMMENT, LONGEST, RULER, raw_lines
from threatfeeds.formats.options import FormatOptions
from threatfeeds.indicator import join_masks, refang

_BULLET = re.compile(r"(?:[-*+•‣◦]|\d{1,4}[.)])\s+(?=\S)")
# Tried at the first blank of a row only: from each one anew would be quadratic.
_TRAILING = re.compile(r"(?:(?<!\s)\s+(?:[#;]|//)|(?:(?<!\s)\s+)?#).*\Z")
_BEHIND_URL = re.compile(r"\s.*\Z")
_RANGE = re.compile(r"^[0-9a-fA-F:.]+\s*[-–]\s*[0-9a-fA-F:.]+(?=\s|,|\Z)")
_TOKEN = re.compile(r"[^\s,;|]+")
_SPACED_DOT = re.compile(r"^\S+\s+[\[({](?:\.|dot)[\])}]\s+\S+", re.IGNORECASE)
_SCHEME = re.compile(r"[a-z*_]{2,12}(?::|\[:)", re.IGNORECASE)


def read(text: str, out: Collector, options: FormatOptions) -> None:
    if not out.takes_prefixes:
        for number, line in raw_lines(text):
            _line(line.strip(), number, out)
        return
    data = text.encode("utf-8", "surrogatepass")
    for records, others in read_lines(data):  # nearly every line of a large list is an address
        out.put_prefixes(records)
        for offset, length, number in others:
            _line(data[offset : offset + length].decode("utf-8", "surrogatepass").strip(), number, out)


def _line(line: str, number: int, out: Collector) -> None:
    if not line:
        return
    if line.startswith(COMMENT) or RULER.match(line):
        out.comments += 1
    elif len(line) > LONGEST:
        out.reject(number, line, f"{len(line)} characters: no entry is as long")
    else:
        out.add(first_entry(line), number, shown=line)


def first_entry(line: str) -> str:
    """What a line begins with: an address and its mask, a range, a URL up to the next blank, or a word."""
    line = _BULLET.sub("", line, count=1) if _BULLET.match(line) else line
    line = line.lstrip("`\"'")
    if _SCHEME.match(line) and "://" in (url := refang(_BEHIND_URL.sub("", line))):
        return url.rstrip("`\"',;|")
    content = join_masks(_TRAILING.sub("", line))
    found = _RANGE.match(content) or _SPACED_DOT.match(content) or _TOKEN.match(content)
    return found[0].rstrip("`") if found else content
