# SPDX-License-Identifier: Apache-2.0
"""The ledger of counters read one after the other: what moves meanwhile is missing nowhere, what is lost is shown."""

from dataclasses import replace

import pytest

from appliance.service.ledger import Baseline, Ledger, QueueCounters, Reading, baseline, ledger
from fastpath import Counters

NOBODY = Counters(*(0 for _ in Counters._fields))


def queue(ids: int, waiting: int = 0, full: int = 0, overrun: int = 0) -> QueueCounters:
    return QueueCounters(3, waiting, full, overrun, ids)


def row(ids: int, waiting: int = 0) -> str:
    """As the kernel lists it."""
    return f"3 99 {waiting} 2 65535 0 0 {ids} 1"


def worker(packets: int, allowed: int, taken_over: int = 0) -> Counters:
    return NOBODY._replace(packets=packets, allowed=allowed, taken_over=taken_over)


def reading(hits: int, before: QueueCounters, after: QueueCounters, *workers: Counters, bypassed: int = 0) -> Reading:
    first, last = workers or (NOBODY, NOBODY)
    return Reading({"queued": hits, "bypassed": bypassed}, ((before,), (after,)), ((first,), (last,)))


def took(found: Reading, before: Baseline, *, fail_open: bool = False) -> Ledger:
    return ledger(found, before, fail_open=fail_open)


# A predecessor's rules and queue: 7 hits more than what the queue has numbered, for whatever reason.
OFFSET = 7


@pytest.mark.parametrize("moved", [0, 30])
def test_a_successor_goes_on_with_the_offset_that_it_is_given(moved: int) -> None:
    """Under load its own reading is off by what moved between queue and rules."""
    busy = reading(1000 + OFFSET + moved, queue(1000), queue(1000 + moved))
    base = baseline(busy, row(1000), OFFSET)
    assert base.offset == OFFSET
    still = reading(1500 + OFFSET, queue(1500), queue(1500), worker(500, 500), worker(500, 500))
    found = took(still, base)
    assert (found.hits, found.answered, found.ids_lost, found.unaccounted) == (500, 500, 0, 0)


def test_without_one_the_least_that_was_read_counts() -> None:
    base = baseline(reading(1030 + OFFSET, queue(1000), queue(1040)), row(1000))
    assert base.offset == OFFSET + 30
    still = reading(1500 + OFFSET, queue(1500), queue(1500), worker(500, 500), worker(500, 500))
    assert still.offset == OFFSET
    found = took(still, replace(base, offset=still.offset))
    assert (found.hits, found.unaccounted) == (500, 0)


def test_what_moves_while_it_is_read_is_missing_nowhere() -> None:
    base = Baseline({}, {3: queue(0)}, 0)
    found = took(reading(110, queue(100, waiting=8), queue(120, waiting=3), worker(92, 90), worker(118, 117)), base)
    assert found.unaccounted == 0 and found.ids_lost == 0


def test_a_hit_that_no_queue_saw_is_shown() -> None:
    base = Baseline({}, {3: queue(0)}, 0)
    found = took(reading(103, queue(100), queue(100), worker(100, 100), worker(100, 100)), base)
    assert found.unaccounted == 3 and found.hits == 103


def test_a_packet_that_a_worker_never_answered_is_shown() -> None:
    base = Baseline({}, {3: queue(0)}, 0)
    found = took(reading(100, queue(100), queue(100), worker(100, 98), worker(100, 98)), base)
    assert found.unaccounted == 2


def test_one_that_it_is_about_to_answer_waits() -> None:
    base = Baseline({}, {3: queue(0)}, 0)
    found = took(reading(100, queue(100, waiting=2), queue(100, waiting=2), worker(100, 98), worker(100, 98)), base)
    assert found.unaccounted == 0 and found.waiting == 2


def test_what_waited_for_a_successor_is_its_own_and_what_was_read_before_is_taken_over() -> None:
    base = baseline(reading(1000 + OFFSET, queue(1000, waiting=20), queue(1000, waiting=20)), row(1000, 20), OFFSET)
    both = worker(117, 117, taken_over=3)
    found = took(reading(1100 + OFFSET, queue(1100), queue(1100), both, both), base)
    assert (found.hits, found.answered, found.ids_lost, found.unaccounted) == (120, 120, 0, 0)


def test_open_what_passed_without_a_number_was_seen_by_the_chains_behind() -> None:
    base = Baseline({}, {3: queue(0)}, 0)
    both = worker(95, 95)
    found = took(reading(130, queue(100), queue(100), both, both, bypassed=35), base, fail_open=True)
    assert (found.passed, found.unanswered, found.unaccounted) == (35, 35, 0)
    found = took(reading(130, queue(100), queue(100), both, both, bypassed=33), base, fail_open=True)
    assert found.unaccounted == 2
