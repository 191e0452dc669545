# SPDX-License-Identifier: Apache-2.0
"""The packet path of the inspector process over a queue made of lists."""

import socket
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.inspection import messages
from appliance.inspection.cycle import BATCH, DRAIN, ON_THE_WAY, Cycle
from appliance.inspection.inspector import Inspector
from appliance.inspection.marks import MarkBits
from appliance.inspection.messages import InspectionEvent, InspectionRuleset, InspectorSettings, ProtocolError
from appliance.inspection.packets import reset_instead
from appliance.inspection.queue import Received
from appliance.inspection.requests import Place
from appliance.inspection.ruleset import compile_ruleset
from appliance.inspection.verdicts import Verdict, VerdictKind
from appliance.inspection.worker import OUTBOX, Control, load

MASK = 0xFF000000
GENERATION = 9
MARK = (GENERATION << 2 << 24) | 0xABC


class Handle:
    """Stands in for NetfilterQueue's packet."""

    def __init__(self, log: list[tuple[int, str, int]], number: int, *, broken: bool = False) -> None:
        self._log = log
        self._number = number
        self._broken = broken
        self._mark = -1

    def set_mark(self, mark: int) -> None:
        self._mark = mark

    def set_payload(self, data: bytes) -> None:
        self.payload = data

    def accept(self) -> None:
        if self._broken:
            raise OSError("gone")
        self._log.append((self._number, "accept", self._mark))

    def drop(self) -> None:
        self._log.append((self._number, "drop", self._mark))


class Queue:
    def __init__(self, packets: list[Received]) -> None:
        self.packets = packets
        self.flushes = 0

    def read(self, most: int) -> tuple[list[Received], bool]:
        batch, self.packets = self.packets[:most], self.packets[most:]
        return batch, len(batch) < most

    def accept_if_empty(self, handles: Sequence[Handle]) -> bool:
        if self.packets:
            return False
        for handle in handles:
            handle.accept()
        return True

    def flush(self) -> None:
        self.flushes += 1


class Scripted(Inspector):
    """Says what the payload asks for: `kind flow`."""

    def __init__(self) -> None:
        super().__init__(InspectorSettings(), compile_ruleset(InspectionRuleset(version=1)))
        self.seen: list[tuple[bool, int]] = []

    def packet(self, data: bytes, *, reply: bool, generation: int, now: float, place: Place) -> Verdict:
        self.seen.append((reply, generation))
        kind, flow = data.decode().split()
        return Verdict(VerdictKind(kind), int(flow))


def run(*payloads: str, mark: int = MARK) -> tuple[Cycle, list[tuple[int, str, int]]]:
    log: list[tuple[int, str, int]] = []
    packets = [Received(Handle(log, i), payload.encode(), mark) for i, payload in enumerate(payloads)]
    cycle = Cycle(Queue(packets), Scripted(), MarkBits(MASK))
    cycle.run(1.0)
    return cycle, log


def down(fate: int) -> int:
    return ((GENERATION << 2 | fate) << 24) | 0xABC


def test_verdicts_and_marks_in_order() -> None:
    _, log = run("go_on 1", "drop 2", "reject 3", "drop_packet 4", "allow 5")
    assert log == [
        (0, "accept", 0xABC),
        (1, "accept", down(2)),
        (2, "accept", down(3)),
        (3, "drop", 0xABC),
        (4, "accept", down(1)),
    ]


def test_a_servers_packet_that_is_rejected_becomes_the_clients_reset() -> None:
    data = bytes.fromhex("4500002800004000400600000a0000010a00000201bb138800000007000000095018000000000000")

    class Rejecting(Scripted):
        def packet(self, data: bytes, *, reply: bool, generation: int, now: float, place: Place) -> Verdict:
            return Verdict(VerdictKind.REJECT, 1)

    log: list[tuple[int, str, int]] = []
    handles = [Handle(log, number) for number in range(2)]
    marks = [(GENERATION << 2 | 0x80 * reply) << 24 for reply in (0, 1)]
    packets = [Received(handle, data, mark) for handle, mark in zip(handles, marks, strict=True)]
    Cycle(Queue(packets), Rejecting(), MarkBits(MASK)).run(1.0)
    # The client's own packet is refused by the kernel, to the client.
    assert [mark >> 24 for _, _, mark in log] == [GENERATION << 2 | 3, GENERATION << 2 | 3 | 0x80]
    assert not hasattr(handles[0], "payload") and handles[1].payload == reset_instead(data)


