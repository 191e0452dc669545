# SPDX-License-Identifier: Apache-2.0
"""Kernel sets of listed addresses: what they drop, what they leave alone, how they are kept in step."""

import ipaddress
import time
from collections.abc import Iterator

import pytest

from appliance.lab import Lab
from appliance.lab.namespaces import Namespace
from appliance.netfilter import nft
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
            found = nft.query(f"list table inet {TABLE}")
        names = set()
        for entry in found:
            for element in entry.get("set", {}).get("elem", ()):
                names.add(
                    f"{element['prefix']['addr']}/{element['prefix']['len']}" if isinstance(element, dict) else element
                )
        return names


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
