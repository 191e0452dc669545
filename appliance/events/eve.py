# SPDX-License-Identifier: Apache-2.0
"""Events as EVE JSON objects with Suricata's keys, so that what reads Suricata's eve.json reads ours.

Pure: events and names in, dictionaries out. What Suricata has no key for is under "portcullis".
Format: docs.suricata.io, "Eve JSON Format".
"""

import ipaddress
from collections.abc import Mapping
from datetime import datetime, tzinfo
from typing import Any, Protocol

from appliance.events.community_id import community_id
from appliance.events.names import FlowEvent, Names, Rule, is_feed
from appliance.events.users import user_name
from fastpath.layout import NONE, EventFlag, EventKind, Failure, Hook, Verdict

Record = dict[str, Any]

PROTOCOLS = {
    1: "ICMP",
    2: "IGMP",
    6: "TCP",
    17: "UDP",
    47: "GRE",
    50: "ESP",
    51: "AH",
    58: "IPv6-ICMP",
    132: "SCTP",
    136: "UDPLite",
}
_ICMP = (1, 58)
_PORTED = (6, 17, 132, 136)
_ACTIONS = {Verdict.ALLOW: "pass", Verdict.DROP: "drop", Verdict.REJECT: "reject", Verdict.INSPECT: "pass"}
_FLOW_ID_BITS = (1 << 53) - 1  # what JSON readers that use doubles can hold


class InspectionEvent(Protocol):
    """appliance.inspection.messages.InspectionEvent."""

    @property
    def kind(self) -> str: ...
    @property
    def time(self) -> float: ...
    @property
    def flow(self) -> int: ...
    @property
    def family(self) -> int: ...
    @property
    def protocol(self) -> int: ...
    @property
    def src(self) -> bytes: ...
    @property
    def dst(self) -> bytes: ...
    @property
    def sport(self) -> int: ...
    @property
    def dport(self) -> int: ...
    @property
    def app(self) -> str: ...
    @property
    def action(self) -> str: ...
    @property
    def reason(self) -> str: ...
    @property
    def observed(self) -> bool: ...
    @property
    def fields(self) -> dict[str, Any]: ...


