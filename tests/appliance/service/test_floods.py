# SPDX-License-Identifier: Apache-2.0
"""Counting denials, and handing them over while policy changes."""

import asyncio
import functools
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any

import pytest

from appliance.config.model import Flood
from appliance.netfilter.floods import Denied, DeniedSource
from appliance.service import floods as floods_module
from appliance.service.floods import Floods, repeat_step, source_port_protocols
from fastpath import Event
from fastpath.layout import REPEATS_TOLD, EventFlag, EventKind, Hook, Verdict
from rules.policy import CompileOptions, Resource, compile_policy, load_documents
from rules.policy.program import FEED_TIER, RuleInfo

SETTINGS = Flood(threshold=3, timeout=9, size=4)
SOURCE, TARGET = (bytes(10) + b"\xff\xff\x0a\x00\x00" + end for end in (b"\x01", b"\x02"))
ORDINARY, FEED_SOURCE, FEED_TARGET = range(3)
RULES = (
    RuleInfo("default", "web", "NetworkPolicy", 0, "deny", "ingress"),
    RuleInfo(FEED_TIER, "bad", "ThreatFeed", 0, "drop", "ingress"),
    RuleInfo(FEED_TIER, "bad", "ThreatFeed", 1, "drop", "egress"),
)


def in_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(*arguments: Any, **keywords: Any) -> None:
        asyncio.run(test(*arguments, **keywords))

    return run


class World:
    """In the place of netfilter and of the policy in force."""

    def __init__(self) -> None:
        self.generation = 1
        self.program = replace(compile_policy((), CompileOptions()), rules=RULES)
        self.denied: list[Denied | DeniedSource] = []
        self.forgiven = 0
        self.during: Callable[[], None] = lambda: None
        self.resources: tuple[Resource, ...] = ()
        self.told: list[int] = []
        self.said: list[str] = []
        self.floods = Floods(
            SETTINGS, self, self,  # type: ignore[arg-type]
            resources=lambda: self.resources, say=self.said.append,
            tell=lambda event, seconds: self.told.append(event.dport),
        )  # fmt: skip

    def deny(self, denied: Sequence[Denied | DeniedSource], seconds: int, *, still: Callable[[], bool]) -> bool:
        self.during()
        if not still():
            return False
        self.denied += denied
        return True

    def forgive(self) -> None:
        self.forgiven += 1

    def event(self, number: int = 1, **changes: Any) -> None:
        base = dict.fromkeys(Event._fields, 0) | {
            "time": time.time_ns(), "src_bytes": SOURCE, "dst_bytes": TARGET, "dport": 80, "proto": 6, "family": 4,
            "hook": Hook.FORWARD, "kind": EventKind.FLOW, "iif": 2, "oif": 3, "verdict": Verdict.DROP, "generation": 1,
        }  # fmt: skip
        for _ in range(number):
            self.floods.decided(Event(**{**base, **changes}))

    async def settled(self) -> None:
        """Long enough for what was found to be handed over."""
        task = asyncio.create_task(self.floods.run())
        await asyncio.sleep(0.2)
        task.cancel()


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(floods_module, "_SECOND", 10**18)  # the test's second does not end
    return World()


@in_loop
async def test_the_threshold_hands_a_tuple_over_once(world: World) -> None:
    world.event(2)
    await world.settled()
    assert world.denied == []
    world.event(5)
    world.event(3, verdict=Verdict.REJECT, dport=81, proto=17, hook=Hook.INPUT, oif=0)
    await world.settled()
    assert [str(entry) for entry in world.denied] == [
        "10.0.0.1 → 10.0.0.2 tcp/80",
        "10.0.0.1 → 10.0.0.2 udp/81",
    ]
    assert [isinstance(entry, Denied) and entry.reject for entry in world.denied] == [False, True]
    assert world.told == [80, 81]
    assert world.floods.held() == 2
    assert "denied 3 times in a second by default/web[0]: the kernel answers for 9 s" in world.said[0]


@pytest.mark.parametrize(
    "changes",
    [
        {"verdict": Verdict.ALLOW},
        {"verdict": Verdict.INSPECT},
        {"kind": EventKind.REDECIDED},
        {"kind": EventKind.PACKET},
        {"kind": EventKind.FAILURE},
        {"proto": 1},
        *({"flags": flag} for flag in EventFlag),
        {"kind": EventKind.REPEATED, "repeats": 9, "verdict": Verdict.ALLOW},
        {"kind": EventKind.REPEATED, "repeats": 9, "proto": 1},
        {"generation": 31},
        {"time": 1},
    ],
    ids=str,
)
@in_loop
async def test_what_is_no_denial_of_a_new_flow_does_not_count(world: World, changes: dict[str, Any]) -> None:
    world.floods.published()
    world.event(9, **changes)
    await world.settled()
    assert world.denied == []


