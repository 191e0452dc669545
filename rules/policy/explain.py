# SPDX-License-Identifier: Apache-2.0
"""Why is a flow allowed or denied? Questions in plain values, answered by the compiled program in the C engine.

Three forms: one endpoint alone (`endpoint`, `direction`); the hooks of one node (`node`, `path`, `iif`, `oif`,
`preDNATDst`, `preDNATDport`), host endpoints included; neither: egress at the source endpoint and ingress at the
destination endpoint. Of each `reply` makes the answer to a flow: it passes where its opening was allowed and tracked;
`httpMethod` and `httpPath` make it the flow of that request, else a rule with `http` counts as matching.
"""

import dataclasses
import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

from fastpath import IdentityMap, Policy, Query, TraceStep
from fastpath.layout import NONE, QUERY_PRE_DNAT, Action, Hook, Verdict
from rules.policy.compile import compile_policy
from rules.policy.model import LOOPBACK, HostEndpointSpec, Resource, WorkloadEndpointSpec
from rules.policy.program import CompileOptions, Endpoint, Program, RawChains
from rules.policy.questions import (
    Flow,
    QuestionError,
    read_address,
    read_direction,
    read_flow,
    read_name,
    read_number,
    read_reply,
    read_request,
)
from rules.policy.requested import Requested

Failsafes = frozenset[tuple[int, int]]  # (protocol, port)

_TCP = (179, 2379, 2380, 5473, 6443, 6666, 6667)
FAILSAFE_IN: Failsafes = frozenset([(6, 22), (17, 68), *((6, port) for port in _TCP)])
FAILSAFE_OUT: Failsafes = frozenset([(17, 53), (17, 67), *((6, port) for port in _TCP)])
HOOKS = {"input": Hook.INPUT, "forward": Hook.FORWARD, "output": Hook.OUTPUT}
_FAILSAFE_STEP = {
    "tier": "", "policy": "failsafe", "rule": 0, "action": "allow", "kind": "Failsafe", "direction": "",
}  # fmt: skip
_ESTABLISHED_STEP = {**_FAILSAFE_STEP, "policy": "established", "kind": "Established"}
_LOOPBACK_STEP = {**_FAILSAFE_STEP, "policy": "loopback", "kind": "Loopback"}
_OPENING = {"input": "output", "output": "input", "forward": "forward"}  # hook that saw what a reply answers


@dataclass(frozen=True, slots=True)
class Answer:
    verdict: str  # allow or deny
    staged: str
    trace: tuple[Mapping[str, object], ...]

    def as_json(self) -> dict[str, object]:
        return {"verdict": self.verdict, "staged": self.staged, "trace": [dict(step) for step in self.trace]}


