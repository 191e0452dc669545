# SPDX-License-Identifier: Apache-2.0
"""From a packet to what it says: stream, protocol, messages; each message is held against policy, feeds, signatures."""

from typing import Any

from appliance.domains.resolution import resolution
from appliance.domains.trust import PendingQueries
from appliance.inspection.applications import AppEvent, Session, facts_of, names_of, new_session
from appliance.inspection.findings import Findings
from appliance.inspection.flows import TO_CLIENT, TO_SERVER, Flow, FlowTable
from appliance.inspection.governed import MAX_TUNNELS, judge
from appliance.inspection.matching import Matching
from appliance.inspection.names import host_of
from appliance.inspection.packets import ACK, FIN, RST, SYN, Packet
from appliance.inspection.protocols.detect import ENOUGH, UNKNOWN, detect_tcp, detect_udp
from appliance.inspection.protocols.dns import DnsMessage, parse_dns
from appliance.inspection.protocols.errors import ParseError
from appliance.inspection.protocols.http import HttpRequest, HttpSession
from appliance.inspection.protocols.smtp import SmtpSession
from appliance.inspection.ruleset import CompiledWatch

MAX_NAMES = 64  # names, and other entries, of a flow that are asked again after a change


class Reading:
    """For one packet."""

    def __init__(
        self,
        matching: Matching,
        findings: Findings,
        *,
        flows: FlowTable,
        queries: PendingQueries,
        failures: dict[str, int],
        watch: CompiledWatch,
    ) -> None:
        self._matching = matching
        self._findings = findings
        self._flows = flows
        self._queries = queries
        self._failures = failures
        self._watch = watch

    def tcp(self, flow: Flow, packet: Packet, direction: int) -> bool:
        """False: the segment contradicts bytes seen before. Raises StreamMemoryError."""
        assert flow.streams is not None
        stream, other = flow.streams[direction], flow.streams[1 - direction]
        seq = packet.seq
        if packet.flags & SYN:
            seq = (seq + 1) & 0xFFFFFFFF
            stream.start(seq)
        if packet.flags & ACK:
            other.acknowledged(packet.ack)
        if packet.flags & RST:
            return True
        delivery = stream.segment(seq, packet.payload)
        if delivery.conflict:
            return False
        if delivery.data:
            flow.inspected[direction] += len(delivery.data)
            self._bytes(flow, packet, direction, delivery.data)
        if packet.flags & FIN:
            stream.finished = True
            if other.finished and not stream.gap and not other.gap:
                self._flows.remove(flow.key)
        return True

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
        self._matching.payload(flow, packet, direction, data)

    def _session(self, flow: Flow, packet: Packet, direction: int, fed: list[bytes]) -> None:
        session: Session = flow.session
        for side in (TO_SERVER, TO_CLIENT):
            if not fed[side] or flow.failed[side]:
                continue
            try:
                events = session.to_client(fed[side]) if side else session.to_server(fed[side])
            except ParseError as error:
                flow.failed[side] = True
                self._failures["protocol_error"] += 1
                self._findings.tell("failure", "allow", "protocol_error", {"detail": f"{flow.app}: {error}"})
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

    def udp(self, flow: Flow, packet: Packet, direction: int) -> None:
        flow.inspected[direction] += len(packet.payload)
        if detect_udp(packet.payload) == "dns":
            flow.app = "dns"
            self._app_event(flow, packet, direction, parse_dns(packet.payload), flip=False)
        elif not flow.app:
            flow.app = UNKNOWN
        self._matching.payload(flow, packet, direction, packet.payload)

    def _app_event(self, flow: Flow, packet: Packet, direction: int, event: AppEvent, *, flip: bool) -> None:
        if isinstance(event, DnsMessage):
            self._dns(flow, direction, event)
        if flow.plan is not None:
            denial, why = judge(flow.plan, event)
            if denial is not None:
                self._findings.deny(denial, _request_fields(event) | ({"detail": why} if why else {}))
        facts = facts_of(event)
        if facts is not None:
            self._findings.tell(facts[0], "", "", facts[1])
        for where, kind, value in self._matching.entries(event, flow):
            if len(flow.entries) < MAX_NAMES:
                flow.entries.append((where, kind, value))
            self._matching.entry(flow, where, kind, value)
        for where, name in names_of(event):
            if len(flow.names) < MAX_NAMES and flow.app != "dns":
                flow.names.append((where, name))
            self._matching.name(flow, where, name)
            if flow.agreed is not None and flow.app != "dns" and not flow.agreed.matching(host_of(name)):
                detail = f"{name} is not what was allowed"
                self._findings.deny(flow.disagreed, {"name": name, "source": where, "detail": detail})
        self._matching.transaction(flow, packet, direction, event, flip=flip)

    def _dns(self, flow: Flow, direction: int, message: DnsMessage) -> None:
        """An answer counts if it is a trusted resolver's to a question that was seen. One that no policy asks for is
        told, too, but does not wait."""
        watch = self._watch
        if flow.key[3] not in watch.resolvers:
            return
        if direction == TO_SERVER:
            self._queries.asked(flow.key, message, self._findings.now)
        elif self._queries.answered(flow.key, message, self._findings.now):
            found = resolution(message)
            if found is None:
                return
            asked = any(watch.names.matching(name) for name in found.names)
            (self._findings.answers if asked else self._findings.seen).append(found)


def _request_fields(event: AppEvent) -> dict[str, Any]:
    facts = facts_of(event) if isinstance(event, HttpRequest) else None
    return {key: facts[1][key] for key in ("http_method", "url", "hostname")} if facts is not None else {}
