# SPDX-License-Identifier: Apache-2.0
"""Kernel sets of listed addresses: what they drop, what they leave alone, how they are kept in step."""

import ipaddress
import random
import time
from collections.abc import Iterator, Sequence

import pytest

from appliance.lab import Lab, Namespace
from appliance.netfilter import nft
from appliance.netfilter.elements import Exchange
from appliance.netfilter.nft import NftError
from appliance.netfilter.offload import TABLE, Offload, OffloadFeed, OffloadSettings
from tests.patience import PATIENCE
from threatfeeds import prefix

SETTINGS = OffloadSettings(failsafe_in=(("tcp", 22),), failsafe_out=(("udp", 53),))


class Net:
    """client – node – server, and the offload of the node."""

    def __init__(self, lab: Lab) -> None:
        self.client, self.node, self.server = lab.chain()
        self.offload = Offload(SETTINGS)

    def apply(self, *feeds: OffloadFeed) -> list[str]:
        with self.node.enter():
            return self.offload.apply(feeds)

    def hits(self) -> int:
        with self.node.enter():
            return self.offload.hits()["bad"]

    def elements(self) -> set[str]:
        with self.node.enter():
            found = [entry["set"] for entry in nft.query(f"list table inet {TABLE}") if "set" in entry]
        lengths = {one["name"]: one["name"].rpartition("_")[2] for one in found}
        starts = ((start, lengths[one["name"]]) for one in found for start in one.get("elem", ()))
        networks = (str(ipaddress.ip_network(f"{start}/{length}")) for start, length in starts)
        return {network.removesuffix("/32").removesuffix("/128") for network in networks}


@pytest.fixture
def net() -> Iterator[Net]:
    with Lab() as lab:
        yield Net(lab)


def feed(*entries: str, source: bool = True, destination: bool = True) -> OffloadFeed:
    return OffloadFeed("bad", tuple(sorted(map(prefix.parse, entries))), source, destination)


def reaches(start: Namespace, address: str) -> bool:
    done = start.run(["ping", "-c1", "-W1", address], check=False, timeout=10)
    return done.returncode == 0


@pytest.mark.parametrize("family", [4, 6])
def test_listed_source_is_dropped_and_counted_and_its_answers_are_not(net: Net, family: int) -> None:
    listed = net.client.address(family)
    # The neighbours may have to find each other first.
    assert any(reaches(net.client, net.server.address(family)) for _ in range(3))
    net.apply(feed(listed, destination=False))
    assert not reaches(net.client, net.server.address(family))
    assert net.hits() == 1
    # What the server begins may be answered: the list is about who begins.
    assert reaches(net.server, listed)
    net.apply(feed(listed))
    assert not reaches(net.server, listed)
    assert net.hits() == 2


def test_sets_are_kept_in_step_and_hits_go_on(net: Net) -> None:
    assert net.apply(feed("192.0.2.0/24", "198.51.100.7", "2001:db8:bad::/48")) == ["bad"]
    assert net.elements() == {"192.0.2.0/24", "198.51.100.7", "2001:db8:bad::/48"}
    net.apply(feed("192.0.2.0/25", net.client.v4))
    assert net.elements() == {"192.0.2.0/25", net.client.v4}
    assert net.apply(feed("192.0.2.0/25", net.client.v4)) == []
    assert not reaches(net.client, net.server.v4)
    net.apply(feed("192.0.2.0/24", net.client.v4))
    assert net.hits() == 1
    assert net.apply() == ["bad"]
    assert net.elements() == set()
    assert reaches(net.client, net.server.v4)
    assert net.apply(feed(net.client.v4)) == ["bad"]
    assert not reaches(net.client, net.server.v4)


def test_failsafe_ports_and_loopback_are_left_alone(net: Net) -> None:
    def connects(port: int) -> bool:
        done = net.client.run(["nc", "-z", "-w1", net.node.v4, str(port)], check=False, timeout=10)
        return done.returncode == 0

    for port in (22, 2222):
        net.node.popen(["nc", "-lk", net.node.v4, str(port)])
        net.node.wait_for_port(port)
    net.apply(feed(net.client.v4, "127.0.0.0/8"))
    assert connects(22)
    assert not connects(2222)
    assert reaches(net.node, "127.0.0.1")


