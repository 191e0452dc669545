# SPDX-License-Identifier: Apache-2.0
"""Perl's regular expressions over bytes, in linear time where that is possible.

RE2 takes what a finite automaton can decide: its time grows with the bytes, whatever they are. What it does not take
(look around, back references, possessive quantifiers) goes to the module regex, whose time may grow exponentially: such
an expression is given few bytes and little time. Where that is over it does not match, is counted, and rests, so that
whoever sends bytes of this kind slows nobody down. Both agree with PCRE in what is written differently: `$` and `\\Z`
also match before a final newline, `\\z` does not, `\\s` knows the vertical tab, `\\h` is horizontal space.
"""

import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import import_module
from itertools import islice
from typing import Any

import regex

MAX_INPUT = 64 * 1024  # bytes that an expression is given
MAX_INPUT_BACKTRACKING = 4 * 1024  # the same for what backtracks
MAX_SECONDS = 0.01  # for what backtracks; it looks at the clock now and then only, and may take some times as long
SHARE, BURST = 0.1, 0.1  # of a processor's time that one of these may use, and seconds at once
MAX_MATCHES = 256  # of one expression in one buffer: each may cost a pass over the input

_TOKEN = re.compile(r"\\.|\[:\^?\w+:\]|[\[\]$]|[^\\\[\]$]+|\\", re.DOTALL)
_INLINE = re.compile(r"\(\?[a-zA-Z]*m")
_BRACED = tuple(f"\\{letter}" for letter in "pPNgkoxu")  # escapes that a brace may follow
_RE2 = {r"\Z": r"(?:\n?\z)", r"\s": r"[\t-\r ]", r"\S": r"[^\t-\r ]", r"\h": r"[\t\xa0 ]", r"\H": r"[^\t\xa0 ]"}
_RE2_CLASS = {r"\s": r"\t-\r ", r"\h": r"\t\xa0 "}
_PYTHON = {r"\Z": r"(?=\n?\Z)", r"\z": r"\Z", r"\h": r"[\t\xa0 ]", r"\H": r"[^\t\xa0 ]"}
_PYTHON_CLASS = {r"\h": r"\t\xa0 "}
_FLAGS = {"i": regex.IGNORECASE, "m": regex.MULTILINE, "s": regex.DOTALL, "x": regex.VERBOSE}
_BRACE = re.compile(r"\{(?!\d+(?:,\d*)?\})")  # not a quantifier: PCRE takes it for itself, regex for a fuzzy match


class ExpressionError(ValueError):
    """An expression that neither engine takes."""


class _NotLinear(Exception):
    """RE2 would read it differently."""


@dataclass(slots=True)
class Spent:
    """What an expression has cost lately, in seconds, and how often it was given up or not tried for that."""

    seconds: float = 0.0
    at: float = 0.0
    timeouts: int = 0

    def too_much(self, now: float) -> bool:
        self.seconds = max(0.0, self.seconds - SHARE * (now - self.at))
        self.at = now
        return self.seconds > BURST


@dataclass(frozen=True, slots=True)
class Expression:
    """For one thread at a time. `linear`: time grows with the input only."""

    pattern: Any
    linear: bool
    spent: Spent = field(default_factory=Spent, compare=False)

    def ends(self, data: bytes, start: int = 0) -> Iterator[int]:
        """Where the matches in `data` behind `start` end. Reads MAX_INPUT bytes at most; if not linear,
        MAX_INPUT_BACKTRACKING for MAX_SECONDS."""
        if self.linear:
            for match in islice(self.pattern.finditer(data[start : start + MAX_INPUT]), MAX_MATCHES):
                yield start + match.end()
        else:
            yield from [start + end for end in self._bounded(data[start : start + MAX_INPUT_BACKTRACKING])]

    def _bounded(self, data: bytes) -> list[int]:
        """Those found in time."""
        started = time.monotonic()
        found: list[int] = []
        if self.spent.too_much(started):
            self.spent.timeouts += 1
            return found
        try:
            for match in islice(self.pattern.finditer(data, timeout=MAX_SECONDS), MAX_MATCHES):
                found.append(match.end())
        except TimeoutError:
            self.spent.timeouts += 1
        self.spent.seconds += time.monotonic() - started
        return found


def compile_expression(expression: str, flags: str = "", *, linear: bool = True) -> Expression:
    """`flags`: letters of PCRE, of i, m, s, x, A (at the start) and E (`$` at the very end only). linear=False leaves
    RE2 out. Raises ExpressionError."""
    if "A" in flags:
        expression = rf"\A(?:{expression})"
    re2 = load_re2() if linear else None
    if re2 is not None and "x" not in flags:
        try:
            return Expression(_compile_re2(re2, expression, flags), True)
        except (_NotLinear, re2.error):
            pass
    changes = {**_PYTHON, "$": r"\Z"} if "E" in flags and "m" not in flags else _PYTHON
    options = 0
    for letter, option in _FLAGS.items():
        if letter in flags:
            options |= option
    try:
        text = _translate(expression, changes, _PYTHON_CLASS, braces=True)
        return Expression(regex.compile(text.encode("utf-8", "surrogateescape"), options), False)
    except (regex.error, RecursionError, OverflowError, ValueError) as error:
        raise ExpressionError(f"the expression cannot be compiled: {error}") from None


def _compile_re2(re2: Any, expression: str, flags: str) -> Any:
    if _INLINE.search(expression):
        raise _NotLinear
    changes = dict(_RE2)
    if "m" not in flags:
        changes["$"] = r"\z" if "E" in flags else r"(?:\n?\z)"
    text = _translate(expression, changes, _RE2_CLASS, refused=(r"\S", r"\H", r"\v", r"\V", r"\C"))
    inline = "".join(letter for letter in "ims" if letter in flags)
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    options.log_errors = False
    options.never_capture = True
    prefix = f"(?{inline})" if inline else ""
    return re2.compile((prefix + text).encode("utf-8", "surrogateescape"), options)


def _translate(
    expression: str,
    outside: Mapping[str, str],
    inside: Mapping[str, str],
    refused: tuple[str, ...] = (),
    braces: bool = False,
) -> str:
    """The expression with escapes and `$` replaced, outside and inside of character classes. `refused`: escapes that
    cannot be said inside of one (\\v, \\V and \\C: nowhere). `braces`: those that are no quantifiers are escaped."""
    out: list[str] = []
    before = ""
    depth = False
    first = False
    for token in _TOKEN.findall(expression):
        literal = first and token == "]"
        if depth:
            if token in refused:
                raise _NotLinear
            out.append(inside.get(token, token))
            depth = token != "]" or literal
        else:
            if token in refused and token not in outside:
                raise _NotLinear
            if braces and token[0] not in "\\[]$" and before not in _BRACED:
                token = _BRACE.sub(r"\{", token)
            out.append(outside.get(token, token))
            depth = token == "["
        before = token
        # Right behind the opening bracket, and behind its ^, a closing bracket is a character.
        first = depth and (token == "[" or (first and token == "^"))
    return "".join(out)


@lru_cache(maxsize=1)
def load_re2() -> Any:
    """The module, or None where the package is not installed."""
    try:
        return import_module("re2")
    except ImportError:
        return None
