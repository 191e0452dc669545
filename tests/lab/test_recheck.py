# SPDX-License-Identifier: Apache-2.0
"""recheck(): flows of single addresses are decided anew, all others stay as they are."""

import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

import pytest

from appliance.netfilter import Fate, conntrack
from appliance.netfilter.marks import Up

pytestmark = pytest.mark.timeout(60)
FAMILIES = pytest.mark.parametrize("family", [4, 6])
OTHERS = 10_000


@dataclass
class Flow:
    """Datagrams from the client to the server until stop(), far enough apart that each is decided before the next."""

    here: socket.socket
    sent: int = 0
    _end: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self._send)
        self._thread.start()

    def _send(self) -> None:
        while not self._end.wait(0.01):
            self.here.send(b"x")
            self.sent += 1

    def stop(self) -> None:
        self._end.set()
        self._thread.join(5)


@pytest.fixture
def flow(gate: Any) -> Iterator[Callable[[str, int], Flow]]:
    flows: list[Flow] = []

    def start(source: str, port: int) -> Flow:
        version = ip_address(source).version
        with gate.client.enter():
            here = socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
        gate.defer(here.close)
        here.bind((source, 0))
        here.connect((gate.server.address(version), port))
        flows.append(Flow(here))
        return flows[-1]

    yield start
    for made in flows:
        made.stop()


def received(there: socket.socket) -> Counter[str]:
    """By source, until nothing comes any more."""
    there.settimeout(0.5)
    found: Counter[str] = Counter()
    try:
        while True:
            found[there.recvfrom(100)[1][0]] += 1
    except TimeoutError:
        return found


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 15
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def recheck(gate: Any, *addresses: str) -> None:
    with gate.node.enter():
        wanted = [ip_address(address) for address in addresses]
        gate.netfilter.recheck(wanted)
        gate.netfilter.recheck_done(wanted)


@FAMILIES
@pytest.mark.parametrize("end", ["source", "destination"])
def test_only_the_flow_of_the_address_comes_up_once_and_no_packet_is_lost(
    gate: Any, flow: Callable[[str, int], Flow], family: int, end: str
) -> None:
    decider = gate.install()
    this, that = ("10.91.1.50", "10.91.1.51") if family == 4 else ("fd00:91:1::50", "fd00:91:1::51")
    for address in (this, that):
        gate.client.add_address("eth0", f"{address}/{24 if family == 4 else 64}")
    there = gate.datagram(gate.server, port=7001, family=family)
    there.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    flows = [flow(this, 7001), flow(that, 7001)]
    until(lambda: all(made.sent > 20 for made in flows))
    assert {packet.src for packet in decider.take() if packet.up == Up(new=True)} == {this, that}
    until(lambda: decider.take() == [])  # those that waited for the neighbour have been decided, too
    before = gate.counters()["queued"]
    recheck(gate, this if end == "source" else gate.server.address(family))
    sent = [made.sent for made in flows]
    until(lambda: all(made.sent > before + 50 for made, before in zip(flows, sent, strict=True)))
    seen = [(packet.src, packet.up) for packet in decider.take()]
    expected = [this] if end == "source" else [this, that]
    # Once; on a busy machine the next ones may come before the first has its verdict.
    assert set(seen) == {(address, Up(previous=Fate.ALLOW)) for address in expected}
    assert len(seen) <= 5 * len(expected)
    sent = [made.sent for made in flows]
    until(lambda: all(made.sent > before + 30 for made, before in zip(flows, sent, strict=True)))
    for made in flows:
        made.stop()
    assert decider.take() == []
    assert received(there) == {this: flows[0].sent, that: flows[1].sent}
    assert gate.counters()["queued"] == before + len(seen)
    assert gate.counters()["bypassed"] == 0


@pytest.mark.parametrize("fate", [Fate.DROP, Fate.REJECT])
def test_what_is_denied_now_is_cut_at_once(gate: Any, ask_server: Callable[..., int], fate: Fate) -> None:
    decider = gate.install()
    gate.serve(gate.server, 7000)
    gate.client.add_address("eth0", "10.91.1.50/24")
    kept = gate.connect(gate.client, gate.server.v4, 7000)
    with gate.client.enter():
        cut = socket.create_connection((gate.server.v4, 7000), timeout=2, source_address=("10.91.1.50", 0))
    gate.defer(cut.close)
    assert ask_server(kept) == ask_server(cut) == 1
    decider.decide = lambda packet: fate
    recheck(gate, "10.91.1.50")
    cut.settimeout(0.5)
    with pytest.raises(TimeoutError if fate is Fate.DROP else ConnectionError):
        ask_server(cut)
    assert ask_server(kept) == 2


def test_a_denied_flow_is_let_in_again(gate: Any, flow: Callable[[str, int], Flow]) -> None:
    decider = gate.install()
    there = gate.datagram(gate.server, port=7001)
    here = flow(gate.client.v4, 7001)
    there.recv(10)
    decider.decide = lambda packet: Fate.DROP
    gate.set_generation(decider, 2)
    until(lambda: gate.counters()["fate_dropped"] > 10)
    received(there)
    decider.decide = lambda packet: Fate.ALLOW
    recheck(gate, gate.client.v4)
    there.settimeout(1.0)
    assert there.recv(10) == b"x"
    here.stop()
    assert [packet.up for packet in decider.take()][-1] == Up(previous=Fate.DROP)


