# SPDX-License-Identifier: Apache-2.0
"""What travels between the control process and an inspector: a 4-byte big-endian length, then msgpack.

control → inspector   InspectionRuleset, RequestChange, Release for each Answer, Names for each NamesAsked
inspector → control   Ready once its queue is bound, Accepted or Refused for each ruleset,
                      Events, Answer, NamesAsked, Heartbeat about once a second
"""

from typing import Any, Literal

import msgspec

from appliance.domains.resolution import Resolution
from appliance.inspection.requests import RequestChange, RequestPolicy
from fastpath.errors import PortcullisError

MAX_MESSAGE = 256 * 1024 * 1024
FAILURES = ("decode_error", "truncated_packet", "stream_memory", "inspector_error")


class ProtocolError(PortcullisError):
    """The other side of the control socket sent something that is no message."""


class InspectorSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of one inspector. Sizes in bytes, times in seconds."""

    depth: int = 1024 * 1024
    """Both directions inspected this far: the flow is allowed."""
    unknown_depth: int = 64 * 1024
    """The same for a flow whose protocol is not known."""
    udp_packets: int = 16
    """Packets each way after which a UDP flow of unknown protocol is allowed; eight times as many if one-sided."""
    flow_entries: int = 65536
    flow_idle: float = 300.0
    udp_fates_end: bool = False
    """A UDP flow that was allowed may come back, to be inspected anew (fastpath.udp_fate_seconds)."""
    stream_bytes: int = 256 * 1024
    stream_total_bytes: int = 64 * 1024 * 1024
    window: int = 2048
    """Bytes of a direction that content may span over."""
    failures: dict[str, str] = {}
    """Failure name → allow, drop or reject; drop where absent."""


class SignatureSource(msgspec.Struct, frozen=True):
    """The text of a rule file."""

    file: str
    text: str


class FeedNames(msgspec.Struct, frozen=True):
    """Domain names of a feed. `action` is alert, drop or reject. With `subdomains` a name stands for everything below
    it too; `*.example.org` always stands for what is below, and not for itself."""

    feed: str
    action: str
    names: tuple[str, ...]
    subdomains: bool = True


IndicatorKind = Literal["url", "ja3", "ja4", "sha1", "sha256"]


class FeedEntries(msgspec.Struct, frozen=True):
    """URLs (as rules.urls has them), JA3 or JA4 of clients, or SHA-1 or SHA-256 of server certificates (lower-case
    hex) that a feed lists."""

    feed: str
    action: str
    kind: IndicatorKind
    entries: tuple[str, ...]


class DomainWatch(msgspec.Struct, frozen=True):
    """DNS answers that policy waits for: those of `resolvers` (packed addresses) about names that one of `patterns`
    means are held back until the control process has taken them in, for `wait` seconds at most."""

    patterns: tuple[str, ...] = ()
    resolvers: tuple[bytes, ...] = ()
    wait: float = 0.2
    agree: bool = False
    """The names that HTTP and TLS show are asked about (NamesAsked)."""


class InspectionRuleset(msgspec.Struct, frozen=True, tag="ruleset", kw_only=True):
    """What inspectors look for. `version` comes back in heartbeats; `observe`: say what would be done, do nothing.
    `variables` are those of Suricata's configuration ($HOME_NET and others, without the dollar). `requests` is the
    program of `generation` where it has rules with `http`: to be accepted before the fastpath uses that program;
    `keeps_requests`: it is what it was, changes since included. `allowed`: names that no feed blocks, with everything
    below them."""

    version: int
    signatures: tuple[SignatureSource, ...] = ()
    variables: dict[str, str] = {}
    names: tuple[FeedNames, ...] = ()
    entries: tuple[FeedEntries, ...] = ()
    allowed: tuple[str, ...] = ()
    domains: DomainWatch = DomainWatch()
    observe: bool = False
    generation: int = 0
    requests: RequestPolicy | None = None
    keeps_requests: bool = False


class InspectionEvent(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing worth telling. Addresses are packed, and in the direction of the flow's first packet.

    kind        action                    reason                     fields
    alert       alert, drop, reject       the message (msg)          sid, gid, rev, category, severity, file, line
    feed        alert, drop, reject       the feed's name            name, entry, source (below), also: other feeds
    saved       allow                     the feed's name            the same, of what the allowlist kept from it
    fate        allow                     encrypted, depth, …        inspected: bytes to server, bytes to client
    failure     allow, drop, reject       the failure's name         detail
    policy      drop, reject              http                       generation, rule (its id), http_method, url, detail
    http, tls, dns                        -                          what was parsed, EVE names

    source: dns.query, dns.answer, http.host, tls.sni, http.url, tls.ja3, tls.ja4, tls.certificate.
    `observed`: the action was not carried out. `flow` is unique in one inspector process.
    """

    kind: str
    time: float
    flow: int = 0
    family: int = 0
    protocol: int = 0
    src: bytes = b""
    dst: bytes = b""
    sport: int = 0
    dport: int = 0
    app: str = ""
    action: str = ""
    reason: str = ""
    observed: bool = False
    fields: dict[str, Any] = {}


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    pid: int
    queue: int


