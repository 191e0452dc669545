# SPDX-License-Identifier: Apache-2.0
"""A change in a policy file until a packet feels it: 10,000 policies, 100,000 endpoints, 100,000 open flows."""

import os
import time
from collections.abc import Iterator

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.conftest import Results
from bench.enforcement import PORT, World, probe, rules
from bench.measures import measure
from bench.test_policy import run_once

pytestmark = pytest.mark.timeout(900)

POLICIES, ENDPOINTS, FLOWS = 10_000, 100_000, 100_000
CHANGES = int(os.environ.get("BENCH_CHANGES", "120"))
CLIENT, STRANGER = {"probe": "client"}, {"probe": "stranger"}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    directory = tmp_path_factory.mktemp("enforcement")
    with World(directory, policies=POLICIES, endpoints=ENDPOINTS, flows=FLOWS) as made:
        yield made


def test_endpoint(world: World, results: Results, benchmark: BenchmarkFixture) -> None:
    """Added: its first packet passes. Relabelled: its open flow is cut, and then passes again. Removed: it is cut."""
    added, cut, back, removed, undisturbed = [], [], [], [], []
    world.write("rules.yaml", rules(PORT))
    for _ in range(CHANGES):
        with world.flow() as sock:
            world.rest()
            before, begun = world.waited(), time.perf_counter()
            world.write("moving.yaml", [probe(CLIENT, world.address)])
            added.append(world.until_it_passes(sock, begun))
            undisturbed.append(added[-1] - (world.waited() - before))
            world.rest()
            begun = time.perf_counter()
            world.write("moving.yaml", [probe(STRANGER, world.address)])
            cut.append(world.until_it_stops(sock, begun))
            world.rest()
            before, begun = world.waited(), time.perf_counter()
            world.write("moving.yaml", [probe(CLIENT, world.address)])
            back.append(world.until_it_passes(sock, begun))
            undisturbed.append(back[-1] - (world.waited() - before))
            world.rest()
            begun = time.perf_counter()
            world.remove("moving.yaml")
            removed.append(world.until_it_stops(sock, begun))
    results.measures += [
        measure("enforced/endpoint_added", "ms", added, 5.0, "p99"),
        measure("enforced/endpoint_relabelled_open_flow_cut", "ms", cut, 5.0, "p99"),
        measure("enforced/endpoint_relabelled_allowed_again", "ms", back, 5.0, "p99"),
        measure("enforced/endpoint_removed_open_flow_cut", "ms", removed, 5.0, "p99"),
        measure("enforced/endpoint_passes_undisturbed", "ms", undisturbed),
    ]
    run_once(benchmark, added)


def test_policy(world: World, results: Results, benchmark: BenchmarkFixture) -> None:
    """One policy's rule goes to another port and back: the open flow is cut, and passes again."""
    cut, back = [], []
    world.write("moving.yaml", [probe(CLIENT, world.address)])
    with world.flow() as sock:
        world.until_it_passes(sock, time.perf_counter())
        for _ in range(CHANGES):
            world.rest()
            begun = time.perf_counter()
            world.write("rules.yaml", rules(PORT + 1))
            cut.append(world.until_it_stops(sock, begun))
            world.rest()
            begun = time.perf_counter()
            world.write("rules.yaml", rules(PORT))
            back.append(world.until_it_passes(sock, begun))
    results.measures += [
        measure("enforced/policy_open_flow_cut", "ms", cut, 50.0, "p99"),
        measure("enforced/policy_allowed_again", "ms", back, 50.0, "p99"),
    ]
    run_once(benchmark, cut)