@in_loop
async def test_other_seconds_do_not_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    for second in range(9):
        world.event(2, time=time.time_ns() + second * 10**9)
    await world.settled()
    assert world.denied == []


@in_loop
async def test_a_repeated_denial_counts_for_the_packets_it_stands_for(world: World) -> None:
    world.event()
    world.event(kind=EventKind.REPEATED, repeats=1)
    await world.settled()
    assert world.denied == []
    world.event(kind=EventKind.REPEATED, repeats=7)  # past the threshold, not onto it
    world.event(kind=EventKind.REPEATED, repeats=9, dport=81)
    await world.settled()
    world.event(kind=EventKind.REPEATED, repeats=9)
    await world.settled()
    assert world.told == [80, 81]


@pytest.mark.parametrize("threshold", [1, 2, 3, 4, 5, 50, 999, 1_000_000])
def test_one_flow_s_events_of_a_second_reach_the_threshold(threshold: int) -> None:
    step = repeat_step(Flood(threshold=threshold))
    assert 0 < step <= threshold
    assert threshold <= step * REPEATS_TOLD < threshold + REPEATS_TOLD


@in_loop
async def test_a_source_that_a_feed_blocks_counts_over_all_destinations(world: World) -> None:
    for port in range(3):
        world.event(rule=FEED_SOURCE, dport=port)
        world.event(rule=FEED_TARGET, dport=port)
    await world.settled()
    assert [str(entry) for entry in world.denied] == ["everything from 10.0.0.1"]


@in_loop
async def test_what_policy_changed_meanwhile_is_not_denied(world: World) -> None:
    world.event(3)
    world.floods.published()
    await world.settled()
    assert world.denied == []
    world.event(3)
    world.during = world.floods.published
    await world.settled()
    assert world.denied == []
    assert world.floods.held() == 0


@in_loop
async def test_a_change_while_the_kernel_is_told_is_followed_by_forgiving(world: World) -> None:
    world.event(3)
    deny = world.deny

    def late(*arguments: Any, **keywords: Any) -> bool:
        done = deny(*arguments, **keywords)
        world.floods.published()
        return done

    world.deny = late  # type: ignore[method-assign]
    await world.settled()
    assert (len(world.denied), world.forgiven, world.floods.held()) == (1, 1, 0)


@in_loop
async def test_only_what_concerns_them_forgives(world: World) -> None:
    world.event(3)
    await world.settled()
    world.floods.published(frozenset({bytes(16)}))
    await world.settled()
    assert (world.forgiven, world.floods.held()) == (0, 1)
    world.floods.published(frozenset({TARGET}))
    await world.settled()
    assert (world.forgiven, world.floods.held()) == (1, 0)


@in_loop
async def test_memory_is_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(floods_module, "COUNTED", 10)
    for port in range(1000):
        world.event(3, dport=port)
    await world.settled()
    assert world.floods.held() == len(world.denied) == SETTINGS.size
    assert len(world.floods._counts) == 10


POLICY = """
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: p}
spec: {types: [Ingress], ingress: [{action: Allow%s}]}
"""


@pytest.mark.parametrize(
    ("rule", "protocols"),
    [
        ("", set()),
        (", protocol: TCP, destination: {ports: [80]}", set()),
        (", protocol: TCP, source: {ports: [80]}", {6}),
        (", protocol: UDP, source: {notPorts: [80]}", {17}),
    ],
)
def test_protocols_whose_source_ports_matter(rule: str, protocols: set[int]) -> None:
    loaded = load_documents(POLICY % rule, "p.yaml")
    assert not loaded.errors
    assert source_port_protocols(loaded.resources) == protocols


@in_loop
async def test_a_protocol_whose_source_ports_matter_comes_up(world: World) -> None:
    world.resources = tuple(load_documents(POLICY % ", protocol: TCP, source: {ports: [9]}", "p.yaml").resources)
    world.event(3)
    world.event(3, proto=17)
    await world.settled()
    assert [entry.protocol for entry in world.denied if isinstance(entry, Denied)] == [17]
