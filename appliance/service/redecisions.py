# SPDX-License-Identifier: Apache-2.0
"""How long open flows take to be decided again after a change: each when its next packet comes. No I/O, no clock."""

import socket
from dataclasses import dataclass, replace

from fastpath import Event
from fastpath.layout import EventKind

REST = 2_000_000_000  # nanoseconds without another one, after which it is told
TOGETHER = 100_000_000  # nanoseconds in which one change may void decisions twice: in the engine, then in the kernel


@dataclass(frozen=True)
class Redecided:
    """Flows since the last change that voided decisions, and seconds from the change until the last of them so far."""

    flows: int = 0
    seconds: float = 0.0


class Redecisions:
    """Times are nanoseconds since 1970. `last` may be read from any thread."""

    def __init__(self) -> None:
        self.last = Redecided()
        self._begun = 0
        self._told = True

    def begin(self, now: int) -> None:
        """What was decided so far is void."""
        if now - self._begun < TOGETHER and not self.last.flows:
            return
        self._begun = now
        self._told = False
        self.last = Redecided()

    def take(self, event: Event) -> None:
        if event.proto == socket.IPPROTO_UDP and self._told:
            return  # one comes up now and then without any change (udpfates)
        if event.kind == EventKind.REDECIDED and self._begun:
            seconds = max(self.last.seconds, (event.time - self._begun) / 1e9)
            self.last = replace(self.last, flows=self.last.flows + 1, seconds=seconds)
            self._told = False

    def words(self, now: int) -> str:
        """What there is to tell, once flows have come to rest; "" for nothing."""
        if self._told or now - self._begun < REST + 1e9 * self.last.seconds:
            return ""
        self._told = True
        if not self.last.flows:
            return ""
        return f"{self.last.flows} open flows decided again, the last after {1000 * self.last.seconds:.0f} ms"
