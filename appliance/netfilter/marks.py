# SPDX-License-Identifier: Apache-2.0
"""The mark byte: eight adjacent bits of the packet and connection mark, at a configurable place.

Pure. The layout is that of `fastpath.h` ("the eight mark bits"); B is the mark shifted down to the byte.

    up    (classify → worker)     1 r s pp n 00   to-queue, reply, do-not-save, previous fate, new
          (failsafe → worker)     0 r 1 00 0 00   look only
          (classify → worker)     1 r w ww 1 00   ww not 0: preDNAT policy has answered for the host (see fastpath.h)
    slow  (worker → inspector)    r ggggg 00      reply, generation; generation 0: look only
    down  (any → obey)            0 ggggg ff      generation, fate; generation 0 with a fate: act, save nothing
          (inspector → obey)      1 ggggg 11      the packet of a rejected flow is now the reset for its receiver
    host  (host policy → classify) 1 0 u 00 0 00  u 0: allowed by doNotTrack policy; u 1: by preDNAT policy
"""

from dataclasses import dataclass

from fastpath import layout
from fastpath.layout import Fate as Fate

TO_QUEUE = layout.MARK_TO_QUEUE
REPLY = layout.MARK_REPLY
NO_SAVE = layout.MARK_NO_SAVE
PREVIOUS_SHIFT = layout.MARK_PREVIOUS_SHIFT
PREVIOUS = layout.MARK_PREVIOUS
NEW = layout.MARK_NEW
PRE_DNAT_BITS = layout.MARK_PRE_DNAT_BITS
PRE_DNAT_NEW = layout.MARK_PRE_DNAT_NEW
PRE_DNAT_ALLOWED = layout.MARK_PRE_DNAT_ALLOWED
PRE_DNAT_DENIED = layout.MARK_PRE_DNAT_DENIED
PRE_DNAT_UNKNOWN = layout.MARK_PRE_DNAT_UNKNOWN
PRE_DNAT_ONCE = layout.MARK_PRE_DNAT_ONCE
SLOW_REPLY = layout.MARK_SLOW_REPLY
GENERATION_SHIFT = layout.MARK_GENERATION_SHIFT
GENERATION = layout.MARK_GENERATION
FATE = layout.MARK_FATE
DOWN_RESET = layout.MARK_DOWN_RESET
UNTRACKED = TO_QUEUE  # and nothing else: doNotTrack policy allows it; no connection has that
PRE_DNAT = TO_QUEUE | NO_SAVE  # preDNAT policy allows it
GENERATION_MIN = layout.GENERATION_MIN
GENERATION_MAX = layout.GENERATION_MAX


@dataclass(frozen=True)
class Up:
    """What the classify chain says of a packet it hands up."""

    reply: bool = False
    no_save: bool = False
    previous: Fate = Fate.NONE
    new: bool = False
    look_only: bool = False
    pre_dnat: bool = False  # preDNAT policy has answered for the host; of the rest only the first that holds is said:
    # no_save, new, previous, in which a reject is a drop


@dataclass(frozen=True)
class Slow:
    """What a worker says of a packet it hands to an inspector. generation 0: look only."""

    reply: bool
    generation: int

    @property
    def look_only(self) -> bool:
        return self.generation == 0


@dataclass(frozen=True)
class Down:
    """A verdict's fate, and the generation under which the flow was decided (0 with a fate: this packet only)."""

    generation: int = 0
    fate: Fate = Fate.NONE


