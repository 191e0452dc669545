# SPDX-License-Identifier: Apache-2.0
import ipaddress
import json
from dataclasses import dataclass, field, replace
from datetime import UTC
from typing import Any

import pytest

from appliance.events.community_id import community_id
from appliance.events.eve import flow_records, inspection_records, stats_record
from appliance.events.names import Names, rule_text
from fastpath.layout import NONE, EventFlag, EventKind, Failure, Verdict

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


SOURCE, TARGET = ipaddress.ip_address("10.0.0.1"), ipaddress.ip_address("10.0.0.2")


@dataclass(frozen=True)
class FlowEvent:
    time: int = 1_767_225_600_123_456_789
    flow: int = 1 << 60 | 77
    src: Address = SOURCE
    dst: Address = TARGET
    sport: int = 40000
    dport: int = 443
    proto: int = 6
    family: int = 4
    hook: int = 2
    kind: int = EventKind.FLOW
    iif: int = 3
    oif: int = 4
    src_identity: int = 1
    dst_identity: int = 0
    rule: int = 0
    staged_rule: int = 0
    length: int = 60
    uid: int = NONE
    verdict: int = Verdict.ALLOW
    staged_verdict: int = Verdict.ALLOW
    failure: int = 0
    generation: int = 5
    flags: int = 0
    icmp_type: int = 0
    icmp_code: int = 0
    slow_queue: int = 0


@dataclass(frozen=True)
class Rule:
    tier: str = "default"
    policy: str = "web"
    kind: str = "GlobalNetworkPolicy"
    rule_index: int = 2
    action: str = "Allow"


@dataclass(frozen=True)
class Identity:
    name: str
    feeds: tuple[str, ...] = ()


@dataclass(frozen=True)
class Inspected:
    kind: str
    time: float = 1_767_225_600.5
    flow: int = 9
    family: int = 4
    protocol: int = 6
    src: bytes = b"\x0a\0\0\1"
    dst: bytes = b"\x0a\0\0\2"
    sport: int = 40000
    dport: int = 80
    app: str = "http"
    action: str = ""
    reason: str = ""
    observed: bool = False
    fields: dict[str, Any] = field(default_factory=dict)


NAMES = Names(
    [Rule(), Rule(policy="bad-hosts", kind="ThreatFeed")], [Identity("world"), Identity("web-1")], {3: "eth0"}
)


def records(event: FlowEvent) -> list[dict[str, Any]]:
    found = flow_records(event, NAMES, zone=UTC)
    json.dumps(found)
    return found


def test_of_endpoints_that_share_an_identity_the_one_with_the_address_is_named() -> None:
    owners = {bytes(10) + b"\xff\xff\x0a\0\0\1": "shop/web-7", bytes(10) + b"\xff\xff\x0a\0\0\2": "shop/db-1"}
    names = Names([Rule()], [Identity("world"), Identity("shop/web-1")], {}, {}, owners)
    one, two = ipaddress.ip_address("10.0.0.1"), ipaddress.ip_address("10.0.0.9")
    assert names.identity(1, one) == "shop/web-7" and names.identity(1, two) == "shop/web-1"
    assert names.identity(0, one) == "", "a source that does not count as the endpoint"
    assert names.identity(7, one) == ""


def test_allowed_flow() -> None:
    (record,) = records(FlowEvent())
    assert record["timestamp"] == "2026-01-01T00:00:00.123456+0000"
    assert record["event_type"] == "flow"
    assert (record["src_ip"], record["src_port"], record["dest_ip"], record["dest_port"], record["proto"]) == (
        "10.0.0.1",
        40000,
        "10.0.0.2",
        443,
        "TCP",
    )
    assert record["in_iface"] == "eth0"
    assert record["flow_id"] == 77
    assert record["verdict"] == {"action": "pass"}
    assert record["flow"]["bytes_toserver"] == 60
    assert record["portcullis"] == {
        "verdict": "allow",
        "hook": "forward",
        "generation": 5,
        "kind": "flow",
        "observed": False,
        "src_identity": "web-1",
        "dest_identity": "",
        "tier": "default",
        "policy": "web",
        "policy_kind": "GlobalNetworkPolicy",
        "rule": 2,
        "out_iface": "4",
    }


