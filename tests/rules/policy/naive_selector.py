# SPDX-License-Identifier: Apache-2.0
"""Selectors read slowly: into tokens first, then by recursive descent, straight from the grammar of the reference."""

from collections.abc import Callable, Mapping

Match = Callable[[Mapping[str, str]], bool]
_BLANK = " \t"
_LABEL = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./-")
_WORDS = (("contains", ""), ("starts", "with"), ("ends", "with"), ("not", "in"), ("in", ""))
_CALLS = ("has(", "all(", "global(")


def _label(text: str) -> str:
    end = 0
    while end < len(text) and text[end] in _LABEL:
        end += 1
    if not 1 <= end <= 512:
        raise ValueError("no label")
    return text[:end]


def _operator(text: str) -> tuple[str, str]:
    """Behind a label: (operator, what follows)."""
    for first, second in _WORDS:
        if not text.startswith(first):
            continue
        rest = text[len(first) :]
        if second:
            rest = rest.lstrip(_BLANK)
            if not rest.startswith(second):
                break
            rest = rest[len(second) :]
        if rest and (rest[0].isalnum() or rest[0] == "_"):
            break
        return first + second, rest
    raise ValueError("no operator")


def _call(text: str) -> tuple[tuple[str, str], str] | None:
    for call in _CALLS:
        if text.startswith(call):
            rest = text[len(call) :].lstrip(_BLANK)
            label = _label(rest) if call == "has(" else ""
            rest = rest[len(label) :].lstrip(_BLANK)
            if not rest.startswith(")"):
                raise ValueError("not closed")
            return (call, label), rest[1:]
    return None


def tokens(text: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    while text := text.lstrip(_BLANK):
        first, two = text[0], text[:2]
        if first in "(){},":
            found.append((first, ""))
            text = text[1:]
        elif first in "'\"":
            end = text.index(first, 1)
            found.append(("string", text[1:end]))
            text = text[end + 1 :]
        elif two in ("==", "!=", "&&", "||"):
            found.append((two, ""))
            text = text[2:]
        elif first == "!":
            found.append(("!", ""))
            text = text[1:]
        elif found and found[-1][0] == "label":
            operator, text = _operator(text)
            found.append((operator, ""))
        elif (call := _call(text)) is not None:
            found.append(call[0])
            text = call[1]
        else:
            label = _label(text)
            found.append(("label", label))
            text = text[len(label) :]
    return [*found, ("end", "")]


class _Descent:
    def __init__(self, text: str) -> None:
        self.left = tokens(text)

    def take(self, *kinds: str) -> str:
        kind, value = self.left[0]
        if kind not in kinds:
            raise ValueError(f"unexpected {kind}")
        self.left.pop(0)
        return value

    def next(self, *kinds: str) -> bool:
        return self.left[0][0] in kinds

    def any_of(self) -> Match:
        parts = [self.all_of()]
        while self.next("||"):
            self.take("||")
            parts.append(self.all_of())
        return lambda labels: any(part(labels) for part in parts)

    def all_of(self) -> Match:
        parts = [self.one()]
        while self.next("&&"):
            self.take("&&")
            parts.append(self.one())
        return lambda labels: all(part(labels) for part in parts)

    def one(self) -> Match:
        negated = False
        while self.next("!"):
            self.take("!")
            negated = not negated
        match = self.positive()
        return (lambda labels: not match(labels)) if negated else match

    def positive(self) -> Match:
        if self.next("("):
            self.take("(")
            inside = self.any_of()
            self.take(")")
            return inside
        if self.next("has("):
            wanted = self.take("has(")
            return lambda labels: wanted in labels
        if self.next("all(", "global("):
            self.take("all(", "global(")
            return lambda labels: True
        label = self.take("label")
        operator = self.left[0][0]
        self.take("==", "!=", "in", "notin", "contains", "startswith", "endswith")
        if operator in ("in", "notin"):
            values = self.values()
            return lambda labels: (label in labels and labels[label] in values) is (operator == "in")
        value = self.take("string")
        if operator in ("==", "!="):
            return lambda labels: (label in labels and labels[label] == value) is (operator == "==")
        tests: dict[str, Callable[[str], bool]] = {
            "contains": lambda have: value in have,
            "startswith": lambda have: have.startswith(value),
            "endswith": lambda have: have.endswith(value),
        }
        test = tests[operator]
        return lambda labels: label in labels and test(labels[label])

    def values(self) -> frozenset[str]:
        self.take("{")
        found: list[str] = []
        while self.next("string"):
            found.append(self.take("string"))
            if not self.next(","):
                break
            self.take(",")
        self.take("}")
        return frozenset(found)


def naive_match(text: str) -> Match | None:
    """None: it does not parse."""
    try:
        descent = _Descent(text)
        if descent.next("end"):
            return lambda labels: True
        match = descent.any_of()
        descent.take("end")
    except (ValueError, KeyError):
        return None
    return match
