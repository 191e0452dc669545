# SPDX-License-Identifier: Apache-2.0
"""content: bytes to find. Hexadecimal bytes stand between bars, `"`, `;`, `:` and `\\` behind a backslash."""

from rules.signatures.builder import Builder
from rules.signatures.keywords.keyword import Keyword, quoted
from rules.signatures.model import Content, SignatureError

MAX_PATTERN = 4096  # bytes
_ESCAPED = '"\\;:'


def _content(builder: Builder, value: str | None) -> None:
    text, negated = quoted(value)
    builder.add(Content(parse_pattern(text), negated=negated))


def parse_pattern(text: str) -> bytes:
    """The bytes that a content's text stands for. Raises SignatureError."""
    pattern = bytearray()
    position = 0
    while position < len(text):
        char = text[position]
        if char == "|":
            end = text.find("|", position + 1)
            if end < 0:
                raise SignatureError("hexadecimal bytes do not end in '|'")
            digits = "".join(text[position + 1 : end].split())
            try:
                pattern += bytes.fromhex(digits)
            except ValueError:
                raise SignatureError(f"|{text[position + 1 : end]}| is not hexadecimal") from None
            position = end + 1
            continue
        if char == "\\":
            position += 1
            if position >= len(text) or text[position] not in _ESCAPED:
                raise SignatureError('a backslash stands before none of " \\ ; :')
            char = text[position]
        pattern += char.encode("utf-8", "surrogateescape")
        position += 1
    if not pattern:
        raise SignatureError("is empty")
    if len(pattern) > MAX_PATTERN:
        raise SignatureError(f"is longer than {MAX_PATTERN} bytes")
    return bytes(pattern)


KEYWORDS = (Keyword("content", "bytes to find in the buffer", _content),)
