# SPDX-License-Identifier: Apache-2.0
"""The flow table of one inspector: bounded, aged, least recently used first out.

A flow is *proven* once its client has answered an answer: its address is not forged. A flood of forged first packets,
which a server may well answer, takes room from flows that are not proven, not from those under inspection.
"""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from appliance.inspection.messages import IndicatorKind
from appliance.inspection.packets import Packet
from appliance.inspection.requests import Denial, RequestPlan, Requests
from appliance.inspection.streams import Budget, Stream
from appliance.inspection.verdicts import VerdictKind
from rules.policy.names import NameIndex

FlowKey = tuple[int, bytes, int, bytes, int]

TO_SERVER = 0
TO_CLIENT = 1


def flow_key(packet: Packet, reply: bool) -> FlowKey:
    """(protocol, client, client port, server, server port): the client sent the flow's first packet."""
    if reply:
        return (packet.protocol, packet.dst, packet.dport, packet.src, packet.sport)
    return (packet.protocol, packet.src, packet.sport, packet.dst, packet.dport)


UNDECIDED = Denial("drop", 0)  # of a flow whose names have not been told


@dataclass(slots=True)
class Flow:
    """What an inspector knows of a flow. Index 0 of a pair is the direction to the server, 1 to the client."""

    number: int
    key: FlowKey
    family: int
    seen: float
    streams: tuple[Stream, Stream] | None = None
    midstream: bool = False
    proven: bool = False
    packets: list[int] = field(default_factory=lambda: [0, 0])
    inspected: list[int] = field(default_factory=lambda: [0, 0])
    head: tuple[bytearray, bytearray] = field(default_factory=lambda: (bytearray(), bytearray()))
    window: tuple[bytearray, bytearray] = field(default_factory=lambda: (bytearray(), bytearray()))
    app: str = ""
    session: Any = None
    tunnels: int = 0
    failed: list[bool] = field(default_factory=lambda: [False, False])
    syn: int | None = None
    fate: VerdictKind | None = None
    fate_generation: int = 0
    fate_version: int = 0
    fate_time: float = 0.0
    names: list[tuple[str, str]] = field(default_factory=list)
    entries: list[tuple[str, IndicatorKind, str]] = field(default_factory=list)
    alerted: set[tuple[int, int]] = field(default_factory=set)
    asked: Requests | None = None
    plan: RequestPlan | None = None
    denied: bool = False
    names_asked: int = 0
    """Generation under which it was asked which names the flow may show; 0: not asked."""
    names_told: bool = False
    agreed: NameIndex | None = None
    disagreed: Denial = UNDECIDED

    def inspect_anew(self) -> None:
        """Of UDP: as if it had begun with the next packet. What it showed before is remembered."""
        self.fate = None
        self.app = ""
        self.packets[:] = self.inspected[:] = [0, 0]

    def release(self) -> None:
        if self.streams is not None:
            self.streams[0].release()
            self.streams[1].release()


class FlowTable:
    """At most `limit` flows; one not seen for `idle` seconds is forgotten. When there is no room, the oldest that is
    not proven goes, unless these hold no more than their reserve: new flows need time to become proven."""

    def __init__(self, limit: int, idle: float, stream_cap: int, budget: Budget) -> None:
        self._limit = limit
        self._reserve = limit // 4
        self._idle = idle
        self._stream_cap = stream_cap
        self._budget = budget
        self._new: OrderedDict[FlowKey, Flow] = OrderedDict()
        self._proven: OrderedDict[FlowKey, Flow] = OrderedDict()
        self._numbers = 0
        self.evicted = 0
        self.aged = 0

    def __len__(self) -> int:
        return len(self._new) + len(self._proven)

    def __iter__(self) -> Iterator[Flow]:
        return chain(self._proven.values(), self._new.values())

    def get(self, key: FlowKey, now: float) -> Flow | None:
        flow = self._proven.get(key) or self._new.get(key)
        if flow is not None:
            flow.seen = now
            self._of(flow).move_to_end(key)
        return flow

    def add(self, key: FlowKey, family: int, now: float, *, tcp: bool) -> Flow:
        """A new flow; one with the same key is replaced."""
        self.remove(key)
        self.expire(now)
        while len(self) >= self._limit:
            crowded = len(self._new) > self._reserve or not self._proven
            _, oldest = (self._new if crowded else self._proven).popitem(last=False)
            oldest.release()
            self.evicted += 1
        self._numbers += 1
        streams = (self._stream(), self._stream()) if tcp else None
        flow = Flow(self._numbers, key, family, now, streams)
        self._new[key] = flow
        return flow

    def prove(self, flow: Flow) -> None:
        """The client of a flow of this table has answered an answer."""
        if not flow.proven:
            del self._new[flow.key]
            flow.proven = True
            self._proven[flow.key] = flow

    def remove(self, key: FlowKey) -> None:
        flow = self._proven.pop(key, None) or self._new.pop(key, None)
        if flow is not None:
            flow.release()

    def expire(self, now: float, most: int = 64) -> None:
        """Forget idle flows, at most `most` of each kind at a time so that no packet waits for a long sweep."""
        for flows in (self._new, self._proven):
            for _ in range(most):
                oldest = next(iter(flows.values()), None)
                if oldest is None or now - oldest.seen < self._idle:
                    break
                self.remove(oldest.key)
                self.aged += 1

    def _of(self, flow: Flow) -> OrderedDict[FlowKey, Flow]:
        return self._proven if flow.proven else self._new

    def _stream(self) -> Stream:
        return Stream(self._stream_cap, self._budget)