class Explainer:
    """Answers from one program. `policy` and `identities` are made from it unless a running service has its own."""

    def __init__(
        self,
        program: Program,
        policy: Policy | None = None,
        identities: IdentityMap | None = None,
        *,
        failsafe_in: Failsafes = FAILSAFE_IN,
        failsafe_out: Failsafes = FAILSAFE_OUT,
    ) -> None:
        self.program = program
        self.policy = policy or Policy(program.tables)
        self.identities = identities or IdentityMap.build(program.entries)
        self.failsafe_in = failsafe_in
        self.failsafe_out = failsafe_out
        self._early = self.policy  # doNotTrack and preDNAT policy sees no requests
        self._requested = Requested(self.policy, program.http if program.options.requests else {})

    def answer(self, question: Mapping[str, Any]) -> Answer:
        """Raises QuestionError."""
        flow = read_flow(question)
        request = read_request(question, flow.proto)
        if request is None:
            return self._answer(question, flow)
        asked = copy(self)
        asked.policy = self._requested.policy(request)
        return asked._answer(question, flow)

    def _answer(self, question: Mapping[str, Any], flow: Flow) -> Answer:
        if question.get("endpoint") is not None:
            return self._endpoint(question, flow)
        if question.get("path") is not None:
            return self._node(question, flow)
        return self._whole(question, flow)

    def _whole(self, question: Mapping[str, Any], flow: Flow) -> Answer:
        _demand_addresses(flow)
        answer = self._decide(self._query(flow))
        if not read_reply(question):
            return answer
        opening = self._decide(self._query(flow.opening))
        established = Answer("allow", "allow", (_ESTABLISHED_STEP,))
        in_force = established if opening.verdict == "allow" else answer
        return Answer(
            in_force.verdict, "allow" if opening.staged == "allow" else answer.staged, in_force.trace
        )

    def _query(self, flow: Flow, *, iif: int = 0, oif: int = 0, hook: int = 0) -> Query:
        return Query(
            self._identity(flow.src), self._identity(flow.dst), iif, oif, flow.sport, flow.dport, flow.proto,
            flow.family, flow.icmp_type, flow.icmp_code, hook,
        )  # fmt: skip

    def _identity(self, address: str) -> int:
        return self.identities.lookup(ipaddress.ip_address(address))[0] if address else 0

    def _steps(self, steps: Iterable[TraceStep]) -> list[Mapping[str, object]]:
        out: list[Mapping[str, object]] = []
        for step in steps:
            info = self.program.rule(step.rule)
            if info is not None:
                out.append(
                    {
                        "tier": info.tier,
                        "policy": info.policy,
                        "rule": info.rule_index,
                        "action": info.action,
                        "kind": info.kind,
                        "direction": info.direction,
                    }
                )
        return out

    def _decide(self, query: Query) -> Answer:
        decision = self.policy.decide(query)
        return Answer(
            _word(decision.verdict), _word(decision.staged_verdict), tuple(self._steps(self.policy.trace(query)))
        )

    def _endpoint(self, question: Mapping[str, Any], flow: Flow) -> Answer:
        name = read_name(question, "endpoint") or ""
        endpoint = self.program.endpoints.get(name)
        if endpoint is None and "/" not in name:
            endpoint = self.program.endpoints.get(f"default/{name}")
        if endpoint is None:
            raise QuestionError(f"no endpoint {name!r}", field="endpoint")
        ingress = read_direction(question) == "ingress"
        flow = flow.of_endpoint(endpoint.addresses, ingress=ingress)
        reply = read_reply(question)
        verdict, trace = self._alone(endpoint, flow, ingress=ingress, reply=reply, staged=False)
        staged, _ = self._alone(endpoint, flow, ingress=ingress, reply=reply, staged=True)
        return Answer(verdict, staged, tuple(trace))

    def _alone(
        self, endpoint: Endpoint, flow: Flow, *, ingress: bool, reply: bool, staged: bool
    ) -> tuple[str, list[Mapping[str, object]]]:
        """What one endpoint says: as workload by its policies, as host endpoint at all of its hooks."""
        trace: list[Mapping[str, object]] = []
        query = self._query(flow)
        path = "input" if ingress else "output"
        established = reply and self._opened(endpoint, flow.opening, ingress=not ingress, staged=staged)
        if endpoint.raw is not None:
            word = self._untracked(endpoint.raw, query, path, trace, staged=staged)
            if not word and not established:
                word = self._pre_dnat(endpoint.raw, query, path, trace, staged=staged)
            if word:
                return word, trace
        if established:
            return "allow", [*trace, _ESTABLISHED_STEP]
        if endpoint.raw is not None and self._failsafe(query, path):
            return "allow", [*trace, _FAILSAFE_STEP]
        if ingress:
            chain = endpoint.staged_ingress if staged else endpoint.ingress
        else:
            chain = endpoint.staged_egress if staged else endpoint.egress
        word, steps = self._chain(self.policy, chain, query)
        return word or "allow", [*trace, *steps]

    def _opened(self, endpoint: Endpoint, opening: Flow, *, ingress: bool, staged: bool) -> bool:
        """Whether connection tracking knows this flow, as far as the endpoint has a say."""
        if endpoint.raw is not None:
            path = "input" if ingress else "output"
            if self._untracked(endpoint.raw, self._query(opening), path, [], staged=staged):
                return False
        return self._alone(endpoint, opening, ingress=ingress, reply=False, staged=staged)[0] == "allow"

    def _chain(self, policy: Policy, chain: int, query: Query) -> tuple[str, list[Mapping[str, object]]]:
        """allow, deny, or nothing where the chain has no opinion or is none."""
        if chain == NONE:
            return "", []
        action, steps = policy.trace_chain(chain, query)
        word = {Action.ALLOW: "allow", Action.NEXT: ""}.get(action, "deny")
        return word, self._steps(steps)

    # -- one node's hooks --------------------------------------------------------------------------

    def _node(self, question: Mapping[str, Any], flow: Flow) -> Answer:
        path = read_name(question, "path") or ""
        if path not in HOOKS:
            raise QuestionError(f"expected input, forward or output, found {path!r}", field="path")
        _demand_addresses(flow)
        iif, oif = self._interface(question, "iif"), self._interface(question, "oif")
        reply = read_reply(question)
        if path != "forward" and question.get("oif" if path == "output" else "iif") == LOOPBACK:
            return Answer("allow", "allow", (_LOOPBACK_STEP,))
        before = dataclasses.replace(
            flow,
            dst=read_address(question, "preDNATDst") or flow.dst,
            dport=read_number(question, "preDNATDport", 65535) or flow.dport,
        )
        if (":" in before.dst) is not (":" in flow.dst):
            raise QuestionError("preDNATDst and dst are of different IP versions", field="preDNATDst")
        query = self._query(flow, iif=iif, oif=oif, hook=HOOKS[path])
        early = self._query(before, iif=iif, oif=oif)
        known = [reply and self._tracked(flow, iif, oif, path, staged=staged) for staged in (False, True)]
        verdict, trace = self._hooks(query, early, path, staged=False, established=known[0])
        staged, _ = self._hooks(query, early, path, staged=True, established=known[1])
        return Answer(verdict, staged, tuple(trace))

    def _tracked(self, flow: Flow, iif: int, oif: int, path: str, *, staged: bool) -> bool:
        """Whether connection tracking knows the flow that this packet answers: it was allowed, and not by doNotTrack
        policy."""
        path = _OPENING[path]
        query = self._query(flow.opening, iif=oif, oif=iif, hook=HOOKS[path])
        raw = self._raw(iif if path == "output" else oif)
        if raw is not None and self._untracked(raw, query, path, [], staged=staged) == "allow":
            return False
        return self._hooks(query, query, path, staged=staged)[0] == "allow"

    def _interface(self, question: Mapping[str, Any], field: str) -> int:
        name = read_name(question, field)
        if name is None:
            return 0
        # An interface that nobody described has no chains of its own: any number without an entry will do.
        return self.program.options.interfaces.get(name, NONE - 1)

    def _raw(self, ifindex: int) -> RawChains | None:
        if not ifindex:
            return None
        return self.program.raw_chains.get(ifindex) or self.program.raw_chains.get(0)

    def _hooks(
        self, query: Query, before: Query, path: str, *, staged: bool, established: bool = False
    ) -> tuple[str, list[Mapping[str, object]]]:
        trace: list[Mapping[str, object]] = []
        skip_host = False
        raw = self._raw(query.oif if path == "output" else query.iif)
        if raw is not None:
            word = self._untracked(raw, before, path, trace, staged=staged)
            if not word and not established:
                word = self._pre_dnat(raw, before, path, trace, staged=staged)
                skip_host = word == "allow"
            if word and not skip_host:
                return word, trace
        if established:
            return "allow", [*trace, _ESTABLISHED_STEP]
        if self._failsafe(query, path) and self._hosted(query.oif if path == "output" else query.iif):
            return "allow", [*trace, _FAILSAFE_STEP]
        if skip_host:  # its ingress policy of other kinds has nothing more to say
            query = query._replace(flags=QUERY_PRE_DNAT)
        decision = self.policy.decide(query)
        trace += self._steps(self.policy.trace(query, staged))
        return _word(decision.staged_verdict if staged else decision.verdict), trace

    def _failsafe(self, query: Query, path: str) -> bool:
        ports = {"input": self.failsafe_in, "output": self.failsafe_out}.get(path, frozenset())
        return (query.proto, query.dport) in ports

    def _hosted(self, ifindex: int) -> bool:
        """A host endpoint governs it; failsafes are of host endpoints only."""
        rows = self.program.interface_chains
        return bool(ifindex) and rows.get(ifindex, rows.get(0, (NONE,)))[0] != NONE

    def _untracked(
        self, raw: RawChains, query: Query, path: str, trace: list[Mapping[str, object]], *, staged: bool
    ) -> str:
        """What doNotTrack policy says: allow, deny or nothing."""
        outward = path == "output"
        safe, other = (self.failsafe_out, self.failsafe_in) if outward else (self.failsafe_in, self.failsafe_out)
        # Without connection tracking the answers of failsafe services must be let through, too.
        failsafe = (query.proto, query.dport) in safe or (query.proto, query.sport) in other
        untracked = raw.untracked_egress if outward else raw.untracked_ingress
        if staged:
            untracked = raw.staged_untracked_egress if outward else raw.staged_untracked_ingress
        if untracked == NONE or failsafe:
            return ""
        word, steps = self._chain(self._early, untracked, query)
        trace += steps
        return word

    def _pre_dnat(
        self, raw: RawChains, query: Query, path: str, trace: list[Mapping[str, object]], *, staged: bool
    ) -> str:
        """What preDNAT policy says: allow, deny or nothing."""
        pre_dnat = raw.staged_pre_dnat_ingress if staged else raw.pre_dnat_ingress
        if path == "output" or pre_dnat == NONE or (query.proto, query.dport) in self.failsafe_in:
            return ""
        word, steps = self._chain(self._early, pre_dnat, query)
        trace += steps
        return word


