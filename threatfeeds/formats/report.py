# SPDX-License-Identifier: Apache-2.0
"""Reports for people: indicators somewhere in prose. Names count only when they are defanged or part of a URL,
for a report also names the victim, its author and the vendor."""

import re

from threatfeeds.content import Collector
from threatfeeds.formats.options import FormatOptions
from threatfeeds.hashes import of_file
from threatfeeds.indicator import classify

_WORD = re.compile(r"[^\s,;|\"'<>`]+")
_MARK = re.compile(r"\[[.:@]\]|\[dot\]|\(dot\)|\[\.|\{\.\}|\(\.\)|hxxp|\[://\]", re.IGNORECASE)
_EDGE = "*•-()`\"'"


def read(text: str, out: Collector, options: FormatOptions) -> None:
    """Lines without an indicator are comments; a defanged word that is no indicator is rejected."""
    for number, raw in enumerate(text.split("\n"), 1):
        line = raw.strip()
        if not line:
            continue
        found_one = False
        for word in _WORD.findall(line):
            defanged = _MARK.search(word) is not None
            found = classify(word.strip(_EDGE).rstrip(".,:"))
            if isinstance(found, str):
                if defanged:
                    found_one = True
                    out.reject(number, line, found)
            elif defanged or (found.kind != "domain" and (found.kind != "url" or "://" in str(found.value))):
                found_one = True
                out.put(found, of_file(line) is not False)
        out.comments += not found_one
