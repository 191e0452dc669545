# SPDX-License-Identifier: Apache-2.0
"""Rigs for the session; at its end the table and latest.json."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.measures import Measure, merge_records
from bench.plot import draw
from bench.report import Figure, as_table, figures, write_records
from bench.rig import Rigs, programs_missing
from bench.rows import ROWS, Row

RESULTS = Path(__file__).resolve().parent / "results/latest.json"


class Results:
    """Samples and notes of the rows that were run."""

    def __init__(self) -> None:
        self.figures: list[Figure] = []
        self.notes: list[str] = []
        self.measures: list[Measure] = []

    def add(self, row: Row, samples: dict[str, list[float]]) -> None:
        self.figures += figures(row, samples)


RESULTS_KEY = pytest.StashKey[Results]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[RESULTS_KEY] = Results()


@pytest.fixture(scope="session")
def results(request: pytest.FixtureRequest) -> Results:
    return request.config.stash[RESULTS_KEY]


@pytest.fixture(scope="session")
def rounds() -> int:
    """Samples of every peer in every row."""
    return int(os.environ.get("BENCH_ROUNDS", "15"))


@pytest.fixture(scope="session")
def rigs(tmp_path_factory: pytest.TempPathFactory, results: Results) -> Iterator[Rigs]:
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    if programs_missing():
        pytest.skip(f"not installed: {', '.join(programs_missing())}")
    with Rigs(tmp_path_factory.mktemp("bench")) as made:
        yield made
        results.notes += [f"{name} was not measured: {why}" for name, why in made.missing.items()]


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    results = config.stash[RESULTS_KEY]
    if results.measures:
        terminalreporter.section("by itself")
        for one in results.measures:
            terminalreporter.write_line(one.line())
    if not results.figures:
        if results.measures:
            merge_records(RESULTS, results.measures)
        return
    terminalreporter.section("side by side")
    for line in [*as_table(results.figures), "", *results.notes]:
        terminalreporter.write_line(line)
    # A part of the rows is a look, not a result.
    if {figure.row.name for figure in results.figures} == {row.name for row in ROWS}:
        write_records(RESULTS, results.figures)
        merge_records(RESULTS, results.measures)
        (RESULTS.parent / "latest.txt").write_text("\n".join([*as_table(results.figures), "", *results.notes, ""]))
        for written in (RESULTS, RESULTS.parent / "latest.txt", *draw(RESULTS.parent)):
            terminalreporter.write_line(f"written: {written}")