def test_only_the_last_packet_at_hand_carries_the_allow_fate() -> None:
    _, log = run("allow 1", "allow 2", "allow 1", "go_on 3", "allow 1")
    assert [mark for _, _, mark in sorted(log)] == [0xABC, down(1), 0xABC, 0xABC, down(1)]
    assert [number for number, _, _ in log if number not in (1, 3)] == [0, 2, 4]


def test_a_packet_that_comes_while_others_are_answered_is_before_the_fate() -> None:
    log: list[tuple[int, str, int]] = []

    class Late(Queue):
        asked = 0

        def accept_if_empty(self, handles: Sequence[Handle]) -> bool:
            self.asked += 1
            if self.asked <= 3:  # what was at hand is answered, and the queue was empty a moment ago
                kind = b"go_on 1" if self.asked == 2 else b"allow 1"
                self.packets.append(Received(Handle(log, self.asked), kind, MARK))
            return super().accept_if_empty(handles)

    queue = Late([Received(Handle(log, 0), b"allow 1", MARK)])
    cycle = Cycle(queue, Scripted(), MarkBits(MASK))
    assert cycle.run(1.0) == 3
    assert log == [(0, "accept", 0xABC), (1, "accept", 0xABC), (2, "accept", 0xABC)]
    queue.packets = [Received(Handle(log, 9), b"allow 1", MARK)]
    assert cycle.run(1.0) == 2
    assert log[3:] == [(9, "accept", 0xABC), (3, "accept", down(1))]
    assert cycle.counters["packets"] == 5 and cycle.counters["verdict_allow"] == 1 and not cycle.counters["postponed"]


def test_fates_wait_for_packets_on_their_way_through_workers_but_only_briefly() -> None:
    log: list[tuple[int, str, int]] = []
    queue = Queue([Received(Handle(log, 0), b"allow 1", MARK)])
    looks = 0

    def on_the_way() -> bool:
        nonlocal looks
        looks += 1
        if looks == 2:
            queue.packets.append(Received(Handle(log, 1), b"allow 1", MARK))
        return looks < 4

    cycle = Cycle(queue, Scripted(), MarkBits(MASK), clock=lambda: 5.0, on_the_way=on_the_way)
    assert cycle.run(1.0) == 2 and looks == 4
    assert log == [(0, "accept", 0xABC), (1, "accept", down(1))]

    moments = iter((5.0, 5.0 + ON_THE_WAY / 2, 5.0 + ON_THE_WAY * 0.75, 5.0 + ON_THE_WAY, 5.0 + ON_THE_WAY * 2))
    queue.packets = [Received(Handle(log, 2), b"allow 1", MARK)]
    cycle = Cycle(queue, Scripted(), MarkBits(MASK), clock=lambda: next(moments), on_the_way=lambda: True)
    assert cycle.run(1.0) == 1
    assert log[2:] == [(2, "accept", down(1))]


def test_fates_of_many_flows_leave_batch_by_batch_and_wait_where_more_comes() -> None:
    log: list[tuple[int, str, int]] = []
    sizes: list[int] = []

    class Late(Queue):
        def accept_if_empty(self, handles: Sequence[Handle]) -> bool:
            sizes.append(len(handles))
            if len(sizes) == 2:
                self.packets.append(Received(Handle(log, 1000), b"go_on 100", MARK))
            return super().accept_if_empty(handles)

    flows = BATCH + 40
    cycle = Cycle(
        Late([Received(Handle(log, i), f"allow {i}".encode(), MARK) for i in range(flows)]), Scripted(), MarkBits(MASK)
    )
    assert cycle.run(1.0) == flows + 1
    assert sizes == [BATCH, 40, 39]
    fates = [number for number, _, mark in log if mark == down(1)]
    assert sorted(fates) == [number for number in range(flows) if number != 100]
    assert cycle.counters["packets"] == flows + 1 and cycle.counters["verdict_allow"] == flows - 1


def test_what_always_has_more_behind_it_is_handed_over_after_a_while() -> None:
    log: list[tuple[int, str, int]] = []
    moments = iter((5.0, 9.9, 10.0))
    packets = [Received(Handle(log, i), b"allow 1", GENERATION << 2 << 24) for i in range(4 * DRAIN)]
    cycle = Cycle(Queue(packets), Scripted(), MarkBits(MASK), lambda: next(moments))
    for _ in range(3):
        cycle.run(1.0)
    fate = (GENERATION << 2 | 1) << 24
    assert [number for number, _, mark in log if mark == fate] == [3 * DRAIN - 1]
    assert cycle.counters["postponed"] == 2 and len(log) == 3 * DRAIN


