# SPDX-License-Identifier: Apache-2.0
"""One TCP flow of which every byte is inspected, by what reads the slow queue and by MTU."""

import os
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from appliance.lab.program import read_queues
from bench.conftest import Results
from bench.measures import measure
from bench.rig import Rig, make_rig
from bench.rows import tcp_flow
from bench.test_policy import run_once

pytestmark = pytest.mark.timeout(300)

ROUNDS = int(os.environ.get("BENCH_INSPECTED_ROUNDS", "7"))
SLOW_QUEUE = 64
READERS = {"fastpath": "portcullis-inspected", "netfilterqueue": "portcullis-inspected-library"}
# A packet of the library's is cut at 4,016 bytes: with jumbo frames nothing is left to compare.
PAIRS = [("netfilterqueue", 1500), ("fastpath", 1500), ("fastpath", 9000)]


def one_flow(rig: Rig) -> tuple[float, int]:
    """Gbit/s at the receiver, and packets that the queue lost meanwhile."""
    before = read_queues(rig.node)[SLOW_QUEUE]
    rate = tcp_flow(rig)
    now = read_queues(rig.node)[SLOW_QUEUE]
    assert now.queued - before.queued > 1000, "nothing was inspected"
    return rate, now.full - before.full + now.lost - before.lost


def test_tcp_flow(tmp_path: Path, results: Results, benchmark: BenchmarkFixture) -> None:
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    rates: dict[tuple[str, int], list[float]] = {pair: [] for pair in PAIRS}
    lost = dict.fromkeys(PAIRS, 0)
    rigs: dict[tuple[str, int], Rig] = {}
    try:
        for reader, mtu in PAIRS:
            rigs[reader, mtu] = make_rig(READERS[reader], tmp_path / f"{reader}-{mtu}", mtu)
        for number in range(ROUNDS + 1):
            for pair, rig in rigs.items():
                rate, gone = one_flow(rig)
                if number:  # the first round warms up
                    rates[pair].append(rate)
                    lost[pair] += gone
    finally:
        for rig in rigs.values():
            rig.close()
    for (reader, mtu), samples in rates.items():
        name = f"inspection/tcp_{mtu}_{reader}"
        results.measures += [
            measure(name, "Gbit/s", samples),
            measure(f"{name}_lost_packets", "packets", [float(lost[reader, mtu])]),
        ]
    run_once(benchmark, rates["fastpath", 1500])
