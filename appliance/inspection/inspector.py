# SPDX-License-Identifier: Apache-2.0
"""The decision of the slow path, packet by packet, without I/O and without a clock.

    bytes ▸ packet ▸ flow ▸ stream ▸ protocol ▸ names in feeds, signatures ▸ verdict

A flow gets its allow fate
- `encrypted`: TLS, ClientHello seen, or SSH, and both sides encrypt from here on;
- `depth`: both directions were inspected to the configured depth;
- `unknown_protocol`: no protocol was recognised and both directions reached `unknown_depth` (UDP: `udp_packets`); TCP
  at once where there is no signature to look for;
- `one_sided`: the same, but one direction reached the full depth (UDP: eight times the packets) and the other did not.
DNS never gets one, nor a flow whose requests policy decides (appliance.inspection.governed); HTTP, SMTP and SMB only
by `depth`, never at the end of a transaction.
"""

from appliance.domains.trust import PendingQueries
from appliance.inspection.findings import Findings
from appliance.inspection.flows import TO_CLIENT, TO_SERVER, Flow, FlowTable, flow_key
from appliance.inspection.governed import RequestPolicies, no_request
from appliance.inspection.matching import Matching
from appliance.inspection.messages import FAILURES, InspectorSettings, Names, NamesAsked
from appliance.inspection.packets import (
    ACK,
    RST,
    SYN,
    TCP,
    UDP,
    DecodeError,
    Ends,
    Packet,
    TruncatedError,
    ends_of,
    parse_packet,
)
from appliance.inspection.protocols.detect import UNKNOWN
from appliance.inspection.protocols.ssh import SshSession
from appliance.inspection.protocols.tls import TlsSession
from appliance.inspection.reading import Reading
from appliance.inspection.requests import NOWHERE, Denial, Place, RequestChange
from appliance.inspection.ruleset import CompiledRuleset
from appliance.inspection.streams import Budget, StreamMemoryError
from appliance.inspection.verdicts import Verdict, VerdictKind
from rules.policy.names import NameIndex

