# SPDX-License-Identifier: Apache-2.0
"""What a format may be told by the configuration of a feed."""

from dataclasses import dataclass


@dataclass(frozen=True)
class FormatOptions:
    """column: of a CSV file, by header name or number from 1; "" is found by looking. delimiter: one character, "" is
    found by looking. comment: what comments of a CSV file begin with; "" is # and //. path: where in JSON the
    indicators are, "data[].ip"; "" is found by looking. now: seconds since 1970, for entries that say until when they
    hold; 0 lets all of them hold.
    """

    column: str = ""
    delimiter: str = ""
    path: str = ""
    now: float = 0.0
    comment: str = ""
