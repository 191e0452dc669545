# SPDX-License-Identifier: Apache-2.0
"""The three chains on real packets: who comes up, what a fate does, at every hook and in both families."""

import errno
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest

from appliance.lab import LabError
from appliance.netfilter import Fate
from appliance.netfilter.backend import has_nft_queue
from appliance.netfilter.conntrack import counts_bytes
from appliance.netfilter.marks import Up

pytestmark = pytest.mark.timeout(20)
FAMILIES = pytest.mark.parametrize("family", [4, 6])
HOOKS = pytest.mark.parametrize("hook", ["forward", "input", "output"])
Ask = Callable[..., int]


@FAMILIES
@HOOKS
def test_an_allowed_connection_sends_one_packet_up(gate: Any, ask_server: Ask, hook: str, family: int) -> None:
    decider = gate.install()
    here, there = gate.ends(hook)
    gate.serve(there, 7000, family)
    connection = gate.connect(here, gate.address(hook, family), 7000)
    assert ask_server(connection, b"x" * 1_000_000 + b"?") == 1_000_001
    connection.close()
    seen = decider.take()
    assert [(packet.up, packet.dport) for packet in seen] == [(Up(new=True), 7000)]
    counters = gate.counters()
    assert counters[f"queued_{hook}"] == counters[f"allowed_{hook}"] == 1
    assert counters["bypassed"] == 0


@FAMILIES
@HOOKS
@pytest.mark.parametrize("fate", [Fate.DROP, Fate.REJECT])
def test_a_new_connection_is_denied_at_its_first_packet(gate: Any, hook: str, family: int, fate: Fate) -> None:
    decider = gate.install()
    decider.decide = lambda packet: fate
    here, there = gate.ends(hook)
    gate.serve(there, 7000, family)
    started = time.monotonic()
    with pytest.raises(TimeoutError if fate is Fate.DROP else ConnectionRefusedError):
        gate.connect(here, gate.address(hook, family), 7000, timeout=0.5)
    assert (time.monotonic() - started < 0.4) == (fate is Fate.REJECT)
    assert all(packet.up == Up(new=True) for packet in decider.take())


@FAMILIES
@HOOKS
@pytest.mark.parametrize("fate", [Fate.DROP, Fate.REJECT])
def test_an_open_flow_is_denied_after_a_change(gate: Any, ask_server: Ask, hook: str, family: int, fate: Fate) -> None:
    decider = gate.install()
    here, there = gate.ends(hook)
    gate.serve(there, 7000, family)
    connection = gate.connect(here, gate.address(hook, family), 7000)
    ask_server(connection)
    decider.take()
    decider.decide = lambda packet: fate
    gate.set_generation(decider, 2)
    connection.settimeout(0.7)
    with pytest.raises(TimeoutError if fate is Fate.DROP else ConnectionError):
        ask_server(connection)
    assert [packet.up for packet in decider.take()] == [Up(previous=Fate.ALLOW)]
    if fate is Fate.DROP:
        # the retransmissions were dropped by the kernel alone
        assert gate.counters()["fate_dropped"] >= 1


@FAMILIES
@HOOKS
def test_rejected_datagrams_answer_with_an_icmp_error(gate: Any, hook: str, family: int) -> None:
    decider = gate.install()
    decider.decide = lambda packet: Fate.REJECT
    here, _ = gate.ends(hook)
    client = gate.datagram(here, gate.address(hook, family), 7001)
    with pytest.raises(OSError) as caught:
        client.send(b"x")
        client.recv(10)
    assert caught.value.errno in (errno.EHOSTUNREACH, errno.EACCES, errno.EPERM)
    assert len(decider.take()) == 1  # the error itself did not come up


@FAMILIES
@pytest.mark.parametrize("speaker", ["client", "server"])
def test_after_a_change_an_allowed_flow_comes_up_once_with_its_direction(gate: Any, family: int, speaker: str) -> None:
    decider = gate.install()
    there = gate.datagram(gate.server, port=7002, family=family)
    here = gate.datagram(gate.client, gate.server.address(family), 7002)
    here.send(b"a")
    _, peer = there.recvfrom(10)
    there.sendto(b"b", peer)
    here.recv(10)
    assert [packet.up for packet in decider.take()] == [Up(new=True)]
    gate.set_generation(decider, 2)
    for _ in range(3):
        if speaker == "client":
            here.send(b"c")
            there.recv(10)
        else:
            there.sendto(b"d", peer)
            here.recv(10)
    assert [packet.up for packet in decider.take()] == [Up(reply=speaker == "server", previous=Fate.ALLOW)]


