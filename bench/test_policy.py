# SPDX-License-Identifier: Apache-2.0
"""Policy by size: compiling, deciding, and a change until the snapshot with it is published."""

import gc
import random
import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from appliance.config import Config
from appliance.inspection import messages
from appliance.inspection.requests import RequestChange, Requests, request_policy
from appliance.netfilter.addresses import AddressSets
from appliance.service.calculation import Desired, Inputs, calculate, change
from appliance.service.generations import Generations
from appliance.service.inforce import PolicyInForce
from appliance.service.interfaces import Interfaces
from appliance.service.slowpath import request_change
from appliance.sources.base import Parts
from bench.conftest import RESULTS_KEY, Results
from bench.measures import Measure, measure
from bench.rig import BUILD
from bench.worlds import LABEL_SETS, early_and_http, endpoint, fleet, policy, production
from fastpath import IdentityMap, Policy, PolicyTables, Query
from fastpath.layout import QUERY
from rules.policy import CompileOptions, Resource, compile_policy
from rules.policy.listed import unpacked

pytestmark = pytest.mark.timeout(600)

POLICIES, ENDPOINTS = 10_000, 100_000
CHANGES = 300
FILE = 1000  # resources of one file
MEBI = 1 << 20
CONFIG = Config(node="here", scope="gateway")


def resident() -> float:
    """MiB of this process."""
    text = Path("/proc/self/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+)", text)[0]) / 1024


def run_once(benchmark: BenchmarkFixture, samples: list[float]) -> None:
    """pytest-benchmark has no way to take figures measured by others: they go into extra_info, under one round."""
    benchmark.extra_info["samples"] = samples
    benchmark.pedantic(lambda: None, rounds=1)  # type: ignore[no-untyped-call]


def test_production_shape(results: Results, benchmark: BenchmarkFixture) -> None:
    world = production()
    started = time.perf_counter()
    program = compile_policy(world, CompileOptions(scope="gateway"))
    compiled = Policy(program.tables)
    identities = IdentityMap.build(program.entries)
    seconds = time.perf_counter() - started
    rng = random.Random(2)
    by_identity = list({entry[2] for entry in unpacked(program.entries)})
    me = next(entry[2] for entry in unpacked(program.entries) if program.identities[entry[2]].kind == "workload")
    asked = b"".join(
        QUERY.pack(*Query(rng.choice(by_identity), me, sport=40000, dport=rng.choice((80, 443, 22, 9))))
        for _ in range(20_000)
    )
    each = []
    for _ in range(100):
        started = time.perf_counter()
        compiled.decide_many(asked)
        each.append((time.perf_counter() - started) / 20_000 * 1e9)
    results.measures += [
        measure("policy/production/compile", "s", [seconds], 10.0),
        measure("policy/production/decision_with_python_call", "ns", each, 1000.0),
        measure("policy/production/memory", "MiB", [(compiled.memory + identities.memory) / MEBI]),
    ]
    run_once(benchmark, each)


MICRO = {
    "policy_294_facts_first": ("policy/core/decision_first", 1000.0),
    "policy_10_facts_first": ("policy/core/decision_first_few_facts", 1000.0),
    "policy_294_facts_cached": ("policy/core/decision_cached", 60.0),
    "prefix_lookup_each": ("identity/core/lookup_each", 100.0),
    "prefix_lookup_latency": ("identity/core/lookup_one_after_the_other", 100.0),
    "prefix_lookup_throughput": ("identity/core/lookup", 100.0),
    "prefix_lookup_many": ("identity/core/lookup_of_a_batch", 100.0),
    "prefix_update": ("identity/core/update", 1e6),
}


def test_core(results: Results, benchmark: BenchmarkFixture) -> None:
    """The C core alone: 294 policies of 68 rules on one endpoint; a million prefixes."""
    output = subprocess.run([BUILD / "micro"], check=True, capture_output=True, text=True, timeout=120).stdout
    found = {name: float(value) for name, value in re.findall(r"^(\w+) ([\d.]+)", output, re.MULTILINE)}
    for name, (title, target) in MICRO.items():
        load = measure(title, "ns", [0.0]).load
        median, p99 = found[f"{name}_median"], found[f"{name}_p99"]
        results.measures.append(Measure(title, "ns", median, p99, int(found[f"{name}_samples"]), target, load=load))
    results.measures.append(measure("identity/core/memory", "bytes/prefix", [found["prefix_memory"]], 64.0))
    run_once(benchmark, [found["policy_294_facts_first_median"]])


def _batches(items: list[Resource], size: int) -> Iterator[list[Resource]]:
    return (items[at : at + size] for at in range(0, len(items), size))