def test_nothing_is_made_without_a_feed_and_nothing_stays(net: Net) -> None:
    net.apply()
    with net.node.enter():
        assert nft.query("list tables") == []
    net.apply(feed("192.0.2.1"))
    with net.node.enter():
        net.offload.remove()
        assert nft.query("list tables") == []
    assert net.apply(feed("192.0.2.1")) == ["bad"]


def test_a_hundred_thousand_elements_change_in_seconds(net: Net) -> None:
    first = ipaddress.IPv4Address("11.0.0.0")
    entries = tuple(prefix.of_address(first + 2 * number) for number in range(100_000))
    started = time.monotonic()
    net.apply(OffloadFeed("bad", entries))
    net.apply(OffloadFeed("bad", entries[1000:]))
    assert time.monotonic() - started < 20 * PATIENCE


def test_a_change_moves_the_elements_that_changed_and_no_others(net: Net) -> None:
    sent: list[tuple[str, list[bytes], bool]] = []

    class Watched(Exchange):
        def change(self, table: str, name: str, keys: Sequence[bytes], *, remove: bool = False) -> None:
            sent.append((name, list(keys), remove))
            super().change(table, name, keys, remove=remove)

    scripts: list[str] = []
    net.offload = Offload(SETTINGS, run=lambda script: scripts.append(script) or nft.run(script))
    net.offload._exchange = Watched()
    many = [f"203.0.113.{number}" for number in range(100)]
    net.apply(feed(*many, "2001:db8::/64"))
    scripts.clear()
    sent.clear()
    net.apply(feed(*many[1:], "203.0.113.200", "2001:db8::/64"))
    assert scripts == []
    assert sent == [("f0_4_32", [bytes([203, 0, 113, 200])], False), ("f0_4_32", [bytes([203, 0, 113, 0])], True)]


def test_prefixes_beside_and_around_others_come_and_go_in_any_order(net: Net) -> None:
    """Against a set of texts that is changed alongside; the lists are disjoint, as merged ones are."""
    rng = random.Random(5)

    def disjoint() -> list[str]:
        low = ipaddress.ip_network(rng.choice(["198.51.100.0/22", "198.51.100.0/24", "2001:db8::/32"]), strict=False)
        found, left = [], [low]
        while left:
            network = left.pop()
            if rng.random() < 0.55 and network.prefixlen < low.prefixlen + 5:
                left += network.subnets()
            elif rng.random() < 0.6:
                found.append(str(network).removesuffix("/32"))
        return found

    for _ in range(40):
        entries = disjoint()
        net.apply(feed(*entries))
        assert net.elements() == set(entries)


@pytest.mark.parametrize("length", [8, 17, 24, 31, 32])
def test_an_address_below_a_prefix_is_dropped_and_its_neighbour_is_not(net: Net, length: int) -> None:
    address = ipaddress.IPv4Address(net.client.v4)
    inside = ipaddress.ip_network(f"{address}/{length}", strict=False)
    beside = ipaddress.IPv4Address(int(inside.network_address) ^ 1 << 32 - length)
    net.apply(feed(f"{beside}/{length}", destination=False))
    assert reaches(net.client, net.server.v4)
    net.apply(feed(str(inside), destination=False))
    assert not reaches(net.client, net.server.v4) and net.hits() == 1


def test_what_another_program_changes_is_made_again_and_what_failed_half_way_too(net: Net) -> None:
    entries = ("192.0.2.0/24", net.client.v4, "2001:db8:bad::/48")
    net.apply(feed(*entries))

    def mend() -> list[str]:
        with net.node.enter():
            return net.offload.mend(True)

    assert mend() == []
    for change in (
        f"delete element inet {TABLE} f0_4_32 {{ {net.client.v4} }}",
        f"add element inet {TABLE} f0_4_24 {{ 10.77.1.0 }}",
        f"flush chain inet {TABLE} forward",
    ):
        with net.node.enter():
            number = net.offload._feeds["bad"].listed.number
            nft.run(change.replace("f0_", f"f{number}_"))
        assert len(mend()) == 1 and mend() == []
        assert net.elements() == {*entries}
        assert not reaches(net.client, net.server.v4)
    # An element that shall go is not there any more.
    with net.node.enter():
        number = net.offload._feeds["bad"].listed.number
        nft.run(f"delete element inet {TABLE} f{number}_4_24 {{ 192.0.2.0 }}")
    with pytest.raises(NftError):
        net.apply(feed(net.client.v4))
    assert len(mend()) == 1
    assert net.elements() == {net.client.v4}
