# SPDX-License-Identifier: Apache-2.0
"""URLs, fingerprints and allowed names of feeds on packets."""

import hashlib
import ssl
import struct

import dpkt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.inspection.indicators import IndicatorSet, Listed
from appliance.inspection.inspector import Inspector
from appliance.inspection.messages import (
    FeedEntries,
    FeedNames,
    IndicatorKind,
    InspectionEvent,
    InspectionRuleset,
    InspectorSettings,
    SignatureSource,
)
from appliance.inspection.protocols.errors import ParseError
from appliance.inspection.protocols.fingerprint import ja3, ja4
from appliance.inspection.protocols.tls import MAX_CERTIFICATE, TlsCertificate, TlsClientHello, TlsSession
from appliance.inspection.ruleset import compile_ruleset
from appliance.inspection.verdicts import Verdict, VerdictKind
from tests.appliance.inspection.tls_peers import certificate, handshake

SYN, ACK = 0x02, 0x10
RULE = 'alert tcp any any -> any any (msg:"x"; content:"needle"; sid:1;)\n'
GO_ON, ALLOW, DROP, REJECT = VerdictKind.GO_ON, VerdictKind.ALLOW, VerdictKind.DROP, VerdictKind.REJECT


class Connection:
    """A TCP connection through an inspector, IPv4 or IPv6."""

    def __init__(self, ruleset: InspectionRuleset, port: int = 443, family: int = 4) -> None:
        self.inspector = Inspector(InspectorSettings(), compile_ruleset(ruleset))
        self.port = port
        self.ends = (bytes((10, 0, 0, 1)), bytes((10, 0, 0, 2)))
        if family == 6:
            self.ends = (b"\xfd" + bytes(14) + b"\1", b"\xfd" + bytes(14) + b"\2")
        self.seq = [1000, 5000]
        self.generation = 3
        self.events: list[InspectionEvent] = []
        for reply, flags in ((False, SYN), (True, SYN | ACK), (False, ACK)):
            self.send(b"", reply=reply, flags=flags)

    def send(self, data: bytes, *, reply: bool = False, flags: int = ACK) -> Verdict:
        side = int(reply)
        sport, dport = (self.port, 4000) if reply else (4000, self.port)
        tcp = bytes(
            dpkt.tcp.TCP(sport=sport, dport=dport, seq=self.seq[side], ack=self.seq[1 - side], flags=flags, data=data)
        )
        self.seq[side] += len(data) + bool(flags & SYN)
        src, dst = self.ends[side], self.ends[1 - side]
        if len(src) == 4:
            packet = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(tcp), 0, 0, 64, 6, 0) + src + dst + tcp
        else:
            packet = struct.pack("!IHBB", 6 << 28, len(tcp), 6, 64) + src + dst + tcp
        verdict = self.inspector.packet(packet, reply=reply, generation=self.generation, now=1.0)
        self.events += verdict.events
        return verdict

    def play(self, flights: tuple[tuple[bool, bytes], ...], size: int = 100_000) -> VerdictKind:
        """The last verdict: that of the packet which decided the flow, if one did."""
        kind = GO_ON
        for reply, data in flights:
            for at in range(0, len(data), size):
                kind = self.send(data[at : at + size], reply=reply).kind
                if kind is not GO_ON:
                    return kind
        return kind

    def found(self, kind: str = "feed") -> list[tuple[str, str, str, str]]:
        return [
            (event.reason, event.action, event.fields["source"], event.fields["entry"])
            for event in self.events
            if event.kind == kind
        ]


def lists(kind: IndicatorKind, *entries: str, action: str = "drop", **more: object) -> InspectionRuleset:
    return InspectionRuleset(version=1, entries=(FeedEntries("f", action, kind, entries),), **more)  # type: ignore[arg-type]


def get(target: str, host: str = "a.example") -> bytes:
    return f"GET {target} HTTP/1.1\r\n{f'Host: {host}' if host else 'X: y'}\r\n\r\n".encode()


# ---- URLs


@pytest.mark.parametrize("family", [4, 6])
def test_a_listed_url_is_blocked_and_no_other_of_its_host(family: int) -> None:
    d = Connection(lists("url", "http://a.example/bad/file.exe?x=1"), 80, family)
    assert d.send(get("/")).kind is GO_ON
    assert d.send(get("/bad/file.exe")).kind is GO_ON
    assert d.send(get("/bad/../bad/%66ile.exe?x=1", "A.example:80")).kind is DROP
    assert d.found() == [("f", "drop", "http.url", "http://a.example/bad/file.exe?x=1")]
    assert d.events[-1].fields["name"] == "http://a.example/bad/file.exe?x=1"


