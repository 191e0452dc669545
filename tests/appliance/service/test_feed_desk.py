# SPDX-License-Identifier: Apache-2.0
"""Lists that would block much of recent traffic are put aside; entries come and go by command."""

import asyncio
from ipaddress import ip_address
from pathlib import Path

import pytest

from appliance.control.server import ControlError
from appliance.service.feeddesk import FeedDesk
from appliance.service.traffic import LEAST, PAIRS, SPAN, RecentTraffic, share
from fastpath._binding import address_bytes
from threatfeeds import Allowlist, Feed, FeedConfig, Merged, merge, prefix, read_feed

HOME = address_bytes(ip_address("10.0.0.1"))


def feed(*lines: str, **settings: object) -> Feed:
    config = FeedConfig(**{"file": "f", "name": "bad", "action": "drop", "min_entries": 0, **settings})  # type: ignore[arg-type]
    return Feed(config, read_feed(config, "\n".join(lines).encode()))


def traffic(*counts: int) -> RecentTraffic:
    """So many flows to 192.0.2.N, and many others to elsewhere."""
    found = RecentTraffic(lambda: 0.0)
    for at in range(LEAST):
        found.flow(HOME, address_bytes(ip_address(f"198.51.100.{at}")))
    for number, count in enumerate(counts):
        for _ in range(count):
            found.flow(HOME, address_bytes(ip_address(f"192.0.2.{number}")))
    return found


def test_the_share_is_that_of_new_entries_alone() -> None:
    seen = traffic(60, 40).seen()
    nothing, all_of_it = feed(), feed("192.0.2.0/24")
    assert share(seen, nothing, all_of_it, Allowlist()) == (50.0, "192.0.2.0")
    assert share(seen, all_of_it, feed("192.0.2.0/25"), Allowlist()) == (0.0, "")
    assert share(seen, feed("192.0.2.0"), all_of_it, Allowlist())[0] == 20.0
    assert share(seen, nothing, all_of_it, Allowlist.build(configured=["192.0.2.0"]))[0] == 20.0
    assert share(seen, nothing, feed("192.0.2.0/24", direction="source"), Allowlist())[0] == 0
    assert share(traffic().seen(), nothing, feed("10.0.0.1", direction="source"), Allowlist())[0] == 100


def test_names_count_too() -> None:
    found = RecentTraffic(lambda: 0.0)
    for at in range(2 * LEAST):
        found.name(f"www.n{at}.example" if at % 4 else "cdn.big.example")
    assert share(found.seen(), feed(), feed("big.example"), Allowlist()) == (25.0, "cdn.big.example")


def test_what_is_remembered_is_bounded_in_number_and_time() -> None:
    now = [0.0]
    found = RecentTraffic(lambda: now[0])
    for at in range(PAIRS + 50):
        found.flow(HOME, at.to_bytes(16))
    assert len(found.seen().pairs) == PAIRS
    now[0] = SPAN + 1
    assert found.seen().pairs == ()


class World:
    def __init__(self, state: Path) -> None:
        self.feeds: tuple[Feed, ...] = ()
        self.configured: set[str] = {"bad"}
        self.alerts: list[tuple[str, str, str]] = []
        self.allowlist = Allowlist.build(own=["10.9.9.9"])
        self.desk = FeedDesk(
            state, changed=self.take, configured=lambda: self.configured, settled=self.settled, merged=self.merged,
            say=lambda text: None, alert=lambda *alert: self.alerts.append(alert),
        )  # fmt: skip
        self.desk.traffic = traffic(60, 40)

    def take(self, feeds: tuple[Feed, ...]) -> None:
        self.feeds = feeds

    async def settled(self) -> None:
        pass

    def merged(self) -> Merged:
        return merge(self.feeds, self.allowlist)

    def listed(self, name: str) -> list[str]:
        found = [feed for feed in self.feeds if feed.config.name == name]
        return [prefix.text(entry) for feed in found for entry in feed.content.prefixes]

    async def believe(self, feed: Feed) -> list[str]:
        self.take(await self.desk.believe((feed,)))
        return self.listed("bad")


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_list_that_blocks_much_waits_until_somebody_accepts_it(world: World) -> None:
    async def go() -> None:
        world.take(world.desk.first((feed("203.0.113.1"),)))
        assert await world.believe(feed("203.0.113.1", "192.0.2.0/24")) == ["203.0.113.1"]
        assert "50 percent of recent traffic (192.0.2.0 for one), max_share = 5" in world.desk.quarantined["bad"]
        assert [alert[:2] for alert in world.alerts] == [("bad", "quarantined")]
        assert await world.believe(feed("203.0.113.1", "192.0.2.0/24")) == ["203.0.113.1"]
        assert len(world.alerts) == 1
        assert await world.believe(feed("203.0.113.2")) == ["203.0.113.2"]
        assert world.desk.quarantined == {}
        await world.believe(feed("192.0.2.0/24"))
        accept = world.desk.handlers()["feeds_accept"]
        assert await accept({"names": ["other", "bad"]}) == {"accepted": ["bad"]}
        assert world.listed("bad") == ["192.0.2.0/24"]
        assert await accept({"names": ["bad"]}) == {"accepted": []}

    asyncio.run(go())


