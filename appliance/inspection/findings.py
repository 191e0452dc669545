# SPDX-License-Identifier: Apache-2.0
"""What one packet brings to light: events to tell, DNS answers that policy waits for, the strongest action."""

from typing import Any

from appliance.domains.resolution import Resolution
from appliance.inspection.flows import Flow
from appliance.inspection.messages import InspectionEvent
from appliance.inspection.packets import Ends
from appliance.inspection.requests import Denial
from appliance.inspection.verdicts import VerdictKind

_FLOW_VERDICTS = {"drop": VerdictKind.DROP, "reject": VerdictKind.REJECT}


class Findings:
    """`passive`: what would be done is said, nothing is done. `now`: seconds since 1970. `flow` is set as soon as it is
    known; `block` is the verdict on the flow that was found so far."""

    def __init__(self, generation: int, passive: bool, now: float) -> None:
        self.generation = generation
        self.passive = passive
        self.now = now
        self.flow: Flow | None = None
        self.ends = Ends()  # of the packet, where there is no flow
        self.events: list[InspectionEvent] = []
        self.answers: list[Resolution] = []  # of names of policy
        self.seen: list[Resolution] = []  # of others
        self.block: VerdictKind | None = None

    def act(self, action: str) -> None:
        """Carry out the action of a feed, a signature or a policy: reject is stronger than drop."""
        wanted = _FLOW_VERDICTS.get(action)
        if wanted is not None and self.block is not VerdictKind.REJECT:
            self.block = wanted

    def deny(self, denial: Denial, fields: dict[str, Any]) -> None:
        """Policy denies the flow because of a request, or because it is none."""
        self.tell("policy", denial.action, "http", {"generation": self.generation, "rule": denial.rule, **fields})
        self.act(denial.action)

    def tell(self, kind: str, action: str, reason: str, fields: dict[str, Any]) -> None:
        flow = self.flow
        ends = self.ends
        protocol, src, sport, dst, dport = flow.key if flow is not None else (ends.protocol, ends.src, 0, ends.dst, 0)
        self.events.append(
            InspectionEvent(
                kind=kind,
                time=self.now,
                flow=flow.number if flow is not None else 0,
                family=flow.family if flow is not None else ends.family,
                protocol=protocol,
                src=src,
                dst=dst,
                sport=sport,
                dport=dport,
                app=flow.app if flow is not None else "",
                action=action,
                reason=reason,
                observed=self.passive and action in ("drop", "reject"),
                fields=fields,
            )
        )
