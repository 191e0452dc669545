# SPDX-License-Identifier: Apache-2.0
"""When an inspector counts as overloaded."""

from hypothesis import given
from hypothesis import strategies as st

from appliance.service.ledger import QueueCounters
from appliance.service.overload import Overload

LENGTH, PATIENCE = 1000, 1.0


def row(number: int, waiting: int, ids: int, overrun: int = 0) -> QueueCounters:
    return QueueCounters(number, waiting, 0, overrun, ids)


def test_a_queue_that_is_full_and_one_that_has_emptied() -> None:
    overload = Overload((64, 65), LENGTH, PATIENCE)
    assert overload.look({64: row(64, 500, 500), 65: row(65, 0, 9)}, 0.0) == []
    assert overload.look({64: row(64, 900, 900), 65: row(65, 0, 9)}, 0.1) == [(64, True)]
    assert overload.look({64: row(64, 600, 900), 65: row(65, 0, 9)}, 0.2) == []
    assert overload.look({64: row(64, 100, 900), 65: row(65, 0, 9)}, 0.3) == [(64, False)]


def test_a_packet_that_waits_for_long() -> None:
    overload = Overload((64,), LENGTH, PATIENCE)
    assert overload.look({64: row(64, 1, 1)}, 0.0) == []
    assert overload.look({64: row(64, 3, 3)}, 0.9) == []
    assert overload.look({64: row(64, 3, 3)}, 1.1) == [(64, True)]
    assert overload.look({64: row(64, 2, 3)}, 1.3) == [(64, False)], "the first has gone; the others came at 0.9"
    assert overload.look({64: row(64, 2, 3)}, 2.0) == [(64, True)]
    assert overload.look({64: row(64, 0, 3)}, 2.1) == [(64, False)]


def test_packets_that_the_socket_lost_do_not_wait() -> None:
    overload = Overload((64,), LENGTH, PATIENCE)
    assert overload.look({64: row(64, 0, 50, 50)}, 0.0) == []
    assert overload.look({64: row(64, 0, 50, 50)}, 9.0) == []


def test_a_queue_without_an_inspector_is_another_failure() -> None:
    overload = Overload((64,), LENGTH, PATIENCE)
    assert overload.look({64: row(64, 999, 999)}, 0.0) == [(64, True)]
    assert overload.look({}, 0.1) == [(64, False)]
    assert overload.look({64: row(64, 0, 0)}, 0.2) == [], "it counts from the beginning"


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=60))
def test_it_is_overloaded_only_while_a_packet_has_waited_too_long(steps: list[tuple[int, int]]) -> None:
    """Packets come and go in order, a tenth of a second apart: the twin knows when each came."""
    overload = Overload((64,), LENGTH, PATIENCE)
    ids, since, state = 0, list[float](), False
    for number, (come, go) in enumerate(steps):
        now = number / 10
        del since[:go]
        since += [now] * come
        ids += come
        changed = overload.look({64: row(64, len(since), ids)}, now)
        state = changed[0][1] if changed else state
        oldest = now - since[0] if since else 0.0
        if oldest > PATIENCE:
            assert state
        if oldest < PATIENCE / 2:
            assert not state
