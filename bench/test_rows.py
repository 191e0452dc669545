# SPDX-License-Identifier: Apache-2.0
"""Each row: rounds in which every peer is sampled once. pytest-benchmark keeps the rounds, extra_info the samples."""

from functools import partial
from itertools import count

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.conftest import Results
from bench.method import measure_round
from bench.rig import Rigs
from bench.rows import ROWS, Row


@pytest.mark.timeout(900)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_row(row: Row, rigs: Rigs, results: Results, rounds: int, benchmark: BenchmarkFixture) -> None:
    present = rigs.get(row.peers)
    if row.baseline not in {rig.name for rig in present}:
        pytest.skip(f"no baseline: {rigs.missing[row.baseline]}")
    measure = {rig.name: partial(row.sample, rig) for rig in present}
    samples: dict[str, list[float]] = {}
    numbers = count()

    measure_round(measure, 0, {})  # warm: ARP, conntrack, caches; not counted
    def one_round() -> None:
        measure_round(measure, next(numbers), samples)

    benchmark.pedantic(one_round, rounds=rounds, iterations=1)  # type: ignore[no-untyped-call]

    benchmark.extra_info["unit"] = row.unit
    benchmark.extra_info["samples"] = samples
    results.add(row, samples)
    for rig in present:
        results.notes += [f"{row.name}, {rig.name}: {note}" for note in rig.notes]
        rig.notes.clear()
