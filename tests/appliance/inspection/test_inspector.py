# SPDX-License-Identifier: Apache-2.0
"""Dialogues with the inspector: packets go in, verdicts and events come out."""

import contextlib
import ssl
import struct

import dpkt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.events import inspection_records
from appliance.events.console import inspection_line
from appliance.inspection import reading
from appliance.inspection.inspector import Inspector
from appliance.inspection.messages import FeedNames, InspectionRuleset, InspectorSettings, SignatureSource
from appliance.inspection.ruleset import compile_ruleset
from appliance.inspection.verdicts import Verdict, VerdictKind

CLIENT, SERVER = b"\x0a\0\0\1", b"\x0a\0\0\2"
ACK, PSH, SYN, FIN = 0x10, 0x08, 0x02, 0x01
GO_ON, ALLOW, DROP, REJECT, DROP_PACKET = (
    VerdictKind.GO_ON, VerdictKind.ALLOW, VerdictKind.DROP, VerdictKind.REJECT, VerdictKind.DROP_PACKET
)  # fmt: skip
RULES = (
    'drop http any any -> any any (msg:"uri"; http.uri; content:"/evil"; sid:1;)\n'
    'alert tcp any any -> any any (msg:"payload"; content:"needle"; sid:2;)\n'
    'pass http any any -> any any (msg:"let it"; http.uri; content:"/evil/but/fine"; priority:1; sid:3;)\n'
    'drop udp any any -> any 9999 (msg:"udp"; content:"needle"; sid:4;)\n'
)
NAMES = (FeedNames("feed", "reject", ("bad.example",)), FeedNames("watch", "alert", ("odd.example",)))


def ip(protocol: int, transport: bytes, reply: bool) -> bytes:
    src, dst = (SERVER, CLIENT) if reply else (CLIENT, SERVER)
    return struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(transport), 0, 0, 64, protocol, 0) + src + dst + transport


class Dialogue:
    """One TCP connection through an inspector."""

    def __init__(self, ruleset: InspectionRuleset | None = None, **options: object) -> None:
        ruleset = ruleset or InspectionRuleset(version=1, signatures=(SignatureSource("r", RULES),), names=NAMES)
        self.inspector = Inspector(InspectorSettings(**options), compile_ruleset(ruleset))  # type: ignore[arg-type]
        self.seq = [1000, 5000]
        self.generation = 3
        self.now = 1.0
        self.told: list[tuple[str, str, str]] = []

    def send(self, payload: bytes, *, reply: bool = False, flags: int = ACK | PSH, seq: int | None = None) -> Verdict:
        side = int(reply)
        number = self.seq[side] if seq is None else seq
        tcp = dpkt.tcp.TCP(
            sport=80 if reply else 4000, dport=4000 if reply else 80, seq=number, ack=self.seq[1 - side], flags=flags,
            data=payload,
        )  # fmt: skip
        if seq is None:
            self.seq[side] += len(payload) + bool(flags & (SYN | FIN))
        return self.raw(ip(6, bytes(tcp), reply), reply)

    def udp(self, payload: bytes, *, reply: bool = False, port: int = 53) -> Verdict:
        udp = dpkt.udp.UDP(
            sport=port if reply else 4000, dport=4000 if reply else port, ulen=8 + len(payload), data=payload
        )
        return self.raw(ip(17, bytes(udp), reply), reply)

    def raw(self, data: bytes, reply: bool = False) -> Verdict:
        verdict = self.inspector.packet(data, reply=reply, generation=self.generation, now=self.now)
        self.told += [(event.kind, event.action, event.reason) for event in verdict.events]
        return verdict

    def open(self) -> "Dialogue":
        assert self.send(b"", flags=SYN).kind is GO_ON
        assert self.send(b"", reply=True, flags=SYN | ACK).kind is GO_ON
        assert self.send(b"", flags=ACK).kind is GO_ON
        return self


def get(path: str, host: str = "a.example") -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()


RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def query(name: str) -> bytes:
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return b"\0\1\1\0\0\1\0\0\0\0\0\0" + labels + b"\0\0\1\0\1"


