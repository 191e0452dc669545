# SPDX-License-Identifier: Apache-2.0
"""What is put in force by itself, and that any order of changes ends where a calculation of everything does."""

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable, Collection
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.config import Config
from appliance.domains.control import ExpectedNames
from appliance.inspection.messages import DomainWatch, SignatureSource
from appliance.inspection.pool import InspectorPool
from appliance.service import changes as changing
from appliance.service.calculation import Inputs, calculate
from appliance.service.changes import Changes
from appliance.service.generations import Generations
from appliance.service.inforce import PolicyInForce
from appliance.service.interfaces import Interfaces
from appliance.service.notify import Notifier
from appliance.service.slowpath import SlowPath
from fastpath import Engine, IdentityMap, Policy, Query
from rules.policy import Program
from tests.appliance.service.test_calculation_change import BASE, NAMED, endpoint
from tests.appliance.service.test_ruleset_publication import Pool
from tests.appliance.service.test_sought import feed

CONFIG = Config(node="n1", mode="enforce")
ADDRESSES = [ipaddress.ip_address(text) for text in ("10.0.0.1", "10.0.0.2", "10.0.0.3", "192.0.2.1", "192.0.2.9")]


class Node:
    """Changes with everything that is pure; engine, kernel and inspectors note what they get. compiled: how often
    everything was calculated."""

    def __init__(self, inputs: Inputs) -> None:
        self.said: list[str] = []
        self.compiled = 0
        self.gathering = SimpleNamespace(inputs=inputs, first=self._first)
        self.in_force = PolicyInForce(Generations(), observe=False, log=self.said.append)
        self.pool = Pool()
        self.slowpath = SlowPath(
            CONFIG, self.in_force, found=_nothing, asked=_nothing, say=self.said.append,
            watched=lambda program: DomainWatch(
                program.domains, tuple(ipaddress.ip_address(a).packed for a in self.gathering.inputs.resolvers)
            ),
        )  # fmt: skip
        self.slowpath.pool = cast(InspectorPool, self.pool)
        self.changes = Changes(
            CONFIG,
            gathering=cast(Any, self.gathering),
            in_force=self.in_force,
            domains=cast(Any, SimpleNamespace(
                load=_nothing, settled=_nothing, renew=_nothing, expected=lambda: ExpectedNames(),
            )),
            slowpath=self.slowpath,
            kernel=cast(Any, SimpleNamespace(enforce=_later, follow=_later, offload_soon=_nothing)),
            notifier=Notifier(""),
            renamed=_nothing,
            say=self.said.append,
        )  # fmt: skip

    async def _first(self) -> Inputs:
        return cast(Inputs, self.gathering.inputs)

    async def start(self) -> None:
        desired = await self.changes.first()
        self.in_force.first(desired.program)
        self.in_force.attach(cast(Engine, self))
        self.in_force.follow(self)
        await self.slowpath.start(desired, self.in_force.generation)

    async def take(self, inputs: Inputs) -> None:
        self.gathering.inputs = inputs
        self.changes.note()
        await self.changes.settled()

    def publish(self, *_: Any) -> None: ...

    def reclaim(self) -> int:
        return 0

    def set_generation(self, new: int) -> None: ...

    def set_workloads(self, interfaces: frozenset[int]) -> None: ...

    def sweep(self, generations: Collection[int], *, gently: bool = False) -> int:
        return 0

    def recheck(self, addresses: Collection[Any]) -> None: ...

    def recheck_done(self, addresses: Collection[Any]) -> None: ...


def _nothing(*_: Any, **__: Any) -> None: ...


async def _later(*_: Any) -> None: ...


def run(monkeypatch: pytest.MonkeyPatch, before: Inputs, story: Callable[[Node], Awaitable[None]]) -> None:
    async def whole() -> None:
        node = Node(before)

        def counted(*arguments: Any) -> Any:
            node.compiled += 1
            return calculate(*arguments)

        monkeypatch.setattr(changing, "calculate", counted)
        await node.start()
        work = asyncio.create_task(node.changes.run())
        await story(node)
        work.cancel()
        await node.in_force.settle()

    asyncio.run(whole())


def answers(program: Program, identities: IdentityMap, policy: Policy) -> list[object]:
    found: list[object] = []
    for source in ADDRESSES:
        for destination in ADDRESSES:
            for port in (53, 80, 443, 8080):
                ends = identities.lookup(source)[0], identities.lookup(destination)[0]
                decision = policy.decide(Query(*ends, dport=port))
                found.append((decision.verdict, decision.staged_verdict, program.rule(decision.rule)))
    return found


def is_as_calculated(node: Node, inputs: Inputs) -> None:
    """Program, inspectors and what is desired."""
    whole, desired = calculate(CONFIG, inputs), node.changes.desired
    assert desired is not None
    program = node.in_force.program
    assert answers(program, *node.in_force.snapshot) == answers(
        whole.program, IdentityMap.build(whole.program.entries), Policy(whole.program.tables)
    )
    assert (desired.signatures, desired.sought) == (whole.signatures, whole.sought)
    if inputs.feeds:
        assert desired.merged == whole.merged
    assert program.options.inspect_ports == whole.program.options.inspect_ports
    ruleset = node.pool.sent[-1]
    assert (ruleset.signatures, ruleset.names, ruleset.allowed) == (
        whole.signatures, whole.sought.names, whole.sought.allowed,
    )  # fmt: skip
    assert ruleset.domains.resolvers == tuple(ipaddress.ip_address(a).packed for a in inputs.resolvers)


