# SPDX-License-Identifier: Apache-2.0
"""One indicator at the beginning of each line; comments (#, ;, //), anything behind the indicator is ignored."""

import re

from fastpath.lists import read_lines
from threatfeeds.content import Collector
from threatfeeds.formats.options import FormatOptions

_COMMENT = ("#", ";", "//", "!")
_TRAILING = re.compile(r"(?:\s+(?:[#;]|//)|\s*#).*\Z")
_RANGE = re.compile(r"^[0-9a-fA-F:.]+\s*[-–]\s*[0-9a-fA-F:.]+(?=\s|,|\Z)")
_TOKEN = re.compile(r"[^\s,;|]+")
_SPACED_DOT = re.compile(r"^\S+\s+[\[({](?:\.|dot)[\])}]\s+\S+", re.IGNORECASE)


def read(text: str, out: Collector, options: FormatOptions) -> None:
    data = text.encode("utf-8", "surrogatepass")
    records, others = read_lines(data)  # nearly every line of a large list is an address
    out.put_prefixes(records)
    for offset, length, number in others:
        line = data[offset : offset + length].decode("utf-8", "surrogatepass").strip()
        if not line:
            continue
        if line.startswith(_COMMENT):
            out.comments += 1
            continue
        content = _TRAILING.sub("", line)
        spaced = _RANGE.match(content) or _SPACED_DOT.match(content) or _TOKEN.match(content)
        out.add(spaced[0] if spaced else content, number, shown=line)