def test_clean_http_goes_on_and_the_second_request_is_caught() -> None:
    d = Dialogue().open()
    for _ in range(3):
        assert d.send(get("/fine")).kind is GO_ON
        assert d.send(RESPONSE, reply=True).kind is GO_ON
    assert d.send(get("/evil")).kind is DROP
    assert d.told[-1] == ("alert", "drop", "uri")
    assert d.send(b"more").kind is DROP


@pytest.mark.parametrize("size", [1, 7])
def test_match_across_segments(size: int) -> None:
    d = Dialogue().open()
    data = get("/x/evil")
    kinds = [d.send(data[i : i + size]).kind for i in range(0, len(data), size)]
    assert DROP in kinds and ("alert", "drop", "uri") in d.told


def test_match_when_segments_come_out_of_order() -> None:
    d = Dialogue().open()
    data = get("/evil")
    assert d.send(data[10:], seq=d.seq[0] + 10).kind is GO_ON
    assert d.send(data[:10], seq=d.seq[0]).kind is DROP


def test_second_version_of_a_segment_is_dropped() -> None:
    d = Dialogue().open()
    start = d.seq[0]
    assert d.send(get("/good")).kind is GO_ON
    assert d.send(get("/evil"), seq=start).kind is DROP_PACKET
    assert d.told[-1] == ("failure", "drop", "stream_overlap")
    assert d.inspector.failures["stream_overlap"] == 1


def test_pass_overrules_drop() -> None:
    assert Dialogue().open().send(get("/evil/but/fine")).kind is GO_ON


def test_host_of_a_feed_rejects_and_a_watched_one_alerts() -> None:
    assert Dialogue().open().send(get("/", "www.bad.example")).kind is REJECT
    d = Dialogue().open()
    assert d.send(get("/", "odd.example")).kind is GO_ON
    assert ("feed", "alert", "watch") in d.told


def test_alert_on_payload_is_told_once_a_flow() -> None:
    d = Dialogue().open()
    for _ in range(5):
        d.send(b"\x01\x02nee")
        d.send(b"dle")
    assert d.told.count(("alert", "alert", "payload")) == 1


def test_look_only_and_observe_never_act() -> None:
    d = Dialogue().open()
    d.generation = 0
    assert d.send(get("/evil")).kind is GO_ON
    assert ("alert", "drop", "uri") in d.told
    d = Dialogue(InspectionRuleset(version=1, names=NAMES, observe=True)).open()
    verdict = d.send(get("/", "bad.example"))
    assert verdict.kind is GO_ON
    assert [event.observed for event in verdict.events if event.kind == "feed"] == [True]


def test_unknown_protocol_is_allowed_when_both_directions_were_inspected() -> None:
    d = Dialogue(unknown_depth=3000).open()
    for _ in range(2):
        assert d.send(b"\x01\x02" * 500).kind is GO_ON
        assert d.send(b"\x03\x04" * 500, reply=True).kind is GO_ON
    assert d.send(b"\x01\x02" * 500).kind is GO_ON
    assert d.send(b"\x03\x04" * 500, reply=True).kind is ALLOW
    assert d.told[-1] == ("fate", "allow", "unknown_protocol")
    assert d.send(b"already queued").kind is ALLOW
    assert d.inspector.budget.used == 0


def test_one_sided_flow_needs_the_full_depth() -> None:
    d = Dialogue(unknown_depth=1000, depth=6000).open()
    kinds = [d.send(b"\x01\x02" * 500).kind for _ in range(6)]
    assert kinds == [GO_ON] * 5 + [ALLOW]
    assert d.told[-1] == ("fate", "allow", "one_sided")


def test_http_is_allowed_by_depth_of_both_directions_only() -> None:
    d = Dialogue(depth=2000, unknown_depth=10).open()
    d.send(b"POST / HTTP/1.1\r\nContent-Length: 3000\r\n\r\n")
    assert [d.send(b"x" * 1000).kind for _ in range(3)] == [GO_ON] * 3
    d.send(b"HTTP/1.1 200 OK\r\nContent-Length: 3000\r\n\r\n", reply=True)
    assert [d.send(b"x" * 1000, reply=True).kind for _ in range(2)] == [GO_ON, ALLOW]
    assert d.told[-1] == ("fate", "allow", "depth")


