# SPDX-License-Identifier: Apache-2.0
"""dsize: how many bytes of payload the packet carries."""

from rules.signatures.builder import Builder
from rules.signatures.keywords.keyword import Keyword, size_range


def _dsize(builder: Builder, value: str | None) -> None:
    builder.dsize = size_range(value, 65535)


KEYWORDS = (Keyword("dsize", "payload size of the packet", _dsize),)
