# SPDX-License-Identifier: Apache-2.0
"""The packet path of an inspector, apart from processes and sockets.

For each wake-up one *cycle*: read what waits in the queue (bounded), judge all of it in order, answer all of it in
order. When a packet earns its flow the allow fate, reading goes on (bounded) until the queue is empty, and the last
packet at hand of that flow carries the fate; the packets before it go on without one. So no later packet of the flow,
which the kernel would let pass at once, overtakes one that still waits here.

A DNS answer that policy waits for is parked: the control process is told, and the packet is answered when it says so,
or after a while anyway. Other packets do not wait for it.

Every packet that was read gets exactly one verdict, also when something raises.
"""

import math
import time
from collections.abc import Callable
from typing import Protocol

from appliance.domains.resolution import Resolution
from appliance.inspection import messages
from appliance.inspection.inspector import Inspector
from appliance.inspection.marks import MarkBits
from appliance.inspection.parking import Parking
from appliance.inspection.queue import Received
from appliance.inspection.verdicts import Verdict, VerdictKind

BATCH = 64  # packets of a cycle before answers go out
DRAIN = 1024  # packets of a cycle at most, when a fate is to be written

PACKETS = ("packets", "bytes", "verdict_errors", "drained")
# Answers that the control process released, microseconds that those waited together, answers that went on because it
# did not within the time, and those for which there was no room.
ANSWERS = ("answers_released", "answers_wait_us", "answers_late", "answers_unparked")


class PacketQueue(Protocol):
    def read(self, most: int) -> tuple[list[Received], bool]: ...


class Cycle:
    """Read, judge, answer: the packet path, apart from processes and sockets."""

    def __init__(
        self,
        packets: PacketQueue,
        inspector: Inspector,
        marks: MarkBits,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._queue = packets
        self._clock = clock
        self._inspector = inspector
        self._marks = marks
        self._parking: Parking[Received] = Parking()
        self.events: list[messages.InspectionEvent] = []
        self.answers: list[messages.Answer] = []
        self.counters = dict.fromkeys((*PACKETS, *ANSWERS, *(f"verdict_{kind.value}" for kind in VerdictKind)), 0)

    def run(self, now: float) -> int:
        """One cycle. Returns how many packets were answered."""
        received, empty = self._queue.read(BATCH)
        verdicts = [self._judge(item, now) for item in received]
        while not empty and len(received) < DRAIN and any(v.kind is VerdictKind.ALLOW for v in verdicts):
            more, empty = self._queue.read(BATCH)
            self.counters["drained"] += len(more)
            received += more
            verdicts += [self._judge(item, now) for item in more]
        last = {verdict.flow: index for index, verdict in enumerate(verdicts) if verdict.kind is VerdictKind.ALLOW}
        for index, (item, verdict) in enumerate(zip(received, verdicts, strict=True)):
            kind = verdict.kind
            if kind is VerdictKind.ALLOW and last[verdict.flow] != index:
                kind = VerdictKind.GO_ON
            self.events.extend(verdict.events)
            if not (verdict.answers and self._park(item, verdict.answers)):
                self._answer(item, kind)
        return len(received)

    def release(self, number: int) -> None:
        """The control process has taken in what answer `number` says. One that was too late for it is gone already."""
        taken = self._parking.take(number, self._clock())
        if taken is not None:
            self.counters["answers_released"] += 1
            self.counters["answers_wait_us"] += int(1e6 * taken[1])
            self._answer(taken[0], VerdictKind.GO_ON)

    def release_due(self) -> None:
        """Answers that have waited long enough go on."""
        self._let_go(self._parking.due(self._clock()))

    def release_all(self) -> None:
        self._let_go(self._parking.due(math.inf))

    def patience(self, most: float) -> float:
        """Seconds until release_due() has something to do, at most `most`."""
        return self._parking.patience(self._clock(), most)

    def _park(self, item: Received, answers: tuple[Resolution, ...]) -> bool:
        number = self._parking.park(item, self._clock(), self._inspector.ruleset.domains.wait)
        if number is None:
            self.counters["answers_unparked"] += 1
            number = 0
        self.answers.append(messages.Answer(number, answers))
        return number > 0

    def _let_go(self, items: list[Received]) -> None:
        for item in items:
            self.counters["answers_late"] += 1
            self._answer(item, VerdictKind.GO_ON)

    def _judge(self, item: Received, now: float) -> Verdict:
        mark = self._marks.read(item.mark)
        return self._inspector.packet(
            item.payload, reply=mark.reply, generation=mark.generation, now=now, place=item.place
        )

    def _answer(self, item: Received, kind: VerdictKind) -> None:
        self.counters["packets"] += 1
        self.counters["bytes"] += len(item.payload)
        self.counters[f"verdict_{kind.value}"] += 1
        try:
            item.handle.set_mark(self._marks.answer(item.mark, self._marks.read(item.mark).generation, kind))
            if kind is VerdictKind.DROP_PACKET:
                item.handle.drop()
            else:
                item.handle.accept()
        except Exception:
            self.counters["verdict_errors"] += 1
