# SPDX-License-Identifier: Apache-2.0
"""Where a key stands in a TOML text: tomllib forgets it, an error message needs it."""

import re

_HEADER = re.compile(r"^\s*\[\[?\s*(?P<path>[^\[\]]+?)\s*\]\]?\s*(#.*)?$")
_NAME = r"""(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')"""
_KEY = re.compile(rf"^\s*(?P<path>{_NAME}(?:\s*\.\s*{_NAME})*)\s*=")
_PART = re.compile(_NAME)
_TOKEN = re.compile(r'"""|\'\'\'|"(?:\\.|[^"\\])*"|\'[^\']*\'|#.*|[\[\]{}]')


def key_lines(text: str) -> dict[tuple[str, ...], int]:
    """Line number (from 1) of every table header and key, by path. Keys of inline tables are not listed.

    The text need not be valid TOML; what cannot be understood is left out.
    """
    found: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()
    depth = 0
    closing: str | None = None
    for number, line in enumerate(text.splitlines(), 1):
        if closing is None and depth == 0:
            header = _HEADER.match(line)
            if header is not None:
                table = _parts(header["path"])
                for end in range(1, len(table) + 1):
                    found.setdefault(table[:end], number)
                continue
            key = _KEY.match(line)
            if key is not None:
                path = table + _parts(key["path"])
                for end in range(len(table) + 1, len(path) + 1):
                    found.setdefault(path[:end], number)
                line = line[key.end() :]
        closing, depth = _advance(line, closing, depth)
    return found


def _parts(path: str) -> tuple[str, ...]:
    return tuple(part.strip("\"'") for part in _PART.findall(path))


def _advance(line: str, closing: str | None, depth: int) -> tuple[str | None, int]:
    """State after a line: the quotes that end an open multi-line string, and the depth of open brackets."""
    position = 0
    while True:
        if closing is not None:
            end = line.find(closing, position)
            if end < 0:
                return closing, depth
            position, closing = end + 3, None
        token = _TOKEN.search(line, position)
        if token is None:
            return None, depth
        position = token.end()
        match token[0]:
            case '"""' | "'''" as quotes:
                closing = quotes
            case "[" | "{":
                depth += 1
            case "]" | "}":
                depth = max(0, depth - 1)