@dataclass(frozen=True)
class MarkLayout:
    """Where the byte stands. mask: eight adjacent bits of 32; ValueError otherwise."""

    mask: int = 0xFF000000

    def __post_init__(self) -> None:
        shift = (self.mask & -self.mask).bit_length() - 1
        if not 0 < self.mask <= 0xFFFFFFFF or self.mask != 0xFF << shift:
            raise ValueError(f"mark mask {self.mask:#x}: expected eight adjacent bits of 32, as 0xff000000")

    @property
    def shift(self) -> int:
        return (self.mask & -self.mask).bit_length() - 1

    @property
    def others(self) -> int:
        """The bits that are not ours."""
        return ~self.mask & 0xFFFFFFFF

    def at(self, byte: int) -> int:
        """Byte (or a mask of bits in it) → its place in the mark."""
        return byte << self.shift

    def byte(self, mark: int) -> int:
        return (mark & self.mask) >> self.shift

    def merge(self, mark: int, value: int) -> int:
        """`mark` with our byte replaced by that of `value` (as encode_* return it), all other bits as they were."""
        return mark & self.others | value & self.mask

    def encode_up(self, up: Up) -> int:
        if up.look_only:
            return self.at(NO_SAVE | REPLY * up.reply)
        if up.pre_dnat:
            known = {Fate.NONE: PRE_DNAT_UNKNOWN, Fate.ALLOW: PRE_DNAT_ALLOWED}.get(up.previous, PRE_DNAT_DENIED)
            said = PRE_DNAT_ONCE if up.no_save else PRE_DNAT_NEW if up.new else known
            return self.at(TO_QUEUE | REPLY * up.reply | NEW | said)
        byte = TO_QUEUE | REPLY * up.reply | NO_SAVE * up.no_save | up.previous << PREVIOUS_SHIFT | NEW * up.new
        return self.at(byte)

    def decode_up(self, mark: int) -> Up:
        """ValueError when the byte is neither to-queue nor look-only."""
        byte = self.byte(mark)
        if byte & ~REPLY == NO_SAVE:
            return Up(reply=bool(byte & REPLY), no_save=True, look_only=True)
        if not byte & TO_QUEUE or byte & FATE:
            raise ValueError(f"mark byte {byte:#04x} was not written by the classify chain")
        if byte & NEW and byte & PREVIOUS:
            said = byte & PRE_DNAT_BITS
            previous = {PRE_DNAT_ALLOWED: Fate.ALLOW, PRE_DNAT_DENIED: Fate.DROP}.get(said, Fate.NONE)
            return Up(bool(byte & REPLY), said == PRE_DNAT_ONCE, previous, said == PRE_DNAT_NEW, pre_dnat=True)
        return Up(
            reply=bool(byte & REPLY),
            no_save=bool(byte & NO_SAVE),
            previous=Fate((byte & PREVIOUS) >> PREVIOUS_SHIFT),
            new=bool(byte & NEW),
        )

    def encode_slow(self, slow: Slow) -> int:
        _check_generation(slow.generation, 0)
        return self.at(SLOW_REPLY * slow.reply | slow.generation << GENERATION_SHIFT)

    def decode_slow(self, mark: int) -> Slow:
        byte = self.byte(mark)
        if byte & FATE:
            raise ValueError(f"mark byte {byte:#04x} already carries a fate")
        return Slow(bool(byte & SLOW_REPLY), (byte & GENERATION) >> GENERATION_SHIFT)

    def encode_down(self, down: Down) -> int:
        """Fate NONE is all zero, whatever the generation."""
        if down.fate is Fate.NONE:
            return 0
        _check_generation(down.generation, 0)
        return self.at(down.generation << GENERATION_SHIFT | down.fate)

    def decode_down(self, mark: int) -> Down:
        """Of a packet mark on its way to obey, or of a connection mark."""
        byte = self.byte(mark)
        return Down((byte & GENERATION) >> GENERATION_SHIFT, Fate(byte & FATE))

    def fate(self, generation: int, fate: Fate) -> int:
        """The connection mark of a flow decided so: what the fate map holds. generation 1..31."""
        _check_generation(generation, GENERATION_MIN)
        return self.at(generation << GENERATION_SHIFT | fate)


def _check_generation(generation: int, least: int) -> None:
    if not least <= generation <= GENERATION_MAX:
        raise ValueError(f"generation {generation}: expected {least}..{GENERATION_MAX}")