@pytest.mark.parametrize(
    ("listed", "target", "host", "port"),
    [
        ("http://a.example:8080/x", "/x", "a.example:8080", 8080),
        ("http://a.example:8080/x", "/x", "a.example", 8080),
        ("http://a.example/x", "/x", "a.example", 8080),
        ("http://a.example/x", "http://a.example/x", "other.example", 8080),
        ("http://10.0.0.2/x", "/x", "", 80),
        ("http://10.0.0.2:81/x", "/x", "10.0.0.2:81", 81),
        ("http://xn--bcher-kva.example/x", "/x", "b\u00fccher.example", 80),
        ("http://a.example/%C3%BC", "/\u00fc", "a.example", 80),
    ],
)
def test_ways_to_ask_for_a_url(listed: str, target: str, host: str, port: int) -> None:
    d = Connection(lists("url", listed), port)
    assert d.send(get(target, host)).kind is DROP


@pytest.mark.parametrize(
    ("listed", "target", "host", "port"),
    [
        ("http://a.example:8080/x", "/x", "a.example", 80),
        ("http://a.example/x", "/x", "a.example:8080", 8080),
        ("http://a.example/x", "/X", "a.example", 80),
        ("http://a.example/x", "/x?", "b.example", 80),
    ],
)
def test_what_is_another_url(listed: str, target: str, host: str, port: int) -> None:
    d = Connection(lists("url", listed), port)
    assert d.send(get(target, host)).kind is GO_ON


def test_a_url_is_found_when_its_feed_comes_later() -> None:
    d = Connection(lists("url", "http://a.example/other"), 80)
    assert d.send(get("/x")).kind is GO_ON
    d.inspector.use(compile_ruleset(lists("url", "http://a.example/x")))
    d.inspector.flows.get(next(iter(d.inspector.flows)).key, 1.0).fate = ALLOW  # type: ignore[union-attr]
    d.generation = 4
    assert d.send(b"more").kind is DROP


# ---- fingerprints


def hello() -> TlsClientHello:
    (event,) = TlsSession().to_server(handshake()[0][1])
    assert isinstance(event, TlsClientHello)
    return event


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("size", [7, 100_000])
def test_a_listed_client_is_blocked_before_its_hello_is_whole_at_the_server(family: int, size: int) -> None:
    for kind, value in (("ja3", ja3(hello())), ("ja4", ja4(hello()))):
        d = Connection(lists(kind, value, action="reject"), 443, family)  # type: ignore[arg-type]
        assert d.play(handshake(), size) is REJECT
        assert d.found() == [("f", "reject", f"tls.{kind}", value)]
        assert d.seq[1] == 5001, "the server has answered"


@pytest.mark.parametrize("padding", [0, 20_000])
@pytest.mark.parametrize("size", [9, 100_000])
@pytest.mark.parametrize("algorithm", ["sha1", "sha256"])
def test_a_listed_certificate_of_a_server(algorithm: IndicatorKind, size: int, padding: int) -> None:
    digest = hashlib.new(algorithm, certificate(padding=padding)[1]).hexdigest()
    d = Connection(lists(algorithm, digest))
    assert d.play(handshake(padding=padding), size) is DROP
    assert d.found() == [("f", "drop", "tls.certificate", digest)]
    other = Connection(lists(algorithm, "0" * len(digest)))
    assert other.play(handshake(padding=padding), size) is ALLOW


def test_the_certificate_of_tls_1_3_is_not_in_clear() -> None:
    d = Connection(lists("sha1", hashlib.sha1(certificate()[1]).hexdigest()))
    assert d.play(handshake(ssl.TLSVersion.TLSv1_3)) is ALLOW
    assert d.found() == []


def test_what_is_no_tls_is_let_go_at_once_where_nothing_else_is_sought() -> None:
    for ruleset, kind in (
        (lists("ja3", "0" * 32), ALLOW),
        (lists("ja3", "0" * 32, signatures=(SignatureSource("r", RULE),)), GO_ON),
    ):
        d = Connection(ruleset)
        assert d.send(b"\x01\x02 no protocol that anybody knows").kind is GO_ON, "the server may still say what it is"
        assert d.send(b"\x03\x04 nor this", reply=True).kind is kind


