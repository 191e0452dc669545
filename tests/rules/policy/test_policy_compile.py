# SPDX-License-Identifier: Apache-2.0
"""The compiler: identities, chains, feeds, host endpoints, actions; answered by the C engine."""

import ipaddress
import textwrap
from typing import Any

import pytest

from fastpath import IdentityMap, Policy, Query
from fastpath.layout import NONE, Hook, Verdict
from rules.policy import CompileOptions, FeedPrefixes, Program, compile_policy, load_documents
from rules.policy.explain import DirectoryExplainer, QuestionError
from rules.policy.names import name_matches

BASE = """
kind: WorkloadEndpoint
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {node: n1, interfaceName: cali1, ipNetworks: [10.1.0.1/32, fd00::1/128], profiles: [open],
       ports: [{name: http, protocol: TCP, port: 8080}]}
---
kind: WorkloadEndpoint
metadata: {name: db, namespace: shop, labels: {app: db}}
spec: {node: n2, interfaceName: cali2, ipNetworks: [10.1.0.2/32], profiles: [open]}
---
kind: Profile
metadata: {name: open}
spec: {ingress: [{action: Allow}], egress: [{action: Allow}]}
"""


def resources(text: str) -> Any:
    pieces = []
    for piece in textwrap.dedent(text).split("---"):
        kind = piece.partition("kind:")[2].split()[0]
        api = {"Namespace": "v1", "EndpointSlice": "discovery.k8s.io/v1"}.get(kind, "projectcalico.org/v3")
        pieces.append(f"apiVersion: {api}\n{piece}")
    result = load_documents("---\n".join(pieces), "f.yaml")
    assert [str(error) for error in result.errors] == []
    return result.resources


class Compiled:
    def __init__(self, text: str, **options: Any) -> None:
        options.setdefault("node", "n1")
        self.program: Program = compile_policy(resources(text), CompileOptions(**options))
        self.policy = Policy(self.program.tables)
        self.identities = IdentityMap.build(self.program.entries)

    def identity(self, address: str) -> int:
        return self.identities.lookup(ipaddress.ip_address(address))[0]

    def ask(self, src: str, dst: str, **more: int) -> Any:
        return self.policy.decide(Query(self.identity(src), self.identity(dst), family=6 if ":" in src else 4, **more))


def policy(rules: str, name: str = "p", annotations: str = "", direction: str = "ingress") -> str:
    return f"""
---
kind: GlobalNetworkPolicy
metadata: {{name: {name}, annotations: {{{annotations}}}}}
spec:
  selector: app == 'web'
  {direction}: {rules}
"""


def test_the_world_is_identity_zero_and_equal_facts_share_an_identity() -> None:
    text = (
        BASE
        + """
---
kind: GlobalNetworkSet
metadata: {name: bad, labels: {list: bad}}
spec: {nets: [192.0.2.0/24, 198.51.100.7, 2001:db8::/32]}
"""
        + policy("[{action: Deny, source: {selector: list == 'bad'}}, {action: Allow}]")
    )
    c = Compiled(text)
    assert c.identity("8.8.8.8") == 0 == c.identity("::1")
    assert c.program.identities[0].kind == "world"
    assert c.identity("192.0.2.9") == c.identity("198.51.100.7") == c.identity("2001:db8::5") != 0
    assert c.program.identities[c.identity("192.0.2.9")].name == "bad"
    assert c.ask("192.0.2.9", "10.1.0.1").verdict is Verdict.DROP
    assert c.ask("2001:db8::1", "fd00::1").verdict is Verdict.DROP
    assert c.ask("8.8.8.8", "10.1.0.1").verdict is Verdict.ALLOW


@pytest.mark.parametrize("entity", ["notNets: [192.0.2.0/24]", "notSelector: list == 'bad'"])
def test_negations_alone_match_the_world(entity: str) -> None:
    c = Compiled(BASE + policy(f"[{{action: Allow, source: {{{entity}}}}}]"))
    assert c.ask("8.8.8.8", "10.1.0.1").verdict is Verdict.ALLOW