def test_a_local_list_that_shrinks_or_grows_much_waits(world: World) -> None:
    many = [f"203.0.113.{at}" for at in range(200)]

    async def go() -> None:
        world.take(world.desk.first((feed(*many, max_growth=100),)))
        assert len(await world.believe(feed(*many[:39], max_growth=100))) == 200
        assert "shrank by more than max_shrink = 80 percent" in world.desk.quarantined["bad"]
        assert len(await world.believe(feed(*many[:40], max_growth=100))) == 40
        assert len(await world.believe(feed(*many, max_growth=100))) == 200
        more = [*many, *(f"198.18.1.{at}" for at in range(201))]
        assert len(await world.believe(feed(*more, max_growth=100))) == 200
        assert "grew by more than max_growth = 100 percent" in world.desk.quarantined["bad"]
        await world.desk.handlers()["feeds_accept"]({"names": ["bad"]})
        assert len(world.listed("bad")) == 401

    asyncio.run(go())


@pytest.mark.parametrize("settings", [{"max_share": 100}, {"action": "alert"}, {"max_share": 60}])
def test_a_list_may_be_allowed_to(world: World, settings: dict[str, object]) -> None:
    async def go() -> None:
        world.take(world.desk.first((feed("203.0.113.1", **settings),)))
        assert await world.believe(feed("192.0.2.0/24", **settings)) == ["192.0.2.0/24"]

    asyncio.run(go())


def test_another_configuration_and_little_traffic_say_nothing(world: World) -> None:
    async def go() -> None:
        world.take(world.desk.first((feed("203.0.113.1"),)))
        assert await world.believe(feed("192.0.2.0/24", max_share=4)) == ["192.0.2.0/24"]
        await world.believe(feed("203.0.113.1", max_share=4))
        world.desk.traffic = RecentTraffic()
        assert await world.believe(feed("192.0.2.0/24", max_share=4)) == ["192.0.2.0/24"]

    asyncio.run(go())


def test_entries_by_command(world: World) -> None:
    async def go() -> None:
        world.take(world.desk.first((feed("203.0.113.1"),)))
        handlers = world.desk.handlers()
        answer = await handlers["feeds_add"]({"entry": "198.51.100.0/24", "reason": "x"})
        assert (answer["entry"], answer["feed"], answer["allowed"]) == ("198.51.100.0/24", "local", [])
        assert world.listed("local") == ["198.51.100.0/24"]
        assert world.listed("bad") == ["203.0.113.1"]
        assert (await handlers["feeds_add"]({"entry": "10.9.9.9"}))["allowed"] == ["own address 10.9.9.9"]
        part = await handlers["feeds_add"]({"entry": "10.9.9.8/31"})
        assert part["allowed"] == ["own address 10.9.9.9 (the rest is enforced)"]
        wide = await handlers["feeds_add"]({"entry": "0.0.0.0/0"})
        assert wide["allowed"] == ["shorter than /8"]
        await handlers["feeds_remove"]({"entry": "198.51.100.0/24"})
        assert "198.51.100.0/24" not in world.listed("local")
        for request in ({"entry": "192.0.2.1", "feed": "bad"}, {"entry": "192.0.2.1", "for": "soon"}, {"entry": 1}):
            with pytest.raises(ControlError):
                await handlers["feeds_add"](request)

    asyncio.run(go())


def test_an_entry_ends_by_itself_and_survives_a_restart(world: World, tmp_path: Path) -> None:
    async def go() -> None:
        world.take(world.desk.first(()))
        handlers = world.desk.handlers()
        await handlers["feeds_add"]({"entry": "192.0.2.1", "for": "1s"})
        await handlers["feeds_add"]({"entry": "192.0.2.2"})
        running = asyncio.create_task(world.desk.run())
        for _ in range(300):
            if world.listed("local") == ["192.0.2.2"]:
                break
            await asyncio.sleep(0.02)
        assert world.listed("local") == ["192.0.2.2"]
        running.cancel()
        again = World(tmp_path)
        again.take(again.desk.first(()))
        assert again.listed("local") == ["192.0.2.2"]

    asyncio.run(go())
