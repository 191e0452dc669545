# SPDX-License-Identifier: Apache-2.0
"""Figures without a peer: how long one thing takes, how much it needs."""

import json
import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Measure:
    """One figure. `target` bounds what `judged` names: value (the median) or p99. load: average of the last minute."""

    name: str
    unit: str
    value: float
    p99: float | None = None
    samples: int = 1
    target: float | None = None
    judged: str = "value"
    load: float = 0.0

    @property
    def met(self) -> bool | None:
        figure = self.p99 if self.judged == "p99" else self.value
        return None if self.target is None or figure is None else figure <= self.target

    def line(self) -> str:
        text = f"{self.name}: {self.value:,.4g} {self.unit}"
        if self.p99 is not None:
            text += f", p99 {self.p99:,.4g}"
        if self.target is not None:
            text += f" ({self.judged} <= {self.target:g} {'met' if self.met else 'MISSED'})"
        return f"{text}, {self.samples} samples, load {self.load:.1f}"

    def record(self) -> dict[str, object]:
        """For latest.json."""
        return {
            "name": self.name, "value": self.value, "unit": self.unit, "peer": None, "ratio": None, "p99": self.p99,
            "samples": self.samples, "target": self.target, "judged": self.judged, "load": round(self.load, 2),
        }  # fmt: skip


def measure(
    name: str, unit: str, samples: Sequence[float], target: float | None = None, judged: str = "value"
) -> Measure:
    """From samples of one thing done again and again."""
    ordered = sorted(samples)
    p99 = ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)] if len(ordered) >= 100 else None
    return Measure(
        name, unit, float(f"{statistics.median(ordered):.5g}"), p99 and float(f"{p99:.5g}"), len(ordered),
        target, judged, os.getloadavg()[0],
    )  # fmt: skip


def merge_records(path: Path, found: Sequence[Measure]) -> None:
    """Puts these into the file in place of those of their name."""
    names = {one.name for one in found}
    there = json.loads(path.read_text()) if path.exists() else []
    records = [record for record in there if record["name"] not in names] + [one.record() for one in found]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(records, indent=1) + "\n")
