# SPDX-License-Identifier: Apache-2.0
"""The decision of the slow path, packet by packet, without I/O and without a clock.

    bytes ▸ packet ▸ flow ▸ stream ▸ protocol ▸ names in feeds, signatures ▸ verdict

A flow gets its allow fate
- `encrypted`: TLS, ClientHello seen, or SSH, and both sides encrypt from here on;
- `depth`: both directions were inspected to the configured depth;
- `unknown_protocol`: no protocol was recognised and both directions reached `unknown_depth` (UDP: `udp_packets`);
- `one_sided`: the same, but one direction reached the full depth (UDP: eight times the packets) and the other did not.
DNS never gets one, nor a flow whose requests policy decides (appliance.inspection.governed); HTTP, SMTP and SMB only
by `depth`, never at the end of a transaction.
"""

from typing import Any

from appliance.domains.resolution import Resolution, resolution
from appliance.domains.trust import PendingQueries
from appliance.inspection.applications import AppEvent, Session, buffers_of, facts_of, names_of, new_session
from appliance.inspection.flows import TO_CLIENT, TO_SERVER, Flow, FlowTable, flow_key
from appliance.inspection.governed import MAX_TUNNELS, RequestPolicies, judge, no_request
from appliance.inspection.messages import FAILURES, InspectionEvent, InspectorSettings, Names, NamesAsked
from appliance.inspection.names import NameMatch, host_of
from appliance.inspection.packets import (
    ACK,
    FIN,
    RST,
    SYN,
    TCP,
    UDP,
    DecodeError,
    Packet,
    TruncatedError,
    parse_packet,
)
from appliance.inspection.protocols.detect import ENOUGH, UNKNOWN, detect_tcp, detect_udp
from appliance.inspection.protocols.dns import DnsMessage, parse_dns
from appliance.inspection.protocols.errors import ParseError
from appliance.inspection.protocols.http import HttpRequest, HttpSession
from appliance.inspection.protocols.smtp import SmtpSession
from appliance.inspection.protocols.ssh import SshSession
from appliance.inspection.protocols.tls import TlsSession
from appliance.inspection.requests import NOWHERE, Denial, Place
from appliance.inspection.ruleset import CompiledRuleset
from appliance.inspection.streams import Budget, StreamMemoryError
from appliance.inspection.verdicts import Verdict, VerdictKind
from rules.policy.names import NameIndex
from rules.signatures import Sample, Signature

MAX_NAMES = 64  # names of a flow that are asked again after a change

_FLOW_VERDICTS = {"drop": VerdictKind.DROP, "reject": VerdictKind.REJECT}
_GO_ON = Verdict(VerdictKind.GO_ON)


class Inspector:
    """One per process; not to be shared between threads."""

    def __init__(self, settings: InspectorSettings, ruleset: CompiledRuleset) -> None:
        self._settings = settings
        self._ruleset = ruleset
        self._failures = {name: settings.failures.get(name, "drop") for name in FAILURES}
        self.budget = Budget(settings.stream_total_bytes)
        self.flows = FlowTable(settings.flow_entries, settings.flow_idle, settings.stream_bytes, self.budget)
        self.queries = PendingQueries()
        self.failures = dict.fromkeys((*FAILURES, "stream_overlap", "protocol_error", "policy_generation"), 0)
        self.requests = RequestPolicies(ruleset)
        self._asked: dict[int, Flow] = {}

    @property
    def ruleset(self) -> CompiledRuleset:
        return self._ruleset

    def use(self, ruleset: CompiledRuleset) -> None:
        """Put a ruleset in force from the next packet on."""
        self._ruleset = ruleset
        self.requests.use(ruleset)

    def packet(
        self, data: bytes, *, reply: bool, generation: int, now: float, place: Place = NOWHERE
    ) -> Verdict:
        """The verdict for one packet. `reply`: it goes against the flow's first packet. `generation` 0 looks only:
        the verdict is GO_ON whatever is found. `now`: seconds since 1970. Raises nothing on any input: an exception
        inside becomes the failure `inspector_error`."""
        turn = _Turn(self, generation, now)
        try:
            return turn.run(data, reply, place)
        except TruncatedError as error:
            return turn.failure("truncated_packet", str(error))
        except DecodeError as error:
            return turn.failure("decode_error", str(error))
        except StreamMemoryError as error:
            return turn.failure("stream_memory", str(error))
        except Exception as error:
            return turn.failure("inspector_error", f"{type(error).__name__}: {error}")

    def told(self, names: Names) -> None:
        """Which names a flow may show."""
        flow = self._asked.pop(names.flow, None)
        if flow is not None:
            flow.names_told = True
            flow.agreed = NameIndex(names.patterns) if names.patterns is not None else None
            flow.disagreed = Denial(names.action, names.rule)

    def give_up(self, number: int) -> None:
        """Nobody said which names the flow may show: its next packet asks again."""
        flow = self._asked.pop(number, None)
        if flow is not None:
            flow.names_asked = 0

    def failure_action(self, name: str) -> str:
        return self._failures[name]


