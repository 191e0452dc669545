# SPDX-License-Identifier: Apache-2.0
"""Many literals in one pass over a buffer: Hyperscan where the package is there, plain search otherwise."""

from collections.abc import Mapping
from typing import Any, Protocol


class Prefilter(Protocol):
    def scan(self, data: bytes) -> set[int]:
        """Numbers of the literals that occur, whatever their case."""
        ...


class PlainPrefilter:
    """One search for each literal."""

    def __init__(self, literals: Mapping[bytes, int]) -> None:
        self._literals = [(literal.lower(), number) for literal, number in literals.items()]

    def scan(self, data: bytes) -> set[int]:
        lower = data.lower()
        return {number for literal, number in self._literals if literal in lower}


class HyperscanPrefilter:
    """One database in block mode. Literals are written as \\xNN: the library's own literal mode stops at NUL."""

    def __init__(self, hyperscan: Any, literals: Mapping[bytes, int]) -> None:
        expressions = ["".join(f"\\x{byte:02x}" for byte in literal).encode() for literal in literals]
        flags = hyperscan.HS_FLAG_CASELESS | hyperscan.HS_FLAG_SINGLEMATCH
        self._database = hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK)
        self._database.compile(
            expressions=expressions,
            ids=list(literals.values()),
            elements=len(expressions),
            flags=[flags] * len(expressions),
        )
        self._found: set[int] = set()

    def scan(self, data: bytes) -> set[int]:
        self._found = set()
        if data:
            self._database.scan(data, match_event_handler=self._match)
        return self._found

    def _match(self, number: int, _start: int, _end: int, _flags: int, _context: object) -> None:
        self._found.add(number)


def load_hyperscan() -> Any:
    """The module, or None where the package is not installed."""
    try:
        import hyperscan
    except ImportError:
        return None
    return hyperscan


def build_prefilter(literals: Mapping[bytes, int], hyperscan: Any) -> Prefilter:
    """`hyperscan`: the module, or None for the plain search."""
    if hyperscan is None:
        return PlainPrefilter(literals)
    return HyperscanPrefilter(hyperscan, literals)