def test_no_fate_while_bytes_are_missing() -> None:
    d = Dialogue(unknown_depth=10, depth=2000).open()
    d.send(b"\x03\x04" * 500, reply=True)
    d.send(b"\x01" * 10, seq=d.seq[0] + 5)
    assert d.send(b"\x03\x04" * 600, reply=True).kind is GO_ON
    assert d.send(b"\x01" * 20).kind is ALLOW


def test_dns_never_gets_an_allow_fate_and_loses_only_the_bad_message() -> None:
    d = Dialogue(udp_packets=2)
    for _ in range(50):
        assert d.udp(query("a.example")).kind is GO_ON
        assert d.udp(query("a.example"), reply=True).kind is GO_ON
    assert d.udp(query("x.bad.example")).kind is DROP_PACKET
    assert d.udp(query("a.example")).kind is GO_ON


def test_other_udp_is_allowed_after_packets_each_way() -> None:
    d = Dialogue(udp_packets=2)
    kinds = [d.udp(b"\xff", reply=reply, port=7).kind for reply in (False, True, False, True, False)]
    assert kinds == [GO_ON, GO_ON, GO_ON, ALLOW, ALLOW]
    assert d.udp(b"needle", port=9999).kind is DROP


@pytest.mark.parametrize("ends", [True, False])
def test_udp_that_comes_back_when_its_fate_has_ended_is_inspected_anew(ends: bool) -> None:
    d = Dialogue(udp_packets=2, udp_fates_end=ends)
    for reply in (False, True, False, True):
        d.udp(b"\xff", reply=reply, port=9999)
    assert d.udp(b"needle", port=9999).kind is ALLOW, "it had waited when the flow was let go"
    d.now += 5
    assert d.udp(b"\xff", port=9999).kind is (GO_ON if ends else ALLOW)
    assert d.udp(b"needle", port=9999).kind is (DROP if ends else ALLOW)


def test_new_generation_asks_the_names_of_an_allowed_flow_again() -> None:
    d = Dialogue(depth=100).open()
    d.send(b"POST / HTTP/1.1\r\nHost: later.example\r\nContent-Length: 1000\r\n\r\n" + b"x" * 100)
    assert d.send(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 100, reply=True).kind is ALLOW
    d.generation = 4
    assert d.send(b"x").kind is ALLOW
    later = InspectionRuleset(version=2, names=(FeedNames("f", "drop", ("later.example",)),))
    d.inspector.use(compile_ruleset(later))
    assert d.send(b"x").kind is ALLOW
    d.generation = 5
    assert d.send(b"x").kind is DROP


def test_new_syn_on_an_old_tuple_is_a_new_flow() -> None:
    d = Dialogue().open()
    assert d.send(get("/evil")).kind is DROP
    d.seq = [90000, 95000]
    d.open()
    assert d.send(get("/fine")).kind is GO_ON


def test_repeated_syn_is_the_same_flow() -> None:
    d = Dialogue()
    first = d.send(b"", flags=SYN, seq=1000).flow
    assert d.send(b"", flags=SYN, seq=1000).flow == first


def test_flow_that_began_before_the_inspector_is_inspected_from_here_on() -> None:
    assert Dialogue().send(get("/evil")).kind is DROP


def test_request_behind_a_refused_connect_is_caught_with_the_answer() -> None:
    d = Dialogue().open()
    d.send(b"CONNECT proxy.example:80 HTTP/1.1\r\n\r\n" + get("/evil"))
    assert d.send(b"HTTP/1.1 405 No\r\nContent-Length: 0\r\n\r\n", reply=True).kind is DROP


