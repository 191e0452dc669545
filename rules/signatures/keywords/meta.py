# SPDX-License-Identifier: Apache-2.0
"""Keywords that name and describe a signature."""

from rules.signatures.builder import Builder
from rules.signatures.keywords.keyword import Keyword, number, quoted, required
from rules.signatures.model import SignatureError


def _msg(builder: Builder, value: str | None) -> None:
    text, negated = quoted(value)
    if negated:
        raise SignatureError("cannot be negated")
    builder.set_fact("msg", text.replace("\\;", ";").replace('\\"', '"').replace("\\:", ":").replace("\\\\", "\\"))


def _sid(builder: Builder, value: str | None) -> None:
    builder.set_fact("sid", str(number(value, 1, 0xFFFFFFFF)))


def _rev(builder: Builder, value: str | None) -> None:
    builder.set_fact("rev", str(number(value, 0, 0xFFFFFFFF)))


def _gid(builder: Builder, value: str | None) -> None:
    builder.set_fact("gid", str(number(value, 0, 0xFFFFFFFF)))


def _priority(builder: Builder, value: str | None) -> None:
    builder.set_fact("priority", str(number(value, 1, 255)))


def _classtype(builder: Builder, value: str | None) -> None:
    builder.set_fact("classtype", required(value))


def _reference(builder: Builder, value: str | None) -> None:
    builder.references.append(required(value))


def _metadata(builder: Builder, value: str | None) -> None:
    builder.metadata += [part.strip() for part in required(value).split(",")]


KEYWORDS = (
    Keyword("msg", "what an alert says", _msg),
    Keyword("sid", "number of the signature", _sid),
    Keyword("rev", "revision of the signature", _rev),
    Keyword("gid", "group of signature numbers", _gid),
    Keyword("priority", "1 is the most severe", _priority),
    Keyword("classtype", "class of the signature", _classtype),
    Keyword("reference", "where to read more", _reference),
    Keyword("metadata", "facts for other programs", _metadata),
)
