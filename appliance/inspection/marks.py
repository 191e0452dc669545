# SPDX-License-Identifier: Apache-2.0
"""The mark byte between fastpath and inspector (see fastpath.h: `slow` on the way in, `down` on the way out)."""

from dataclasses import dataclass

from appliance.inspection.verdicts import FATES, VerdictKind
from fastpath import layout


@dataclass(frozen=True, slots=True)
class SlowMark:
    """`generation` under which the flow was decided, 0: look only."""

    reply: bool
    generation: int


class MarkBits:
    """Reads and writes our eight bits of a packet mark; foreign bits are kept."""

    def __init__(self, mask: int) -> None:
        shift = (mask & -mask).bit_length() - 1 if mask > 0 else 0
        if mask != 0xFF << shift or shift > 24:
            raise ValueError(f"mark mask 0x{mask:x} is not eight adjacent bits of 32")
        self._mask = mask
        self._shift = shift

    def read(self, mark: int) -> SlowMark:
        byte = (mark & self._mask) >> self._shift
        generation = (byte & layout.MARK_GENERATION) >> layout.MARK_GENERATION_SHIFT
        return SlowMark(bool(byte & layout.MARK_SLOW_REPLY), generation)

    def answer(self, mark: int, generation: int, kind: VerdictKind, *, reset: bool = False) -> int:
        """The whole mark to send down: generation and fate, or none of our bits for a verdict on this packet only.
        reset: the packet of a rejected flow has become its reset, and goes on."""
        fate = FATES.get(kind, 0)
        byte = (generation << layout.MARK_GENERATION_SHIFT) | fate if fate else 0
        byte |= layout.MARK_DOWN_RESET if reset else 0
        return (mark & ~self._mask & 0xFFFFFFFF) | (byte << self._shift)
