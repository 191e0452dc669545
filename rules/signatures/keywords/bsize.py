# SPDX-License-Identifier: Apache-2.0
"""bsize: how many bytes the sticky buffer holds; urilen: the same for the URI."""

from rules.signatures.builder import Builder
from rules.signatures.keywords.keyword import Keyword, required, size_range


def _bsize(builder: Builder, value: str | None) -> None:
    builder.add(size_range(value))


def _urilen(builder: Builder, value: str | None) -> None:
    text, _, which = required(value).partition(",")
    builder.add(size_range(text), "http.uri" if which.strip() == "norm" else "http.uri.raw")


KEYWORDS = (
    Keyword("bsize", "size of the buffer", _bsize),
    Keyword("urilen", "size of the request's URI", _urilen),
)