def _demand_addresses(flow: Flow) -> None:
    if not flow.src or not flow.dst:
        raise QuestionError("an address is missing", field="dst" if flow.src else "src")


def _word(verdict: Verdict) -> str:
    return "allow" if verdict in (Verdict.ALLOW, Verdict.INSPECT) else "deny"


class DirectoryExplainer:
    """Answers from resources, for any node: a program for each node asked about, with invented interface numbers."""

    def __init__(self, resources: Sequence[Resource], options: CompileOptions, node: str | None = None) -> None:
        self._resources = resources
        self._options = options
        self._node = node
        self._made: dict[tuple[object, ...], Explainer] = {}
        self._homes = {
            resource.name: resource.spec.node for resource in resources if isinstance(resource.spec, HostEndpointSpec)
        }
        self._addressed: dict[str, list[tuple[str, ...]]] = {}  # of host endpoints without an interface, by node
        self._known: dict[str, frozenset[str]] = {}  # interfaces whose names are given, by node

    def answer(self, question: Mapping[str, Any]) -> Answer:
        """Raises QuestionError."""
        node = read_name(question, "node") or self._node
        if question.get("path") is not None and node is None:
            raise QuestionError("a question about a path needs a node", field="node")
        endpoint = read_name(question, "endpoint")
        if endpoint is not None:
            return self._explainer(self._home(endpoint), "gateway", {}).answer(question)
        whole = question.get("path") is None and question.get("node") is None
        return self._explainer(node or "", "gateway" if whole else "node", question).answer(question)

    def _home(self, name: str) -> str:
        """The node of the host endpoint of that name: it is governed nowhere else."""
        return self._homes.get(name, "")

    def _explainer(self, node: str, scope: str, question: Mapping[str, Any]) -> Explainer:
        bound = self._bound(node, question)
        made = self._made.get((node, scope, *bound.items()))
        if made is None:
            options = dataclasses.replace(
                self._options, node=node, scope=scope, interfaces=self._interfaces(node, bound),
                interface_addresses={**self._options.interface_addresses, **bound},
            )  # fmt: skip
            made = self._made[node, scope, *bound.items()] = Explainer(compile_policy(self._resources, options))
        return made

    def _bound(self, node: str, question: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
        """Addresses of interfaces that host endpoints may mean which have addresses only: the packet's own, where it
        comes to the host or leaves it, else those of the one endpoint that there is for the one such interface."""
        path = question.get("path")
        if path is None:
            return {}
        if node not in self._addressed:
            self._addressed[node] = [
                tuple(str(net).partition("/")[0] for net in resource.spec.addresses)
                for resource in self._resources
                if isinstance(resource.spec, HostEndpointSpec)
                and resource.spec.node == node and not resource.spec.interface
            ]  # fmt: skip
        addressed = self._addressed[node]
        if not addressed:
            return {}
        known = self._known.get(node)
        if known is None:
            known = self._known[node] = frozenset((LOOPBACK, *self._interfaces(node)))
        unknown = [side for side in ("iif", "oif") if read_name(question, side) and question[side] not in known]
        bound: dict[str, tuple[str, ...]] = {}
        for side in unknown:
            mine = ""
            if side == "iif":
                mine = read_address(question, "preDNATDst")
                if not mine and path == "input":
                    mine = read_address(question, "dst")
            elif path == "output":
                mine = read_address(question, "src")
            meant = [each for each in addressed if mine in each]
            if not meant and len(addressed) == len(unknown) == 1:
                meant = addressed
            if meant:
                bound[question[side]] = meant[0]
        return bound

    def _interfaces(self, node: str, more: Iterable[str] = ()) -> dict[str, int]:
        names = {*self._options.interfaces, *more}
        for resource in self._resources:
            spec = resource.spec
            if isinstance(spec, HostEndpointSpec | WorkloadEndpointSpec) and spec.node == node:
                names.add(spec.interface)
        names -= {"", "*"}
        return {name: number for number, name in enumerate(sorted(names), 1)}