def test_an_ipv6_network_that_covers_mapped_addresses_says_nothing_of_ipv4() -> None:
    c = Compiled(BASE + policy("[{action: Deny, source: {nets: ['::/0']}}, {action: Allow}]"))
    assert c.ask("8.8.8.8", "10.1.0.1").verdict is Verdict.ALLOW
    assert c.ask("2001:db8::1", "fd00::1").verdict is Verdict.DROP


def test_every_prefix_has_one_entry() -> None:
    rules = "[{action: Deny, source: {nets: ['::/0']}}, {action: Allow, source: {nets: [0.0.0.0/0]}}]"
    entries = Compiled(BASE + policy(rules)).program.entries
    prefixes = [(address, length) for address, length, _, _ in entries]
    assert {len(address) for address, _ in prefixes} == {16}
    assert len(set(prefixes)) == len(prefixes)


def test_only_endpoints_of_this_node_are_governed_in_scope_node() -> None:
    text = BASE + policy("[{action: Deny}]") + policy("[{action: Deny}]", "d").replace("app == 'web'", "app == 'db'")
    node, gateway = Compiled(text), Compiled(text, scope="gateway")
    assert node.ask("8.8.8.8", "10.1.0.1").governed
    assert not node.ask("8.8.8.8", "10.1.0.2").governed
    assert gateway.ask("8.8.8.8", "10.1.0.2").verdict is Verdict.DROP


def test_a_local_endpoints_address_belongs_to_its_interface() -> None:
    c = Compiled(BASE, interfaces={"cali1": 7, "cali2": 8})
    assert c.identities.lookup(ipaddress.ip_address("10.1.0.1"))[1] == 7
    assert c.identities.lookup(ipaddress.ip_address("10.1.0.2"))[1] == 0


@pytest.mark.parametrize(
    ("annotation", "default", "verdict"),
    [("", "drop", Verdict.DROP), ("", "reject", Verdict.REJECT),
     ("portcullis.dev/deny-action: reject", "drop", Verdict.REJECT),
     ("portcullis.dev/deny-action: drop", "reject", Verdict.DROP)],
)  # fmt: skip
def test_deny_actions(annotation: str, default: str, verdict: Verdict) -> None:
    c = Compiled(BASE + policy("[{action: Deny}]", annotations=annotation), deny_action=default)
    assert c.ask("8.8.8.8", "10.1.0.1").verdict is verdict


def test_inspection_by_annotation_default_and_port() -> None:
    allow = "[{action: Allow}]"
    assert Compiled(BASE + policy(allow)).ask("8.8.8.8", "10.1.0.1", dport=80).verdict is Verdict.ALLOW
    by_annotation = Compiled(BASE + policy(allow, annotations="portcullis.dev/inspect: 'true'"))
    assert by_annotation.ask("8.8.8.8", "10.1.0.1").verdict is Verdict.INSPECT
    assert Compiled(BASE, inspect_default=True).ask("8.8.8.8", "10.1.0.1").verdict is Verdict.INSPECT
    by_port = Compiled(BASE, inspect_ports=((6, 80, 88),))
    assert by_port.ask("8.8.8.8", "10.1.0.1", dport=85).verdict is Verdict.INSPECT
    assert by_port.ask("8.8.8.8", "10.1.0.1", dport=89).verdict is Verdict.ALLOW
    assert by_port.ask("8.8.8.8", "10.1.0.1", dport=85, proto=17).verdict is Verdict.ALLOW


def test_feeds_come_before_policy() -> None:
    feeds = (
        FeedPrefixes("drop", "drop", "source", [ipaddress.ip_network("203.0.113.0/24")]),
        FeedPrefixes("reject", "reject", "both", [ipaddress.ip_network("198.51.100.1/32")]),
        FeedPrefixes("alert", "alert", "both", [ipaddress.ip_network("2001:db8:bad::/48")]),
    )
    c = Compiled(BASE + policy("[{action: Allow}]"), feeds=feeds)
    assert c.ask("203.0.113.9", "10.1.0.1").verdict is Verdict.DROP
    assert c.ask("10.1.0.1", "203.0.113.9").verdict is Verdict.ALLOW
    assert c.ask("10.1.0.1", "198.51.100.1").verdict is Verdict.REJECT
    assert c.ask("2001:db8:bad::1", "fd00::1").verdict is Verdict.ALLOW
    decision = c.ask("203.0.113.9", "10.1.0.1")
    assert (c.program.rules[decision.rule].tier, c.program.rules[decision.rule].policy) == ("__FEED__", "drop")
    assert c.program.identities[c.identity("203.0.113.9")].feeds == ("drop",)


