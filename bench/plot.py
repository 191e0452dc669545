# SPDX-License-Identifier: Apache-2.0
"""latest.json → pictures: `python -m bench.plot` draws again what `make bench` has written.

    side_by_side.png   each row of the table: every program's median with its 95 % interval
    by_itself.png      figures that have a target and no peer: how much of the target they use
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

from bench.rows import ROWS

RESULTS = Path(__file__).resolve().parent / "results"
OURS, OTHERS, MISSED = "#1f6f8b", "#b8c4cc", "#b5443c"

Record = Mapping[str, Any]


def side_by_side(records: Sequence[Record], path: Path) -> None:
    """One panel for each row that has figures. Raises OSError where the picture cannot be written."""
    found = {record["name"]: record for record in records}
    rows = [(row, [name for name in row.peers if f"{row.name}/{name}" in found]) for row in ROWS]
    rows = [(row, names) for row, names in rows if names]
    figure, panels = pyplot.subplots(
        len(rows), 1, figsize=(9, sum(0.7 + 0.32 * len(names) for _, names in rows)), squeeze=False,
        gridspec_kw={"height_ratios": [1 + len(names) for _, names in rows]}, layout="constrained",
    )  # fmt: skip
    for panel, (row, names) in zip(panels[:, 0], rows, strict=True):
        figures = [found[f"{row.name}/{name}"] for name in names]
        values = [one["value"] for one in figures]
        bounds = [[one["value"] - one["low"] for one in figures],
                  [one["high"] - one["value"] for one in figures]]  # fmt: skip
        colours = [OURS if name.startswith("portcullis") else OTHERS for name in names]
        panel.barh(names, values, xerr=bounds, color=colours, error_kw={"capsize": 3, "elinewidth": 1})
        panel.invert_yaxis()
        panel.set_title(f"{row.title}, {row.unit}" + (" (less is better)" if row.less_is_better else ""), loc="left")
        panel.spines[["top", "right"]].set_visible(False)
        reach = max(one["high"] for one in figures)
        panel.set_xlim(0, reach * 1.18)
        for at, one in enumerate(figures):
            panel.text(one["high"] + reach * 0.01, at, f"{one['ratio']:.2f}", va="center", fontsize=9)
    note = "Bars: median and 95 % interval. Numbers: ratio to the kernel with conntrack; of CPU, to the accept loop."
    figure.supxlabel(note, fontsize=8)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def by_itself(records: Sequence[Record], path: Path) -> None:
    """Figures with a target that is a ceiling, on one logarithmic scale: 1 is the target."""
    found = [record for record in records if record["peer"] is None and record.get("target")]
    if not found:
        return
    figure, panel = pyplot.subplots(figsize=(9, 0.8 + 0.3 * len(found)), layout="constrained")
    shares = [record[record.get("judged", "value")] / record["target"] for record in found]
    panel.barh([record["name"] for record in found], shares, color=[OURS if share <= 1 else MISSED for share in shares])
    panel.invert_yaxis()
    panel.set_xscale("log")
    panel.axvline(1, color="black", linewidth=1)
    panel.spines[["top", "right"]].set_visible(False)
    panel.set_xlim(min(shares) / 2, max(10.0, max(shares) * 10))
    for at, (record, share) in enumerate(zip(found, shares, strict=True)):
        figure_of = record[record.get("judged", "value")]
        text = f"{figure_of:,.4g} of {record['target']:,.4g} {record['unit']}"
        panel.text(share * 1.1, at, text, va="center", fontsize=8)
    panel.set_title("Share of the target that is used; 1 is the target", loc="left")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def draw(directory: Path = RESULTS) -> list[Path]:
    """Both pictures of `directory`/latest.json. Raises OSError where there is none."""
    records = json.loads((directory / "latest.json").read_text())
    made = [directory / "side_by_side.png", directory / "by_itself.png"]
    side_by_side(records, made[0])
    by_itself(records, made[1])
    return made


if __name__ == "__main__":
    for picture in draw():
        print(picture)
