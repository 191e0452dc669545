# SPDX-License-Identifier: Apache-2.0
"""Which inspectors cannot keep up, by what waits in their queues.

An inspector is overloaded when its queue is nearly full, or when a packet has waited in it for longer than allowed; it
is no more when the queue has emptied. The fastpath then gives new flows the action of `failures.inspector_overload`
instead of sending them there; flows that the inspector has already, and other inspectors, are not concerned.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from appliance.netfilter.backend import PROC_NET
from appliance.service.ledger import QueueCounters, read_queues

PERIOD = 0.05  # seconds between looks
FULL, EMPTY = 0.875, 0.25  # of the queue's length
_SAMPLES = 4096


class _Queue:
    """Remembers when the kernel had numbered how many packets: so the oldest that waits has an age."""

    def __init__(self) -> None:
        self._numbered: deque[tuple[float, int]] = deque(maxlen=_SAMPLES)
        self.overloaded = False

    def age(self, row: QueueCounters, now: float) -> float:
        """Seconds, at least, that the oldest packet has waited."""
        gone = row.ids - row.waiting - row.overrun
        if not self._numbered or self._numbered[-1][1] != row.ids:
            self._numbered.append((now, row.ids))
        while self._numbered and self._numbered[0][1] <= gone:
            self._numbered.popleft()
        return now - self._numbered[0][0] if self._numbered and row.waiting else 0.0


class Overload:
    """Pure. `queues`: numbers of the inspectors' queues; `length`: packets that fit into one; `patience`: seconds."""

    def __init__(self, queues: Sequence[int], length: int, patience: float) -> None:
        self._length = length
        self._patience = patience
        self._queues = {number: _Queue() for number in queues}

    def look(self, rows: Mapping[int, QueueCounters], now: float) -> list[tuple[int, bool]]:
        """(queue, overloaded) of those that changed. One without a row has no inspector, which is another failure."""
        changed = []
        for number, queue in self._queues.items():
            row = rows.get(number)
            if row is None:
                after = False
                self._queues[number] = _Queue()
            elif queue.overloaded:
                after = row.waiting > EMPTY * self._length or queue.age(row, now) > self._patience / 2
            else:
                after = queue.age(row, now) > self._patience or row.waiting >= FULL * self._length
            if after != queue.overloaded:
                changed.append((number, after))
            self._queues[number].overloaded = after
        return changed


async def watch(overload: Overload, changed: Callable[[int, bool], None]) -> None:
    """Until cancelled. The kernel's file has a line for each queue: reading it takes a few microseconds."""
    loop = asyncio.get_running_loop()
    path = PROC_NET / "netfilter/nfnetlink_queue"
    while True:
        try:
            rows = read_queues(path.read_text())
        except OSError:
            rows = {}  # not ours to read: nothing is known
        for queue, overloaded in overload.look(rows, loop.time()):
            changed(queue, overloaded)
        await asyncio.sleep(PERIOD)
