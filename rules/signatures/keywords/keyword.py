# SPDX-License-Identifier: Apache-2.0
from collections.abc import Callable
from dataclasses import dataclass

from rules.signatures.builder import Builder
from rules.signatures.model import SignatureError, SizeRange


@dataclass(frozen=True, slots=True)
class Keyword:
    """`parse` writes what the value says into the builder, once; matching never sees text again.
    It raises SignatureError for a value that makes no sense."""

    name: str
    description: str
    parse: Callable[[Builder, str | None], None]


def required(value: str | None) -> str:
    if value is None or not value:
        raise SignatureError("needs a value")
    return value


def absent(value: str | None) -> None:
    if value:
        raise SignatureError("takes no value")


def number(value: str | None, low: int, high: int) -> int:
    text = required(value)
    try:
        result = int(text)
    except ValueError:
        raise SignatureError(f"{text!r} is not a number", unsupported=text.isidentifier()) from None
    if not low <= result <= high:
        raise SignatureError(f"{result} is not between {low} and {high}")
    return result


def quoted(value: str | None) -> tuple[str, bool]:
    """The text between the quotes and whether `!` stands before them."""
    text = required(value)
    negated = text.startswith("!")
    if negated:
        text = text[1:].lstrip()
    if len(text) < 2 or text[0] != '"' or text[-1] != '"':
        raise SignatureError("the value does not stand in quotes")
    return text[1:-1], negated


def size_range(value: str | None, most: int = 0xFFFFFFFF) -> SizeRange:
    """N, <N, >N, <=N, >=N, !N or A<>B (both ends excluded)."""
    text = required(value).replace(" ", "")
    if "<>" in text:
        first, _, last = text.partition("<>")
        low, high = number(first, 0, most) + 1, number(last, 0, most) - 1
        if low > high:
            raise SignatureError(f"range {text} is empty")
        return SizeRange(low, high)
    for sign, low_of, high_of in (("<=", 0, 0), (">=", 0, 0), ("<", 0, -1), (">", 1, 0)):
        if text.startswith(sign):
            bound = number(text[len(sign) :], 0, most)
            return SizeRange(0, bound + high_of) if sign[0] == "<" else SizeRange(bound + low_of, most)
    if text.startswith("!"):
        bound = number(text[1:], 0, most)
        return SizeRange(bound, bound, negated=True)
    bound = number(text, 0, most)
    return SizeRange(bound, bound)
