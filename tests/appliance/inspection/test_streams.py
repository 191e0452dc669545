# SPDX-License-Identifier: Apache-2.0
import contextlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.inspection.streams import Budget, Stream, StreamMemoryError

WRAP = 1 << 32


def stream(cap: int = 1000, total: int = 10_000, first: int = 100) -> Stream:
    made = Stream(cap, Budget(total))
    made.start(first)
    return made


def test_order_is_restored() -> None:
    s = stream()
    assert s.segment(103, b"def").data == b""
    assert s.gap
    assert s.segment(100, b"abc").data == b"abcdef"
    assert not s.gap and s.offset == 6


def test_retransmission_delivers_nothing_twice() -> None:
    s = stream()
    assert s.segment(100, b"abc").data == b"abc"
    assert s.segment(100, b"abc").data == b""
    assert s.segment(101, b"bcde").data == b"de"


def test_first_copy_wins_and_the_other_is_a_conflict() -> None:
    s = stream()
    s.segment(100, b"abc")
    assert s.segment(100, b"aXc").conflict
    assert s.segment(102, b"Xyz").conflict
    s.segment(106, b"ghi")
    assert s.segment(103, b"defXhi").conflict
    assert s.segment(103, b"def").data == b"defghi"


def test_acknowledged_bytes_are_compared_no_more_and_free_their_memory() -> None:
    s = stream()
    s.segment(100, b"abcdef")
    assert s.held == 6
    s.acknowledged(104)
    assert s.held == 2
    assert not s.segment(100, b"XXXX").conflict
    assert s.segment(104, b"XX").conflict
    s.acknowledged(106)
    assert s.held == 0


def test_acknowledgement_of_what_was_never_sent_frees_nothing() -> None:
    s = stream()
    s.segment(100, b"abc")
    s.acknowledged(500)
    assert s.held == 3


def test_sequence_numbers_wrap() -> None:
    s = stream(first=WRAP - 2)
    assert s.segment(1, b"def").data == b""
    assert s.segment(WRAP - 2, b"abc").data == b"abcdef"
    assert s.segment(4, b"g").data == b"g"


def test_cap_of_a_stream() -> None:
    s = stream(cap=10)
    s.segment(102, b"x" * 8)
    with pytest.raises(StreamMemoryError):
        s.segment(120, b"y" * 3)
    assert s.held == 8


def test_budget_of_all_streams_and_release() -> None:
    budget = Budget(10)
    one, two = Stream(100, budget), Stream(100, budget)
    one.start(0)
    two.start(0)
    one.segment(1, b"x" * 8)
    with pytest.raises(StreamMemoryError):
        two.segment(1, b"y" * 3)
    one.release()
    assert budget.used == 0
    two.segment(1, b"y" * 3)
    assert budget.used == 3


def test_data_in_order_never_fails_for_memory() -> None:
    s = stream(cap=10)
    seq = 100
    for _ in range(50):
        assert s.segment(seq, b"z" * 7).data == b"z" * 7
        seq += 7
    assert s.held <= 10


@given(st.data(), st.integers(0, WRAP - 1), st.binary(min_size=1, max_size=200))
def test_any_segmentation_order_and_overlap_gives_the_bytes_once(data: st.DataObject, first: int, sent: bytes) -> None:
    size = len(sent)
    cuts = sorted(data.draw(st.sets(st.integers(0, size), max_size=12)) | {0, size})
    pieces = [(a, b) for a, b in itertools.pairwise(cuts)]
    extra = data.draw(st.lists(st.tuples(st.integers(0, size), st.integers(0, size)), max_size=6))
    pieces += [(min(pair), max(pair)) for pair in extra]
    budget = Budget(100_000)
    s = Stream(10_000, budget)
    s.start(first)
    received = b""
    for a, b in data.draw(st.permutations(pieces)):
        delivery = s.segment((first + a) % WRAP, sent[a:b])
        assert not delivery.conflict
        received += delivery.data
        if data.draw(st.booleans()):
            s.acknowledged((first + s.offset) % WRAP)
    assert received == sent
    assert budget.used == s.held
    s.release()
    assert budget.used == 0


@given(st.lists(st.tuples(st.integers(0, WRAP - 1), st.binary(max_size=40)), max_size=30))
def test_memory_is_bounded_whatever_comes(segments: list[tuple[int, bytes]]) -> None:
    budget = Budget(200)
    s = Stream(100, budget)
    for seq, payload in segments:
        with contextlib.suppress(StreamMemoryError):
            s.segment(seq, payload)
        assert 0 <= s.held <= 100
        assert budget.used == s.held
