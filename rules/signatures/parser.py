# SPDX-License-Identifier: Apache-2.0
"""Rule files: `action protocol source port direction destination port (options)` (Suricata: Rules Format)."""

import re
from collections.abc import Iterator

from rules.signatures.builder import Builder
from rules.signatures.header import PROTOCOLS
from rules.signatures.keywords import KEYWORDS
from rules.signatures.model import ACTIONS, Header, Signature, SignatureError, SignatureLoad

MAX_LINE = 64 * 1024  # characters of a rule
_DIRECTIONS = {"->": False, "<>": True}
_BACKSLASHES = re.compile(r"\\*$")


def parse_signatures(text: str, file: str) -> SignatureLoad:
    """Read a rule file. Comments and empty lines are skipped; a line that ends in a backslash goes on in the next.
    A rule with a keyword that is not supported becomes an error, never a rule without it."""
    signatures: list[Signature] = []
    errors: list[SignatureError] = []
    seen: dict[tuple[int, int], int] = {}
    for line, rule in _lines(text):
        try:
            signature = parse_signature(rule, file, line)
            key = (signature.gid, signature.sid)
            if key in seen:
                raise SignatureError(f"sid {signature.sid} stands in line {seen[key]} already", field="sid")
        except SignatureError as error:
            errors.append(_at(error, file, line))
            continue
        seen[key] = line
        signatures.append(signature)
    return SignatureLoad(tuple(signatures), tuple(errors))


def parse_signature(rule: str, file: str, line: int) -> Signature:
    """One rule. Raises SignatureError, without the place."""
    if len(rule) > MAX_LINE:
        raise SignatureError(f"rule is longer than {MAX_LINE} characters")
    head, parenthesis, rest = rule.partition("(")
    rest = rest.rstrip()
    if not parenthesis or not rest.endswith(")"):
        raise SignatureError("the options do not stand in parentheses")
    action, header = _header(head)
    builder = Builder(header)
    for name, value in split_options(rest[:-1]):
        keyword = KEYWORDS.get(name.lower())
        if keyword is None:
            raise SignatureError("keyword is not supported", field=name, unsupported=True)
        try:
            keyword.parse(builder, value)
        except SignatureError as error:
            raise SignatureError(error.message, field=name, unsupported=error.unsupported) from None
    return builder.finish(action, file, line)


def split_options(text: str) -> Iterator[tuple[str, str | None]]:
    """(keyword, value or None). `;` ends an option unless a backslash stands before it, inside quotes or not."""
    start = 0
    position = 0
    while True:
        end = text.find(";", position)
        if end < 0:
            if text[start:].strip():
                raise SignatureError(f"option {text[start:].strip()[:40]!r} does not end in ';'")
            return
        match = _BACKSLASHES.search(text, start, end)
        if match is not None and len(match.group()) % 2:
            position = end + 1
            continue
        name, colon, value = text[start:end].partition(":")
        if not name.strip():
            raise SignatureError("an option has no name")
        yield name.strip(), value.strip() if colon else None
        start = position = end + 1


def _lines(text: str) -> Iterator[tuple[int, str]]:
    joined = ""
    first = 0
    for number, line in enumerate(text.split("\n"), 1):
        line = line.strip()
        if not joined and (not line or line.startswith("#")):
            continue
        if not joined:
            first = number
        if line.endswith("\\"):
            joined += line[:-1] + " "
            continue
        yield first, (joined + line).strip()
        joined = ""
    if joined.strip():
        yield first, joined.strip()


def _header(text: str) -> tuple[str, Header]:
    words = _words(text)
    if len(words) != 7:
        raise SignatureError(
            f"header has {len(words)} parts, expected: action protocol source port direction destination port"
        )
    action, protocol, src, sport, direction, dst, dport = words
    if action not in ACTIONS:
        raise SignatureError(f"action {action!r} is not one of {', '.join(ACTIONS)}")
    if protocol.lower() not in PROTOCOLS:
        raise SignatureError(f"protocol {protocol!r} is not supported", unsupported=True)
    if direction not in _DIRECTIONS:
        raise SignatureError(f"direction {direction!r} is neither -> nor <>")
    return action, Header(protocol.lower(), src, sport, dst, dport, _DIRECTIONS[direction])


def _words(text: str) -> list[str]:
    """White space outside brackets separates."""
    words: list[str] = []
    depth = 0
    word = ""
    for char in text:
        depth += (char == "[") - (char == "]")
        if char.isspace() and depth <= 0:
            if word:
                words.append(word)
            word = ""
        elif not char.isspace():
            word += char
    return [*words, word] if word else words


def _at(error: SignatureError, file: str, line: int) -> SignatureError:
    return SignatureError(error.message, file=file, line=line, field=error.field, unsupported=error.unsupported)
