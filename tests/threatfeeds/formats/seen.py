# SPDX-License-Identifier: Apache-2.0
"""A list and what is in it, as somebody counted who knows its maker."""

from dataclasses import dataclass

from appliance.commands.feeds_parse import parse
from threatfeeds.formats.options import FormatOptions


@dataclass(frozen=True)
class Case:
    """indicators: distinct ones by kind. rejected: numbers of lines, or of records."""

    text: str | bytes
    format: str
    indicators: dict[str, int]
    duplicates: int
    comments: int
    rejected: list[int]


def check(case: Case) -> None:
    """Whether `portcullis feeds parse` sees it so, the format guessed."""
    data = case.text if isinstance(case.text, bytes) else case.text.encode()
    found = parse(data, None, FormatOptions())
    assert found["format"] == case.format
    indicators, rejected = found["indicators"], found["rejected"]
    assert isinstance(indicators, dict) and isinstance(rejected, list)
    assert {kind: number for kind, number in indicators.items() if number} == case.indicators
    assert [line["line"] for line in rejected] == case.rejected
    assert (found["duplicates"], found["comments"]) == (case.duplicates, case.comments)
    assert all(line["why"] for line in rejected)