class _Turn:
    """The work on one packet: what is found is gathered in `events`, the strongest verdict wins."""

    def __init__(self, inspector: Inspector, generation: int, now: float) -> None:
        self._inspector = inspector
        self._settings = inspector._settings
        self._ruleset = inspector.ruleset
        self._now = now
        self._generation = generation
        self._passive = generation == 0 or self._ruleset.observe
        self._flow: Flow | None = None
        self._events: list[InspectionEvent] = []
        self._answers: list[Resolution] = []
        self._asked: NamesAsked | None = None
        self._block: VerdictKind | None = None

    def run(self, data: bytes, reply: bool, place: Place) -> Verdict:
        packet = parse_packet(data)
        if packet.protocol not in (TCP, UDP):
            return _GO_ON
        flow = self._find(packet, reply)
        if flow is None:
            return _GO_ON
        self._flow = flow
        asks = flow.plan is not None or not self._inspector.requests.none
        if asks and packet.protocol == TCP and self._generation:
            if not self._inspector.requests.known(self._generation):
                self._inspector.failures["policy_generation"] += 1
                return self._verdict(VerdictKind.DROP_PACKET)  # it is sent again, and decided by a newer one
            self._flow = flow = self._governed(flow, packet, reply, place)
        if flow.fate is not None and flow.fate_generation != self._generation:
            self._renew(flow)
        if flow.fate is not None:
            return self._verdict(flow.fate)
        if packet.protocol == TCP and self._generation and self._ruleset.domains.agree and self._ruleset.domains.names:
            self._ask_names(flow, place.turned() if reply else place)
            if packet.payload and not (reply or flow.names_told or self._passive):
                return Verdict(VerdictKind.GO_ON, flow.number, asked=self._asked, hold=True)
        direction = TO_CLIENT if reply else TO_SERVER
        flow.packets[direction] += 1
        if packet.protocol == TCP:
            overlapped = self._tcp(flow, packet, direction)
            if overlapped:
                return overlapped
        else:
            self._udp(flow, packet, direction)
        if flow.plan is not None and self._block is None:
            why = no_request(flow)
            if why and not (self._passive and flow.denied):
                flow.denied = True
                self._deny(flow.plan.other(), {"detail": why})
        return self._conclude(flow)

    # ---- flows

    def _find(self, packet: Packet, reply: bool) -> Flow | None:
        table = self._inspector.flows
        key = flow_key(packet, reply)
        flow = table.get(key, self._now)
        if packet.protocol == UDP:
            return flow or table.add(key, packet.family, self._now, tcp=False)
        if packet.flags & (SYN | ACK) == SYN and not reply:
            if flow is None or flow.syn != packet.seq:
                flow = table.add(key, packet.family, self._now, tcp=True)
                flow.syn = packet.seq
        elif flow is None:
            if not packet.payload:
                return None
            flow = table.add(key, packet.family, self._now, tcp=True)
            flow.midstream = True
        return flow

    def _governed(self, flow: Flow, packet: Packet, reply: bool, place: Place) -> Flow:
        """Whether rules with `http` decide about the flow, under the generation that the fastpath decided it with."""
        requests = self._inspector.requests.of(self._generation)
        if requests is flow.asked:
            return flow
        plan = requests.plan(packet, place, reply=reply) if requests is not None else None
        if plan is not None and flow.fate is not None:
            # Nothing of it has been kept: read on from here, and read again what is sent again.
            flow = self._inspector.flows.add(flow.key, flow.family, self._now, tcp=True)
            flow.midstream = True
        flow.asked, flow.plan = requests, plan
        return flow

    def _ask_names(self, flow: Flow, place: Place) -> None:
        """Once for each time that policy decides the flow."""
        if flow.names_asked == self._generation or len(self._inspector._asked) >= self._settings.flow_entries:
            return
        flow.names_asked, flow.names_told = self._generation, False
        _, src, sport, dst, dport = flow.key
        self._inspector._asked[flow.number] = flow
        self._asked = NamesAsked(flow.number, src, sport, dst, dport, place.hook, place.iif, place.oif)

    def _renew(self, flow: Flow) -> None:
        """Policy has decided this flow again: what was seen of it is held against the rules of now."""
        for where, name in flow.names:
            self._ask_feeds(flow, where, name)
        if self._block is not None:
            self._settle(flow, self._block)
        elif flow.fate is VerdictKind.ALLOW or flow.fate_version == self._ruleset.version:
            flow.fate_generation = self._generation
        else:
            flow.fate = None

    # ---- protocols

    def _tcp(self, flow: Flow, packet: Packet, direction: int) -> Verdict | None:
        assert flow.streams is not None
        stream, other = flow.streams[direction], flow.streams[1 - direction]
        seq = packet.seq
        if packet.flags & SYN:
            seq = (seq + 1) & 0xFFFFFFFF
            stream.start(seq)
        if packet.flags & ACK:
            other.acknowledged(packet.ack)
        if packet.flags & RST:
            return None
        delivery = stream.segment(seq, packet.payload)
        if delivery.conflict:
            return self._overlap(flow)
        if delivery.data:
            flow.inspected[direction] += len(delivery.data)
            self._bytes(flow, packet, direction, delivery.data)
        if packet.flags & FIN:
            stream.finished = True
            if other.finished and not stream.gap and not other.gap:
                self._inspector.flows.remove(flow.key)
        return None

    def _bytes(self, flow: Flow, packet: Packet, direction: int, data: bytes) -> None:
        fed = [b"", b""]
        fed[direction] = data
        if not flow.app:
            for side in (TO_SERVER, TO_CLIENT):
                flow.head[side].extend(fed[side])
            found = detect_tcp(bytes(flow.head[0]), bytes(flow.head[1]))
            if found is not None:
                flow.app = found
                flow.session = new_session(found)
                fed = [bytes(flow.head[0]), bytes(flow.head[1])]
                flow.head[0].clear()
                flow.head[1].clear()
            elif max(len(flow.head[0]), len(flow.head[1])) > 4 * ENOUGH:
                flow.app = UNKNOWN
        if flow.session is not None:
            self._session(flow, packet, direction, fed)
        self._payload(flow, packet, direction, data)

    def _session(self, flow: Flow, packet: Packet, direction: int, fed: list[bytes]) -> None:
        session: Session = flow.session
        for side in (TO_SERVER, TO_CLIENT):
            if not fed[side] or flow.failed[side]:
                continue
            try:
                events = session.to_client(fed[side]) if side else session.to_server(fed[side])
            except ParseError as error:
                flow.failed[side] = True
                self._inspector.failures["protocol_error"] += 1
                self._tell("failure", "allow", "protocol_error", {"detail": f"{flow.app}: {error}"})
                continue
            for event in events:
                # A response may bring out requests that waited for it.
                sent = TO_SERVER if isinstance(event, HttpRequest) else side
                self._app_event(flow, packet, sent, event, flip=sent != direction)
        if isinstance(session, HttpSession | SmtpSession) and session.tunnel:
            self._tunnel(flow, packet, direction, session)

    def _tunnel(self, flow: Flow, packet: Packet, direction: int, session: HttpSession | SmtpSession) -> None:
        """What follows CONNECT, an upgrade or STARTTLS is another connection's worth of bytes."""
        flow.tunnels += 1
        flow.session = None
        flow.app = UNKNOWN if flow.tunnels > MAX_TUNNELS else ""
        flow.inspected[:] = [0, 0]
        rest = session.rest()
        for side in (TO_SERVER, TO_CLIENT):
            if rest[side]:
                self._bytes(flow, packet, side, rest[side])

    def _udp(self, flow: Flow, packet: Packet, direction: int) -> None:
        flow.inspected[direction] += len(packet.payload)
        if detect_udp(packet.payload) == "dns":
            flow.app = "dns"
            self._app_event(flow, packet, direction, parse_dns(packet.payload), flip=False)
        elif not flow.app:
            flow.app = UNKNOWN
        self._payload(flow, packet, direction, packet.payload)

    def _app_event(self, flow: Flow, packet: Packet, direction: int, event: AppEvent, *, flip: bool) -> None:
        if isinstance(event, DnsMessage):
            self._dns(flow, direction, event)
        if flow.plan is not None:
            denial, why = judge(flow.plan, event)
            if denial is not None:
                self._deny(denial, _request_fields(event) | ({"detail": why} if why else {}))
        facts = facts_of(event)
        if facts is not None:
            self._tell(facts[0], "", "", facts[1])
        for where, name in names_of(event):
            if len(flow.names) < MAX_NAMES and flow.app != "dns":
                flow.names.append((where, name))
            self._ask_feeds(flow, where, name)
            if flow.agreed is not None and flow.app != "dns" and not flow.agreed.matching(host_of(name)):
                self._deny(flow.disagreed, {"name": name, "source": where, "detail": f"{name} is not what was allowed"})
        for buffers in buffers_of(event):
            sample = self._sample(flow, packet, direction, dict(buffers), flip=flip)
            self._signatures(flow, self._ruleset.signatures.match_transaction(sample), once=False)

    def _dns(self, flow: Flow, direction: int, message: DnsMessage) -> None:
        """Names of policy: an answer counts if it is a trusted resolver's to a question that was seen."""
        watch = self._ruleset.domains
        if not watch.names or flow.key[3] not in watch.resolvers:
            return
        if direction == TO_SERVER:
            self._inspector.queries.asked(flow.key, message, self._now)
        elif self._inspector.queries.answered(flow.key, message, self._now):
            found = resolution(message)
            if found is not None and any(watch.names.matching(name) for name in found.names):
                self._answers.append(found)

    def _deny(self, denial: Denial, fields: dict[str, Any]) -> None:
        """Policy denies the flow because of a request, or because it is none."""
        self._tell(
            "policy", denial.action, "http", {"generation": self._generation, "rule": denial.rule, **fields}
        )
        self._act(denial.action)

    # ---- matching

    def _ask_feeds(self, flow: Flow, where: str, name: str) -> None:
        match: NameMatch | None = self._ruleset.names.lookup(name)
        if match is not None:
            self._tell("feed", match.action, match.feed, {"name": name, "entry": match.name, "source": where})
            self._act(match.action)

    def _payload(self, flow: Flow, packet: Packet, direction: int, data: bytes) -> None:
        signatures = self._ruleset.signatures
        if not signatures.wants_payload:
            return
        if flow.streams is not None:
            # Content may begin in the bytes before: the window carries them, and an alert is told once a flow.
            window = flow.window[direction]
            window += data
            payload = bytes(window)
            del window[: max(0, len(window) - self._settings.window)]
        else:
            payload = data
        sample = self._sample(flow, packet, direction, {"payload": payload}, flip=False)
        self._signatures(flow, signatures.match_payload(sample), once=flow.streams is not None)

    def _sample(self, flow: Flow, packet: Packet, direction: int, buffers: dict[str, bytes], *, flip: bool) -> Sample:
        return Sample(
            protocol=packet.protocol,
            app=flow.app,
            to_server=direction == TO_SERVER,
            established=flow.midstream or (flow.packets[0] > 0 and flow.packets[1] > 0),
            src=packet.dst if flip else packet.src,
            dst=packet.src if flip else packet.dst,
            sport=packet.dport if flip else packet.sport,
            dport=packet.sport if flip else packet.dport,
            size=len(packet.payload),
            buffers=buffers,
        )

    def _signatures(self, flow: Flow, matched: tuple[Signature, ...], *, once: bool) -> None:
        if matched and matched[0].action == "pass":
            return
        for signature in matched:
            key = (signature.gid, signature.sid)
            if once and signature.action == "alert":
                if key in flow.alerted:
                    continue
                flow.alerted.add(key)
            self._tell(
                "alert",
                signature.action,
                signature.msg,
                {
                    "sid": signature.sid,
                    "gid": signature.gid,
                    "rev": signature.rev,
                    "category": signature.classtype,
                    "severity": signature.priority,
                    "file": signature.file,
                    "line": signature.line,
                },
            )
            self._act(signature.action)

    def _act(self, action: str) -> None:
        wanted = _FLOW_VERDICTS.get(action)
        if wanted is not None and self._block is not VerdictKind.REJECT:
            self._block = wanted

    # ---- verdicts

    def _conclude(self, flow: Flow) -> Verdict:
        if self._block is not None and not self._passive:
            if flow.app == "dns" and flow.streams is None:
                # Resolvers send many questions from one port: only this message goes, not the flow.
                return self._verdict(VerdictKind.DROP_PACKET)
            self._settle(flow, self._block)
            return self._verdict(self._block)
        if self._generation:
            reason = self._end_of_inspection(flow)
            if reason:
                self._settle(flow, VerdictKind.ALLOW)
                to_server, to_client = flow.inspected
                self._tell("fate", "allow", reason, {"bytes_toserver": to_server, "bytes_toclient": to_client})
                return self._verdict(VerdictKind.ALLOW)
        return self._verdict(VerdictKind.GO_ON)

    def _end_of_inspection(self, flow: Flow) -> str:
        if not flow.app or flow.app == "dns" or flow.plan is not None:
            return ""
        if flow.streams is None:
            few, many = sorted(flow.packets)
            if few >= self._settings.udp_packets:
                return "unknown_protocol"
            return "one_sided" if many >= 8 * self._settings.udp_packets else ""
        if flow.streams[0].gap or flow.streams[1].gap:
            return ""
        if isinstance(flow.session, TlsSession | SshSession) and flow.session.encrypted:
            return "encrypted"
        few, many = sorted(flow.inspected)
        if few >= self._settings.depth:
            return "depth"
        if flow.app == UNKNOWN:
            if few >= self._settings.unknown_depth:
                return "unknown_protocol"
            if many >= self._settings.depth:
                return "one_sided"
        return ""

    def _settle(self, flow: Flow, kind: VerdictKind) -> None:
        """The flow's fate: later packets that were already queued get the same verdict without another look."""
        flow.fate = kind
        flow.fate_generation = self._generation
        flow.fate_version = self._ruleset.version
        flow.session = None
        flow.release()
        for side in (TO_SERVER, TO_CLIENT):
            flow.head[side].clear()
            flow.window[side].clear()

    def _overlap(self, flow: Flow) -> Verdict:
        self._inspector.failures["stream_overlap"] += 1
        self._tell("failure", "drop", "stream_overlap", {"detail": "a segment contradicts bytes seen before"})
        return self._verdict(VerdictKind.GO_ON if self._passive else VerdictKind.DROP_PACKET)

    def failure(self, name: str, detail: str) -> Verdict:
        """The configured action of a failure; `drop` drops this packet, `reject` the flow."""
        self._inspector.failures[name] += 1
        action = self._inspector.failure_action(name)
        self._tell("failure", action, name, {"detail": detail})
        if self._passive or action == "allow":
            return self._verdict(VerdictKind.GO_ON)
        flow = self._flow
        if flow is not None and (action == "reject" or (name == "inspector_error" and flow.streams is not None)):
            # After an exception the stream counts as read: a retransmission would pass without inspection.
            kind = VerdictKind.REJECT if action == "reject" else VerdictKind.DROP
            self._settle(flow, kind)
            return self._verdict(kind)
        return self._verdict(VerdictKind.DROP_PACKET)

    def _verdict(self, kind: VerdictKind) -> Verdict:
        if self._passive and kind is not VerdictKind.ALLOW:
            kind = VerdictKind.GO_ON
        if self._generation == 0:
            kind = VerdictKind.GO_ON
        answers = tuple(self._answers) if kind is VerdictKind.GO_ON else ()
        number = self._flow.number if self._flow is not None else 0
        return Verdict(kind, number, tuple(self._events), answers, self._asked)

    def _tell(self, kind: str, action: str, reason: str, fields: dict[str, Any]) -> None:
        flow = self._flow
        protocol, src, sport, dst, dport = flow.key if flow is not None else (0, b"", 0, b"", 0)
        self._events.append(
            InspectionEvent(
                kind=kind,
                time=self._now,
                flow=flow.number if flow is not None else 0,
                family=flow.family if flow is not None else 0,
                protocol=protocol,
                src=src,
                dst=dst,
                sport=sport,
                dport=dport,
                app=flow.app if flow is not None else "",
                action=action,
                reason=reason,
                observed=self._passive and action in ("drop", "reject"),
                fields=fields,
            )
        )


def _request_fields(event: AppEvent) -> dict[str, Any]:
    facts = facts_of(event) if isinstance(event, HttpRequest) else None
    return {key: facts[1][key] for key in ("http_method", "url", "hostname")} if facts is not None else {}
