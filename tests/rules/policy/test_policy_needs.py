# SPDX-License-Identifier: Apache-2.0
"""The index of selectors by what labels must have: it may find too many, and never too few."""

from hypothesis import given
from hypothesis import strategies as st

from rules.policy.labels import Holders
from rules.policy.needs import Needed, needs
from rules.policy.selector import Selector
from tests.rules.policy.test_selector import selectors

LABELS = st.dictionaries(st.sampled_from("abc"), st.sampled_from(("x", "y", "")), max_size=3)
ATOMS = st.sampled_from((
    "a == 'x'", "b == 'y'", "a != 'x'", "c in {'x', 'y'}", "c not in {'x'}", "b in {}", "has(c)",
    "a contains 'x'", "all()",
))  # fmt: skip
TEXTS = st.recursive(
    ATOMS, lambda inner: st.one_of(
        st.builds("({} && {})".format, inner, inner), st.builds("({} || {})".format, inner, inner),
        st.builds("!({})".format, inner),
    ), max_leaves=6,
)  # fmt: skip


def found(text: str, **labels: str) -> bool:
    needed: Needed[str] = Needed()
    needed.add(Selector.parse(text).node, "it")
    return list(needed.may_hold(labels)) == ["it"]


def test_what_is_looked_up() -> None:
    assert found("app == 'a1' && has(team)", app="a1") and not found("app == 'a1' && has(team)", app="a2", team="t")
    assert found("app in {'a1', 'a2'}", app="a2") and not found("app in {'a1', 'a2'}", app="a3")
    assert found("has(team) || env == 'e1'", team="t") and found("has(team) || env == 'e1'", env="e1")
    assert not found("has(team) || env == 'e1'", env="e2") and not found("app in {}", app="a1")
    assert found("app contains 'a'", app="b") and not found("app contains 'a'", env="a")


def test_a_negation_is_asked_of_everybody() -> None:
    for text in ("all()", "!has(app)", "app != 'a1'", "app not in {'a1'}", "!(app == 'a1')", "has(x) || !has(y)"):
        assert found(text), text


def test_of_a_conjunction_the_value_that_few_have_is_looked_up() -> None:
    assert needs(Selector.parse("has(team) && app in {'a', 'b'} && env == 'e' && !has(x)").node) == {("env", "e")}


@given(TEXTS, LABELS)
def test_nobody_who_matches_is_missed(text: str, labels: dict[str, str]) -> None:
    assert found(text, **labels) or not Selector.parse(text).matches(labels)


@given(selectors, st.dictionaries(st.text("ab./", min_size=1, max_size=3), st.text("ab", max_size=2), max_size=4))
def test_nobody_who_matches_any_selector_is_missed(text: str, labels: dict[str, str]) -> None:
    assert found(text, **labels) or not Selector.parse(text).matches(labels)


@given(st.lists(TEXTS, max_size=8), st.lists(LABELS, min_size=1, max_size=6))
def test_holders_that_come_later_are_selected_like_those_that_were_there(
    texts: list[str], those: list[dict[str, str]]
) -> None:
    nodes = [Selector.parse(text).node for text in texts]
    late = Holders()
    for node in nodes:
        late.matching(node)
    for labels in those:
        number = late._add(labels)
        assert set(late.selecting(number)) == {node for node in nodes if node.matches(labels)}
    early = Holders()
    for labels in those:
        early._add(labels)
    assert [early.matching(node) for node in nodes] == [late.matching(node) for node in nodes]
