# SPDX-License-Identifier: Apache-2.0
"""The registry of keywords: name → how its value is read. Adding a keyword adds a row in the file of its family."""

from rules.signatures.keywords import bsize, buffers, content, dsize, flow, meta, modifiers, pcre
from rules.signatures.keywords.keyword import Keyword

KEYWORDS: dict[str, Keyword] = {
    keyword.name: keyword
    for family in (meta, content, modifiers, pcre, flow, dsize, bsize, buffers)
    for keyword in family.KEYWORDS
}
