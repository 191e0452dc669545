# SPDX-License-Identifier: Apache-2.0
"""Questions about the hooks of a node: replies, host endpoints without an interface, failsafes."""

import json
from typing import Any

import pytest

from rules.policy import CompileOptions, load_documents
from rules.policy.explain import DirectoryExplainer
from rules.policy.questions import QuestionError

Doc = dict[str, Any]


def resource(kind: str, name: str, spec: Doc, labels: Doc | None = None) -> Doc:
    metadata = {"name": name, "labels": labels or {}}
    return {"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": metadata, "spec": spec}


def host(labels: Doc | None = None, name: str = "h", **spec: Any) -> Doc:
    return resource("HostEndpoint", name, {"node": "n", **spec}, labels or {"h": "1"})


def policy(name: str = "p", **spec: Any) -> Doc:
    return resource("GlobalNetworkPolicy", name, {"selector": "h == '1'", **spec})


WORKLOAD = resource(
    "WorkloadEndpoint", "w",
    {"node": "n", "interfaceName": "cali1", "ipNetworks": ["10.0.0.1/32"], "profiles": ["projectcalico-default-allow"]},
    {"a": "b"},
)  # fmt: skip
ALLOW, DENY = {"action": "Allow"}, {"action": "Deny"}


class Asked:
    def __init__(self, *resources: Doc) -> None:
        loaded = load_documents(json.dumps(resources), "f")
        assert loaded.errors == ()
        self.explainer = DirectoryExplainer(loaded.resources, CompileOptions(), "n")

    def __call__(self, path: str, **more: Any) -> str:
        question = {"src": "192.0.2.9", "dst": "192.0.2.1", "proto": "tcp", "sport": 40000, "dport": 80, "path": path}
        if path == "output":
            question |= {"src": "192.0.2.1", "dst": "192.0.2.9"}
        question["oif" if path == "output" else "iif"] = "eth0"
        return self.explainer.answer(question | more).verdict


def test_the_reply_of_a_flow_that_was_allowed_passes() -> None:
    rule = {**ALLOW, "protocol": "TCP"}
    asked = Asked(host(interfaceName="eth0"), policy(ingress=[rule], types=["Ingress", "Egress"]))
    assert asked("output", sport=80, dport=40000) == "deny"
    assert asked("output", sport=80, dport=40000, reply=True) == "allow"
    assert asked("output", proto="udp", sport=80, dport=40000, reply=True) == "deny"
    assert asked("output", sport=22, dport=40000, reply=True) == "allow"  # a failsafe let the first packet in


def test_the_reply_of_an_echo_is_its_request_answered() -> None:
    rule = {**ALLOW, "protocol": "ICMP", "icmp": {"type": 8}}
    asked = Asked(host(interfaceName="eth0"), policy(ingress=[rule]))
    assert asked("output", proto="icmp", icmpType=0, reply=True) == "allow"
    assert asked("output", proto="icmp", icmpType=0) == "deny"


def test_what_was_not_tracked_has_no_replies() -> None:
    untracked = {"doNotTrack": True, "applyOnForward": True}
    asked = Asked(host(interfaceName="eth0"), policy(ingress=[ALLOW], **untracked))
    assert asked("input") == "allow"
    assert asked("output", sport=80, dport=40000, reply=True) == "deny"
    both = Asked(host(interfaceName="eth0"), policy(ingress=[ALLOW], egress=[ALLOW], **untracked))
    assert both("output", sport=80, dport=40000, reply=True) == "allow"


def test_untracked_policy_is_asked_about_replies_first() -> None:
    asked = Asked(
        host(interfaceName="eth0"), policy("a", ingress=[ALLOW]),
        policy("b", egress=[DENY], doNotTrack=True, applyOnForward=True),
    )  # fmt: skip
    assert asked("input") == "allow"
    assert asked("output", sport=80, dport=40000, reply=True) == "deny"


def test_a_host_endpoint_without_an_interface_is_the_one_with_its_address() -> None:
    other = host({"h": "2"}, "g", expectedIPs=["192.0.2.2"], profiles=["projectcalico-default-allow"])
    asked = Asked(host(expectedIPs=["192.0.2.1", "2001:DB8::1"]), other)
    assert asked("input") == asked("output") == "deny"
    assert asked("input", dport=22) == "allow"
    assert asked("input", dst="192.0.2.2", iif="eth1") == "allow"
    assert asked("input", src="2001:db8::9", dst="2001:db8::1") == "deny"
    assert asked("input", dst="192.0.2.3") == "allow"  # nobody knows whose interface that is
    assert asked("input", iif="lo") == "allow"