def test_fate_waits_for_packets_that_are_still_in_the_queue() -> None:
    cycle, log = run(*["allow 1"] * (3 * BATCH + 5))
    assert [mark for _, _, mark in log] == [0xABC] * (3 * BATCH + 4) + [down(1)]
    assert cycle.counters["drained"] == 2 * BATCH + 5 and cycle.counters["postponed"] == 0
    assert cycle.counters["verdict_allow"] == 1


def test_draining_is_bounded_and_without_a_fate_there_is_none() -> None:
    assert len(run(*["allow 1"] * 5000)[1]) == DRAIN
    assert len(run(*["go_on 1"] * 5000)[1]) == BATCH


def test_a_packet_that_the_kernel_lost_does_not_stop_the_others() -> None:
    log: list[tuple[int, str, int]] = []
    packets = [Received(Handle(log, i, broken=i == 1), b"go_on 1", 0) for i in range(3)]
    cycle = Cycle(Queue(packets), Scripted(), MarkBits(MASK))
    assert cycle.run(1.0) == 3
    assert [number for number, _, _ in log] == [0, 2]
    assert cycle.counters["verdict_errors"] == 1 and cycle.counters["packets"] == 3


def test_the_answers_of_a_cycle_leave_together() -> None:
    log: list[tuple[int, str, int]] = []
    queue = Queue([Received(Handle(log, i), b"allow 1", 0) for i in range(2 * BATCH)])
    Cycle(queue, Scripted(), MarkBits(MASK)).run(1.0)
    # Those of each batch, none for the empty one; the one that was kept leaves by itself.
    assert len(log) == 2 * BATCH and queue.flushes == 3


@given(st.integers(0, 0xFFFFFFFF), st.sampled_from([0, 8, 16, 24]), st.sampled_from(VerdictKind))
def test_mark_bits(mark: int, shift: int, kind: VerdictKind) -> None:
    bits = MarkBits(0xFF << shift)
    byte = (mark >> shift) & 0xFF
    slow = bits.read(mark)
    assert (slow.reply, slow.generation) == (bool(byte & 0x80), (byte >> 2) & 31)
    answer = bits.answer(mark, slow.generation, kind)
    assert answer & ~(0xFF << shift) == mark & ~(0xFF << shift)
    fate = {VerdictKind.ALLOW: 1, VerdictKind.DROP: 2, VerdictKind.REJECT: 3}.get(kind, 0)
    assert (answer >> shift) & 0xFF == (slow.generation << 2 | fate if fate else 0)


@pytest.mark.parametrize("mask", [0, 0xFF, 0xFFFF0000, 0xF0F00000, 0x1FE00000000])
def test_mark_mask_is_eight_adjacent_bits(mask: int) -> None:
    if mask == 0xFF:
        MarkBits(mask)
        return
    with pytest.raises(ValueError, match="eight adjacent bits"):
        MarkBits(mask)


def test_full_outbox_loses_events_and_counts_them_but_never_waits() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        control = Control(ours)
        event = InspectionEvent(kind="alert", time=1.0, fields={"padding": "x" * 60_000})
        for _ in range(OUTBOX // 60_000 + 40):
            control.send(messages.Events((event,)))
        assert control.lost > 0
        control.send(messages.Heartbeat(1, {"packets": 3}))
        frames = messages.Frames()
        got: list[object] = []
        theirs.settimeout(2)
        while not got or not isinstance(got[-1], messages.Heartbeat):
            got += [messages.decode_from_inspector(body) for body in frames.feed(theirs.recv(1 << 20))]
            control.flush()
        assert got[-1] == messages.Heartbeat(1, {"packets": 3})


def test_control_process_gone_is_noticed() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        theirs.close()
        assert Control(ours).receive() is None


def test_ruleset_that_makes_no_sense_is_refused() -> None:
    assert isinstance(load(b"\xc1nonsense"), messages.Refused)
    good = load(messages.encode(InspectionRuleset(version=7))[4:])
    assert not isinstance(good, messages.Refused) and good.version == 7


@given(st.binary(max_size=200))
def test_frames_and_messages_raise_protocol_error_only(data: bytes) -> None:
    for decode in (messages.decode_from_inspector, messages.decode_to_inspector):
        try:
            for body in messages.Frames(1000).feed(data):
                decode(body)
        except ProtocolError:
            continue


@given(st.lists(st.binary(max_size=30), max_size=5), st.integers(1, 7))
def test_frames_come_whole_however_they_are_cut(bodies: list[bytes], step: int) -> None:
    data = b"".join(len(body).to_bytes(4, "big") + body for body in bodies)
    frames = messages.Frames()
    assert [body for i in range(0, len(data), step) for body in frames.feed(data[i : i + step])] == bodies
