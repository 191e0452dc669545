# SPDX-License-Identifier: Apache-2.0
"""The packet path of an inspector, apart from processes and sockets.

For each wake-up one *cycle*: read what waits in the queue (bounded), judge all of it in order, answer all of it in
order. A packet that earns its flow the allow fate is kept back, and reading goes on until nothing is there: a later
packet of the flow takes its place, and it goes on without a fate; the last one carries it, when everything else has
been answered, none is on its way through a worker's queue, and this one, asked in the same breath, is empty. So no
packet of the flow that the kernel lets pass at once overtakes one that still waits. Workers are waited for briefly, as
they may have other flows' packets all the time. If there is always more to read, the fate waits for another cycle, but
not for ever: an inspector that cannot keep up needs its flows to go.

A DNS answer that policy waits for is parked: the control process is told, and the packet is answered when it says so,
or after a while anyway. Other packets do not wait for it, but for those behind it in its TCP connection: one may repeat
it. Likewise the first data of a flow whose names have to agree
with policy are held until the control process has said which ones do.

Every packet that was read gets exactly one verdict, also when something raises.
"""

import math
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from appliance.inspection import messages
from appliance.inspection.inspector import Inspector
from appliance.inspection.marks import MarkBits
from appliance.inspection.packets import ends_of, reset_instead
from appliance.inspection.parking import Parking
from appliance.inspection.queue import Handle, Received
from appliance.inspection.requests import RequestChange
from appliance.inspection.verdicts import Verdict, VerdictKind

BATCH = 64  # packets of a cycle before answers go out
DRAIN = 1024  # packets of a cycle at most, when a fate is to be written

ON_THE_WAY = 1e-3  # seconds that a cycle waits for workers' queues to be empty, and between two looks
LOOK_AGAIN = 2e-5

POSTPONED = 5.0  # seconds that fates wait for an empty queue at most

# Drained: read beyond a batch because a fate was to be written. Postponed: packets that carried no fate because others
# waited behind them.
PACKETS = ("packets", "bytes", "verdict_errors", "drained", "postponed")
# Answers that the control process released, microseconds that those waited together, answers that went on because it
# did not within the time, and those for which there was no room.
ANSWERS = ("answers_released", "answers_wait_us", "answers_late", "answers_unparked")
# Packets that were dropped because nobody said in time which names their flow may show.
NAMES = ("names_late",)
HOLD = 1.0  # seconds
HELD = 16  # packets of a flow
HELD_FLOWS = 1024


@dataclass(frozen=True, slots=True)
class _Parked:
    """A packet with an answer, and what came behind it in the same direction of its connection: a repetition of the
    answer would be the answer, earlier."""

    flow: int
    packets: list[Received]


class PacketQueue(Protocol):
    def read(self, most: int) -> tuple[list[Received], bool]: ...

    def accept_if_empty(self, handles: Sequence[Handle]) -> bool: ...

    def flush(self) -> None: ...


