# SPDX-License-Identifier: Apache-2.0
"""The arithmetic of the benchmarks."""

import os
import time
from collections import Counter

import pytest

from bench.method import cpu_seconds, measure_round, median_of, ratio_of, turns


def test_the_interval_holds_the_median_and_narrows_with_agreement() -> None:
    wide, narrow = median_of([1.0, 5.0, 9.0, 2.0, 8.0]), median_of([5.0, 5.1, 4.9, 5.0, 5.0])
    assert wide.low <= wide.value <= wide.high
    assert wide.value == narrow.value == 5.0
    assert narrow.high - narrow.low < wide.high - wide.low


def test_a_ratio_is_of_pairs_so_drift_cancels() -> None:
    drifting = [100.0, 50.0, 10.0, 70.0]
    estimate = ratio_of([0.9 * x for x in drifting], drifting)
    assert (estimate.low, estimate.high) == pytest.approx((0.9, 0.9))


def test_samples_that_are_no_pairs_are_refused() -> None:
    with pytest.raises(ValueError):
        ratio_of([1.0], [1.0, 2.0])
    with pytest.raises(ValueError):
        ratio_of([1.0], [0.0])
    with pytest.raises(ValueError):
        median_of([])


def test_every_peer_is_measured_once_a_round_and_first_as_often_as_the_others() -> None:
    names = ["a", "b", "c"]
    firsts = Counter(turns(names, number)[0] for number in range(6))
    assert set(firsts.values()) == {2}
    samples: dict[str, list[float]] = {}
    for number in range(4):
        measure_round({name: lambda: 1.0 for name in names}, number, samples)
    assert {name: len(values) for name, values in samples.items()} == dict.fromkeys(names, 4)


def test_cpu_time_grows_with_work_and_counts_only_the_named_threads() -> None:
    before = cpu_seconds(os.getpid())
    end = time.process_time() + 0.05
    while time.process_time() < end:
        pass
    assert 0.04 < cpu_seconds(os.getpid()) - before < 5
    assert cpu_seconds(os.getpid(), thread_prefix="no such thread") == 0
