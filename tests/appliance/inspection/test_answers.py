# SPDX-License-Identifier: Apache-2.0
"""DNS answers that policy waits for: found by the inspector, parked by the cycle, released or let go."""

import struct
from collections.abc import Sequence

import dns.message
import dns.rrset
import pytest

from appliance.domains.resolution import Resolution
from appliance.inspection.cycle import HELD, Cycle
from appliance.inspection.inspector import Inspector
from appliance.inspection.marks import MarkBits
from appliance.inspection.messages import DomainWatch, FeedNames, InspectionRuleset, InspectorSettings, Names
from appliance.inspection.packets import ACK, FIN, SYN
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
    def __init__(self, log: list[int], number: int, dropped: list[int], fates: dict[int, int]) -> None:
        self._log = log
        self._number = number
        self._dropped = dropped
        self._fates = fates

    def set_mark(self, mark: int) -> None:
        self._fates[self._number] = mark >> 24 & 3

    def accept(self) -> None:
        self._log.append(self._number)

    def drop(self) -> None:
        self._dropped.append(self._number)
        self._log.append(self._number)


class Waiting:
    """A queue in front of a cycle; time stands still unless moved."""

    def __init__(self, watch: DomainWatch = WATCH, **ruleset: object) -> None:
        rules = InspectionRuleset(version=1, domains=watch, **ruleset)  # type: ignore[arg-type]
        self.inspector = Inspector(InspectorSettings(), compile_ruleset(rules))
        self.packets: list[Received] = []
        self.answered: list[int] = []
        self.dropped: list[int] = []
        self.fates: dict[int, int] = {}
        self.now = 100.0
        self.left = 0  # answers that left
        self.cycle = Cycle(self, self.inspector, MarkBits(0xFF000000), lambda: self.now)

    def read(self, most: int) -> tuple[list[Received], bool]:
        batch, self.packets = self.packets[:most], self.packets[most:]
        return batch, True

    def accept_if_empty(self, handles: Sequence[Handle]) -> bool:
        for handle in handles:
            handle.accept()
        self.flush()
        return True

    def flush(self) -> None:
        self.left = len(self.answered) + len(self.dropped)

    def arrive(self, *packets: bytes, generation: int = GENERATION) -> list[Resolution]:
        """What the control process is asked to take in of names of policy; `seen` is told of the others."""
        held = sum(len(items) for _, items in self.cycle._held.values())
        parked = sum(len(found.packets) for _, _, found in self.cycle._parking._parked.values())
        first = len(self.answered) + parked + held
        for number, packet in enumerate(packets, first):
            mark = generation | (REPLY if packet[12:16] != CLIENT else 0)
            handle = Handle(self.answered, number, self.dropped, self.fates)
            self.packets.append(Received(handle, packet, mark))
        self.cycle.answers.clear()
        self.cycle.run(self.now)
        told = [(message.number, found) for message in self.cycle.answers for found in message.resolutions]
        names = self.inspector.ruleset.domains.names
        asked = [any(map(names.matching, found.names)) for _, found in told]
        self.seen = [item for item, wanted in zip(told, asked, strict=True) if not wanted]
        return [found for (_, found), wanted in zip(told, asked, strict=True) if wanted]


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
    assert line.answered == [0, 2, 3, 1] and line.left == 4
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


def segment(src: bytes, dst: bytes, seq: int, ack: int, data: bytes, flags: int = ACK) -> bytes:
    """Between port 4000 of the client and port 53 of the resolver."""
    ports = (4000, 53) if src == CLIENT else (53, 4000)
    tcp = struct.pack("!HHIIBBHHH", *ports, seq, ack, 0x50, flags, 1000, 0, 0) + data
    return struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(tcp), 0, 0, 64, 6, 0, src, dst) + tcp


def over_tcp(packet: bytes) -> bytes:
    """The message of a datagram, behind its length (RFC 1035 section 4.2.2)."""
    message = packet[28:]
    return struct.pack("!H", len(message)) + message


def test_what_repeats_an_answer_of_a_connection_waits_behind_it() -> None:
    """A server that sees something behind its answer acknowledged sends the answer again within a millisecond."""
    line = Waiting()
    asked, told = over_tcp(query("www.a.test")), over_tcp(answer("www.a.test", WWW))
    line.arrive(
        segment(CLIENT, RESOLVER, 100, 0, b"", SYN), segment(RESOLVER, CLIENT, 900, 101, b"", SYN | ACK),
        segment(CLIENT, RESOLVER, 101, 901, asked), segment(RESOLVER, CLIENT, 901, 101 + len(asked), told),
    )  # fmt: skip
    number = line.cycle.answers[0].number
    end = 901 + len(told)
    line.arrive(
        segment(RESOLVER, CLIENT, end, 101 + len(asked), b"", ACK | FIN),
        segment(CLIENT, RESOLVER, 101 + len(asked), 901, b""),
        segment(RESOLVER, CLIENT, 901, 101 + len(asked), told), query("else.test", 8),
    )  # fmt: skip
    assert line.answered == [0, 1, 2, 5, 7], "what the client says, and other flows, do not wait"
    line.cycle.release(number)
    assert line.answered == [0, 1, 2, 5, 7, 3, 4, 6]
    line.arrive(segment(RESOLVER, CLIENT, 901, 101 + len(asked), told))
    assert line.answered[-1] == 8 and not line.dropped


