# SPDX-License-Identifier: Apache-2.0
"""Lists that are exchanged, few entries or many, and feeds that come and go, between any other changes, decide as a
program made of them does."""

import ipaddress
import random
from dataclasses import replace

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from fastpath.lists import PrefixList
from rules.policy import CompileOptions, FeedPrefixes, Live, Resource, compile_policy
from rules.policy import relist as relisting
from rules.policy.model import Metadata, Net, NetworkSetSpec
from rules.policy.seats import SPARE
from tests.rules.policy.naive import World
from tests.rules.policy.test_policy_live import QUESTIONS, Changes, decisions

FEEDS = (("one", "drop", "both", ""), ("two", "reject", "source", "threatfeed.two"), ("three", "alert", "both", ""))
LABELS = {"app": "a", "role": "db"}
SET = Resource("GlobalNetworkSet", Metadata("threatfeed.two", "", LABELS, {}), NetworkSetSpec(), "f", 1)


def some_list(world: World, seed: int, most: int) -> PrefixList:
    """Around the addresses that are asked about."""
    draw = random.Random(seed)
    entries = []
    for _ in range(draw.randint(0, most)):
        address = world.question()["dst"]
        value, whole = (int(address) | 0xFFFF << 32, 96) if address.version == 4 else (int(address), 0)
        length = whole + draw.randint(8, 128 - whole)
        entries.append((value >> 128 - length << 128 - length) << 8 | length)
    return PrefixList.of(entries).disjoint()


class Relists(Changes):
    @initialize(seed=st.integers(0, 10_000))
    def start(self, seed: int) -> None:
        self.lists = [PrefixList() for _ in FEEDS]
        self.kinds_of_feeds = list(FEEDS)
        self.absent: set[int] = set()
        super().start(seed)

    def options_now(self) -> CompileOptions:
        return replace(self.base, feeds=self.feeds(self.lists))

    def feeds(self, lists: list[PrefixList]) -> tuple[FeedPrefixes, ...]:
        return tuple(
            FeedPrefixes(name, action, direction, prefixes, title)
            for at, ((name, action, direction, title), prefixes) in enumerate(
                zip(self.kinds_of_feeds, lists, strict=True)
            )
            if at not in self.absent
        )

    def compile(self) -> None:
        self.now[SET.key] = SET
        super().compile()

    @rule(which=st.integers(0, 2), seed=st.integers(0, 10_000), most=st.sampled_from([3, 40]))
    def few(self, which: int, seed: int, most: int) -> None:
        self.lists[which] = some_list(self.worlds[0], seed, most)
        self.relist()

    @rule(which=st.sampled_from([0, 2]))
    def come_or_go(self, which: int) -> None:
        self.absent ^= {which}
        self.relist()

    @rule(which=st.sampled_from([0, 2]), action=st.sampled_from(["drop", "reject", "alert"]))
    def act_otherwise(self, which: int, action: str) -> None:
        name, _, direction, title = self.kinds_of_feeds[which]
        self.kinds_of_feeds[which] = name, action, direction, title
        self.relist()

    def relist(self) -> None:
        plan = self.live.relist(self.feeds(self.lists))
        assert plan is not None
        asked = [self.question() for _ in range(QUESTIONS)]
        before = decisions(self.program, self.policy, self.identities, asked)
        step = plan.few()
        assert step is not None
        self.program = step.program
        self.identities = self.identities.update(set=step.delta.set, remove=step.delta.remove)
        if step.change is not None:
            self.policy = self.policy.update(step.change)
        after = decisions(self.program, self.policy, self.identities, asked)
        void = [ipaddress.ip_network(str(net)) for net in step.redecide]
        for q, old, new in zip(asked, before, after, strict=True):
            assert old[0] == new[0] or any(q[end] in net for end in ("src", "dst") for net in void)

    @rule(
        seed=st.integers(0, 10_000), most=st.sampled_from([2, 60]), learned=st.booleans(),
        absent=st.sets(st.sampled_from([0, 2])),
    )  # fmt: skip
    def many(self, seed: int, most: int, learned: bool, absent: set[int]) -> None:
        self.absent = absent
        self.lists = [some_list(self.worlds[0], seed + i, most) for i in range(len(FEEDS))]
        plan = self.live.relist(self.feeds(self.lists))
        assert plan is not None
        plan.begin()
        plan.merge()
        net = Net((int(self.worlds[0].question()["dst"]) | 0xFFFF << 32).to_bytes(16), 128)
        facts = self.live.state.facts
        if learned and net.is_v4:  # while others work, an address gains facts, and loses them again
            facts.add(net, 0)
        change = plan.name()
        if change is not None:
            self.policy = self.policy.update(change)
        identities = plan.finish(self.identities)
        if learned and net.is_v4:
            facts.discard(net, 0)
        step = plan.settle()
        self.program = step.program
        self.identities = identities.update(set=step.delta.set, remove=step.delta.remove)
        if step.change is not None:
            self.policy = self.policy.update(step.change)


Relists.TestCase.settings = settings(
    max_examples=15, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck)
)
TestRelists = Relists.TestCase
del Changes


def options(*lists: PrefixList) -> CompileOptions:
    return CompileOptions(feeds=tuple(FeedPrefixes(f"f{i}", "drop", "both", listed) for i, listed in enumerate(lists)))


def test_many_are_not_taken_one_by_one() -> None:
    many = PrefixList.of((0xFFFF << 32 | i << 4) << 8 | 128 for i in range(relisting.FEW + 1))
    live = Live(compile_policy((), options(PrefixList())), ())
    plan = live.relist(options(many).feeds)
    assert plan is not None
    assert plan.few() is None


def test_a_crowded_prefix_is_not_taken_one_by_one() -> None:
    many = PrefixList.of((0xFFFF << 32 | i) << 8 | 128 for i in range(5000))
    live = Live(compile_policy((), options(many, PrefixList())), ())
    plan = live.relist(options(many, PrefixList.of([0xFFFF << 40 | 96])).feeds)
    assert plan is not None
    assert plan.few() is None
    assert live.state.facts.listed.lists[1] == ()


def test_some_feeds_need_another_program() -> None:
    assert Live(compile_policy((), options()), ()).relist(options(PrefixList()).feeds) is None, "the first one"
    feeds = options(PrefixList(), PrefixList()).feeds
    live = Live(compile_policy((), options(PrefixList(), PrefixList())), ())
    assert live.relist(feeds[::-1]) is None, "another order"
    assert live.relist([*feeds, replace(feeds[0], name="f2", network_set="threatfeed.f2")]) is None, "a set, too"
    others = [replace(feeds[0], name=f"g{i}") for i in range(SPARE + 1)]
    assert live.relist(others[:-1]) is not None
    assert live.relist([others[-1]]) is None, "too many are gone"