class Cycle:
    """Read, judge, answer: the packet path, apart from processes and sockets."""

    def __init__(
        self,
        packets: PacketQueue,
        inspector: Inspector,
        marks: MarkBits,
        clock: Callable[[], float] = time.monotonic,
        catch_up: Callable[[], None] = lambda: None,
        on_the_way: Callable[[], bool] = lambda: False,
    ) -> None:
        """catch_up: takes in what the control process has said; whatever decided a packet that was read was said
        before. on_the_way: whether packets wait in workers' queues, which may come here."""
        self._queue = packets
        self._clock = clock
        self._catch_up = catch_up
        self._on_the_way = on_the_way
        self._inspector = inspector
        self._marks = marks
        self._parking: Parking[_Parked] = Parking()
        self._connections: dict[int, _Parked] = {}  # TCP flow → what is parked of it, the latest
        self._kept: dict[int, Received] = {}  # flow → the packet that carries its fate, if none comes behind it
        self._late = math.inf  # when fates wait no longer for an empty queue
        self._held: dict[int, tuple[float, list[Received]]] = {}  # flow → when it is given up, packets
        self.events: list[messages.InspectionEvent] = []
        self.answers: list[messages.Answer] = []
        self.questions: list[messages.NamesAsked] = []
        verdicts = (f"verdict_{kind.value}" for kind in VerdictKind)
        self.counters = dict.fromkeys((*PACKETS, *ANSWERS, *NAMES, *verdicts), 0)

    def run(self, now: float) -> int:
        """One cycle. Returns how many packets were answered."""
        received, empty = self._read()
        total = len(received)
        patient = math.inf  # until when workers are waited for
        while True:
            self._answer_all(received, [self._judge(item, now) for item in received])
            if empty and self._kept:
                patient = min(patient, self._clock() + ON_THE_WAY)
                empty = self._hand_over(patient)
            if not self._kept or total >= DRAIN:
                break
            received, empty = self._read()
            total += len(received)
            self.counters["drained"] += len(received)
        if empty:
            self._late = math.inf
        self._postpone()
        return total

    def _read(self) -> tuple[list[Received], bool]:
        found = self._queue.read(BATCH)
        if not self._inspector.requests.none:
            self._catch_up()
        return found

    def told(self, names: messages.Names, now: float) -> None:
        """Which names a flow may show: what was held back of it is judged now."""
        self._inspector.told(names)
        _, items = self._held.pop(names.flow, (0.0, []))
        self._answer_all(items, [self._judge(item, now) for item in items], keep=False)

    def change_requests(self, change: RequestChange) -> None:
        """Raises FastpathError if it does not fit."""
        self._inspector.change_requests(change)

    def _answer_all(self, items: list[Received], verdicts: list[Verdict], *, keep: bool = True) -> None:
        """All but the last one of each flow that may have its fate. Not keep: that one, too, and a later packet of the
        flow carries it."""
        for item, verdict in zip(items, verdicts, strict=True):
            self.events.extend(verdict.events)
            if verdict.seen:
                self.answers.append(messages.Answer(0, verdict.seen))
            if verdict.asked is not None:
                self.questions.append(verdict.asked)
            before = self._kept.pop(verdict.flow, None)
            if before is not None:
                self._answer(before, VerdictKind.GO_ON)
            if verdict.hold:
                self._hold(item, verdict.flow)
            elif not verdict.answers and self._waits_behind(item, verdict):
                pass
            elif verdict.kind is VerdictKind.ALLOW and keep:
                self._kept[verdict.flow] = item
            elif verdict.kind is VerdictKind.ALLOW:
                self._answer(item, VerdictKind.GO_ON)
            elif not (verdict.answers and self._park(item, verdict)):
                self._answer(item, verdict.kind)
        self._queue.flush()

    def _hand_over(self, patient: float) -> bool:
        """What is kept goes, with the fates, while nothing waits behind it. Whether all of it went."""
        while self._kept:
            if self._on_the_way() and self._clock() < patient:
                time.sleep(LOOK_AGAIN)
                return False
            flows = list(self._kept)[:BATCH]
            items = [self._kept[flow] for flow in flows]
            for item in items:
                generation = self._marks.read(item.mark).generation
                item.handle.set_mark(self._marks.answer(item.mark, generation, VerdictKind.ALLOW))
            if not self._queue.accept_if_empty([item.handle for item in items]):
                return False
            for flow, item in zip(flows, items, strict=True):
                self._count(item, VerdictKind.ALLOW)
                del self._kept[flow]
        return True

    def _postpone(self) -> None:
        """What is still kept goes on, and a later packet carries the fate; or not, if that took too long."""
        if not self._kept:
            return
        now = self._clock()
        self._late = min(self._late, now + POSTPONED)
        kind = VerdictKind.ALLOW if now >= self._late else VerdictKind.GO_ON
        for item in self._kept.values():
            self._answer(item, kind)
        self.counters["postponed"] += 0 if kind is VerdictKind.ALLOW else len(self._kept)
        self._kept.clear()
        self._queue.flush()

    def release(self, number: int) -> None:
        """The control process has taken in what answer `number` says. One that was too late for it is gone already."""
        taken = self._parking.take(number, self._clock())
        if taken is not None:
            self.counters["answers_released"] += 1
            self.counters["answers_wait_us"] += int(1e6 * taken[1])
            self._unpark(taken[0])
            self._queue.flush()

    def release_due(self) -> None:
        """Answers that have waited long enough go on; flows that have are dropped, and ask again when they repeat."""
        self._release_until(self._clock())

    def release_all(self) -> None:
        self._release_until(math.inf)

    def patience(self, most: float) -> float:
        """Seconds until release_due() has something to do, at most `most`."""
        now = self._clock()
        held = min((due - now for due, _ in self._held.values()), default=most)
        return min(self._parking.patience(now, most), max(0.0, held))

    def _release_until(self, now: float) -> None:
        self._let_go(self._parking.due(now))
        for flow in [flow for flow, (due, _) in self._held.items() if due <= now]:
            self._inspector.give_up(flow)
            for item in self._held.pop(flow)[1]:
                self.counters["names_late"] += 1
                self._answer(item, VerdictKind.DROP_PACKET)
        self._queue.flush()

    def _hold(self, item: Received, flow: int) -> None:
        held = self._held.get(flow)
        if held is None:
            held = self._held[flow] = (self._clock() + HOLD, [])
        if len(held[1]) < HELD and len(self._held) <= HELD_FLOWS:
            held[1].append(item)
        else:
            self.counters["names_late"] += 1
            self._answer(item, VerdictKind.DROP_PACKET)

    def _park(self, item: Received, verdict: Verdict) -> bool:
        parked = _Parked(verdict.flow, [item])
        number = self._parking.park(parked, self._clock(), self._inspector.ruleset.domains.wait)
        if number is None:
            self.counters["answers_unparked"] += 1
            number = 0
        elif ends_of(item.payload).protocol == socket.IPPROTO_TCP:
            self._connections[verdict.flow] = parked
        self.answers.append(messages.Answer(number, verdict.answers))
        return number > 0

    def _waits_behind(self, item: Received, verdict: Verdict) -> bool:
        parked = self._connections.get(verdict.flow)
        if parked is None or verdict.kind is not VerdictKind.GO_ON or not self._marks.read(item.mark).reply:
            return False
        if len(parked.packets) < HELD:
            parked.packets.append(item)
        else:  # it comes again
            self._answer(item, VerdictKind.DROP_PACKET)
        return True

    def _unpark(self, parked: _Parked) -> None:
        for item in parked.packets:
            self._answer(item, VerdictKind.GO_ON)
        if self._connections.get(parked.flow) is parked:
            del self._connections[parked.flow]

    def _let_go(self, items: list[_Parked]) -> None:
        for parked in items:
            self.counters["answers_late"] += 1
            self._unpark(parked)

    def _judge(self, item: Received, now: float) -> Verdict:
        mark = self._marks.read(item.mark)
        return self._inspector.packet(
            item.payload, reply=mark.reply, generation=mark.generation, now=now, place=item.place
        )

    def _answer(self, item: Received, kind: VerdictKind) -> None:
        self._count(item, kind)
        mark = self._marks.read(item.mark)
        # The kernel refuses a packet to its sender. Who waits for a server's packet would wait on: it gets the reset.
        reset = reset_instead(item.payload) if kind is VerdictKind.REJECT and mark.reply else None
        try:
            item.handle.set_mark(self._marks.answer(item.mark, mark.generation, kind, reset=reset is not None))
            if reset is not None:
                item.handle.set_payload(reset)
            if kind is VerdictKind.DROP_PACKET:
                item.handle.drop()
            else:
                item.handle.accept()
        except Exception:
            self.counters["verdict_errors"] += 1

    def _count(self, item: Received, kind: VerdictKind) -> None:
        self.counters["packets"] += 1
        self.counters["bytes"] += len(item.payload)
        self.counters[f"verdict_{kind.value}"] += 1
