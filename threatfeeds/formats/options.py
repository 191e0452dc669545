# SPDX-License-Identifier: Apache-2.0
"""What a format may be told by the configuration of a feed."""

from dataclasses import dataclass


@dataclass(frozen=True)
class FormatOptions:
    """column: of a CSV file, by header name or number from 1; "" is found by looking. delimiter: one character, "" is
    found by looking. path: where in JSON the indicators are, "data[].ip"; "" is found by looking."""

    column: str = ""
    delimiter: str = ""
    path: str = ""
