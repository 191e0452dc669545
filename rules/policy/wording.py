# SPDX-License-Identifier: Apache-2.0
"""What error messages say of fields, values and misspelt words."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

Path = tuple[str | int, ...]

_LONGEST_TYPO = 64  # characters: comparing costs their square


def show(path: Path) -> str:
    """On one line, whatever a document calls its fields."""
    out = ""
    for part in path:
        if isinstance(part, int):
            out += f"[{part}]"
        else:
            name = part if part.isprintable() else repr(part)[1:-1]
            out += f".{name}" if out else name
    return out


def what(value: Any) -> str:
    """A value for an error message: short, with its type."""
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def suggestion(word: str, known: Iterable[str]) -> str:
    known = list(known)
    lower = {k.lower(): k for k in known}
    if word.lower() in lower:
        close = [lower[word.lower()]]
    else:
        close = difflib.get_close_matches(word, known, 1, 0.6) if len(word) <= _LONGEST_TYPO else []
    return f"; did you mean {close[0]!r}?" if close else ""
