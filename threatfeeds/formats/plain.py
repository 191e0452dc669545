# SPDX-License-Identifier: Apache-2.0
"""One indicator at the beginning of each line; comments (#, ;, //), anything behind the indicator is ignored."""

import re

from threatfeeds import prefix
from threatfeeds.content import Collector
from threatfeeds.formats.options import FormatOptions

_COMMENT = ("#", ";", "//", "!")
_TRAILING = re.compile(r"(?:\s+(?:[#;]|//)|\s*#).*\Z")
_RANGE = re.compile(r"^[0-9a-fA-F:.]+\s*[-–]\s*[0-9a-fA-F:.]+(?=\s|,|\Z)")
_TOKEN = re.compile(r"[^\s,;|]+")
_SPACED_DOT = re.compile(r"^\S+\s+[\[({](?:\.|dot)[\])}]\s+\S+", re.IGNORECASE)


def read(text: str, out: Collector, options: FormatOptions) -> None:
    entries: list[int] = []
    parse, keep = prefix.parse, entries.append
    for number, raw in enumerate(text.split("\n"), 1):
        line = raw.strip()
        try:
            # Nearly every line of a large list is this.
            keep(parse(line))
            continue
        except ValueError:
            pass
        if not line:
            continue
        if line.startswith(_COMMENT):
            out.comments += 1
            continue
        content = _TRAILING.sub("", line)
        spaced = _RANGE.match(content) or _SPACED_DOT.match(content) or _TOKEN.match(content)
        out.add(spaced[0] if spaced else content, number, shown=line)
    out.put_prefixes(entries)