@pytest.mark.parametrize(
    ("rule", "verdict", "reason", "expected"),
    [
        (0, Verdict.DROP, "policy", {"action": "drop"}),
        (1, Verdict.DROP, "threat feed", {"action": "drop"}),
        (0, Verdict.REJECT, "policy", {"action": "drop", "reject": ["tcp-reset"], "reject-target": "to_client"}),
    ],
)
def test_denied_flow_is_a_flow_and_a_drop(rule: int, verdict: Verdict, reason: str, expected: dict[str, Any]) -> None:
    flow, drop = records(FlowEvent(rule=rule, verdict=verdict, staged_verdict=verdict, staged_rule=rule))
    assert (flow["event_type"], drop["event_type"]) == ("flow", "drop")
    assert drop["drop"]["reason"] == reason
    assert drop["verdict"] == expected


def test_observed_denial_drops_nothing() -> None:
    (flow,) = records(FlowEvent(verdict=Verdict.DROP, flags=EventFlag.OBSERVED))
    assert flow["verdict"] == {"action": "pass"}
    assert (flow["portcullis"]["verdict"], flow["portcullis"]["observed"]) == ("drop", True)


def test_the_user_of_a_local_socket_is_in_the_record() -> None:
    uid = 0
    (record,) = records(FlowEvent(uid=uid))
    assert record["portcullis"]["uid"] == uid
    assert record["portcullis"]["user"] == "root"
    (record,) = records(FlowEvent(uid=4_000_000_000))
    assert record["portcullis"]["uid"] == 4_000_000_000
    assert "user" not in record["portcullis"]
    (record,) = records(FlowEvent(uid=NONE))
    assert "uid" not in record["portcullis"]


def test_failure_names_itself() -> None:
    (drop,) = records(
        FlowEvent(kind=EventKind.FAILURE, failure=Failure.SPOOFED_SOURCE, verdict=Verdict.DROP, rule=NONE)
    )
    assert drop["drop"]["reason"] == "spoofed source"
    assert drop["portcullis"]["failure"] == "spoofed_source"


def test_staged_decision_that_differs_is_told() -> None:
    (flow,) = records(FlowEvent(staged_verdict=Verdict.DROP, staged_rule=1))
    assert flow["portcullis"]["staged"] == {
        "verdict": "drop",
        "tier": "default",
        "policy": "bad-hosts",
        "policy_kind": "ThreatFeed",
        "rule": 2,
    }


def test_icmp_has_type_and_code_instead_of_ports() -> None:
    (flow,) = records(FlowEvent(proto=1, icmp_type=8, sport=123, dport=0))
    assert (flow["icmp_type"], flow["icmp_code"]) == (8, 0)
    assert "src_port" not in flow


def test_signature_that_drops_is_alert_and_drop() -> None:
    event = Inspected("alert", action="drop", reason="bad thing", fields={"sid": 7, "rev": 2, "severity": 1})
    alert, drop = inspection_records(event, zone=UTC)
    assert alert["alert"] == {
        "gid": 1,
        "signature_id": 7,
        "rev": 2,
        "signature": "bad thing",
        "category": "",
        "severity": 1,
        "action": "blocked",
    }
    assert (drop["event_type"], drop["drop"]["reason"]) == ("drop", "rules")
    (observed,) = inspection_records(replace(event, observed=True), zone=UTC)
    assert (observed["alert"]["action"], observed["verdict"]) == ("allowed", {"action": "alert"})


def test_application_records_and_feed_hits() -> None:
    (http,) = inspection_records(Inspected("http", fields={"hostname": "a.example"}), zone=UTC)
    assert (http["http"], http["app_proto"]) == ({"hostname": "a.example"}, "http")
    feed = Inspected("feed", action="alert", reason="list", fields={"name": "evil.example", "source": "tls.sni"})
    (alert,) = inspection_records(feed, zone=UTC)
    assert alert["alert"]["signature"] == "threat feed list: evil.example"
    assert inspection_records(Inspected("fate", action="allow", reason="encrypted")) == []
    assert inspection_records(replace(feed, kind="saved", action="allow")) == []