class Accepted(msgspec.Struct, frozen=True, tag="accepted"):
    """A ruleset is in force. `errors` are the signatures that could not be used, as `file:line: message`."""

    version: int
    signatures: int
    names: int
    errors: tuple[str, ...] = ()
    errors_total: int = 0


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """A ruleset could not be used at all; the previous one stays in force."""

    version: int
    message: str


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The inspector cannot start; the process ends."""

    message: str
    taken: bool = False


class Events(msgspec.Struct, frozen=True, tag="events"):
    events: tuple[InspectionEvent, ...]


class Answer(msgspec.Struct, frozen=True, tag="answer"):
    """A DNS answer is held back until Release comes with its number; one with number 0 has gone on."""

    number: int
    resolutions: tuple[Resolution, ...]


class Release(msgspec.Struct, frozen=True, tag="release"):
    """The addresses of Answer `number` are in force."""

    number: int


class NamesAsked(msgspec.Struct, frozen=True, tag="names_asked"):
    """Which names a TCP flow may show. Addresses are packed; all in the direction of the flow's first packet, hook and
    interfaces too (0: unknown). The flow waits for Names with its number."""

    flow: int
    src: bytes
    sport: int
    dst: bytes
    dport: int
    hook: int = 0
    iif: int = 0
    oif: int = 0


class Names(msgspec.Struct, frozen=True, tag="names"):
    """The flow may show names that `patterns` mean; None: any. Else policy denies it: what it does, by which rule."""

    flow: int
    patterns: tuple[str, ...] | None
    action: str = "drop"
    rule: int = 0


class Call(msgspec.Struct, frozen=True, tag="call"):
    """Asks for an Echo with its number, at once."""

    number: int


class Echo(msgspec.Struct, frozen=True, tag="echo"):
    """The loop that reads packets is alive."""

    number: int


class Heartbeat(msgspec.Struct, frozen=True, tag="heartbeat"):
    """`counters` since the process started."""

    version: int
    counters: dict[str, int]


ToInspector = InspectionRuleset | RequestChange | Release | Names | Call
FromInspector = Ready | Accepted | Refused | Failed | Events | Answer | NamesAsked | Echo | Heartbeat


def encode(message: msgspec.Struct) -> bytes:
    """A message with its length in front."""
    body = msgspec.msgpack.encode(message)
    return len(body).to_bytes(4, "big") + body


def is_ruleset(body: bytes) -> bool:
    """Without decoding it, which takes a while: msgspec writes the tag first."""
    return b"ruleset" in body[:32]


class Frames:
    """Cuts a byte stream into message bodies."""

    def __init__(self, limit: int = MAX_MESSAGE) -> None:
        self._buffer = bytearray()
        self._limit = limit

    def feed(self, data: bytes) -> list[bytes]:
        """Raises ProtocolError when a length is out of bounds."""
        self._buffer += data
        bodies = []
        while len(self._buffer) >= 4:
            length = int.from_bytes(self._buffer[:4], "big")
            if length > self._limit:
                raise ProtocolError(f"message of {length} bytes is longer than {self._limit}")
            if len(self._buffer) < 4 + length:
                break
            bodies.append(bytes(self._buffer[4 : 4 + length]))
            del self._buffer[: 4 + length]
        return bodies


def decode_from_inspector(body: bytes) -> FromInspector:
    """Raises ProtocolError."""
    try:
        message: FromInspector = msgspec.msgpack.decode(body, type=FromInspector)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ProtocolError(f"message from an inspector: {error}") from None
    return message


def decode_to_inspector(body: bytes) -> ToInspector:
    """Raises ProtocolError."""
    try:
        message: ToInspector = msgspec.msgpack.decode(body, type=ToInspector)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ProtocolError(f"message to an inspector: {error}") from None
    return message
