# SPDX-License-Identifier: Apache-2.0
import random
import string
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rules.policy import Selector, SelectorError
from rules.policy.labels import Holders
from rules.policy.selector import prefix_labels
from tests.rules.policy.naive_selector import naive_match


def matches(text: str, **labels: str) -> bool:
    return Selector.parse(text).matches(labels)


@pytest.mark.parametrize("text", ["", "   ", "\t", "all()", " all( ) ", "global()"])
def test_nothing_and_all_match_everything(text: str) -> None:
    assert matches(text)
    assert matches(text, a="b")


def test_not_binds_to_the_whole_comparison() -> None:
    assert matches("!a == 'b'", a="c")
    assert not matches("!a == 'b'", a="b")
    assert matches("!!a == 'b'", a="b")


def test_and_binds_tighter_than_or() -> None:
    assert matches("a == '1' || b == '1' && c == '1'", a="1")
    assert not matches("(a == '1' || b == '1') && c == '1'", a="1")


@pytest.mark.parametrize("text", ["a != 'x'", "a not in {'x'}"])
def test_negative_comparisons_hold_without_the_label(text: str) -> None:
    assert matches(text)


@pytest.mark.parametrize("text", ["a == 'x'", "a in {'x'}", "a contains ''", "a starts with ''", "a ends with ''"])
def test_positive_comparisons_fail_without_the_label(text: str) -> None:
    assert not matches(text)


@pytest.mark.parametrize(
    "text",
    ['a contains"x"', 'a notin{"b"}', "a startswith 'x'", "a ends\twith 'x'", "a in {}", "a in {'x',}",
     "contains contains 'x'", "in in {'a'}", "has == 'x'", "not not in {'a'}", "a-b./c_D == ''"],
)  # fmt: skip
def test_odd_spellings_are_valid(text: str) -> None:
    Selector.parse(text)


@pytest.mark.parametrize(
    ("text", "position"),
    [("a == ", 5), ("a == b", 5), ("has (a)", 4), ("a\n== 'x'", 1), ("a == 'x' &&", 11), ("a inf 'x'", 2),
     ("(a == 'x'", 9), ("a in {,}", 6), ("a == 'x' b", 9), ("'a' == 'a'", 0), ("all(x)", 4)],
)  # fmt: skip
def test_errors_name_the_position(text: str, position: int) -> None:
    with pytest.raises(SelectorError) as caught:
        Selector.parse(text)
    assert caught.value.position == position


def test_labels_of_512_characters_and_no_more() -> None:
    Selector.parse(f"has({'x' * 512})")
    with pytest.raises(SelectorError):
        Selector.parse(f"has({'x' * 513})")


def test_depth_costs_no_recursion() -> None:
    assert matches("(" * 5000 + "a == 'b'" + ")" * 5000, a="b")
    with pytest.raises(SelectorError, match="nested"):
        Selector.parse("!(a == 'b' || " * 2000 + "a == 'b'" + ")" * 2000)


def test_negations_of_negations_cost_no_depth() -> None:
    assert Selector.parse("!(" * 330 + "has(a)" + ")" * 330).matches({"a": ""})
    assert not Selector.parse("!(" * 331 + "has(a)" + ")" * 331).matches({"a": ""})
    assert not Selector.parse("!(!(!has(a)))").matches({"a": ""})


@pytest.mark.parametrize("opening", ["(", "!(", "!!(", "has(b) && ("])
def test_parentheses_around_much_cost_no_more_than_their_length(opening: str) -> None:
    depth = 200 if "&" in opening else 40_000
    inner = "&&".join(["a == 'x'"] * 40_000)
    began = time.monotonic()
    assert Selector.parse(f"{opening * depth}{inner}{')' * depth}").matches({"a": "x", "b": ""})
    assert time.monotonic() - began < 20  # of a second or less; with each asked again at each parenthesis: a minute


def test_depth_is_counted_by_what_lies_below_what() -> None:
    for opening, deepest in (("a == 'x' && (", 208), ("has(a) || !(", 104)):
        text = opening * deepest + "all()" + ")" * deepest
        Selector.parse(text)
        with pytest.raises(SelectorError, match="nested more than 208 deep"):
            Selector.parse(f"{opening}{text})")