_GO_ON = Verdict(VerdictKind.GO_ON)
_QUEUED = 1.0  # seconds after a fate in which packets may come that had waited when it was given


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

    def change_requests(self, change: RequestChange) -> None:
        """From the next packet on. Raises FastpathError if it does not fit."""
        self.requests.change(change)

    def packet(self, data: bytes, *, reply: bool, generation: int, now: float, place: Place = NOWHERE) -> Verdict:
        """The verdict for one packet. `reply`: it goes against the flow's first packet. `generation` 0 looks only:
        the verdict is GO_ON whatever is found. `now`: seconds since 1970. Raises nothing on any input: an exception
        inside becomes the failure `inspector_error`."""
        turn = _Turn(self, generation, now)
        try:
            return turn.run(data, reply, place)
        except TruncatedError as error:
            return turn.failure("truncated_packet", str(error), ends_of(data))
        except DecodeError as error:
            return turn.failure("decode_error", str(error), ends_of(data))
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
    """The work on one packet: the strongest verdict wins."""

    def __init__(self, inspector: Inspector, generation: int, now: float) -> None:
        self._inspector = inspector
        self._settings = inspector._settings
        self._ruleset = inspector.ruleset
        self._now = now
        self._generation = generation
        self._passive = generation == 0 or self._ruleset.observe
        self._findings = Findings(generation, self._passive, now)
        self._matching = Matching(self._ruleset, self._findings, self._settings.window)
        self._asked: NamesAsked | None = None

    def run(self, data: bytes, reply: bool, place: Place) -> Verdict:
        packet = parse_packet(data)
        if packet.protocol not in (TCP, UDP):
            return _GO_ON
        flow = self._find(packet, reply)
        if flow is None:
            return _GO_ON
        self._findings.flow = flow
        asks = flow.plan is not None or not self._inspector.requests.none
        if asks and packet.protocol == TCP and self._generation:
            if not self._inspector.requests.known(self._generation):
                self._inspector.failures["policy_generation"] += 1
                return self._verdict(VerdictKind.DROP_PACKET)  # it is sent again, and decided by a newer one
            self._findings.flow = flow = self._governed(flow, packet, reply, place)
        if flow.fate is not None and flow.fate_generation != self._generation:
            self._renew(flow)
        elif self._has_come_back(flow):
            flow.inspect_anew()
        if flow.fate is not None:
            return self._verdict(flow.fate)
        if packet.protocol == TCP and self._generation and self._ruleset.domains.agree and self._ruleset.domains.names:
            self._ask_names(flow, place.turned() if reply else place)
            if packet.payload and not (reply or flow.names_told or self._passive):
                return Verdict(VerdictKind.GO_ON, flow.number, asked=self._asked, hold=True)
        direction = TO_CLIENT if reply else TO_SERVER
        flow.packets[direction] += 1
        if not self._read(flow, packet, direction):
            return self._overlap()
        if flow.plan is not None and self._findings.block is None:
            why = no_request(flow)
            if why and not (self._passive and flow.denied):
                flow.denied = True
                self._findings.deny(flow.plan.other(), {"detail": why})
        return self._conclude(flow)

    def _read(self, flow: Flow, packet: Packet, direction: int) -> bool:
        """False: the packet contradicts bytes seen before. Raises StreamMemoryError and ParseError."""
        inspector = self._inspector
        reading = Reading(
            self._matching, self._findings, flows=inspector.flows, queries=inspector.queries,
            failures=inspector.failures, watch=self._ruleset.domains,
        )  # fmt: skip
        if packet.protocol == TCP:
            return reading.tcp(flow, packet, direction)
        reading.udp(flow, packet, direction)
        return True

    # ---- flows

    def _find(self, packet: Packet, reply: bool) -> Flow | None:
        table = self._inspector.flows
        key = flow_key(packet, reply)
        flow = table.get(key, self._now)
        if flow is not None and not flow.proven and not reply and _answers(packet, flow):
            table.prove(flow)
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
            self._matching.name(flow, where, name)
        for where, kind, value in flow.entries:
            self._matching.entry(flow, where, kind, value)
        if self._findings.block is not None:
            self._settle(flow, self._findings.block)
        elif flow.fate is VerdictKind.ALLOW or flow.fate_version == self._ruleset.version:
            flow.fate_generation = self._generation
        else:
            flow.fate = None

    def _has_come_back(self, flow: Flow) -> bool:
        """Whether a UDP flow that was allowed is here because that fate has ended."""
        allowed = flow.fate is VerdictKind.ALLOW and flow.streams is None and self._settings.udp_fates_end
        return allowed and self._now - flow.fate_time > _QUEUED

    # ---- verdicts

    def _conclude(self, flow: Flow) -> Verdict:
        if self._findings.block is not None and not self._passive:
            if flow.app == "dns" and flow.streams is None:
                # Resolvers send many questions from one port: only this message goes, not the flow.
                return self._verdict(VerdictKind.DROP_PACKET)
            self._settle(flow, self._findings.block)
            return self._verdict(self._findings.block)
        if self._generation:
            reason = self._end_of_inspection(flow)
            if reason:
                self._settle(flow, VerdictKind.ALLOW)
                to_server, to_client = flow.inspected
                self._findings.tell("fate", "allow", reason, {"bytes_toserver": to_server, "bytes_toclient": to_client})
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
            if not len(self._ruleset.signatures):
                return "unknown_protocol"  # names, URLs and fingerprints are in protocols that are known
            if few >= self._settings.unknown_depth:
                return "unknown_protocol"
            if many >= self._settings.depth:
                return "one_sided"
        return ""

    def _settle(self, flow: Flow, kind: VerdictKind) -> None:
        """The flow's fate: later packets that were already queued get the same verdict without another look."""
        flow.fate = kind
        flow.fate_time = self._now
        flow.fate_generation = self._generation
        flow.fate_version = self._ruleset.version
        flow.session = None
        flow.release()
        for side in (TO_SERVER, TO_CLIENT):
            flow.head[side].clear()
            flow.window[side].clear()

    def _overlap(self) -> Verdict:
        self._inspector.failures["stream_overlap"] += 1
        self._findings.tell("failure", "drop", "stream_overlap", {"detail": "a segment contradicts bytes seen before"})
        return self._verdict(VerdictKind.GO_ON if self._passive else VerdictKind.DROP_PACKET)

    def failure(self, name: str, detail: str, ends: Ends | None = None) -> Verdict:
        """The configured action of a failure; `drop` drops this packet, `reject` the flow. `ends`: where no flow is
        known."""
        self._findings.ends = ends or self._findings.ends
        self._inspector.failures[name] += 1
        action = self._inspector.failure_action(name)
        self._findings.tell("failure", action, name, {"detail": detail})
        if self._passive or action == "allow":
            return self._verdict(VerdictKind.GO_ON)
        flow = self._findings.flow
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
        answers = tuple(self._findings.answers) if kind is VerdictKind.GO_ON else ()
        flow = self._findings.flow
        number = flow.number if flow is not None else 0
        seen = tuple(self._findings.seen) if kind is VerdictKind.GO_ON else ()
        return Verdict(kind, number, tuple(self._findings.events), answers, self._asked, seen=seen)


def _answers(packet: Packet, flow: Flow) -> bool:
    """Whether a client's packet can only come from one that got the server's."""
    if not flow.packets[TO_CLIENT]:
        return False
    if flow.streams is None:
        return True
    return packet.flags & (ACK | SYN | RST) == ACK and flow.streams[TO_CLIENT].has_sent(packet.ack)