def signed(*numbers: int) -> tuple[SignatureSource, ...]:
    return tuple(SignatureSource(f"{n}.rules", f"alert ip any any -> any any (sid:{n};)") for n in numbers)


def test_other_signatures_are_a_ruleset_and_no_program(monkeypatch: pytest.MonkeyPatch) -> None:
    before = Inputs(resources=BASE, signatures=signed(1))
    now = replace(before, signatures=signed(1, 2))

    async def story(node: Node) -> None:
        decided, generation = node.in_force.snapshot, node.in_force.generation
        await node.take(now)
        assert [each.signatures for each in node.pool.sent] == [signed(1), signed(1, 2)]
        assert node.pool.sent[-1].keeps_requests
        assert (node.in_force.snapshot, node.in_force.generation) == (decided, generation)
        assert "inspection ruleset 2 in force" in node.said
        # With an endpoint that comes at the same time.
        await node.take(replace(now, signatures=signed(3), resources=(*BASE, endpoint("c", "10.0.0.3", "a"))))
        is_as_calculated(node, node.gathering.inputs)
        assert node.compiled == 1

    run(monkeypatch, before, story)


def test_the_first_signature_has_other_ports_inspected(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(node: Node) -> None:
        await node.take(Inputs(resources=BASE, signatures=signed(1)))
        is_as_calculated(node, node.gathering.inputs)
        assert (node.compiled, node.in_force.generation) == (2, 2)

    run(monkeypatch, Inputs(resources=BASE), story)


def test_signatures_that_are_refused_are_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    before = Inputs(resources=BASE, signatures=signed(1))

    async def story(node: Node) -> None:
        node.pool.refuses = True
        await node.take(replace(before, signatures=signed(2)))
        assert node.changes.reloads.failed == 1
        assert "no (the last good state stays in force)" in node.said
        node.pool.refuses = False
        await node.take(replace(before, signatures=signed(2)))
        is_as_calculated(node, node.gathering.inputs)
        assert node.compiled == 1

    run(monkeypatch, before, story)


def test_other_resolvers_are_other_lists_and_another_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    before = Inputs(resources=BASE, feeds=(feed("192.0.2.0/24", name="one"),), resolvers=("192.0.2.1",))

    async def story(node: Node) -> None:
        for resolvers in (("192.0.2.9", "2001:db8::1"), (), ("192.0.2.1",)):
            await node.take(replace(before, resolvers=resolvers))
            is_as_calculated(node, node.gathering.inputs)
        await node.take(replace(before, feeds=(feed("192.0.2.1", name="one"),), resources=BASE[:2]))
        is_as_calculated(node, node.gathering.inputs)
        assert node.compiled == 1

    run(monkeypatch, before, story)


def test_own_addresses_are_taken_out_of_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    before = Inputs(resources=BASE, feeds=(feed("192.0.2.0/24", name="one"),))

    async def story(node: Node) -> None:
        for address in ("192.0.2.1", "192.0.2.9", "10.0.0.1"):
            await node.take(replace(before, interfaces=own(address)))
            is_as_calculated(node, node.gathering.inputs)
        assert node.compiled == 1

    run(monkeypatch, before, story)


def test_a_feed_beside_others_comes_and_goes_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = feed("192.0.2.1", name="one", action="drop"), feed("192.0.2.0/24", name="two", action="reject")
    alert = feed("192.0.2.1", name="one", action="alert")
    many = feed(*(f"198.{18 + i // 65536}.{i // 256 % 256}.{i % 256}" for i in range(0, 2000, 2)), name="many")
    before = Inputs(resources=BASE, feeds=(one,))

    async def story(node: Node) -> None:
        for feeds in ((one, two), (two,), (alert, two), (many, one, two), (two,), (), (one,)):
            await node.take(replace(before, feeds=feeds))
            is_as_calculated(node, node.gathering.inputs)
        assert node.compiled == 1
        await node.take(replace(before, feeds=(one, two)))
        await node.take(replace(before, feeds=(two, one)))
        is_as_calculated(node, node.gathering.inputs)
        assert node.compiled == 2, "the order is another one"

    run(monkeypatch, before, story)


def own(*addresses: str) -> Interfaces:
    return Interfaces({"eth0": 2}, {"eth0": tuple(map(ipaddress.ip_address, addresses))})


RESOURCES = st.sampled_from([BASE, (*BASE, endpoint("c", "10.0.0.3", "a")), BASE[:2], (*BASE, NAMED)])
SIGNATURES = st.sampled_from([(), signed(1), signed(2, 3)])
FEEDS = st.sampled_from(
    [
        (),
        (feed("192.0.2.1", name="one"),),
        (feed("192.0.2.0/24", "10.0.0.2", name="one"), feed("bad.example", name="two")),
        (feed("192.0.2.9", name="three", action="reject"), feed("192.0.2.8/29", name="one")),
    ]
)
RESOLVERS = st.sampled_from([(), ("192.0.2.1",), ("192.0.2.9", "10.0.0.1")])
INTERFACES = st.sampled_from([Interfaces(), own("192.0.2.9"), own("192.0.2.1", "198.51.100.1")])
INPUTS = st.builds(
    Inputs, resources=RESOURCES, feeds=FEEDS, signatures=SIGNATURES, resolvers=RESOLVERS, interfaces=INTERFACES
)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(INPUTS, min_size=2, max_size=6))
def test_any_order_of_changes_ends_as_calculated(states: list[Inputs]) -> None:
    async def story(node: Node) -> None:
        for inputs in states[1:]:
            await node.take(inputs)
            is_as_calculated(node, inputs)

    with pytest.MonkeyPatch.context() as monkeypatch:
        run(monkeypatch, states[0], story)