def test_tunnelled_protocol_is_inspected() -> None:
    d = Dialogue().open()
    d.send(b"CONNECT proxy.example:80 HTTP/1.1\r\n\r\n")
    d.send(b"HTTP/1.1 200 OK\r\n\r\n", reply=True)
    assert d.send(get("/evil")).kind is DROP


@pytest.mark.parametrize(("action", "kind"), [("allow", GO_ON), ("drop", DROP_PACKET), ("reject", DROP_PACKET)])
def test_failure_actions_without_a_flow(action: str, kind: VerdictKind) -> None:
    d = Dialogue(failures={"decode_error": action, "truncated_packet": action})
    assert d.raw(b"\x00garbage").kind is kind
    whole = ip(6, bytes(dpkt.tcp.TCP(sport=1, dport=2, data=b"x" * 100)), False)
    assert d.raw(whole[:60]).kind is kind
    assert [name for _, _, name in d.told] == ["decode_error", "truncated_packet"]
    assert d.inspector.failures["truncated_packet"] == 1


@pytest.mark.parametrize(("action", "kind"), [("allow", GO_ON), ("drop", DROP_PACKET), ("reject", REJECT)])
def test_stream_memory(action: str, kind: VerdictKind) -> None:
    d = Dialogue(stream_bytes=1000, failures={"stream_memory": action}).open()
    assert d.send(b"x" * 900, seq=d.seq[0] + 10).kind is GO_ON
    assert d.send(b"x" * 900, seq=d.seq[0] + 2000).kind is kind
    assert d.told[-1] == ("failure", action, "stream_memory")


def test_exception_becomes_a_verdict_and_a_retransmission_does_not_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    d = Dialogue().open()
    start = d.seq[0]

    def explode(*_: object) -> None:
        raise ZeroDivisionError("injected")

    with monkeypatch.context() as patch:
        patch.setattr(reading, "detect_tcp", explode)
        assert d.send(get("/fine")).kind is DROP
    assert d.told[-1] == ("failure", "drop", "inspector_error")
    assert d.send(get("/fine"), seq=start).kind is DROP


def test_closed_flows_are_forgotten_and_idle_ones_age() -> None:
    d = Dialogue(flow_idle=10.0).open()
    d.send(get("/fine"))
    d.send(b"", flags=FIN | ACK)
    d.send(b"", reply=True, flags=FIN | ACK)
    assert len(d.inspector.flows) == 0
    d.udp(b"x")
    d.now = 100.0
    d.inspector.flows.expire(d.now)
    assert len(d.inspector.flows) == 0 and d.inspector.flows.aged == 1


def test_flow_table_is_bounded() -> None:
    d = Dialogue(flow_entries=8)
    for port in range(1, 50):
        d.udp(b"x", port=port)
    assert len(d.inspector.flows) == 8 and d.inspector.flows.evicted == 41


def segment(number: int, flags: int, ack: int, *, reply: bool = False) -> bytes:
    """Of one of 65535 clients, which differ in their port."""
    ports = {"sport": 80, "dport": number} if reply else {"sport": number, "dport": 80}
    return ip(6, bytes(dpkt.tcp.TCP(**ports, seq=7, ack=ack, flags=flags)), reply)


@pytest.mark.parametrize("answered", [False, True])
def test_a_flood_of_forged_connections_leaves_those_under_inspection(answered: bool) -> None:
    d = Dialogue(flow_entries=64).open()
    start, rest = get("/evil")[:8], get("/evil")[8:]
    assert d.send(start).kind is GO_ON
    for port in range(5000, 6000):
        d.raw(segment(port, SYN, 0))
        if answered:
            d.raw(segment(port, SYN | ACK, 8, reply=True), reply=True)
            d.raw(segment(port, SYN, 0))  # once more
            d.raw(segment(port, ACK, 77))  # a guess at what the server said
            d.raw(segment(port, 0x04, 8))  # the host whose address was borrowed
    assert len(d.inspector.flows) == 64
    assert d.send(rest).kind is DROP


