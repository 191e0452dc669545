# SPDX-License-Identifier: Apache-2.0
"""The lines of a list, one at a time: all of them together would be several times as large as the list."""

import re
from collections.abc import Iterator

from threatfeeds.content import Collector

COMMENT = ("#", ";", "//", "!")
LONGEST = 1 << 14  # characters; no entry of a list is longer, and what looks at one must not look at megabytes
RULER = re.compile(r"[^\w\n]*\Z")  # "-----", "=====", "|---|---|": it says nothing


def raw_lines(text: str) -> Iterator[tuple[int, str]]:
    """(number from 1, line with its blanks, without its end)."""
    start, number = 0, 1
    while (end := text.find("\n", start)) >= 0:
        yield number, text[start:end]
        start, number = end + 1, number + 1
    yield number, text[start:]


def lines(text: str, out: Collector, comment: tuple[str, ...] = COMMENT) -> Iterator[tuple[int, str]]:
    """(number, line without blanks around it) of each line that says something; the others are counted in `out`."""
    for number, raw in raw_lines(text):
        line = raw.strip()
        if not line:
            continue
        if line.startswith(comment):
            out.comments += 1
        elif len(line) > LONGEST:
            out.reject(number, line, f"{len(line)} characters: no entry is as long")
        else:
            yield number, line
