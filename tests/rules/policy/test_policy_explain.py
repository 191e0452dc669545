# SPDX-License-Identifier: Apache-2.0
"""Questions about the hooks of a node: replies, host endpoints without an interface, failsafes."""

import json
from typing import Any

from rules.policy import CompileOptions, load_documents
from rules.policy.explain import DirectoryExplainer

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