def test_named_ports_are_those_of_the_endpoint_and_nobodys_port_matches_nothing() -> None:
    rule = "[{action: Allow, protocol: TCP, destination: {ports: [%s]}}]"
    c = Compiled(BASE + policy(rule % "http"))
    assert c.ask("8.8.8.8", "10.1.0.1", dport=8080).verdict is Verdict.ALLOW
    assert c.ask("8.8.8.8", "10.1.0.1", dport=80).verdict is Verdict.DROP
    nobody = Compiled(BASE + policy(rule % "smtp"))
    assert nobody.ask("8.8.8.8", "10.1.0.1", dport=25).verdict is Verdict.DROP


def test_services_match_address_and_port_in_egress_and_address_in_ingress() -> None:
    text = (
        BASE
        + """
---
kind: EndpointSlice
metadata: {name: s-1, namespace: shop, labels: {kubernetes.io/service-name: s}}
addressType: IPv4
endpoints: [{addresses: [192.0.2.1]}, {addresses: [192.0.2.2], conditions: {ready: false}}]
ports: [{name: x, protocol: TCP, port: 443}]
"""
    )
    service = "services: {name: s, namespace: shop}"
    egress = Compiled(
        text + policy(f"[{{action: Allow, destination: {{{service}}}}}]", direction="egress"))  # fmt: skip
    assert egress.ask("10.1.0.1", "192.0.2.1", dport=443).verdict is Verdict.ALLOW
    assert egress.ask("10.1.0.1", "192.0.2.1", dport=80).verdict is Verdict.DROP
    assert egress.ask("10.1.0.1", "192.0.2.2", dport=443).verdict is Verdict.DROP
    ingress = Compiled(text + policy(f"[{{action: Allow, source: {{{service}}}}}]"))
    assert ingress.ask("192.0.2.1", "10.1.0.1", dport=9).verdict is Verdict.ALLOW
    assert ingress.ask("192.0.2.3", "10.1.0.1", dport=9).verdict is Verdict.DROP


def test_names_count_where_dns_gave_their_addresses() -> None:
    rule = policy("[{action: Allow, destination: {domains: ['*.example.com']}}]", direction="egress")
    assert Compiled(BASE + rule).ask("10.1.0.1", "192.0.2.80").verdict is Verdict.DROP
    c = Compiled(BASE + rule, names={"www.example.com": ["192.0.2.80"], "example.com": ["192.0.2.81"]})
    assert c.ask("10.1.0.1", "192.0.2.80").verdict is Verdict.ALLOW
    assert c.ask("10.1.0.1", "192.0.2.81").verdict is Verdict.DROP
    assert c.program.domains == ("*.example.com",)


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [("*.example.com", "a.example.com.", True), ("*.example.com", "a.b.EXAMPLE.com", True),
     ("*.example.com", "example.com", False), ("*.example.com", "xexample.com", False),
     ("www.*.com", "www.a.com", True), ("example.com", "www.example.com", False)],
)  # fmt: skip
def test_wildcards_stand_for_whole_components(pattern: str, name: str, expected: bool) -> None:
    assert name_matches(pattern, name) is expected


HOST = """
---
kind: HostEndpoint
metadata: {name: h, labels: {host: 'yes'}}
spec: {node: n1, interfaceName: %s, expectedIPs: [192.0.2.10]}
---
kind: GlobalNetworkPolicy
metadata: {name: hp}
spec:
  selector: host == 'yes'
  applyOnForward: %s
  ingress: [{action: Allow, protocol: TCP, destination: {ports: [22]}}]
"""


def hooks(c: Compiled, hook: Hook, iif: int, dport: int) -> Any:
    return c.ask("8.8.8.8", "192.0.2.10" if hook is Hook.INPUT else "9.9.9.9", hook=hook, iif=iif, dport=dport)