@FAMILIES
@pytest.mark.parametrize("speaker", ["client", "server"])
def test_an_aged_udp_flow_comes_up_once_with_its_direction(
    gate: Any, ask_server: Ask, family: int, speaker: str
) -> None:
    """And no packet is lost; flows of TCP, and what is denied, keep their fates."""
    decider = gate.install()
    gate.serve(gate.server, 7000, family)
    connection = gate.connect(gate.client, gate.server.address(family), 7000)
    there, _ = (gate.datagram(gate.server, port=port, family=family) for port in (7004, 7005))
    here, denied = (gate.datagram(gate.client, gate.server.address(family), port) for port in (7004, 7005))
    denied.send(b"x")
    decider.take()
    decider.decide = lambda seen: Fate.DROP if seen.dport == 7005 else Fate.ALLOW
    gate.set_generation(decider, 2)
    assert ask_server(connection)
    denied.send(b"x")
    here.send(b"a")
    _, peer = there.recvfrom(10)
    there.sendto(b"b", peer)
    here.recv(10)
    decider.take()
    with gate.node.enter():
        assert gate.netfilter.age() == 1
    denied.send(b"x")
    assert ask_server(connection)
    for _ in range(3):
        if speaker == "client":
            here.send(b"c")
            there.recv(10)
        else:
            there.sendto(b"d", peer)
            here.recv(10)
    assert [packet.up for packet in decider.take()] == [Up(reply=speaker == "server", previous=Fate.ALLOW)]


def test_a_udp_flow_that_carried_much_comes_up_where_the_kernel_counts(gate: Any) -> None:
    decider = gate.install()
    gate.node.sysctl({"net.netfilter.nf_conntrack_acct": 1})
    there = gate.datagram(gate.server, port=7006)
    flows = [gate.datagram(gate.client, gate.server.v4, 7006) for _ in range(2)]
    for sock, size in zip(flows, (600, 100), strict=True):
        sock.send(bytes(size))
        there.sendto(bytes(size), there.recvfrom(1000)[1])  # both directions count
        sock.recv(1000)
    decider.take()
    with gate.node.enter():
        assert counts_bytes()
        assert gate.netfilter.age(2000) == 0
        assert gate.netfilter.age(1200) == 1
    for sock in flows:
        sock.send(b"c")
        there.recv(10)
    assert [(packet.sport, packet.up) for packet in decider.take()] == [
        (flows[0].getsockname()[1], Up(previous=Fate.ALLOW))
    ]
    gate.node.sysctl({"net.netfilter.nf_conntrack_acct": 0})
    with gate.node.enter():
        assert not counts_bytes()


def test_sweep_takes_the_fates_of_one_generation_back(gate: Any) -> None:
    decider = gate.install()
    gate.node.run(["nft", "add table inet other; add chain inet other c { type filter hook forward priority 10; }"])
    gate.node.run(["nft", "add rule inet other c ct mark set ct mark | 0x5"])
    sockets = []
    for family in (4, 6):
        there = gate.datagram(gate.server, port=7003, family=family)
        here = gate.datagram(gate.client, gate.server.address(family), 7003)
        here.send(b"a")
        _, peer = there.recvfrom(10)
        there.sendto(b"b", peer)
        here.recv(10)
        sockets.append((here, there))
    assert gate.marks() == [0x05000005, 0x05000005]
    with gate.node.enter():
        assert gate.netfilter.count_flows(1) == 2
        assert gate.netfilter.sweep([2, 3]) == 0
        assert gate.netfilter.sweep([1], gently=True) == 2
    assert gate.marks() == [5, 5]
    decider.take()
    for here, there in sockets:
        here.send(b"c")
        there.recv(10)
    assert [packet.up for packet in decider.take()] == [Up(), Up()]


def test_nobody_listens(gate: Any, ask_server: Ask) -> None:
    gate.serve(gate.server, 7000)
    gate.install(decider=False)
    with pytest.raises(TimeoutError):
        gate.connect(gate.client, gate.server.v4, 7000, timeout=0.5)
    gate.install(decider=False, bypass=True)
    connection = gate.connect(gate.client, gate.server.v4, 7000)
    assert ask_server(connection) == 1
    assert gate.counters()["bypassed_forward"] >= 3


@pytest.mark.parametrize(
    ("backend", "flush", "missing"),
    [
        ("xt", "iptables-nft -t security -F", "ip security queue rules"),
        ("nft", "nft flush chain inet portcullis queue_forward", "chain queue_forward"),
    ],
    ids=["xt", "nft"],
)
def test_unanswered_packets_can_be_dropped_at_the_end(gate: Any, backend: str, flush: str, missing: str) -> None:
    """The queue rule is gone, by another program's hand: fail-closed."""
    with gate.node.enter():
        if backend == "nft" and not has_nft_queue():
            pytest.skip("this kernel has no nft queue statement")
    gate.serve(gate.server, 7000)
    gate.install(unanswered="drop", backend=backend)
    gate.node.run(flush.split())
    with pytest.raises(TimeoutError):
        gate.connect(gate.client, gate.server.v4, 7000, timeout=0.5)
    with gate.node.enter():
        assert gate.netfilter.missing() == [missing]
        gate.netfilter.install(1)
        assert gate.netfilter.missing() == []
    gate.connect(gate.client, gate.server.v4, 7000)


