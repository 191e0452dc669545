# SPDX-License-Identifier: Apache-2.0
"""Table and records of the benchmarks."""

import json
from pathlib import Path

from bench.report import as_table, figures, write_records
from bench.rows import ROWS

TCP = next(row for row in ROWS if row.name == "tcp_flow")
CPU = next(row for row in ROWS if row.name == "cpu_per_packet")


def test_a_target_is_a_floor_or_a_ceiling() -> None:
    fast, slow = ({"kernel": [10.0, 12.0], "portcullis": [10.0 * f, 12.0 * f]} for f in (0.99, 0.5))
    assert [f.met for f in figures(TCP, fast)] == [None, True]
    assert [f.met for f in figures(TCP, slow)] == [None, False]
    cheap, dear = ({"accept-loop": [4.0], "portcullis-every-packet": [4.0 * f]} for f in (1.1, 1.2))
    assert {f.program: f.met for f in figures(CPU, cheap)} == {"accept-loop": None, "portcullis-every-packet": True}
    assert {f.program: f.met for f in figures(CPU, dear)} == {"accept-loop": None, "portcullis-every-packet": False}


def test_without_the_baseline_there_is_no_ratio_to_show() -> None:
    assert figures(TCP, {"portcullis": [1.0]}) == []


def test_records_have_the_keys_that_readers_rely_on(tmp_path: Path) -> None:
    path = tmp_path / "results/latest.json"
    write_records(path, figures(TCP, {"kernel": [10.0, 12.0], "portcullis": [9.0, 12.0]}))
    kernel, ours = json.loads(path.read_text())
    assert {"name", "value", "unit", "peer", "ratio"} <= ours.keys()
    assert (kernel["name"], kernel["ratio"]) == ("tcp_flow/kernel", 1.0)
    assert (ours["name"], ours["peer"], ours["unit"]) == ("tcp_flow/portcullis", "kernel", "Gbit/s")
    assert ours["ratio"] == 0.95


def test_the_table_says_when_a_target_is_missed() -> None:
    text = "\n".join(as_table(figures(TCP, {"kernel": [10.0], "portcullis": [5.0]})))
    assert ">= 0.98 MISSED" in text
