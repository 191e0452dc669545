# SPDX-License-Identifier: Apache-2.0
"""The number of the policy generation, as it travels in the mark.

    1 → 2 → … → 31 → 1 → …          0 is never a generation: in a mark it means "look only"

Before a number comes into use no connection may still carry it; those ahead are therefore
swept from conntrack while the current one is in force (see `Sweeping`).
"""

from fastpath.layout import GENERATION_MAX, GENERATION_MIN


class Generations:
    """Counts generations round. `current` is in force, `next` comes after it."""

    def __init__(self, current: int = GENERATION_MIN) -> None:
        if not GENERATION_MIN <= current <= GENERATION_MAX:
            raise ValueError(f"generation {current} is outside {GENERATION_MIN}..{GENERATION_MAX}")
        self.current = current

    @property
    def next(self) -> int:
        return self.ahead(1)[0]

    def ahead(self, count: int) -> list[int]:
        """The numbers that come next, fewer than there are."""
        numbers = GENERATION_MAX - GENERATION_MIN + 1
        return [(self.current - GENERATION_MIN + step) % numbers + GENERATION_MIN for step in range(1, count + 1)]

    def advance(self) -> int:
        self.current = self.next
        return self.current
