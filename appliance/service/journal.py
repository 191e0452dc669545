# SPDX-License-Identifier: Apache-2.0
"""What happened, told: the fastpath's decisions and the inspectors' findings, joined by flow, to EVE and the console.

A flow that goes to an inspector is told on the console when its application is known, or after a moment without.
Whoever sends packets decides how many lines there could be: what is printed in one second is bounded.
"""

import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec

from appliance.events import EventSink, Names, flow_records, inspection_records
from appliance.events.console import flow_line, inspection_line
from appliance.events.eve import rule_fields
from appliance.events.names import rule_text
from appliance.events.units import Units
from appliance.inspection.messages import InspectionEvent
from appliance.service.traffic import RecentTraffic
from fastpath import Event
from fastpath.layout import NONE, EventFlag, Verdict

_Key = tuple[bytes, bytes, int, int, int]

PATIENCE = 1.0  # seconds that a flow waits for its application
WAITING = 4096  # flows that wait at most
LINES = 200  # console lines a second
_KINDS = {"http.url": "url", "tls.ja3": "ja3", "tls.ja4": "ja4"}
_SHA1 = 40  # hex digits
MAPPED = bytes(10) + b"\xff\xff"


class Console:
    """Prints at most LINES lines a second and says how many it left out."""

    def __init__(self, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._write = write
        self._clock = clock
        self._second = 0
        self._printed = 0
        self.left_out = 0

    def line(self, text: str) -> None:
        if self.room():
            self._write(text)

    def room(self) -> bool:
        """Takes a line of this second's, or counts one that is left out: what nobody will see need not be made."""
        second = int(self._clock())
        if second != self._second:
            self._second = second
            self._printed = 0
            if self.left_out:
                self._write(f"… {self.left_out} lines left out")
                self.left_out = 0
        if self._printed < LINES:
            self._printed += 1
            return True
        self.left_out += 1
        return False

    def write(self, text: str) -> None:
        """A line that there is room for."""
        self._write(text)


class Journal:
    """`names`: generation → names of the program that decided. Methods are called in the event loop."""

    def __init__(
        self,
        sink: EventSink,
        console: Console | None,
        names: Callable[[int], Names],
        *,
        since: Callable[[str, str, str], int] = lambda feed, kind, entry: 0,
        colour: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """since(feed, kind, entry): when the feed listed it first, seconds since 1970; 0: not known."""
        self._sink = sink
        self._since = since
        self._console = console
        self._names = names
        self._colour = colour
        self._clock = clock
        self._units = Units()
        self._waiting: OrderedDict[_Key, tuple[float, Event, str]] = OrderedDict()
        self._sides: OrderedDict[_Key, tuple[str, str]] = OrderedDict()  # names of flows under inspection
        self.flows = 0
        self.feed_hits: Counter[str] = Counter()  # decisions and findings, by the feed that lists an end
        self.traffic: RecentTraffic | None = None
        self.feed_saved: Counter[str] = Counter()  # findings that the allowlist kept from a feed

    def decided(self, event: Event) -> None:
        """A decision of the fastpath."""
        self.flows += 1
        if event.src_identity or event.dst_identity:
            self.feed_hits.update(feed for feed, _ in self._names(event.generation).feeds(event))
        if self.traffic is not None and event.verdict in (Verdict.ALLOW, Verdict.INSPECT):
            self.traffic.flow(event.src_bytes, event.dst_bytes)
        unit = ""
        if event.uid != NONE:
            unit = self._units.unit(event.proto, event.src_bytes, event.sport, event.dst_bytes, event.dport)
        if self._sink.wants("flow") or self._sink.wants("drop"):
            for record in flow_records(event, self._names(event.generation), unit=unit):
                self._sink.write(record)
        if self._console is None:
            return
        if event.verdict != Verdict.INSPECT:
            self._tell(event, "", unit)
            return
        if event.flags & EventFlag.RELATED:
            return  # an ICMP error about a flow that was told already
        key = (event.src_bytes, event.dst_bytes, event.sport, event.dport, event.proto)
        names = self._names(event.generation)
        self._sides[key] = names.identity(event.src_identity, event.src), names.identity(event.dst_identity, event.dst)
        if len(self._sides) > WAITING:
            self._sides.popitem(last=False)
        self._waiting[key] = self._clock(), event, unit
        if len(self._waiting) > WAITING:
            _, event, unit = self._waiting.popitem(last=False)[1]
            self._tell(event, "", unit)

    def flooded(self, event: Event, seconds: int) -> None:
        """New flows like this one are denied in the kernel for so long, and give no events."""
        if self._sink.wants("drop"):
            for record in flow_records(event, self._names(event.generation)):
                if record["event_type"] == "drop":
                    self._sink.write({**record, "portcullis": {**record["portcullis"], "flood": {"seconds": seconds}}})

    def found(self, event: InspectionEvent) -> None:
        """A finding of an inspector."""
        if event.kind in ("feed", "saved"):
            counted = self.feed_hits if event.kind == "feed" else self.feed_saved
            counted.update((event.reason, *event.fields.get("also", ())))
        if event.kind == "feed":
            event = self._dated(event)
        if self.traffic is not None and (name := _shown_name(event)):
            self.traffic.name(name)
        if event.kind == "policy":
            event = self._named(event)
        for record in inspection_records(event):
            self._sink.write(record)
        if self._console is None:
            return
        key = (_wide(event.src), _wide(event.dst), event.sport, event.dport, event.protocol)
        if event.app or event.kind not in ("http", "tls", "dns"):
            waiting = self._waiting.pop(key, None)
            if waiting is not None:
                self._tell(waiting[1], event.app, waiting[2])
        source, target = self._sides.get(key, ("", ""))
        line = inspection_line(event, source=source, target=target, colour=self._colour)
        if line is not None:
            self._console.line(line)

    def _dated(self, event: InspectionEvent) -> InspectionEvent:
        """What a feed lists: since when is added."""
        source, entry = event.fields.get("source", ""), event.fields.get("entry", "")
        kind = _KINDS.get(source, "domain")
        if source == "tls.certificate":
            kind = "sha1" if len(entry) == _SHA1 else "sha256"
        seconds = self._since(event.reason, kind, entry)
        if not seconds:
            return event
        text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return msgspec.structs.replace(event, fields=event.fields | {"since": text})

    def _named(self, event: InspectionEvent) -> InspectionEvent:
        """A decision by a rule with `http`: the rule's number becomes words."""
        rule = self._names(event.fields["generation"]).rule(event.fields["rule"])
        fields = {key: value for key, value in event.fields.items() if key != "rule"}
        return msgspec.structs.replace(event, reason=rule_text(rule), fields=fields | rule_fields(rule))

    def tick(self) -> None:
        """Tells what waited long enough. Called a few times a second."""
        limit = self._clock() - PATIENCE
        while self._waiting and next(iter(self._waiting.values()))[0] <= limit:
            _, event, unit = self._waiting.popitem(last=False)[1]
            self._tell(event, "", unit)

    def close(self) -> None:
        while self._waiting:
            _, event, unit = self._waiting.popitem(last=False)[1]
            self._tell(event, "", unit)

    def _tell(self, event: Event, app: str, unit: str) -> None:
        if self._console is not None and self._console.room():
            names = self._names(event.generation)
            self._console.write(flow_line(event, names, app=app, unit=unit, colour=self._colour))


def _shown_name(event: InspectionEvent) -> str:
    """The name that a client asked for."""
    if event.kind not in ("dns", "tls", "http"):
        return ""
    name = event.fields.get("sni") or event.fields.get("hostname") or event.fields.get("rrname")
    if name is None and isinstance(queries := event.fields.get("queries"), list | tuple) and queries:
        name = queries[0].get("rrname") if isinstance(queries[0], dict) else None
    return name if isinstance(name, str) else ""


def _wide(address: bytes) -> bytes:
    """Packed address of either family → 16 bytes as in the C core."""
    return MAPPED + address if len(address) == 4 else address
