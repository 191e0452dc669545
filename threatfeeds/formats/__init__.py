# SPDX-License-Identifier: Apache-2.0
"""Formats by name. A new format is one module and one row here."""

from collections.abc import Callable, Mapping

from threatfeeds.content import Collector
from threatfeeds.formats import plain

# Text of the whole feed (line ends as they came, BOM taken off) → indicators.
Reader = Callable[[str, Collector], None]

FORMATS: Mapping[str, Reader] = {
    "plain": plain.read,
}