def test_a_host_endpoint_without_an_interface_on_the_way_through() -> None:
    asked = Asked(host(expectedIPs=["192.0.2.1"]), WORKLOAD, policy(ingress=[DENY], applyOnForward=True))
    through = {"dst": "10.0.0.1"}
    assert asked("forward", **through, oif="cali1") == "deny"
    assert asked("forward", **through, oif="eth1") == "allow"  # which of the two interfaces it is nobody knows
    assert asked("forward", **through, oif="eth1", preDNATDst="192.0.2.1") == "deny"


def test_failsafes_are_of_host_endpoints_not_of_workloads() -> None:
    egress = resource("GlobalNetworkPolicy", "e", {"selector": "a == 'b'", "egress": [DENY]})
    asked = Asked(host(interfaceName="*"), WORKLOAD, egress)
    assert asked("input", dport=22) == "allow"
    assert asked("input", src="10.0.0.1", iif="cali1", dport=22) == "deny"


def test_what_is_said_over_loopback_is_left_alone() -> None:
    asked = Asked(host(interfaceName="*"), policy(ingress=[DENY], doNotTrack=True, applyOnForward=True))
    assert asked("input", iif="lo") == asked("output", oif="lo") == "allow"
    assert asked("input") == asked("output", iif="lo") == "deny"


def test_a_reply_left_open_is_none() -> None:
    asked = Asked(host(interfaceName="eth0"), policy(ingress=[ALLOW], egress=[DENY]))
    assert asked("output", sport=80, dport=40000, reply=None) == "deny"


# -- requests ---------------------------------------------------------------------------------------------------------

GET = {**ALLOW, "protocol": "TCP", "http": {"methods": ["GET"], "paths": [{"prefix": "/a"}]}}


@pytest.mark.parametrize(
    ("request_", "verdict"),
    [({}, "allow"), ({"httpMethod": "GET", "httpPath": "/a/b?c=d"}, "allow"), ({"httpPath": "/a"}, "allow"),
     ({"httpMethod": "POST", "httpPath": "/a"}, "deny"), ({"httpMethod": "get", "httpPath": "/a"}, "deny"),
     ({"httpMethod": "GET"}, "deny"), ({"httpPath": "/ab"}, "deny"), ({"httpPath": "/x/../a"}, "allow"),
     ({"httpPath": "/a/%252e"}, "deny"), ({"httpMethod": None, "httpPath": None}, "allow")],
)  # fmt: skip
def test_a_request_is_held_against_rules_with_http(request_: Doc, verdict: str) -> None:
    asked = Asked(host(interfaceName="eth0", profiles=[]), policy(ingress=[GET]))
    assert asked("input", **request_) == verdict
    alone = asked.explainer.answer({"endpoint": "h", "direction": "ingress", "proto": 6, "dport": 80} | request_)
    assert alone.verdict == verdict


def test_a_request_goes_on_where_a_rule_with_http_does_not_mean_it() -> None:
    asked = Asked(host(interfaceName="eth0"), policy(ingress=[GET, {**ALLOW, "http": {"methods": ["PUT"]}}]))
    question = {"src": "192.0.2.9", "dst": "192.0.2.1", "proto": "tcp", "dport": 80, "path": "input", "iif": "eth0"}
    answer = asked.explainer.answer(question | {"httpMethod": "PUT", "httpPath": "/b"})
    assert [(step["rule"], step["action"]) for step in answer.trace] == [(1, "allow")]


def test_no_request_is_seen_before_connection_tracking() -> None:
    asked = Asked(
        host(interfaceName="eth0"), policy(ingress=[GET], doNotTrack=True, applyOnForward=True), policy("q")
    )
    assert asked("input", httpMethod="POST") == "allow"


def test_without_inspectors_every_request_is_allowed() -> None:
    loaded = load_documents(json.dumps([host(interfaceName="eth0"), policy(ingress=[GET])]), "f")
    explainer = DirectoryExplainer(loaded.resources, CompileOptions(requests=False), "n")
    question = {"endpoint": "h", "direction": "ingress", "proto": 6, "dport": 80, "httpMethod": "POST"}
    assert explainer.answer(question).verdict == "allow"


@pytest.mark.parametrize(
    ("question", "field"),
    [({"proto": 17, "httpMethod": "GET"}, "httpMethod"), ({"proto": 17, "httpPath": "/"}, "httpPath"),
     ({"httpMethod": ""}, "httpMethod"), ({"httpPath": "a"}, "httpPath"), ({"httpPath": 5}, "httpPath")],
)  # fmt: skip
def test_a_request_that_makes_no_sense_is_refused(question: Doc, field: str) -> None:
    with pytest.raises(QuestionError) as caught:
        Asked(host(interfaceName="eth0"))("input", **question)
    assert caught.value.field == field
