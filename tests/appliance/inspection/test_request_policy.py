# SPDX-License-Identifier: Apache-2.0
"""Rules with http, from the documents to the verdicts of an inspector."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.inspection.inspector import Inspector
from appliance.inspection.messages import InspectionEvent, InspectionRuleset, InspectorSettings, SignatureSource
from appliance.inspection.packets import Packet
from appliance.inspection.protocols.http_framing import path_of
from appliance.inspection.requests import Place, request_policy
from appliance.inspection.ruleset import compile_ruleset
from appliance.inspection.verdicts import VerdictKind
from fastpath import IdentityMap, Policy, Query
from fastpath.layout import Verdict
from rules.policy import CompileOptions, Program, compile_policy, load_documents

ENDPOINTS = """
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {name: client, namespace: lab, labels: {role: client}}
spec: {node: n, interfaceName: cli0, ipNetworks: [10.0.0.1/32]}
---
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {name: server, namespace: lab, labels: {role: server}}
spec: {node: n, interfaceName: srv0, ipNetworks: [10.0.0.2/32]}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: clients}
spec: {selector: role == 'client', types: [Egress], egress: [{action: Allow}]}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: server%s}
spec:
  selector: role == 'server'
  ingress: %s
"""
PUBLIC = """
    - {action: Allow, protocol: TCP, destination: {ports: [80]}, http: {methods: [GET], paths: [{prefix: /public}]}}
    - {action: Allow, source: {selector: role == 'client'}, http: {methods: [HEAD, CONNECT]}}
    - {action: Allow, source: {nets: [192.0.2.0/24]}, http: {methods: [POST]}}