def test_a_host_endpoint_governs_its_interface_and_forwarding_only_when_asked() -> None:
    for forward, expected in (("false", Verdict.ALLOW), ("true", Verdict.DROP)):
        c = Compiled(BASE + HOST % ("eth0", forward), interfaces={"eth0": 2, "eth1": 3})
        assert hooks(c, Hook.INPUT, 2, 22).verdict is Verdict.ALLOW
        assert hooks(c, Hook.INPUT, 2, 23).verdict is Verdict.DROP
        assert hooks(c, Hook.INPUT, 3, 23).governed is False
        assert hooks(c, Hook.FORWARD, 2, 23).verdict is expected


def test_a_host_endpoint_for_all_interfaces_leaves_what_workloads_say_to_the_host_to_their_own_policy() -> None:
    c = Compiled(BASE + HOST % ("'*'", "true"), interfaces={"eth0": 2, "cali1": 7})
    assert hooks(c, Hook.INPUT, 2, 23).verdict is Verdict.DROP
    assert c.ask("10.1.0.1", "192.0.2.10", hook=Hook.INPUT, iif=7, dport=23).verdict is Verdict.ALLOW
    assert c.ask("8.8.8.8", "10.1.0.1", hook=Hook.FORWARD, iif=2, oif=7, dport=23).verdict is Verdict.DROP


def test_a_host_endpoint_without_an_interface_is_found_by_its_addresses() -> None:
    text = BASE + HOST.replace("interfaceName: %s, ", "") % "false"
    c = Compiled(text, interfaces={"eth0": 2, "eth1": 3}, interface_addresses={"eth1": ["192.0.2.10"]})
    assert set(c.program.interface_chains) == {3}
    assert [w for w in Compiled(text).program.warnings if "expected addresses" in w.message]


def test_what_is_not_enforced_is_said() -> None:
    text = (
        BASE
        + HOST % ("eth0", "true")
        + "  doNotTrack: true\n"
        + policy("[{action: Allow, http: {methods: [GET]}}]", "web")
    )
    messages = [str(warning) for warning in Compiled(text, interfaces={"eth0": 2}, requests=False).program.warnings]
    assert not any("doNotTrack" in message for message in messages), "it is enforced"
    assert any("http" in message and message.startswith("f.yaml:") for message in messages)
    enforced = Compiled(text, interfaces={"eth0": 2}).program
    assert not any("http" in str(warning) for warning in enforced.warnings) and len(enforced.http) == 1


def test_a_log_rule_is_said_to_write_nothing_once_for_a_policy() -> None:
    warnings = Compiled(BASE + policy("[{action: Log}, {action: Log}, {action: Allow}]")).program.warnings
    assert [warning.field for warning in warnings if "Log writes nothing" in warning.message] == ["action"]


def test_a_host_endpoint_with_a_profile_that_is_not_there_is_said_to_be_closed() -> None:
    endpoint = "---\nkind: HostEndpoint\nmetadata: {name: h}\nspec: {node: n1, interfaceName: eth0, profiles: [gone]}\n"
    program = Compiled(BASE + endpoint, interfaces={"eth0": 2}).program
    assert [str(warning) for warning in program.warnings if "no profile 'gone'" in warning.message]


def test_requests_cannot_be_seen_before_connection_tracking() -> None:
    text = BASE + (HOST % ("eth0", "true")).replace("protocol: TCP,", "protocol: TCP, http: {methods: [GET]},")
    messages = [str(warning) for warning in Compiled(text + "  preDNAT: true\n").program.warnings]
    assert any("http" in message and "with doNotTrack or preDNAT" in message for message in messages)


@pytest.mark.parametrize(("proto", "verdict"), [(6, Verdict.INSPECT), (17, Verdict.DROP), (1, Verdict.DROP)])
def test_a_rule_with_http_is_for_inspected_tcp_alone(proto: int, verdict: Verdict) -> None:
    c = Compiled(BASE + policy("[{action: Allow, http: {methods: [GET]}}]", "web"))
    assert c.ask("8.8.8.8", "10.1.0.1", proto=proto).verdict is verdict


def test_chains_are_shared_between_endpoints_with_the_same_policies() -> None:
    text = BASE.replace("node: n2", "node: n1").replace("app: db", "app: web")
    endpoints = Compiled(text).program.endpoints
    assert endpoints["shop/web"].ingress == endpoints["shop/db"].ingress != NONE