@FAMILIES
def test_failsafe_ports_pass_without_a_listener(gate: Any, ask_server: Ask, family: int) -> None:
    gate.install(decider=False)
    for hook, port in (("input", 22), ("output", 179)):
        here, there = gate.ends(hook)
        gate.serve(there, port, family)
        assert ask_server(gate.connect(here, gate.address(hook, family), port)) == 1
    gate.serve(gate.server, 22, family)
    with pytest.raises(TimeoutError):  # never in forward
        gate.connect(gate.client, gate.server.address(family), 22, timeout=0.4)
    with pytest.raises(TimeoutError):  # 22 is a failsafe inward only
        gate.connect(gate.node, gate.server.address(family), 22, timeout=0.4)


def test_the_source_port_of_a_failsafe_opens_nothing(gate: Any) -> None:
    gate.install(decider=False)
    inside = gate.datagram(gate.node, port=7004)
    inside.settimeout(0.4)
    outside = gate.datagram(gate.client, port=53)
    outside.sendto(b"x", (gate.node.v4, 7004))
    with pytest.raises(TimeoutError):
        inside.recv(10)


@FAMILIES
@pytest.mark.parametrize("listening", [True, False])
def test_dns_of_the_node_is_shown_and_never_denied(gate: Any, family: int, listening: bool) -> None:
    decider = gate.install(decider=listening)
    decider.decide = lambda packet: Fate.DROP
    there = gate.datagram(gate.server, port=53, family=family)
    here = gate.datagram(gate.node, gate.server.address(family), 53)
    here.send(b"question")
    _, peer = there.recvfrom(20)
    there.sendto(b"answer", peer)
    assert here.recv(20) == b"answer"
    ups = [(packet.queue, packet.up) for packet in decider.take()]
    shown = [(32, Up(no_save=True, look_only=True)), (32, Up(no_save=True, look_only=True, reply=True))]
    assert ups == (shown if listening else [])
    assert gate.counters()["look"] == 2
    assert gate.counters()["look_bypassed"] == (0 if listening else 2)
    assert gate.marks() in ([0], [0, 0])


def test_neighbours_stay_reachable_when_everything_is_denied(gate: Any) -> None:
    decider = gate.install()
    decider.decide = lambda packet: Fate.DROP
    gate.serve(gate.node, 22, 6)
    for namespace in (gate.node, gate.client):
        namespace.run(["ip", "neigh", "flush", "all"])
    gate.connect(gate.client, gate.node.v6, 22)
    with pytest.raises(LabError):
        gate.client.run(["ping", "-6", "-c", "1", "-W", "1", gate.node.v6])
    assert {packet.sport for packet in decider.take() if packet.protocol == 58} == {128}


def test_loopback_is_left_alone(gate: Any, ask_server: Ask) -> None:
    gate.install(decider=False)
    gate.serve(gate.node, 7000)
    assert ask_server(gate.connect(gate.node, "127.0.0.1", 7000)) == 1
    assert ask_server(gate.connect(gate.node, gate.node.v4, 7000)) == 1


def test_a_new_connection_on_an_old_tuple_inherits_nothing(gate: Any, ask_server: Ask) -> None:
    decider = gate.install()
    gate.serve(gate.server, 7000)
    first = gate.connect(gate.client, gate.server.v4, 7000, source_port=40000)
    ask_server(first)
    # Abort: the entry lives on in CLOSE or is forgotten by the peer, its mark says allow.
    first.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    first.close()
    decider.take()
    assert gate.marks() == [0x05000000]
    decider.decide = lambda packet: Fate.REJECT
    with pytest.raises(ConnectionRefusedError):
        gate.connect(gate.client, gate.server.v4, 7000, source_port=40000)
    assert [packet.up for packet in decider.take()] == [Up(new=True)]


def test_two_queues_share_the_flows(gate: Any, ask_server: Ask) -> None:
    decider = gate.install(queue_count=2)
    for network in range(1, 9):
        gate.client.add_address("eth0", f"10.91.1.{100 + network}/24")
    gate.serve(gate.server, 7000)
    for network in range(1, 9):
        with gate.client.enter():
            connection = socket.create_connection(
                (gate.server.v4, 7000), timeout=2, source_address=(f"10.91.1.{100 + network}", 0)
            )
        with connection:
            ask_server(connection)
    assert {packet.queue for packet in decider.take()} == {0, 1}


@FAMILIES
def test_flows_of_one_address_pair_share_the_queues_where_the_kernel_can(gate: Any, family: int) -> None:
    """And both directions of each come to the same queue."""
    decider = gate.install(queue_count=2)
    there = gate.datagram(gate.server, port=7002, family=family)
    peers = []
    for _ in range(24):
        gate.datagram(gate.client, gate.server.address(family), 7002).send(b"a")
        peers.append(there.recvfrom(10)[1])
    queues = {packet.sport: packet.queue for packet in decider.take()}
    assert set(queues.values()) == {0, 1} if gate.netfilter.settings.by_tuple else len(set(queues.values())) == 1
    gate.set_generation(decider, 2)
    for peer in peers:
        there.sendto(b"b", peer)
    answers = decider.take()
    assert all(packet.up.reply for packet in answers)
    assert {packet.dport: packet.queue for packet in answers} == queues