class Fleet:
    """A service's policy without its kernel: inputs change, the snapshot follows."""

    def __init__(self, results: Results) -> None:
        self.parts = [tuple(part) for part in _batches(fleet(POLICIES, ENDPOINTS), FILE)]
        before = resident()
        started = time.perf_counter()
        self.inputs = Inputs(resources=Parts(self.parts))
        self.desired: Desired = calculate(CONFIG, self.inputs)
        self.in_force = PolicyInForce(Generations(), observe=False, log=print)
        self.in_force.first(self.desired.program)
        results.measures += [
            measure("policy/fleet/full_compile", "s", [time.perf_counter() - started], 20.0),
            measure("policy/fleet/memory_compiler", "MiB", [resident() - before]),
            measure("policy/fleet/memory_core", "MiB", [sum(part.memory for part in self.in_force.snapshot) / MEBI]),
        ]

    @property
    def count(self) -> int:
        return sum(map(len, self.parts))

    def change(self, at: int, resource: Resource) -> float:
        """Milliseconds from the new inputs to the snapshot. `at` the end adds."""
        if at == self.count:
            self.parts.append((resource,))
        else:
            number, within = divmod(at, FILE)
            self.parts[number] = (*self.parts[number][:within], resource, *self.parts[number][within + 1 :])
        now = Inputs(resources=Parts(self.parts))
        started = time.perf_counter()
        step = change(CONFIG, self.desired, self.inputs, now)
        assert step is not None
        self.in_force.take(step)
        taken = time.perf_counter() - started
        self.inputs = now
        return taken * 1000


@pytest.fixture(scope="module")
def made(request: pytest.FixtureRequest) -> Iterator[Fleet]:
    gc.collect()
    made = Fleet(request.config.stash[RESULTS_KEY])
    gc.collect()
    gc.freeze()  # as the service does once it has started
    yield made
    gc.unfreeze()


def test_one_endpoint(made: Fleet, results: Results, benchmark: BenchmarkFixture) -> None:
    rng = random.Random(3)
    samples = []
    for number in range(CHANGES):
        if number % 2:
            at = made.count
            samples.append(made.change(at, endpoint(at - POLICIES, rng.randrange(LABEL_SETS))))
        else:
            which = rng.randrange(ENDPOINTS)
            samples.append(made.change(POLICIES + which, endpoint(which, rng.randrange(LABEL_SETS))))
    results.measures.append(measure("policy/fleet/one_endpoint", "ms", samples, 5.0, "p99"))
    run_once(benchmark, samples)


def test_one_policy(made: Fleet, results: Results, benchmark: BenchmarkFixture) -> None:
    rng = random.Random(4)
    samples = []
    for number in range(CHANGES):
        which = rng.randrange(POLICIES)
        samples.append(made.change(which, policy(which, number + 1)))
    results.measures.append(measure("policy/fleet/one_policy", "ms", samples, 50.0, "p99"))
    run_once(benchmark, samples)


def test_one_endpoint_with_early_and_http_policy(made: Fleet, results: Results, benchmark: BenchmarkFixture) -> None:
    """What follows a step beside the engine: inspectors' copy of the program, and sets of nft rules."""
    before = made.inputs
    made.parts.append(tuple(early_and_http()))
    made.inputs = replace(before, resources=Parts(made.parts), interfaces=Interfaces({"eth0": 2}))
    made.desired = calculate(CONFIG, made.inputs)
    made.in_force.first(made.desired.program)
    program = made.desired.program
    held = request_policy(program)
    assert held is not None
    requests, addresses = Requests(held), AddressSets(lambda: (program.entries, program.tables))
    asked = {number for chain in program.early.values() for number in chain.predicates()}
    assert asked and all(addresses.of(number, 4) for number in asked)
    rng = random.Random(5)
    samples, exchanged = [], 0
    for _ in range(CHANGES):
        at = made.count
        made.parts.append((endpoint(at - POLICIES, rng.randrange(LABEL_SETS)),))
        now = replace(made.inputs, resources=Parts(made.parts))
        started = time.perf_counter()
        step = change(CONFIG, made.desired, made.inputs, now)
        assert step is not None, "a full compile"
        told = messages.decode_to_inspector(messages.encode(request_change(1, 1, step, ends=False))[4:])
        assert isinstance(told, RequestChange)
        requests = requests.changed(told)
        made.in_force.take(step)
        exchanged += len(addresses.follow(unread, step.regions))
        samples.append((time.perf_counter() - started) * 1000)
        made.inputs = now
    assert exchanged, "some were of the team"
    results.measures.append(measure("policy/fleet/one_endpoint_early_http", "ms", samples, 5.0, "p99"))
    run_once(benchmark, samples)


def unread() -> tuple[bytes, PolicyTables]:
    raise AssertionError("all addresses were read again")