"""
OPTIONS = CompileOptions(node="n", interfaces={"cli0": 2, "srv0": 3})
FORWARD = Place(2, 2, 3)
GO_ON, DROP, REJECT, DROP_PACKET = VerdictKind.GO_ON, VerdictKind.DROP, VerdictKind.REJECT, VerdictKind.DROP_PACKET
ACK, SYN = 0x10, 0x02
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


def program(rules: str = PUBLIC, annotations: str = "", more: str = "") -> Program:
    loaded = load_documents(ENDPOINTS % (annotations, rules) + more, "p.yaml")
    assert not loaded.errors, loaded.errors
    return compile_policy(loaded.resources, OPTIONS)


def ruleset(made: Program | None, generation: int = 3, version: int = 1, *, observe: bool = False) -> InspectionRuleset:
    requests = request_policy(made) if made is not None else None
    return InspectionRuleset(version=version, generation=generation, requests=requests, observe=observe)


class Flow:
    """A TCP connection from the client to the server through an inspector."""

    def __init__(self, first: InspectionRuleset, inspector: Inspector | None = None, dport: int = 80, **more: int):
        self.inspector = inspector or Inspector(InspectorSettings(**more), compile_ruleset(first))  # type: ignore[arg-type]
        self.generation, self.dport = 3, dport
        self.seq = [1000, 5000]
        self.events: list[InspectionEvent] = []
        self.send(b"", flags=SYN)
        self.send(b"", reply=True, flags=SYN | ACK)

    def send(self, payload: bytes, *, reply: bool = False, flags: int = ACK, again: bool = False) -> VerdictKind:
        side = int(reply)
        ends = (b"\x0a\0\0\1", b"\x0a\0\0\2")
        if not again:
            self.seq[side] += len(payload) + bool(flags & SYN)
        number = self.seq[side] - len(payload) - bool(flags & SYN)
        ports = (self.dport, 4000) if reply else (4000, self.dport)
        tcp = struct.pack("!HHIIBBHHH", *ports, number, self.seq[1 - side], 0x50, flags, 1000, 0, 0) + payload
        ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(tcp), 0, 0, 64, 6, 0) + ends[side] + ends[1 - side]
        place = Place(2, FORWARD.oif, FORWARD.iif) if reply else FORWARD
        verdict = self.inspector.packet(ip + tcp, reply=reply, generation=self.generation, now=1.0, place=place)
        self.events += verdict.events
        return verdict.kind

    def answer(self, payload: bytes = OK) -> VerdictKind:
        return self.send(payload, reply=True)

    def denials(self) -> list[InspectionEvent]:
        return [event for event in self.events if event.kind == "policy"]


def request(method: str, target: str, body: str = "") -> bytes:
    length = f"Content-Length: {len(body)}\r\n" if body else ""
    return f"{method} {target} HTTP/1.1\r\nHost: a\r\n{length}\r\n{body}".encode()


def test_the_fastpath_lets_the_flow_through_to_an_inspector() -> None:
    made = program()
    identities, policy = IdentityMap.build(made.entries), Policy(made.tables)
    client, server = (identities.lookup(b"\0" * 10 + b"\xff\xff\x0a\0\0" + end)[0] for end in (b"\1", b"\2"))
    assert policy.decide(Query(client, server, dport=80)).verdict is Verdict.INSPECT
    assert policy.decide(Query(client, server, dport=80, proto=17)).verdict is Verdict.DROP


@pytest.mark.parametrize(
    ("method", "target", "expected"),
    [
        ("GET", "/public", GO_ON),
        ("GET", "/public/a?b=/../../x", GO_ON),
        ("GET", "http://a.example/public/x", GO_ON),
        ("HEAD", "/anything", GO_ON),
        ("POST", "/public", DROP),
        ("get", "/public", DROP),
        ("GET", "/", DROP),
        ("GET", "/publicity", DROP),
        ("GET", "/public/../admin", DROP),
        ("GET", "/public/%2e%2e/admin", DROP),
        ("GET", "/public/%252e%252e/admin", DROP),
        ("GET", "/public\\..\\admin", DROP),
        ("GET", "/public/..;x/admin", DROP),
        ("GET", "/public#/admin", DROP),
        ("GET", "/public a", DROP),
        ("GET", "http://a.example/admin", DROP),
    ],
)
def test_each_request_is_held_against_methods_and_paths(method: str, target: str, expected: VerdictKind) -> None:
    assert Flow(ruleset(program())).send(request(method, target)) is expected


def test_the_denial_names_the_rule_that_decided() -> None:
    made = program()
    flow = Flow(ruleset(made))
    flow.send(request("POST", "/admin"))
    (event,) = flow.denials()
    assert (event.action, event.fields["generation"], event.fields["url"]) == ("drop", 3, "/admin")
    rule = made.rule(event.fields["rule"])
    assert rule is not None and (rule.tier, rule.policy, rule.rule_index) == ("default", "server", -1)


def test_a_later_request_of_the_connection_is_decided_too() -> None:
    flow = Flow(ruleset(program()))
    assert flow.send(request("GET", "/public")) is GO_ON
    assert flow.answer() is GO_ON
    assert flow.send(request("GET", "/public/b")) is GO_ON
    assert flow.answer() is GO_ON
    assert flow.send(request("GET", "/admin")) is DROP


def test_a_request_behind_another_in_one_packet_is_decided_too() -> None:
    assert Flow(ruleset(program())).send(request("GET", "/public") + request("GET", "/admin")) is DROP


@given(st.lists(st.integers(1, 60), max_size=6))
def test_segmentation_changes_nothing(cuts: list[int]) -> None:
    flow, data, verdicts = Flow(SHARED), request("GET", "/public") + request("DELETE", "/public"), []
    at = 0
    for cut in sorted({cut for cut in cuts if cut < len(data)} | {len(data)}):
        verdicts.append(flow.send(data[at:cut]))
        at = cut
    assert verdicts[-1] is DROP
    assert all(kind is GO_ON for kind in verdicts[:-1])


SHARED = ruleset(program())


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-x\r\n",
        b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /public\r\n",
        b"GET /public HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET /public HTTP/1.1\r\nTransfer-Encoding : chunked\r\n\r\n",
        b"GET /public HTTP/1.1\r\nTransfer-Encoding: xchunked\r\n\r\n",
        b"GET /public HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
        b"GET /public HTTP/1.1\r\nA: b\r\n folded: c\r\n\r\n",
        b"GET /public HTTP/1.1\r\nA: b\nB: c\r\n\r\n",
        b"GET /public HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1;x\nA\r\n0\r\n\r\n",
        b"CONNECT a:80 HTTP/1.1\r\n\r\nGET /admin HTTP/1.1\r\n\r\n",
    ],
)
def test_what_is_no_clear_request_is_denied(data: bytes) -> None:
    flow = Flow(SHARED)
    verdict = flow.send(data)
    if verdict is GO_ON:
        verdict = flow.answer(b"SSH-2.0-y\r\n")
    assert verdict is DROP
    assert flow.denials()[0].fields["detail"]


def test_what_no_http_rule_decides_is_left_alone() -> None:
    made = program("\n    - {action: Allow, http: {methods: [GET]}}\n    - {action: Allow}")
    assert Flow(ruleset(made)).send(request("POST", "/")) is GO_ON


def test_what_a_rule_asks_of_the_packet_counts_too() -> None:
    assert Flow(SHARED, dport=81).send(request("HEAD", "/")) is GO_ON
    assert Flow(SHARED, dport=81).send(request("GET", "/public")) is DROP


def test_tiers_pass_and_order_decide_as_in_the_fastpath() -> None:
    tier = """
