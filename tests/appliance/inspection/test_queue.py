# SPDX-License-Identifier: Apache-2.0
"""How a packet of the slow queue is answered through fastpath's reader."""

from typing import cast

import pytest

from appliance.inspection.queue import QueueError, QueueSettings, ReaderQueue, _ReaderHandle, open_queue
from fastpath.reader import Packet, Reader

MARK = 0x14000ABC


class Recorder:
    """Stands in for a Reader."""

    def __init__(self) -> None:
        self.said: list[tuple[object, ...]] = []

    def accept(self, packet: int, mark: int) -> None:
        self.said.append(("accept", packet, mark))

    def drop(self, packet: int) -> None:
        self.said.append(("drop", packet))

    def replace(self, packet: int, mark: int, payload: bytes) -> None:
        self.said.append(("replace", packet, mark, payload))

    def again(self, packet: int) -> None:
        self.said.append(("again", packet))


def handle(recorder: Recorder, *, joined: bool = False) -> _ReaderHandle:
    return _ReaderHandle(cast(Reader, recorder), Packet(7, b"data", MARK, 2, 5, 6, joined))


def test_an_answer_keeps_the_mark_unless_told_another() -> None:
    recorder = Recorder()
    handle(recorder).accept()
    other = handle(recorder)
    other.set_mark(1)
    other.accept()
    handle(recorder).drop()
    assert recorder.said == [("accept", 7, MARK), ("accept", 7, 1), ("drop", 7)]


def test_fates_of_an_empty_queue_are_told_with_their_marks() -> None:
    told: list[list[tuple[int, int]]] = []

    class Empty:
        def accept_if_empty(self, packets: list[tuple[int, int]]) -> bool:
            told.append(packets)
            return len(told) > 1

    queue = object.__new__(ReaderQueue)
    queue._reader = cast(Reader, Empty())
    packets = [handle(Recorder()), handle(Recorder())]
    packets[1].set_mark(1)
    assert not queue.accept_if_empty(packets) and queue.accept_if_empty(packets)
    assert told == 2 * [[(7, MARK), (7, 1)]]


@pytest.mark.parametrize("joined", [False, True])
def test_joined_segments_are_taken_apart_before_one_becomes_another_packet(joined: bool) -> None:
    recorder = Recorder()
    packet = handle(recorder, joined=joined)
    packet.set_mark(1)
    packet.set_payload(b"reset")
    packet.accept()
    assert recorder.said == [("again", 7) if joined else ("replace", 7, 1, b"reset")]


def test_a_queue_that_cannot_be_bound_is_named() -> None:
    with pytest.raises(QueueError, match="queue 64 cannot be bound"):
        ReaderQueue(QueueSettings(64, 0, 1 << 20))
    with pytest.raises(QueueError, match="queue 64 cannot be bound"):
        open_queue(QueueSettings(64, 70000, 1 << 20), "fastpath")
