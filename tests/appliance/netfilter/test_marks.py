# SPDX-License-Identifier: Apache-2.0
"""The mark byte at any place in the mark."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.netfilter import marks
from appliance.netfilter.marks import Down, Fate, MarkLayout, Slow, Up

LAYOUTS = st.integers(0, 24).map(lambda shift: MarkLayout(0xFF << shift))
MARKS = st.integers(0, 0xFFFFFFFF)
UPS = st.builds(Up, st.booleans(), st.booleans(), st.sampled_from(Fate), st.booleans()).map(
    lambda up: replace(up, previous=Fate.NONE if up.new else up.previous)  # nothing was decided about what is new
)
HEADER = Path(__file__).parents[3] / "fastpath/include/fastpath.h"


@pytest.mark.parametrize("mask", [0, 0xFF, 0xFF00, 0xFF000000, 0x1FE0])
def test_masks(mask: int) -> None:
    if mask:
        assert MarkLayout(mask).at(0xFF) == mask
    else:
        with pytest.raises(ValueError, match="eight adjacent bits"):
            MarkLayout(mask)


@pytest.mark.parametrize("mask", [0x7F, 0x1FF, 0xF0F, 0xFF00000000, 0x1FE000000, -1])
def test_masks_that_are_not_eight_adjacent_bits_are_refused(mask: int) -> None:
    with pytest.raises(ValueError, match="eight adjacent bits"):
        MarkLayout(mask)


@given(LAYOUTS, UPS)
def test_up_round_trip(layout: MarkLayout, up: Up) -> None:
    assert layout.decode_up(layout.encode_up(up)) == up


@given(LAYOUTS, UPS)
def test_what_policy_before_dnat_answered_round_trip(layout: MarkLayout, up: Up) -> None:
    sent = replace(up, pre_dnat=True)
    said = replace(sent, new=up.new and not up.no_save, previous=Fate.NONE if up.no_save else up.previous)
    if said.previous is Fate.REJECT:
        said = replace(said, previous=Fate.DROP)
    assert layout.decode_up(layout.encode_up(sent)) == said
    assert layout.encode_up(sent) != layout.encode_up(up)
    assert not layout.byte(layout.encode_up(sent)) & marks.FATE, "the queue rule looks for that"


@given(LAYOUTS, st.booleans())
def test_look_only_round_trip(layout: MarkLayout, reply: bool) -> None:
    up = Up(reply=reply, no_save=True, look_only=True)
    assert layout.decode_up(layout.encode_up(up)) == up


@given(LAYOUTS, st.booleans(), st.integers(0, 31))
def test_slow_round_trip(layout: MarkLayout, reply: bool, generation: int) -> None:
    slow = Slow(reply, generation)
    assert layout.decode_slow(layout.encode_slow(slow)) == slow
    assert slow.look_only == (generation == 0)


@given(LAYOUTS, st.integers(0, 31), st.sampled_from(Fate))
def test_down_round_trip_and_nothing_is_all_zero(layout: MarkLayout, generation: int, fate: Fate) -> None:
    value = layout.encode_down(Down(generation, fate))
    assert layout.decode_down(value) == (Down(generation, fate) if fate else Down())
    assert (value == 0) == (fate is Fate.NONE)


@given(LAYOUTS, MARKS, MARKS)
def test_merge_touches_no_foreign_bit(layout: MarkLayout, mark: int, value: int) -> None:
    merged = layout.merge(mark, value)
    assert merged & layout.others == mark & layout.others
    assert layout.byte(merged) == layout.byte(value)


@given(LAYOUTS, MARKS)
def test_no_mark_breaks_decoding(layout: MarkLayout, mark: int) -> None:
    for decode in (layout.decode_up, layout.decode_slow, layout.decode_down):
        try:
            decode(mark)
        except ValueError as error:
            assert "mark byte" in str(error)


@pytest.mark.parametrize("generation", [-1, 0, 32])
def test_a_fate_needs_a_generation(generation: int) -> None:
    with pytest.raises(ValueError, match=r"1\.\.31"):
        MarkLayout().fate(generation, Fate.ALLOW)


def test_bits_are_those_of_the_header() -> None:
    defined = dict(re.findall(r"#define FP_MARK_(\w+) (0x[0-9a-f]+|\d+)u?", HEADER.read_text()))
    assert len(defined) >= 10
    for name, value in defined.items():
        assert getattr(marks, name) == int(value, 0), name
