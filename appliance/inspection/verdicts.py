# SPDX-License-Identifier: Apache-2.0
from dataclasses import dataclass
from enum import Enum

from appliance.domains.resolution import Resolution
from appliance.inspection.messages import InspectionEvent, NamesAsked


class VerdictKind(Enum):
    """What becomes of a packet.

    GO_ON passes it and shows the next one; ALLOW, DROP and REJECT are fates of the whole flow; DROP_PACKET drops
    this packet only."""

    GO_ON = "go_on"
    ALLOW = "allow"
    DROP = "drop"
    REJECT = "reject"
    DROP_PACKET = "drop_packet"


@dataclass(frozen=True, slots=True)
class Verdict:
    """`flow` is the inspector's number of the flow, 0 where there is none. `answers`: what this packet says about names
    of policy, which has to know it before the packet goes on; `seen`: about names that policy may ask for later."""

    kind: VerdictKind
    flow: int = 0
    events: tuple[InspectionEvent, ...] = ()
    answers: tuple[Resolution, ...] = ()
    asked: NamesAsked | None = None
    hold: bool = False
    """The packet is to be judged again when it is known which names its flow may show; `kind` says nothing."""
    seen: tuple[Resolution, ...] = ()


FATES = {VerdictKind.ALLOW: 1, VerdictKind.DROP: 2, VerdictKind.REJECT: 3}