def test_a_datagram_that_was_not_answered_goes_first() -> None:
    d = Dialogue(flow_entries=8)
    d.udp(b"x", port=9)
    d.udp(b"y", port=9, reply=True)
    d.udp(b"z", port=9)
    number = next(iter(d.inspector.flows)).number
    for port in range(100, 200):
        d.udp(b"x", port=port)
    assert len(d.inspector.flows) == 8 and number in {flow.number for flow in d.inspector.flows}


def test_new_connections_find_room_among_proven_ones() -> None:
    d = Dialogue(flow_entries=64)
    for port in range(5000, 5064):
        d.raw(segment(port, SYN, 0))
        d.raw(segment(port, SYN | ACK, 8, reply=True), reply=True)
        d.raw(segment(port, ACK, 8))
    d.send(b"", flags=SYN)
    for port in range(7000, 7015):
        d.raw(segment(port, SYN, 0))
    d.send(b"", reply=True, flags=SYN | ACK)
    d.send(b"", flags=ACK)
    assert d.send(get("/evil")).kind is DROP
    assert [flow.midstream for flow in d.inspector.flows if flow.key[2] == 4000] == [False]
    assert len(d.inspector.flows) == 64


def test_flows_of_both_kinds_age() -> None:
    d = Dialogue(flow_idle=10.0).open()
    d.udp(b"x")
    d.now = 5.0
    d.udp(b"x", port=54)
    d.now = 12.0
    d.inspector.flows.expire(d.now)
    assert (len(d.inspector.flows), d.inspector.flows.aged) == (1, 2)


@settings(max_examples=150)
@given(
    st.lists(
        st.tuples(
            st.booleans(),
            st.binary(max_size=60)
            | st.sampled_from([get("/evil"), get("/x"), RESPONSE, b"\x16\x03\x01\0\5", query("b.c")]),
            st.sampled_from([ACK, SYN, SYN | ACK, FIN | ACK, 0x04, 0x3F]),
            st.integers(-20, 40),
        ),
        max_size=12,
    )
)
def test_hostile_dialogue_never_raises_and_never_breaks_inside(packets: list[tuple[bool, bytes, int, int]]) -> None:
    d = Dialogue()
    for reply, payload, flags, shift in packets:
        seq = (d.seq[int(reply)] + shift) if shift % 3 == 0 else None
        assert isinstance(d.send(payload, reply=reply, flags=flags, seq=seq), Verdict)
        d.udp(payload, reply=reply)
    assert d.inspector.failures["inspector_error"] == 0


def test_ssh_is_allowed_once_it_is_encrypted() -> None:
    talk = Dialogue().open()
    newkeys = b"SSH-2.0-x\r\n\0\0\0\x0c\x0a\x15" + bytes(10)
    assert talk.send(newkeys).kind is GO_ON
    assert talk.send(newkeys, reply=True).kind is ALLOW
    assert talk.told[-1] == ("fate", "allow", "encrypted")


def test_what_follows_starttls_is_read_as_tls() -> None:
    talk = Dialogue().open()
    for reply, data in (
        (True, b"220 mail ESMTP\r\n"), (False, b"EHLO a\r\n"), (True, b"250 STARTTLS\r\n"), (False, b"STARTTLS\r\n"),
        (True, b"220 go\r\n"),
    ):  # fmt: skip
        assert talk.send(data, reply=reply).kind is GO_ON
    outgoing = ssl.MemoryBIO()
    tls = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="bad.example")
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    assert talk.send(outgoing.read()).kind is REJECT
    assert ("feed", "reject", "feed") in talk.told


@pytest.mark.parametrize(
    ("data", "family"), [(ip(6, b"\0" * 10, False), 4), (b"\x60" + b"\0" * 5 + b"\x06" + b"\0" * 33, 6), (b"\x45", 0)]
)
def test_a_packet_that_cannot_be_read_is_told_with_what_can(data: bytes, family: int) -> None:
    d = Dialogue()
    (event,) = d.raw(data).events
    assert (event.kind, event.family, len(event.src)) == ("failure", family, {4: 4, 6: 16, 0: 0}[family])
    assert len(inspection_records(event)) == (1 if family else 0)
    assert inspection_line(event) is not None