def timestamp(nanoseconds: int, zone: tzinfo | None = None) -> str:
    """Suricata's form: 2026-01-31T12:00:00.000001+0100. Local time unless a zone is given."""
    seconds, rest = divmod(nanoseconds, 10**9)
    moment = datetime.fromtimestamp(seconds, zone).astimezone(zone).replace(microsecond=rest // 1000)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%f%z")


def flow_records(
    event: FlowEvent, names: Names, *, app: str = "", unit: str = "", zone: tzinfo | None = None
) -> list[Record]:
    """An event of the C core: "flow" for a decided flow, "alert" for each threat feed that lists one of its ends, and
    "drop" when packets were dropped or rejected. unit: of the local program that began it."""
    common = _common(event, names, app, zone)
    details = _details(event, names, unit)
    verdict = Verdict(event.verdict)
    observed = bool(event.flags & EventFlag.OBSERVED)
    action = "pass" if observed else _ACTIONS[verdict]
    records: list[Record] = []
    if event.kind in (EventKind.FLOW, EventKind.REDECIDED):
        flow = {
            "pkts_toserver": 1,
            "pkts_toclient": 0,
            "bytes_toserver": event.length,
            "bytes_toclient": 0,
            "start": common["timestamp"],
            "state": "new",
            "alerted": False,
        }
        if event.flags & EventFlag.REPLY:
            flow |= {"pkts_toserver": 0, "pkts_toclient": 1, "bytes_toserver": 0, "bytes_toclient": event.length}
        records.append(
            {**common, "event_type": "flow", "flow": flow, "verdict": {"action": action}, "portcullis": details}
        )
    blocked = action in ("drop", "reject")
    for feed, address in names.feeds(event):
        alert = _feed_alert(feed, str(address), "address")
        alert["action"] = "blocked" if blocked else "allowed"
        verdict_of_alert = _verdict(action, event.proto) if blocked else {"action": "alert"}
        record = {**common, "event_type": "alert", "alert": alert, "verdict": verdict_of_alert}
        records.append({**record, "portcullis": details})
    if blocked:
        drop = {"len": event.length, "reason": _drop_reason(event, names.rule(event.rule))}
        record = {**common, "event_type": "drop", "drop": drop, "verdict": _verdict(action, event.proto)}
        records.append({**record, "portcullis": details})
    elif event.kind in (EventKind.PACKET, EventKind.FAILURE) and verdict in (Verdict.DROP, Verdict.REJECT):
        records.append({**common, "event_type": "flow", "verdict": {"action": action}, "portcullis": details})
    return records


def inspection_records(event: InspectionEvent, *, zone: tzinfo | None = None) -> list[Record]:
    """An event of an inspector: alert (signatures and feed names), drop, http, tls, dns, flow (a request that policy
    would deny); fates and failures that let packets pass have no record of Suricata's and give none."""
    if not event.src:
        return []  # a packet without a whole IP header
    src, dst = ipaddress.ip_address(event.src), ipaddress.ip_address(event.dst)
    common: Record = {
        "timestamp": timestamp(round(event.time * 1e9), zone),
        "flow_id": event.flow & _FLOW_ID_BITS,
        **_tuple(src, dst, event.protocol, event.sport, event.dport, event.sport, event.dport),
        "pkt_src": "wire/pcap",
    }
    if event.app:
        common["app_proto"] = event.app
    if event.kind in ("http", "tls", "dns"):
        return [{**common, "event_type": event.kind, event.kind: dict(event.fields)}]
    if event.kind not in ("alert", "feed", "failure", "policy"):
        return []
    blocked = event.action in ("drop", "reject") and not event.observed
    action = event.action if blocked else "pass"
    common["portcullis"] = {"observed": event.observed, "action": event.action}
    records: list[Record] = []
    if event.kind == "policy":
        common["portcullis"] |= event.fields
        if not blocked:
            records.append({**common, "event_type": "flow", "verdict": {"action": "pass"}})
    elif event.kind != "failure":
        alert = _signature(event) if event.kind == "alert" else _feed_finding(event)
        alert["action"] = "blocked" if blocked else "allowed"
        verdict = {"action": "alert"} if action == "pass" else _verdict(action, event.protocol)
        records.append({**common, "event_type": "alert", "alert": alert, "verdict": verdict})
    if blocked:
        reasons = {"alert": "rules", "feed": "threat feed", "policy": "policy"}
        reason = reasons.get(event.kind, event.reason.replace("_", " "))
        verdict = _verdict(action, event.protocol)
        records.append({**common, "event_type": "drop", "drop": {"reason": reason}, "verdict": verdict})
    return records


def feed_record(nanoseconds: int, feed: str, state: str, text: str, *, zone: tzinfo | None = None) -> Record:
    """An alert about a feed itself. state: failed, quarantined, stale, expired or empty."""
    alert = {"action": "allowed", "signature": text, "category": "Threat feed health", "severity": 2}
    about = {"feed": feed, "feed_state": state}
    return {"timestamp": timestamp(nanoseconds, zone), "event_type": "alert", "alert": alert, "portcullis": about}


def stats_record(nanoseconds: int, stats: Mapping[str, Any], *, zone: tzinfo | None = None) -> Record:
    """stats: nested counters, "uptime" in seconds among them."""
    return {"timestamp": timestamp(nanoseconds, zone), "event_type": "stats", "stats": dict(stats)}


def _common(event: FlowEvent, names: Names, app: str, zone: tzinfo | None) -> Record:
    icmp = event.proto in _ICMP
    record: Record = {
        "timestamp": timestamp(event.time, zone),
        "flow_id": event.flow & _FLOW_ID_BITS,
        **_tuple(
            event.src,
            event.dst,
            event.proto,
            event.sport,
            event.dport,
            event.icmp_type if icmp else event.sport,
            event.icmp_code if icmp else event.dport,
        ),
        "pkt_src": "wire/pcap",
    }
    interface = names.interface(event.iif or event.oif)
    if interface:
        record["in_iface"] = interface
    if icmp:
        record["icmp_type"], record["icmp_code"] = event.icmp_type, event.icmp_code
    if app:
        record["app_proto"] = app
    return record


def _tuple(
    src: ipaddress.IPv4Address | ipaddress.IPv6Address,
    dst: ipaddress.IPv4Address | ipaddress.IPv6Address,
    proto: int,
    sport: int,
    dport: int,
    hash_sport: int,
    hash_dport: int,
) -> Record:
    record: Record = {"src_ip": str(src), "dest_ip": str(dst), "proto": PROTOCOLS.get(proto, f"{proto:03d}")}
    if proto in _PORTED:
        record["src_port"], record["dest_port"] = sport, dport
    record["community_id"] = community_id(src, dst, proto, hash_sport, hash_dport)
    return record


def _details(event: FlowEvent, names: Names, unit: str) -> Record:
    verdict = Verdict(event.verdict)
    details: Record = {
        "verdict": verdict.name.lower(),
        "hook": Hook(event.hook).name.lower() if event.hook in Hook.__members__.values() else "",
        "generation": event.generation,
        "kind": EventKind(event.kind).name.lower(),
        "observed": bool(event.flags & EventFlag.OBSERVED),
        "src_identity": names.identity(event.src_identity, event.src),
        "dest_identity": names.identity(event.dst_identity, event.dst),
        **rule_fields(names.rule(event.rule)),
    }
    if event.oif:
        details["out_iface"] = names.interface(event.oif)
    if event.kind == EventKind.FAILURE:
        details["failure"] = Failure(event.failure).name.lower()
    if event.flags & EventFlag.MIDSTREAM:
        details["midstream"] = True
    if event.flags & EventFlag.RELATED:
        details["related"] = True
    if event.flags & EventFlag.PRE_DNAT:
        details["pre_dnat"] = True
    if event.uid != NONE:
        details["uid"] = event.uid
        if user := user_name(event.uid):
            details["user"] = user
        if unit:
            details["unit"] = unit
    if verdict == Verdict.INSPECT:
        details["queue"] = event.slow_queue
    if (event.staged_verdict, event.staged_rule) != (event.verdict, event.rule):
        staged = {"verdict": Verdict(event.staged_verdict).name.lower(), **rule_fields(names.rule(event.staged_rule))}
        details["staged"] = staged
    return details


def rule_fields(rule: Rule | None) -> Record:
    if rule is None:
        return {}
    return {"tier": rule.tier, "policy": rule.policy, "policy_kind": rule.kind, "rule": rule.rule_index}


def _drop_reason(event: FlowEvent, rule: Rule | None) -> str:
    if event.kind == EventKind.FAILURE:
        return Failure(event.failure).name.lower().replace("_", " ")
    return "threat feed" if is_feed(rule) else "policy"


def _verdict(action: str, proto: int) -> Record:
    if action != "reject":
        return {"action": action}
    return {"action": "drop", "reject": ["tcp-reset" if proto == 6 else "icmp-prohib"], "reject-target": "to_client"}


def _signature(event: InspectionEvent) -> Record:
    fields = event.fields
    return {
        "gid": fields.get("gid", 1),
        "signature_id": fields.get("sid", 0),
        "rev": fields.get("rev", 0),
        "signature": event.reason,
        "category": fields.get("category", ""),
        "severity": fields.get("severity", 3),
    }


def _feed_finding(event: InspectionEvent) -> Record:
    """What an inspector found: which entry it is, of which feeds, since when."""
    fields = event.fields
    alert = _feed_alert(event.reason, str(fields.get("name", "")), str(fields.get("source", "")))
    alert["metadata"]["feed"] += fields.get("also", ())
    for key in ("entry", "since"):
        if fields.get(key):
            alert["metadata"][key] = [str(fields[key])]
    return alert


def _feed_alert(feed: str, entry: str, source: str) -> Record:
    """source: where the entry was seen: address, dns.query, tls.sni, http.host, http.url, tls.ja3, tls.ja4,
    tls.certificate."""
    return {
        "gid": 1,
        "signature_id": 0,
        "rev": 0,
        "signature": f"threat feed {feed}: {entry}",
        "category": "threat feed",
        "severity": 1,
        "metadata": {"feed": [feed], "source": [source]},
    }
