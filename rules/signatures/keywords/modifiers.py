# SPDX-License-Identifier: Apache-2.0
"""Keywords that say where and how the content before them is looked for."""

from collections.abc import Callable

from rules.signatures.builder import Builder
from rules.signatures.keywords.keyword import Keyword, absent, number
from rules.signatures.model import SignatureError

_MOST = 65535


def _flag(**changes: bool) -> Callable[[Builder, str | None], None]:
    def parse(builder: Builder, value: str | None) -> None:
        absent(value)
        builder.modify_content(**changes)

    return parse


def _number(name: str, low: int) -> Callable[[Builder, str | None], None]:
    def parse(builder: Builder, value: str | None) -> None:
        builder.modify_content(**{name: number(value, low, _MOST)})

    return parse


def _fast_pattern(builder: Builder, value: str | None) -> None:
    # `only` and `offset,length` are hints about speed: what is found is the same.
    if value and value != "only" and not all(part.strip().isdigit() for part in value.split(",")):
        raise SignatureError(f"{value!r} is neither 'only' nor 'offset,length'")
    builder.modify_content(fast_pattern=True)


KEYWORDS = (
    Keyword("nocase", "case does not matter", _flag(nocase=True)),
    Keyword("startswith", "only at the beginning of the buffer", _flag(startswith=True)),
    Keyword("endswith", "only at the end of the buffer", _flag(endswith=True)),
    Keyword("offset", "not before this byte", _number("offset", 0)),
    Keyword("depth", "within so many bytes from the offset", _number("depth", 1)),
    Keyword("distance", "at least so many bytes behind the previous match", _number("distance", -_MOST)),
    Keyword("within", "within so many bytes behind the previous match", _number("within", 1)),
    Keyword("fast_pattern", "look for this content first", _fast_pattern),
)
