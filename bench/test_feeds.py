# SPDX-License-Identifier: Apache-2.0
"""Millions of listed prefixes: to load them, to change some of them or all, to add one by command, on real packets."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.conftest import Results
from bench.feed_load import listed
from bench.feed_service import Change, FeedWorld
from bench.measures import measure
from bench.test_policy import run_once

pytestmark = pytest.mark.timeout(1800)

REPOSITORY = Path(__file__).resolve().parents[1]
MILLION = 1_000_000
ROUNDS = int(os.environ.get("BENCH_FEED_ROUNDS", "5"))
LOAD, CHANGED, REPLACED, COMMAND, SLOWEST = 10.0, 5.0, 1.0, 50.0, 10.0  # s, s, s, ms, ms


def root() -> None:
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")


@pytest.mark.parametrize("entries", [MILLION, 5 * MILLION])
def test_load(entries: int, results: Results, benchmark: BenchmarkFixture) -> None:
    command = [sys.executable, "-m", "bench.feed_load", str(entries)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, capture_output=True, check=True, timeout=600, env=environment, cwd=REPOSITORY)
    found = json.loads(done.stdout)
    benchmark.extra_info["steps"] = found
    title = f"feeds/{entries // MILLION}M"
    results.measures += [
        measure(f"{title}/read", "s", [found["read"]]),
        measure(f"{title}/load", "s", [found["load"]], LOAD * entries / MILLION),
        measure(f"{title}/map", "bytes/prefix", [found["map_bytes"] / found["entries"]], 64.0),
    ]
    run_once(benchmark, [found["load"]])


def test_changes(tmp_path: Path, results: Results, benchmark: BenchmarkFixture) -> None:
    """1 % of a million is new; all of a million is; one entry is added by command."""
    root()
    lines = listed(MILLION + MILLION // 100).split("\n")
    first, second = lines[:MILLION], lines[MILLION // 100 :]
    others = listed(MILLION, seed=7).split("\n")
    some: list[Change] = []
    whole: list[Change] = []
    back: list[Change] = []
    single: list[Change] = []
    with FeedWorld(tmp_path, first) as world:
        memory = world.memory()
        for _ in range(ROUNDS):
            some.append(world.replace([*second, world.victim]))
            world.replace(first)
            world.quiet()
            whole.append(world.replace([*others, world.victim]))
            back.append(world.replace(first))
            world.quiet()
        for _ in range(4 * ROUNDS):
            single.append(world.list_by_command())
            world.tell("feeds_remove")
        commands = [world.command() for _ in range(3)]
        peak = world.memory("VmHWM")
        started, alone = world.started, world.alone
    (tmp_path / "empty").mkdir()
    with FeedWorld(tmp_path / "empty", ()) as world:
        empty = world.memory()
    changes = [*some, *whole, *back, *single]
    distribution = {name: [round(1000 * one.slowest, 2) for one in made] for name, made in
                    {"some": some, "whole": [*whole, *back], "single": single}.items()}  # fmt: skip
    benchmark.extra_info["slowest"] = distribution
    results.measures += [
        measure("feeds/1M/start", "s", [started], LOAD),
        measure("feeds/1M/one_percent_changed_to_first_refused", "s", [one.refused for one in some], CHANGED),
        measure("feeds/1M/one_percent_changed_inside", "s", [one.inside for one in some]),
        measure("feeds/1M/replaced_to_first_refused", "s", [one.refused for one in whole]),
        measure("feeds/1M/replaced_inside", "s", [one.inside for one in whole], REPLACED),
        measure("feeds/1M/one_by_command", "ms", [1000 * one.refused for one in single], COMMAND),
        measure("feeds/1M/one_by_command_whole_command", "ms", [1000 * seconds for seconds in commands]),
        measure("feeds/1M/packets_lost", "packets", [float(sum(one.lost for one in changes))], 0.0),
        measure("feeds/1M/slowest_answer", "ms", [1000 * max(one.slowest for one in changes)], SLOWEST),
        *(
            measure(f"feeds/1M/slowest_answer/{kind}", "ms", [1000 * one.slowest for one in made], SLOWEST)
            for kind, made in {"one_percent": some, "replaced": [*whole, *back], "one_by_command": single}.items()
        ),
        measure("feeds/1M/slowest_answer/kernel_alone", "ms", [1000 * alone]),
        measure("feeds/1M/memory", "MiB", [(memory - empty) / 2**20]),
        measure("feeds/1M/memory_peak", "MiB", [(peak - empty) / 2**20]),
    ]
    run_once(benchmark, [one.refused for one in some])


def test_five_million(tmp_path: Path, results: Results, benchmark: BenchmarkFixture) -> None:
    root()
    lines = listed(5 * MILLION + 50_000).split("\n")
    with FeedWorld(tmp_path, lines[: 5 * MILLION]) as world:
        memory = world.memory()
        change = world.replace([*lines[50_000:], world.victim])
    results.measures += [
        measure("feeds/5M/start", "s", [world.started], 5 * LOAD),
        measure("feeds/5M/one_percent_changed_to_first_refused", "s", [change.refused]),
        measure("feeds/5M/packets_lost", "packets", [float(change.lost)], 0.0),
        measure("feeds/5M/service", "MiB", [memory / 2**20]),
    ]
    run_once(benchmark, [change.refused])
