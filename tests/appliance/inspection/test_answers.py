# SPDX-License-Identifier: Apache-2.0
"""DNS answers that policy waits for: found by the inspector, parked by the cycle, released or let go."""

import struct

import dns.message
import dns.rrset
import pytest

from appliance.domains.resolution import Resolution
from appliance.inspection.cycle import Cycle
from appliance.inspection.inspector import Inspector
from appliance.inspection.marks import MarkBits
from appliance.inspection.messages import DomainWatch, FeedNames, InspectionRuleset, InspectorSettings
from appliance.inspection.parking import Parking
from appliance.inspection.queue import Received
from appliance.inspection.ruleset import compile_ruleset

CLIENT, RESOLVER, OTHER = b"\x0a\0\0\x01", b"\x0a\0\0\x35", b"\x0a\0\0\x36"
WATCH = DomainWatch(("www.a.test", "*.b.test"), (RESOLVER,), 0.2)
REPLY = 0x80000000
GENERATION = 9 << 26


def datagram(src: bytes, dst: bytes, sport: int, dport: int, payload: bytes) -> bytes:
    udp = struct.pack("!HHHH", sport, dport, 8 + len(payload), 0) + payload
    return struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0, src, dst) + udp


def query(name: str, number: int = 7, resolver: bytes = RESOLVER) -> bytes:
    return datagram(CLIENT, resolver, 4000, 53, dns.message.make_query(name, "A", id=number).to_wire())


def answer(name: str, *records: tuple[str, str, str], number: int = 7, resolver: bytes = RESOLVER) -> bytes:
    message = dns.message.make_response(dns.message.make_query(name, "A", id=number))
    for owner, kind, data in records:
        message.answer.append(dns.rrset.from_text(f"{owner}.", 60, "IN", kind, data))
    return datagram(resolver, CLIENT, 53, 4000, message.to_wire())


class Handle:
    def __init__(self, log: list[int], number: int) -> None:
        self._log = log
        self._number = number

    def set_mark(self, mark: int) -> None:
        pass

    def accept(self) -> None:
        self._log.append(self._number)

    drop = accept


class Waiting:
    """A queue in front of a cycle; time stands still unless moved."""

    def __init__(self, **ruleset: object) -> None:
        rules = InspectionRuleset(version=1, domains=WATCH, **ruleset)  # type: ignore[arg-type]
        self.inspector = Inspector(InspectorSettings(), compile_ruleset(rules))
        self.packets: list[Received] = []
        self.answered: list[int] = []
        self.now = 100.0
        self.cycle = Cycle(self, self.inspector, MarkBits(0xFF000000), lambda: self.now)

    def read(self, most: int) -> tuple[list[Received], bool]:
        batch, self.packets = self.packets[:most], self.packets[most:]
        return batch, True

    def arrive(self, *packets: bytes, generation: int = GENERATION) -> list[Resolution]:
        """What the control process is asked to take in."""
        first = len(self.answered) + len(self.cycle._parking)
        for number, packet in enumerate(packets, first):
            mark = generation | (REPLY if packet[20:22] == b"\0\x35" else 0)
            self.packets.append(Received(Handle(self.answered, number), packet, mark))
        self.cycle.answers.clear()
        self.cycle.run(self.now)
        return [resolution for message in self.cycle.answers for resolution in message.resolutions]


WWW = ("www.a.test", "A", "192.0.2.1")


@pytest.mark.parametrize("generation", [GENERATION, 0])
def test_an_answer_waits_and_other_packets_do_not(generation: int) -> None:
    line = Waiting()
    told = line.arrive(
        query("www.a.test"), answer("www.a.test", WWW), query("else.test", 8),
        answer("else.test", ("else.test", "A", "192.0.2.2"), number=8), generation=generation,
    )  # fmt: skip
    assert told == [Resolution(("www.a.test",), ((b"\xc0\0\2\1", 60),))]
    assert line.answered == [0, 2, 3]
    line.now += 0.05
    line.cycle.release_due()
    line.cycle.release(line.cycle.answers[0].number)
    assert line.answered == [0, 2, 3, 1]
    assert line.cycle.counters["answers_released"] == 1
    assert line.cycle.counters["answers_wait_us"] == pytest.approx(50000, abs=10)


def test_an_answer_goes_on_after_a_while_and_only_once() -> None:
    line = Waiting()
    line.arrive(query("www.a.test"), answer("www.a.test", WWW))
    assert line.cycle.patience(1.0) == pytest.approx(0.2)
    line.now += 0.21
    assert line.cycle.patience(1.0) == 0
    line.cycle.release_due()
    line.cycle.release(line.cycle.answers[0].number)
    assert line.answered == [0, 1]
    assert line.cycle.counters["answers_late"] == 1 and line.cycle.counters["answers_released"] == 0


def test_the_end_of_the_process_lets_all_go() -> None:
    line = Waiting()
    line.arrive(query("www.a.test"), answer("www.a.test", WWW))
    line.cycle.release_all()
    assert line.answered == [0, 1]


def test_aliases_and_wildcards_are_asked_for() -> None:
    line = Waiting()
    told = line.arrive(
        query("x.test"), answer("x.test", ("x.test", "CNAME", "c.d.b.test."), ("c.d.b.test", "A", "192.0.2.3"))
    )
    assert [resolution.names for resolution in told] == [("x.test", "c.d.b.test")]


@pytest.mark.parametrize(
    "packets",
    [
        (answer("www.a.test", WWW),),  # nobody asked
        (query("www.a.test"), answer("www.a.test", WWW, number=8)),
        (query("www.a.test"), answer("www.a.test", WWW, resolver=OTHER)),
        (query("www.a.test", resolver=OTHER), answer("www.a.test", WWW, resolver=OTHER)),  # not trusted
        (query("www.a.test"), answer("www.a.test")),
        (query("b.test"), answer("b.test", ("b.test", "A", "192.0.2.1"))),  # not below b.test
    ],
)
def test_what_does_not_count_passes_at_once(packets: tuple[bytes, ...]) -> None:
    line = Waiting()
    assert line.arrive(*packets) == []
    assert line.answered == list(range(len(packets)))


def test_an_answer_that_a_feed_drops_teaches_nothing() -> None:
    line = Waiting(names=(FeedNames("f", "drop", ("www.a.test",)),))
    assert line.arrive(query("www.a.test"), answer("www.a.test", WWW)) == []
    assert line.answered == [0, 1]


def test_a_full_parking_turns_packets_away() -> None:
    parking: Parking[str] = Parking(most=2)
    first = parking.park("a", 0, 1)
    assert first is not None and parking.park("b", 0, 2) is not None
    assert parking.park("c", 0, 1) is None
    assert parking.due(1) == ["a"]
    assert parking.take(first, 1) is None
    assert parking.patience(1.5, 1) == 0.5
    assert len(parking) == 1


def test_without_room_the_answer_passes_and_is_taken_in_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    line = Waiting()
    monkeypatch.setattr(line.cycle, "_parking", Parking(most=0))
    assert line.arrive(query("www.a.test"), answer("www.a.test", WWW)) != []
    assert line.answered == [0, 1] and line.cycle.answers[0].number == 0
    assert line.cycle.counters["answers_unparked"] == 1