def test_what_waits_behind_an_answer_is_bounded() -> None:
    line = Waiting()
    asked, told = over_tcp(query("www.a.test")), over_tcp(answer("www.a.test", WWW))
    line.arrive(
        segment(CLIENT, RESOLVER, 100, 0, b"", SYN), segment(RESOLVER, CLIENT, 900, 101, b"", SYN | ACK),
        segment(CLIENT, RESOLVER, 101, 901, asked),
        *[segment(RESOLVER, CLIENT, 901, 101 + len(asked), told)] * (HELD + 2),
    )  # fmt: skip
    assert line.dropped == [3 + HELD, 4 + HELD]
    line.cycle.release_all()
    assert len(line.answered) == 3 + HELD + 2


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


@pytest.mark.parametrize("watch", [WATCH, DomainWatch(resolvers=WATCH.resolvers)], ids=["other names", "no names"])
def test_an_answer_that_no_policy_asks_for_is_told_and_does_not_wait(watch: DomainWatch) -> None:
    line = Waiting(watch)
    assert line.arrive(query("b.test"), answer("b.test", ("b.test", "A", "192.0.2.1"))) == []
    assert line.seen == [(0, Resolution(("b.test",), ((b"\xc0\0\2\1", 60),)))]
    assert line.answered == [0, 1]
    assert line.arrive(answer("b.test", ("b.test", "A", "192.0.2.2"))) == [] and line.seen == []  # nobody asked


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


AGREE = DomainWatch(("www.a.test", "*.b.test"), (RESOLVER,), 0.2, agree=True)
SERVER = b"\xc0\0\2\1"


class Web(Waiting):
    """One HTTP connection whose names have to agree."""

    def __init__(self, **ruleset: object) -> None:
        super().__init__(AGREE, **ruleset)
        self.seq = 1000
        self.send(b"", SYN)

    def send(self, data: bytes, flags: int = ACK) -> None:
        header = struct.pack("!HHIIBBHHH", 4000, 80, self.seq, 1, 0x50, flags, 1000, 0, 0)
        self.seq += len(data) + (flags == SYN)
        tcp = header + data
        ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(tcp), 0, 0, 64, 6, 0, CLIENT, SERVER)
        self.arrive(ip + tcp)

    def tell(self, patterns: tuple[str, ...] | None, action: str = "reject") -> None:
        (question,) = self.cycle.questions
        self.cycle.questions.clear()
        assert (question.src, question.dst, question.dport) == (CLIENT, SERVER, 80)
        self.cycle.told(Names(question.flow, patterns, action, 3), 2.0)


def get(host: str) -> bytes:
    return f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()


def test_data_waits_until_it_is_known_which_names_a_flow_may_show() -> None:
    web = Web()
    assert web.answered == [0]
    web.send(get("www.a.test")[:9])
    web.send(get("www.a.test")[9:])
    assert web.answered == [0]
    web.tell(("www.a.test",))
    assert web.answered == [0, 1, 2] and not web.dropped
    web.send(get("www.a.test:80"))
    assert web.answered == [0, 1, 2, 3] and not web.cycle.questions


@pytest.mark.parametrize(("action", "fate"), [("drop", 2), ("reject", 3)])
def test_another_name_ends_the_flow(action: str, fate: int) -> None:
    web = Web()
    web.tell(("www.a.test",), action)
    web.send(get("www.a.test"))
    web.send(get("other.test"))
    assert web.fates == {0: 0, 1: 0, 2: fate}
    told = [event for event in web.cycle.events if event.kind == "policy"]
    assert [(event.action, event.fields["rule"], event.fields["name"]) for event in told] == [(action, 3, "other.test")]


def test_a_flow_that_is_not_allowed_by_name_may_show_any() -> None:
    web = Web()
    web.send(get("other.test"))
    web.tell(None)
    web.send(get("more.test"))
    assert web.answered == [0, 1, 2] and set(web.fates.values()) == {0}


def test_what_nobody_answers_for_is_dropped_and_asks_again() -> None:
    web = Web()
    web.send(get("www.a.test"))
    web.cycle.questions.clear()
    web.now += 1.1
    web.cycle.release_due()
    assert web.dropped == [1] and web.cycle.counters["names_late"] == 1
    web.seq -= len(get("www.a.test"))
    web.send(get("www.a.test"))
    web.tell(("www.a.test",))
    assert web.answered == [0, 1, 2] and web.dropped == [1]


def test_what_is_held_is_bounded() -> None:
    web = Web()
    for _ in range(40):
        web.send(b"x" * 10)
    assert len(web.dropped) == 40 - HELD


def test_observe_holds_nothing_and_says_it() -> None:
    web = Web(observe=True)
    web.tell(("www.a.test",))
    web.send(get("other.test"))
    assert web.answered == [0, 1] and set(web.fates.values()) == {0}
    assert [event.observed for event in web.cycle.events if event.kind == "policy"] == [True]
