# SPDX-License-Identifier: Apache-2.0
"""Flows decided again: counted from the change on, told once when they have come to rest."""

from appliance.service.redecisions import REST, Redecided, Redecisions
from fastpath import Event
from fastpath.layout import EventKind

START = 10**18
MS = 10**6


def event(at: int, kind: EventKind = EventKind.REDECIDED, proto: int = 6) -> Event:
    fields = dict.fromkeys(Event._fields, 0)
    return Event(**{**fields, "time": START + at, "kind": kind, "proto": proto})  # type: ignore[arg-type]


def test_the_last_one_counts_and_all_are_told_once() -> None:
    flows = Redecisions()
    assert flows.words(START) == ""
    flows.begin(START)
    flows.begin(START + 5 * MS)  # the same change, now in the kernel
    for at in (20 * MS, 85 * MS, 60 * MS):
        flows.take(event(at))
    flows.take(event(90 * MS, EventKind.FLOW))
    assert flows.last == Redecided(3, 0.085)
    assert flows.words(START + REST) == ""
    assert "3 open flows decided again, the last after 85 ms" in flows.words(START + REST + 85 * MS)
    assert flows.words(START + 2 * REST) == ""


def test_one_that_was_idle_is_told_when_it_comes_and_the_next_change_begins_anew() -> None:
    flows = Redecisions()
    flows.begin(START)
    assert flows.words(START + REST) == ""
    flows.take(event(10 * REST))
    assert "1 open flows" in flows.words(START + 11 * REST)
    flows.begin(START + 20 * REST)
    assert flows.last == Redecided()


def test_udp_that_comes_up_long_after_the_change_is_not_of_it() -> None:
    flows = Redecisions()
    flows.begin(START)
    flows.take(event(10 * MS, proto=17))
    assert "1 open flows decided again, the last after 10 ms" in flows.words(START + 2 * REST)
    flows.take(event(10 * REST, proto=17))
    assert flows.words(START + 20 * REST) == "" and flows.last == Redecided(1, 0.01)