def test_a_staged_policy_that_deletes_takes_the_enforced_one_out_of_the_pending_view() -> None:
    text = (
        BASE
        + policy("[{action: Deny}]")
        + """
---
kind: StagedGlobalNetworkPolicy
metadata: {name: p}
spec: {stagedAction: Delete}
"""
    )
    decision = Compiled(text).ask("8.8.8.8", "10.1.0.1")
    assert decision.verdict is Verdict.DROP
    assert decision.staged_verdict is Verdict.ALLOW


def test_a_tier_that_does_not_exist_is_asked_last_and_ends_in_deny() -> None:
    in_tier = policy("[{action: Allow, protocol: UDP}]", "q").replace("spec:", "spec:\n  tier: gone")
    c = Compiled(BASE + policy("[{action: Pass, protocol: TCP}, {action: Deny}]") + in_tier)
    decision = c.ask("8.8.8.8", "10.1.0.1")
    assert decision.verdict is Verdict.DROP
    assert c.program.rules[decision.rule].tier == "gone"
    assert c.program.rules[decision.rule].rule_index == -1


@pytest.mark.parametrize(
    ("question", "field"),
    [({"src": "x", "dst": "1.1.1.1", "proto": 6}, "src"), ({"src": "1.1.1.1", "dst": "1.1.1.1"}, "proto"),
     ({"src": "1.1.1.1", "dst": "::1", "proto": "tcp"}, "dst"), ({"src": "1.1.1.1", "proto": 6}, "dst"),
     ({"endpoint": "shop/no", "direction": "ingress", "proto": 6}, "endpoint"),
     ({"endpoint": "shop/web", "proto": 6}, "direction"), ({"path": "input", "proto": 6}, "node"),
     ({"src": "1.1.1.1", "dst": "1.1.1.2", "proto": 6, "dport": 70000}, "dport")],
)  # fmt: skip
def test_questions_that_make_no_sense_name_the_field(question: dict[str, Any], field: str) -> None:
    explainer = DirectoryExplainer(resources(BASE), CompileOptions())
    with pytest.raises(QuestionError) as caught:
        explainer.answer(question)
    assert caught.value.field == field


def test_an_answer_traces_log_and_pass_and_the_deciding_rule() -> None:
    explainer = DirectoryExplainer(
        resources(BASE + policy("[{action: Log}, {action: Pass, protocol: TCP}, {action: Deny}]")), CompileOptions()
    )
    answer = explainer.answer({"src": "8.8.8.8", "dst": "10.1.0.1", "proto": "tcp", "dport": 80})
    assert answer.verdict == answer.staged == "allow"
    assert [(s["tier"], s["policy"], s["rule"], s["action"]) for s in answer.trace] == [
        ("default", "p", 0, "log"), ("default", "p", 1, "pass"), ("__PROFILE__", "open", 0, "allow")]  # fmt: skip


def test_tiers_and_profiles_that_do_not_exist_are_said() -> None:
    text = BASE.replace("profiles: [open]}\n---\nkind: Profile", "profiles: [gone]}\n---\nkind: Profile") + policy(
        "[{action: Allow}]"
    ).replace("spec:", "spec:\n  tier: nowhere")
    messages = [str(warning) for warning in Compiled(text).program.warnings]
    assert any("no tier 'nowhere'" in message for message in messages)
    assert any("shop/db: no profile 'gone'" in message for message in messages)


SERVED = """---
kind: EndpointSlice
metadata: {name: one, namespace: shop, labels: {kubernetes.io/service-name: db}}
addressType: IPv4
endpoints: []
ports: []
"""



def test_a_service_that_nobody_described_is_said_once() -> None:
    rules = "[{action: Allow, destination: {services: {name: db, namespace: shop}}}]"
    text = BASE + policy(f"{rules[:-1]}, {rules[1:]}").replace("ingress:", "egress:")
    found = [warning for warning in Compiled(text).program.warnings if "shop/db: matches nothing" in warning.message]
    assert [warning.field for warning in found] == ["destination.services"]
    assert not [warning for warning in Compiled(text + SERVED).program.warnings if "matches nothing" in str(warning)]