def test_an_alert_only_tells() -> None:
    d = Connection(lists("ja4", ja4(hello()), action="alert"))
    assert d.play(handshake()) is ALLOW
    assert [found[:3] for found in d.found()] == [("f", "alert", "tls.ja4")]


def server_message(kind: int, body: bytes) -> bytes:
    message = bytes([kind]) + len(body).to_bytes(3, "big") + body
    return b"".join(
        b"\x16\x03\x03" + len(part).to_bytes(2, "big") + part
        for part in (message[at : at + 16000] for at in range(0, len(message), 16000))
    )


SERVER_HELLO = server_message(2, b"\x03\x03" + bytes(32) + b"\0" + b"\xc0\x2b" + b"\0")


def test_certificates_that_lie_about_their_length() -> None:
    for body in (b"\0\0\x09\0\0\x07abcdef", b"\0\0\3\xff\xff\xff", b"\xff\xff\xff\xff\xff\xff"):
        session = TlsSession()
        session.to_client(SERVER_HELLO)
        with pytest.raises(ParseError):
            session.to_client(server_message(11, body))


def test_memory_of_handshake_messages_is_bounded() -> None:
    session = TlsSession()
    session.to_client(SERVER_HELLO)
    head = b"\x0b" + (1 << 24).to_bytes(4, "big")[1:] + (MAX_CERTIFICATE).to_bytes(3, "big")
    for data in (b"\x0c\xff\xff\xff", head):
        for _ in range(40):
            session.to_client(b"\x16\x03\x03\x40\x00" + data.ljust(16384, b"\0"))
            assert len(session._server._message) <= 2 * MAX_CERTIFICATE


@given(st.binary(max_size=200), st.integers(1, 50))
def test_hostile_certificates_raise_parse_error_only(body: bytes, size: int) -> None:
    session = TlsSession()
    session.to_client(SERVER_HELLO)
    data = server_message(11, body)
    try:
        for at in range(0, len(data), size):
            for event in session.to_client(data[at : at + size]):
                assert isinstance(event, TlsCertificate) and event.der in body
    except ParseError:
        pass


# ---- allowed names


def query(name: str) -> bytes:
    labels = b"".join(bytes([len(label)]) + label for label in name.encode().split(b"."))
    return b"\0\1\1\0\0\1\0\0\0\0\0\0" + labels + b"\0\0\1\0\1"


ALLOWING = InspectionRuleset(
    version=1,
    names=(FeedNames("f", "drop", ("example", "narrow.test")), FeedNames("g", "alert", ("www.good.example",))),
    entries=(FeedEntries("u", "drop", "url", ("http://www.good.example/x", "http://bad.test/x")),),
    allowed=("good.example",),
)


def test_an_allowed_name_wins_over_what_is_listed_above_it_and_that_is_told() -> None:
    d = Connection(ALLOWING, 80)
    assert d.send(get("/x", "www.good.example")).kind is GO_ON
    assert d.found() == []
    assert d.found("saved") == [
        ("u", "allow", "http.url", "http://www.good.example/x"),
        ("f", "allow", "http.host", "example"),
    ]
    assert [event.fields.get("also") for event in d.events if event.kind == "saved"] == [None, ["g"]]
    assert d.send(get("/", "bad.example")).kind is DROP
    assert Connection(ALLOWING, 80).send(get("/x", "bad.test")).kind is DROP


@given(
    st.dictionaries(st.sampled_from("abc"), st.lists(st.sampled_from(("x", "y", "z"))), max_size=3),
    st.sampled_from(("x", "y", "z", "w")),
)
def test_a_set_finds_what_a_list_finds(feeds: dict[str, list[str]], wanted: str) -> None:
    actions = {"a": "alert", "b": "drop", "c": "reject"}
    found = IndicatorSet(FeedEntries(feed, actions[feed], "ja3", tuple(entries)) for feed, entries in feeds.items())
    listing = [feed for feed, entries in feeds.items() if wanted in entries]
    listed = found.lookup("ja3", wanted)
    if not listing:
        assert listed is None
        return
    assert isinstance(listed, Listed)
    assert {listed.feed, *listed.also} == set(listing) and listed.feed == max(listing)
