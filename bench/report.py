# SPDX-License-Identifier: Apache-2.0
"""From samples to one table and to latest.json."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.method import Estimate, median_of, ratio_of
from bench.rows import Row


@dataclass(frozen=True)
class Figure:
    """One program in one row."""

    row: Row
    program: str
    value: Estimate
    ratio: Estimate  # to the row's baseline

    @property
    def target(self) -> float | None:
        return self.row.targets.get(self.program)

    @property
    def met(self) -> bool | None:
        """None where there is no target."""
        if self.target is None:
            return None
        return self.ratio.value <= self.target if self.row.less_is_better else self.ratio.value >= self.target


def figures(row: Row, samples: dict[str, list[float]]) -> list[Figure]:
    """In the row's order. Without samples of the baseline there are no ratios and no figures."""
    if row.baseline not in samples:
        return []
    baseline = samples[row.baseline]
    return [
        Figure(row, name, median_of(samples[name]), ratio_of(samples[name], baseline))
        for name in row.peers
        if name in samples
    ]


def as_records(found: Sequence[Figure]) -> list[dict[str, object]]:
    """For latest.json: one object for each figure, intervals of 95 %."""
    return [
        {
            "name": f"{figure.row.name}/{figure.program}",
            "value": _digits(figure.value.value),
            "unit": figure.row.unit,
            "peer": figure.row.baseline,
            "ratio": _digits(figure.ratio.value),
            "low": _digits(figure.value.low),
            "high": _digits(figure.value.high),
            "ratio_low": _digits(figure.ratio.low),
            "ratio_high": _digits(figure.ratio.high),
            "samples": figure.value.n,
            "target": figure.target,
        }
        for figure in found
    ]


def write_records(path: Path, found: Sequence[Figure]) -> None:
    """In place of all rows of before; figures without a peer stay."""
    path.parent.mkdir(parents=True, exist_ok=True)
    there = json.loads(path.read_text()) if path.exists() else []
    records = [*as_records(found), *(record for record in there if record["peer"] is None)]
    path.write_text(json.dumps(records, indent=1) + "\n")


def as_table(found: Sequence[Figure]) -> list[str]:
    """Lines of the terminal's table."""
    head = ("", "program", "median", "95 %", "ratio", "95 %", "target")
    rows: list[tuple[str, ...]] = [head]
    last = ""
    for figure in found:
        title = f"{figure.row.title}, {figure.row.unit}"
        target = ""
        if figure.target is not None:
            sign = "<=" if figure.row.less_is_better else ">="
            target = f"{sign} {figure.target:g} {'met' if figure.met else 'MISSED'}"
        rows.append((
            title if title != last else "",
            figure.program,
            _short(figure.value.value),
            f"{_short(figure.value.low)}..{_short(figure.value.high)}",
            f"{figure.ratio.value:.2f}",
            f"{figure.ratio.low:.2f}..{figure.ratio.high:.2f}",
            target,
        ))
        last = title
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    rule = "-" * max(len(line) for line in lines)
    return [lines[0], rule, *lines[1:]]


def _digits(value: float) -> float:
    return float(f"{value:.5g}")


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