def test_the_deepest_selector_of_1024_characters_is_usable_from_a_deep_stack() -> None:
    text = "!(all()||" * 101 + "all()" + ")" * 101

    def use(frames: int) -> None:
        if frames:
            return use(frames - 1)
        selector = Selector.parse(text)
        assert selector == Selector.parse(str(selector))
        assert hash(selector) == hash(Selector.parse(text))
        holders = Holders()
        holders.add({"a": "b"})
        prefixed = prefix_labels(selector.node, "pcns.")
        assert selector.matches({}) is (holders.matching(prefixed) == 1)
        return None

    assert len(text) <= 1024
    use(200)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [("a=='b'", 'a == "b"'), ("a == '\"'", "a == '\"'"), ("a in {'z', 'b', 'z'}", 'a in {"b", "z"}'),
     ("a=='b'&&has(c)||!all()", '((a == "b" && has(c)) || !all())'), ("a startswith 'x'", 'a starts with "x"')],
)  # fmt: skip
def test_canonical_form(text: str, canonical: str) -> None:
    assert str(Selector.parse(text)) == canonical


def test_prefix_goes_to_every_label() -> None:
    node = prefix_labels(Selector.parse("a == 'x' && (has(b) || !c in {'z'})").node, "pcns.")
    assert node.matches({"pcns.a": "x", "pcns.c": "y"})
    assert not node.matches({"a": "x", "b": "y"})


labels = st.text(string.ascii_lowercase + "./-_", min_size=1, max_size=4)
values = st.text(string.ascii_letters + " '", max_size=3)


def quoted(value: str) -> str:
    return f'"{value}"'


atoms = st.one_of(
    st.builds(lambda k, o, v: f"{k}{o}{quoted(v)}", labels, st.sampled_from(("==", " != ", " contains ")), values),
    st.builds(lambda k, o, v: f"{k} {o} {{{','.join(map(quoted, v))}}}", labels, st.sampled_from(("in", "not in")),
              st.lists(values, max_size=3)),
    st.builds(lambda k: f"has({k})", labels),
)  # fmt: skip
selectors = st.recursive(
    atoms,
    lambda inner: st.one_of(
        st.builds(lambda a: f"!({a})", inner),
        st.builds(lambda a, b, o: f"({a}) {o} ({b})", inner, inner, st.sampled_from(("&&", "||"))),
    ),
    max_leaves=8,
)


@given(selectors, st.dictionaries(labels, values, max_size=4))
def test_the_canonical_form_means_the_same(text: str, have: dict[str, str]) -> None:
    selector = Selector.parse(text)
    again = Selector.parse(str(selector))
    assert again.matches(have) == selector.matches(have)
    assert str(Selector.parse(str(again))) == str(again)


@given(st.text(alphabet=string.printable, max_size=40))
def test_any_text_parses_or_says_where_not(text: str) -> None:
    try:
        Selector.parse(text).matches({"a": "b"})
    except SelectorError as error:
        assert 0 <= error.position <= len(text)


PIECES = (
    "a", "b", "has(", "all(", "global(", ")", "(", "{", "}", ",", "'x'", '"y"', "''", "'", '"', "==", "!=", "!", "=",
    "&&", "||", "&", "|", "in", "not", "not in", "contains", "starts with", "starts", "with", "ends with", " ", "\t",
    "\n", "a-b", "has", "all", "notin", "é", "\u00a0", "_", "1", 'contains"x"', "a == 'x'", "has(a)", "b in {'x','y'}",
    "a not in {'x',}",
)  # fmt: skip
WHOLE = ("a == 'x'", "a != 'y'", "has( b )", "!has(a)", "b in {'x', 'y'}", "a notin{'x',}", "all()", "b contains ''",
         "a starts with 'x'", "b endswith\"y\"")  # fmt: skip
HAVE: tuple[dict[str, str], ...] = ({}, {"a": "x"}, {"a": "y", "b": "x"}, {"b": "y"}, {"a": "", "in": "x"})


def written(rng: random.Random) -> str:
    """Half of them from whole comparisons, so that most of those are valid, with a piece wrong now and then."""
    if rng.random() < 0.5:
        return "".join(rng.choice(PIECES) + " " * rng.randrange(2) for _ in range(rng.randint(1, 12)))
    text = rng.choice(WHOLE)
    for _ in range(rng.randrange(5)):
        text = f"{rng.choice(('', '!', '! !'))}({text}) {rng.choice(('&&', '||'))} {rng.choice(WHOLE)}"
    if rng.random() < 0.3:
        at = rng.randrange(len(text))
        text = text[:at] + rng.choice(PIECES) + text[at + rng.randrange(3) :]
    return text


@pytest.mark.parametrize("seed", range(4))
def test_the_grammar_read_slowly_agrees(seed: int) -> None:
    rng = random.Random(seed)
    valid = 0
    for _ in range(10_000):
        text = written(rng)
        expected = naive_match(text)
        try:
            selector = Selector.parse(text)
        except SelectorError as error:
            assert expected is None, text
            assert 0 <= error.position <= len(text)
            continue
        assert expected is not None, text
        valid += 1
        for have in HAVE:
            assert selector.matches(have) is expected(have), (text, have)
    assert valid > 2000
