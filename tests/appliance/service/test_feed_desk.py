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


def test_what_else_changes_of_a_feed_lets_no_list_in_that_is_put_aside(world: World) -> None:
    async def go() -> None:
        world.take(world.desk.first((feed("203.0.113.1"),)))
        assert await world.believe(feed("192.0.2.0/24")) == ["203.0.113.1"]
        assert await world.believe(feed("192.0.2.0/24", confidence=90)) == ["203.0.113.1"]
        assert "max_share" in world.desk.quarantined["bad"]
        assert world.desk._in_force["bad"].config.confidence == 90
        assert await world.believe(feed("192.0.2.0/24", confidence=90, max_share=99)) == ["192.0.2.0/24"]
        assert world.desk.quarantined == {}

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


def restarted(tmp_path: Path) -> World:
    world = World(tmp_path)
    world.desk.traffic = RecentTraffic(lambda: 0.0)
    return world


def refuse(tmp_path: Path) -> None:
    async def go() -> None:
        world = World(tmp_path)
        world.take(world.desk.first((feed("203.0.113.1"),)))
        assert await world.believe(feed("203.0.113.1", "192.0.2.0/24")) == ["203.0.113.1"]

    asyncio.run(go())


def test_what_is_put_aside_stays_so_after_a_restart_until_it_is_accepted(tmp_path: Path) -> None:
    refuse(tmp_path)

    async def go() -> None:
        bad = feed("203.0.113.1", "192.0.2.0/24")
        world = restarted(tmp_path)
        world.take(world.desk.first((bad,)))
        assert world.listed("bad") == ["203.0.113.1"]
        assert "50 percent of recent traffic" in world.desk.quarantined["bad"]
        assert [alert[:2] for alert in world.alerts] == [("bad", "quarantined")]
        # Another feed changes, and nothing is known of traffic: the decision stands.
        assert await world.believe(bad) == ["203.0.113.1"] and len(world.alerts) == 1
        assert await world.desk.handlers()["feeds_accept"]({"names": ["bad"]}) == {"accepted": ["bad"]}
        assert set(world.listed("bad")) == {"203.0.113.1", "192.0.2.0/24"}
        again = restarted(tmp_path)
        again.take(again.desk.first((bad,)))
        assert set(again.listed("bad")) == {"203.0.113.1", "192.0.2.0/24"} and again.desk.quarantined == {}

    asyncio.run(go())


def test_another_list_after_a_restart_waits_until_there_is_traffic_to_compare_it_with(tmp_path: Path) -> None:
    async def go(state: Path, allowed: RecentTraffic, there: list[str]) -> None:
        world = restarted(state)
        world.take(world.desk.first((feed("192.0.2.0/24"),)))
        await world.desk._look_again()
        assert world.listed("bad") == ["203.0.113.1"], "nothing is known of traffic"
        world.desk.traffic = allowed
        await world.desk._look_again()
        assert world.listed("bad") == there

    for name, allowed, there in (("much", traffic(60, 40), ["203.0.113.1"]), ("little", traffic(), ["192.0.2.0/24"])):
        (tmp_path / name).mkdir()
        refuse(tmp_path / name)
        asyncio.run(go(tmp_path / name, allowed, there))


def test_other_bounds_let_it_in_and_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    refuse(tmp_path)
    world = restarted(tmp_path)
    world.take(world.desk.first((feed("203.0.113.1", "192.0.2.0/24", max_share=90),)))
    assert set(world.listed("bad")) == {"203.0.113.1", "192.0.2.0/24"}
    (tmp_path / "aside.set").write_bytes(b"PCFEEDS")
    (tmp_path / "recent-traffic.json").write_text('{"saved": 0, "pairs": [["zz", 1, 1]], "names": []}')
    said: list[str] = []
    world = restarted(tmp_path)
    world.desk._say = said.append
    world.take(world.desk.first((feed("192.0.2.0/24"),)))
    assert [text.partition(":")[0] for text in said] == ["warning", "ALARM"]


def test_recent_traffic_is_known_after_a_restart_for_an_hour() -> None:
    before = traffic(60, 40)
    before.name("www.example")
    packed = before.packed(1000.0)
    later = RecentTraffic(lambda: 7.0)
    later.load(packed, 1000.0 + SPAN / 2)
    assert later.seen() == before.seen()
    too_late = RecentTraffic(lambda: 7.0)
    too_late.load(packed, 1000.0 + SPAN)
    assert too_late.seen().flows == 0
    for broken in (b"", b"[]", packed[:-2], packed.replace(b",60]", b",-60]")):
        with pytest.raises(ValueError):
            too_late.load(broken, 1000.0)
