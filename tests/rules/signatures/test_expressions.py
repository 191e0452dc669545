# SPDX-License-Identifier: Apache-2.0
"""Expressions: both engines read them alike, and the linear one is quick whatever the bytes."""

import contextlib
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rules.signatures.expressions import (
    BURST,
    MAX_INPUT_BACKTRACKING,
    ExpressionError,
    compile_expression,
    load_re2,
)

pytestmark = pytest.mark.skipif(load_re2() is None, reason="google-re2 is not installed")

ATOMS = (
    "a", "b", ".", r"\d", r"\w", r"\s", r"\S", r"[ab]", r"[^a\s]", r"[]a]", r"[^]$]", r"[a\]$]", r"\x61", r"\xe9",
    r"\.", r"\/", r"\;", r"\-", "^", "$", r"\b", r"\A", r"\Z", r"\n", r"[\x00-\x20]", r"\h", r"[\hb]",
)  # fmt: skip
EXPRESSIONS = st.recursive(
    st.sampled_from(ATOMS),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map("|".join).map(lambda text: f"(?:{text})"),
        st.tuples(inner, st.sampled_from(("*", "+", "?", "{1,3}", "*?"))).map(lambda pair: f"(?:{pair[0]}){pair[1]}"),
        inner.map(lambda text: f"({text})"),
    ),
    max_leaves=6,
)  # fmt: skip
DATA = st.lists(st.sampled_from(b"ab1 .\n\r\t\v$]/;-_\xe9\xc9\xa0\0AB"), max_size=12).map(bytes)


@settings(max_examples=400)
@given(EXPRESSIONS, st.sets(st.sampled_from("imsAE")).map("".join), DATA)
def test_both_engines_find_the_same(expression: str, flags: str, data: bytes) -> None:
    linear, other = compile_expression(expression, flags), compile_expression(expression, flags, linear=False)
    assert not other.linear
    assert (next(linear.ends(data), None) is None) == (next(other.ends(data), None) is None)


@pytest.mark.parametrize(
    ("expression", "flags", "data", "found"),
    [
        ("b$", "", b"ab\n", True),
        ("b$", "E", b"ab\n", False),
        (r"b\z", "", b"ab\n", False),
        (r"b\Z", "", b"ab\n", True),
        ("b$", "m", b"ab\nc", True),
        ("b", "A", b"ab", False),
        ("a.c", "s", b"a\nc", True),
        ("a b", "x", b"ab", True),
        (r"(a)\1", "", b"xaa", True),
        (r"a(?!b)", "", b"abac", True),
        (r"[$]", "", b"$", True),
        (r"\$x", "", b"$x", True),
        (r"[\]$]x", "", b"$x", True),
    ],
)
def test_what_is_written_is_what_pcre_means(expression: str, flags: str, data: bytes, found: bool) -> None:
    assert (next(compile_expression(expression, flags).ends(data), None) is not None) is found


@pytest.mark.parametrize(("expression", "linear"), [("a+b", True), ("(a)b", True), (r"a(?=b)", False), ("a b", True)])
def test_what_an_automaton_can_decide_is_linear(expression: str, linear: bool) -> None:
    assert compile_expression(expression).linear is linear


@pytest.mark.parametrize("expression", ["(x+x+)+y", "(a|aa)+$", "(.*)*z", "^(([a-z])+.)+[A-Z]([a-z])+$"])
def test_hostile_input_costs_linear_time(expression: str) -> None:
    compiled = compile_expression(expression)
    started = time.perf_counter()
    assert next(compiled.ends(b"x" * 30_000 + b"a" * 30_000 + b"!"), None) is None or expression == "(a|aa)+$"
    assert compiled.linear
    assert time.perf_counter() - started < 0.5


def test_what_only_backtracking_can_decide_gets_little_input() -> None:
    expression = compile_expression("(?<=a)b")
    assert next(expression.ends(b"x" * (MAX_INPUT_BACKTRACKING - 2) + b"ab"), None) == MAX_INPUT_BACKTRACKING
    assert next(expression.ends(b"x" * MAX_INPUT_BACKTRACKING + b"ab"), None) is None


CATASTROPHES = (r"(?!z)(x+x+)+y", r"(?=x)(x|xx)+$", r"(x+)+\1y")


@pytest.mark.parametrize("expression", CATASTROPHES)
def test_backtracking_ends_in_time_and_is_counted(expression: str) -> None:
    compiled = compile_expression(expression)
    assert not compiled.linear
    started = time.monotonic()
    for _ in range(200):
        assert list(compiled.ends(b"x" * 4000 + b"!")) == []
    # A burst, what the clock is looked at late for, and a tenth of the time that has gone.
    assert time.monotonic() - started < 1.5
    assert compiled.spent.timeouts >= 190
    quick = compile_expression(r"(?=x)xy")
    assert list(quick.ends(b"axy")) == [3] and quick.spent.timeouts == 0


def test_what_took_too_long_is_tried_again_later() -> None:
    compiled = compile_expression(CATASTROPHES[0])
    while compiled.spent.seconds <= BURST:
        assert list(compiled.ends(b"x" * 4000)) == []
    compiled.spent.seconds = 5.0
    assert list(compiled.ends(b"xxy")) == []
    compiled.spent.at -= 60.0
    assert list(compiled.ends(b"xxy")) == [3]


@pytest.mark.parametrize("text", [r"a{e}(?=b)", r"a{e<=2}(?=b)", "a{,2}(?=b)", "a{(?=b)"])
def test_a_brace_that_is_no_quantifier_is_itself(text: str) -> None:
    data = text.replace("(?=b)", "b").encode()
    expression = text if not text.startswith("a{(") else r"a\{(?=b)"
    assert list(compile_expression(expression).ends(data)) == [len(data) - 1]
    assert list(compile_expression(expression).ends(b"aab")) == []


@pytest.mark.parametrize("expression", ["(", "a**", "[a", r"\1"])
def test_nonsense_is_an_error(expression: str) -> None:
    with pytest.raises(ExpressionError):
        compile_expression(expression)


@given(st.text(max_size=30))
def test_any_text_compiles_or_is_an_error(expression: str) -> None:
    with contextlib.suppress(ExpressionError):
        compile_expression(expression)