def test_an_address_joins_those_that_are_rechecked(gate: Any) -> None:
    """Who came up for the first change comes up for the second, too; and nobody twice for one of them."""
    decider = gate.install()
    gate.client.add_address("eth0", "10.91.1.50/24")
    there = gate.datagram(gate.server, port=7001)
    with gate.client.enter():
        flows = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]
    sources = [gate.client.v4, "10.91.1.50"]
    for here, source in zip(flows, sources, strict=True):
        gate.defer(here.close)
        here.bind((source, 0))
        here.connect((gate.server.v4, 7001))

    def come_up() -> list[str]:
        for _ in range(3):
            for here in flows:
                here.send(b"x")
                there.recv(10)
        return [packet.src for packet in decider.take()]

    assert come_up() == sources
    with gate.node.enter():
        gate.netfilter.recheck([ip_address(sources[0])])
        assert come_up() == sources[:1]
        gate.netfilter.recheck([ip_address(sources[1])])
        assert come_up() == sources
        gate.netfilter.recheck([ip_address(sources[1])])
        assert come_up() == sources
        gate.netfilter.recheck_done([ip_address(source) for source in (*sources, sources[1])])
        assert come_up() == []
        listed = gate.node.run(["nft", "list", "set", "inet", "portcullis", "recheck_4"]).stdout
        assert "elements" not in str(listed)


def test_ten_thousand_other_flows_stay_and_a_silent_one_loses_its_fate(gate: Any) -> None:
    decider = gate.install()
    gate.client.add_address("eth0", "10.91.1.50/24")
    there = gate.datagram(gate.server, port=7001)
    there.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)
    sources = [(gate.client.v4, port) for port in range(20_000, 20_000 + OTHERS)] + [("10.91.1.50", 0)]
    with gate.client.enter():
        for sent, source in enumerate(sources):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as here:
                here.bind(source)
                here.sendto(b"x", (gate.server.v4, 7001))
            if sent % 200 == 0:
                until(lambda least=sent: len(decider.packets) > least)  # type: ignore[misc]
    until(lambda: len(decider.packets) == OTHERS + 1)
    with gate.node.enter():
        assert gate.netfilter.count_flows(1) == OTHERS + 1
        for addresses in (["10.91.1.50"], [f"10.91.1.{host}" for host in range(50, 59)]):
            started = time.monotonic()
            wanted = [ip_address(address) for address in addresses]
            gate.netfilter.recheck(wanted)
            gate.netfilter.recheck_done(wanted)
            print(f"{len(addresses)} addresses among {OTHERS} flows: {1000 * (time.monotonic() - started):.0f} ms")
            assert gate.netfilter.count_flows(1) == OTHERS
        assert gate.netfilter.missing() == []
    assert [mark for mark in gate.marks() if mark != 0x05000000] == [0x01000000]  # the fate alone: its previous one


def test_natted_flows_are_found_by_the_address_that_policy_sees(gate: Any) -> None:
    gate.node.run(
        ["nft", "add table ip n; add chain ip n d { type nat hook prerouting priority -100; };"
         f" add rule ip n d udp dport 7009 dnat to {gate.server.v4}:7001"]
    )  # fmt: skip
    decider = gate.install()
    there = gate.datagram(gate.server, port=7001)
    here = gate.datagram(gate.client, gate.node.v4, 7009)
    here.send(b"x")
    assert there.recv(10) == b"x"
    decider.take()
    recheck(gate, gate.server.v4)
    assert 0x01000000 in gate.marks()
    here.send(b"y")
    assert there.recv(10) == b"y"
    assert [packet.up for packet in decider.take()] == [Up(previous=Fate.ALLOW)]


def test_two_at_a_time_and_a_lost_ruleset(gate: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second begins, and the rules are lost and made again, while the first is at its walk."""
    decider = gate.install()
    there = gate.datagram(gate.server, port=7001)
    here = gate.datagram(gate.client, gate.server.v4, 7001)
    here.send(b"x")
    there.recv(10)
    decider.take()
    walk, steps = conntrack.void, iter((True,))

    def interrupted(*arguments: Any) -> int:
        if next(steps, False):
            gate.netfilter.recheck([IPv6Address("fd00::1"), IPv4Address("10.9.9.9")])
            assert gate.netfilter.missing() == []
            gate.node.run(["nft", "flush ruleset"])
            assert gate.netfilter.mend() != []
            assert gate.netfilter.missing() == []
            here.send(b"y")  # still rechecked
            until(lambda: len(decider.packets) == 1)
        return walk(*arguments)

    monkeypatch.setattr(conntrack, "void", interrupted)
    recheck(gate, gate.client.v4)
    monkeypatch.undo()
    assert [packet.up for packet in decider.take()] == [Up(previous=Fate.ALLOW)]
    here.send(b"z")
    there.recv(10)
    assert decider.take() == []
    with gate.node.enter():
        assert gate.netfilter.missing() == []