---
apiVersion: projectcalico.org/v3
kind: Tier
metadata: {name: first}
spec: {order: 1}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: first.gate}
spec:
  tier: first
  selector: role == 'server'
  ingress:
    - {action: Allow, protocol: TCP, http: {paths: [{exact: /health}]}}
    - {action: Pass, source: {selector: role == 'client'}}
"""
    made = ruleset(program(more=tier))
    assert Flow(made).send(request("POST", "/health")) is GO_ON
    assert Flow(made).send(request("GET", "/public/x")) is GO_ON
    assert Flow(made).send(request("POST", "/public")) is DROP


def test_a_policy_that_rejects_rejects() -> None:
    rules = PUBLIC + "    - {action: Deny}\n"
    assert (
        Flow(ruleset(program(rules, ", annotations: {portcullis.dev/deny-action: reject}"))).send(request("PUT", "/"))
        is REJECT
    )


def test_such_a_flow_never_gets_an_allow_fate() -> None:
    flow = Flow(SHARED, depth=100, unknown_depth=50)
    for _ in range(20):
        assert flow.send(request("GET", "/public/" + "x" * 50)) is GO_ON
        assert flow.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + b"y" * 100) is GO_ON
    assert flow.send(request("GET", "/admin")) is DROP


def test_an_allowed_tunnel_is_its_peers_business_but_for_requests_that_can_be_read() -> None:
    flow = Flow(SHARED)
    assert flow.send(request("CONNECT", "a:443")) is GO_ON
    assert flow.answer(b"HTTP/1.1 200 OK\r\n\r\n") is GO_ON
    assert flow.send(b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00") is GO_ON
    flow = Flow(SHARED)
    flow.send(request("CONNECT", "a:80"))
    flow.answer(b"HTTP/1.1 200 OK\r\n\r\n")
    assert flow.send(request("GET", "/admin")) is DROP


def test_going_over_to_http2_ends_the_connection() -> None:
    flow = Flow(SHARED)
    flow.send(b"GET /public HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
    assert flow.answer(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n") is DROP


def test_the_generation_of_the_packet_chooses_the_policy() -> None:
    flow = Flow(SHARED)
    closed = program("\n    - {action: Allow, http: {methods: [HEAD]}}")
    flow.inspector.use(compile_ruleset(ruleset(closed, generation=4, version=2)))
    assert flow.send(request("GET", "/public")) is GO_ON  # decided under 3, which is still known
    flow.generation = 4
    assert flow.send(request("GET", "/public")) is DROP


def test_a_generation_that_is_not_known_waits_for_its_policy() -> None:
    flow = Flow(SHARED)
    flow.generation = 4
    assert flow.send(request("GET", "/public")) is DROP_PACKET
    flow.inspector.use(compile_ruleset(ruleset(program(), generation=4, version=2)))
    assert flow.send(request("GET", "/public"), again=True) is GO_ON


def test_a_denied_request_that_is_sent_again_under_a_new_generation_is_denied_again() -> None:
    flow = Flow(SHARED)
    assert flow.send(request("POST", "/public")) is DROP
    flow.generation = 4
    flow.inspector.use(compile_ruleset(ruleset(program(), generation=4, version=2)))
    assert flow.send(request("POST", "/public"), again=True) is DROP


def test_a_flow_that_was_let_go_is_read_again_once_requests_decide() -> None:
    flow = Flow(ruleset(None), depth=20)
    assert flow.send(request("GET", "/long/enough")) is GO_ON
    assert flow.answer() is VerdictKind.ALLOW
    flow.generation = 4
    flow.inspector.use(compile_ruleset(ruleset(program(), generation=4, version=2)))
    assert flow.send(request("GET", "/public")) is GO_ON
    assert flow.send(request("POST", "/public")) is DROP


def test_once_no_request_policy_is_left_generations_are_not_announced() -> None:
    flow = Flow(SHARED)
    for generation, version in ((4, 2), (5, 3)):
        flow.inspector.use(compile_ruleset(ruleset(None, generation=generation, version=version)))
    flow.generation = 7
    assert flow.send(request("POST", "/admin")) is GO_ON


def test_a_policy_that_is_gone_is_not_met_again_when_numbers_come_round() -> None:
    flow = Flow(SHARED)
    flow.inspector.use(compile_ruleset(ruleset(None, generation=4, version=2)))
    flow.generation = 5
    assert flow.send(request("POST", "/admin")) is GO_ON
    flow.generation = 3
    assert flow.send(request("POST", "/admin")) is GO_ON


def test_observing_says_and_lets_pass() -> None:
    flow = Flow(ruleset(program(), observe=True))
    assert flow.send(request("POST", "/admin")) is GO_ON
    assert [event.observed for event in flow.denials()] == [True]


def test_an_endpoints_address_from_elsewhere_is_not_the_endpoints() -> None:
    requests = compile_ruleset(SHARED).requests
    assert requests is not None
    packet = Packet(4, 6, b"\x0a\0\0\1", b"\x0a\0\0\2", 4000, 81, b"", 40)
    at_home, elsewhere = (requests.plan(packet, Place(2, iif, 3), reply=False) for iif in (2, 9))
    assert at_home is not None and elsewhere is not None
    assert at_home.request("HEAD", "/") is None
    assert elsewhere.request("HEAD", "/") is not None


HOST = """
---
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: cli0, labels: {role: host}}
spec: {node: n, interfaceName: cli0}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: closed}
spec: {selector: role == 'host', applyOnForward: true, types: [Ingress], ingress: []}
"""
EARLY = """
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: early}
spec: {selector: role == 'host', applyOnForward: true, preDNAT: true, types: [Ingress], ingress: [{action: Allow}]}
"""


def test_what_policy_before_dnat_let_through_is_held_against_the_workloads_policy_alone() -> None:
    flow = Flow(ruleset(program(more=HOST + EARLY)))
    assert flow.send(request("GET", "/public")) is GO_ON
    flow.answer()
    assert flow.send(request("GET", "/admin")) is DROP
    assert Flow(ruleset(program(more=HOST))).send(request("GET", "/public")) is DROP, "nobody allowed that"


@given(st.binary(max_size=40))
def test_any_target_has_some_path(target: bytes) -> None:
    assert isinstance(path_of(target), str)


def test_a_new_policy_does_not_compile_signatures_again() -> None:
    source = SignatureSource("r", 'alert tcp any any -> any any (msg:"m"; content:"x"; sid:1;)')
    first = compile_ruleset(InspectionRuleset(version=1, signatures=(source,), requests=SHARED.requests))
    again = compile_ruleset(InspectionRuleset(version=2, signatures=(source,), generation=2), first)
    assert again.signatures is first.signatures
    assert again.names is first.names
    assert again.requests is None
    other = InspectionRuleset(version=3, signatures=(source,), variables={"HOME_NET": "10.0.0.0/8"})
    assert compile_ruleset(other, again).signatures is not first.signatures