def test_a_finding_says_which_entry_of_which_feeds_since_when() -> None:
    fields = {"name": "a.evil.example", "entry": "evil.example", "source": "dns.query", "since": "2026-01-02",
              "also": ["other"]}  # fmt: skip
    (alert, _) = inspection_records(Inspected("feed", action="drop", reason="list", fields=fields), zone=UTC)
    assert alert["alert"]["metadata"] == {
        "feed": ["list", "other"], "source": ["dns.query"], "entry": ["evil.example"], "since": ["2026-01-02"]
    }  # fmt: skip


def test_a_denied_request_is_a_drop_that_names_the_rule() -> None:
    fields = {"tier": "default", "policy": "web", "rule": 1, "http_method": "POST", "url": "/admin"}
    event = Inspected("policy", action="reject", reason="default/web[1]", fields=fields)
    (drop,) = inspection_records(event, zone=UTC)
    assert (drop["event_type"], drop["drop"]["reason"]) == ("drop", "policy")
    assert (drop["portcullis"]["policy"], drop["portcullis"]["url"]) == ("web", "/admin")
    (observed,) = inspection_records(replace(event, observed=True), zone=UTC)
    assert (observed["event_type"], observed["verdict"]) == ("flow", {"action": "pass"})
    assert observed["portcullis"]["action"] == "reject"


def test_stats_keep_their_tree() -> None:
    assert stats_record(0, {"uptime": 3}, zone=UTC)["stats"] == {"uptime": 3}


@pytest.mark.parametrize(
    ("src", "dst", "proto", "sport", "dport", "expected"),
    [  # examples of the specification
        ("128.232.110.120", "66.35.250.204", 6, 34855, 80, "1:LQU9qZlK+B5F3KDmev6m5PMibrg="),
        ("66.35.250.204", "128.232.110.120", 6, 80, 34855, "1:LQU9qZlK+B5F3KDmev6m5PMibrg="),
        ("192.168.1.52", "8.8.8.8", 17, 54585, 53, "1:d/FP5EW3wiY1vCndhwleRRKHowQ="),
        ("192.168.0.89", "192.168.0.1", 1, 8, 0, "1:X0snYXpgwiv9TZtqg64sgzUn6Dk="),
        ("192.168.0.1", "192.168.0.89", 1, 0, 0, "1:X0snYXpgwiv9TZtqg64sgzUn6Dk="),
    ],
)
def test_community_id(src: str, dst: str, proto: int, sport: int, dport: int, expected: str) -> None:
    assert community_id(ipaddress.ip_address(src), ipaddress.ip_address(dst), proto, sport, dport) == expected


def test_rule_texts() -> None:
    assert rule_text(Rule()) == "default/web[2]"
    assert rule_text(Rule(rule_index=-1)) == "default (end of tier)"
    assert rule_text(Rule(tier="__FEED__", policy="bad-hosts", kind="ThreatFeed")) == "feed bad-hosts"
    assert rule_text(Rule(tier="__PROFILE__", policy="kns", kind="Profile", rule_index=0)) == "profile kns[0]"
    assert rule_text(Rule(tier="__PROFILE__", policy="", kind="Profile", rule_index=-1)) == "no profile"
    assert rule_text(None) == "no policy applies"


def test_address_in_a_feed_is_an_alert_in_the_direction_of_the_feed() -> None:
    identities = [Identity("world"), Identity("listed", ("a", "b"))]
    names = Names([Rule()], identities, {}, {"a": "source", "b": "destination"})
    flow, alert = flow_records(FlowEvent(), names, zone=UTC)
    assert (alert["event_type"], alert["alert"]["signature"]) == ("alert", "threat feed a: 10.0.0.1")
    assert (alert["alert"]["action"], alert["verdict"], flow["event_type"]) == ("allowed", {"action": "alert"}, "flow")
    denied = FlowEvent(src_identity=0, dst_identity=1, verdict=Verdict.DROP, staged_verdict=Verdict.DROP)
    _, alert, drop = flow_records(denied, names, zone=UTC)
    assert (alert["alert"]["signature"], alert["alert"]["action"]) == ("threat feed b: 10.0.0.2", "blocked")
    assert drop["event_type"] == "drop"
