# SPDX-License-Identifier: Apache-2.0
"""What was read from a packet, held against feeds and signatures."""

from typing import Any

from appliance.inspection.applications import AppEvent, buffers_of, entries_of
from appliance.inspection.findings import Findings
from appliance.inspection.flows import TO_SERVER, Flow
from appliance.inspection.indicators import Listed
from appliance.inspection.messages import IndicatorKind
from appliance.inspection.names import host_of
from appliance.inspection.packets import Packet
from appliance.inspection.protocols.http import HttpRequest
from appliance.inspection.ruleset import CompiledRuleset
from rules.signatures import Sample, Signature
from rules.urls import parse_url


class Matching:
    """For one packet. `window`: bytes of a direction that content may span over."""

    def __init__(self, ruleset: CompiledRuleset, findings: Findings, window: int) -> None:
        self._ruleset = ruleset
        self._findings = findings
        self._window = window

    def name(self, flow: Flow, where: str, name: str) -> None:
        listed = self._ruleset.names.lookup(host_of(name))
        if listed is not None:
            self._listed(flow, listed, where, name, saved=self._ruleset.allowed.holds(host_of(name)))

    def entries(self, event: AppEvent, flow: Flow) -> list[tuple[str, IndicatorKind, str]]:
        """(where it stands, kind, value). Requests are many: their URLs are made only where some are listed."""
        if isinstance(event, HttpRequest) and "url" not in self._ruleset.indicators:
            return []
        return entries_of(event, flow)

    def entry(self, flow: Flow, where: str, kind: IndicatorKind, value: str) -> None:
        """A URL or a fingerprint."""
        listed = self._ruleset.indicators.lookup(kind, value)
        if listed is not None:
            url = parse_url(value) if kind == "url" else None
            self._listed(flow, listed, where, value, saved=url is not None and self._ruleset.allowed.holds(url.host))

    def _listed(self, flow: Flow, listed: Listed, where: str, value: str, *, saved: bool) -> None:
        fields: dict[str, Any] = {"name": value, "entry": listed.entry, "source": where}
        if listed.also:
            fields["also"] = list(listed.also)
        if saved:
            self._findings.tell("saved", "allow", listed.feed, fields)
            return
        self._findings.tell("feed", listed.action, listed.feed, fields)
        self._findings.act(listed.action)

    def transaction(self, flow: Flow, packet: Packet, direction: int, event: AppEvent, *, flip: bool) -> None:
        """Signatures that look into application buffers. `flip`: the event belongs to the other direction than the
        packet that completed it."""
        for buffers in buffers_of(event):
            sample = self._sample(flow, packet, direction, dict(buffers), flip=flip)
            self._signatures(flow, self._ruleset.signatures.match_transaction(sample), once=False)

    def payload(self, flow: Flow, packet: Packet, direction: int, data: bytes) -> None:
        signatures = self._ruleset.signatures
        if not signatures.wants_payload:
            return
        if flow.streams is not None:
            # Content may begin in the bytes before: the window carries them, and an alert is told once a flow.
            window = flow.window[direction]
            window += data
            payload = bytes(window)
            del window[: max(0, len(window) - self._window)]
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
            self._findings.tell(
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
            self._findings.act(signature.action)
