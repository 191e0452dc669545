# SPDX-License-Identifier: Apache-2.0
"""The engine on real packets: one NFQUEUE rule and the simplest marks around it, in a node that forwards.

No fate is saved here, so every packet of a flow comes up: what the connection mark does belongs to the netfilter tests.
"""

import contextlib
import errno
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from appliance.lab import Chain, Lab
from fastpath import Counters, Engine, EngineConfig, Event, FastpathError, IdentityMap, Policy, PolicyTables
from fastpath.layout import (
    CHAIN,
    IDENTITY_CHAINS,
    NONE,
    PORT_TERM,
    RULE,
    Action,
    EventFlag,
    EventKind,
    RuleFlag,
    Verdict,
)

CLIENT, SERVER = 1, 2
ALLOWED, REJECTED, DENIED = 5001, 5002, 5003
ALLOW_RULE, REJECT_RULE, PING_RULE, DEFAULT_RULE = 100, 101, 102, 199
GENERATION = 3

# Before the queue rule (security table, priority 150) the marks of classify, behind it the acts of obey.
RULES = """
table inet engine_test {
    chain classify { type filter hook forward priority 149; policy accept;
        ct state new meta mark set 0x84000000 return
        ct direction reply meta mark set 0xc0000000 return
        meta mark set 0x80000000
    }
    chain obey { type filter hook forward priority 151; policy accept;
        meta mark & 0x03000000 == 0x02000000 counter drop
        meta mark & 0x03000000 == 0x03000000 meta l4proto tcp reject with tcp reset
    }
}
"""


def tables(allowed_port: int = ALLOWED, port_action: Action = Action.ALLOW) -> PolicyTables:
    """The server lets in the allowed port (TCP and UDP) and ping; the rejected port is rejected, the rest dropped."""

    def rule(number: int, action: Action, proto: int, term: int | None) -> bytes:
        ports = (0, 0) if term is None else (term, 1)
        flags = RuleFlag.PROTO if proto else RuleFlag(0)
        return RULE.pack(number, NONE, NONE, 0, 0, 0, 0, 0, *ports, 0, 0, flags, action, proto, 0, 0, 0, 0, 0)

    rules = [
        rule(ALLOW_RULE, port_action, 0, 0),
        rule(REJECT_RULE, Action.REJECT, 6, 1),
        rule(PING_RULE, Action.ALLOW, 1, None),
        rule(PING_RULE, Action.ALLOW, 58, None),
    ]
    nothing = IDENTITY_CHAINS.pack(NONE, NONE, NONE, NONE)
    return PolicyTables(
        rules=b"".join(rules),
        port_terms=PORT_TERM.pack(NONE, allowed_port, allowed_port, 0) + PORT_TERM.pack(NONE, REJECTED, REJECTED, 0),
        chains=CHAIN.pack(0, len(rules), DEFAULT_RULE, Action.DENY),
        predicate_offsets=struct.pack("=4I", 0, 0, 0, 0),
        identities=nothing * 2 + IDENTITY_CHAINS.pack(0, NONE, 0, NONE),
    )


def entry(address: str, identity: int, ifindex: int = 0) -> tuple[bytes, int, int, int]:
    parsed = ip_address(address)
    packed = parsed.packed if parsed.version == 6 else bytes(10) + b"\xff\xff" + parsed.packed
    return packed, 128, identity, ifindex


class Bench:
    """The chain of namespaces with the rules in its node."""

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        self.identities = IdentityMap.build(
            entry(address, identity)
            for host, identity in ((chain.client, CLIENT), (chain.server, SERVER))
            for address in (host.v4, host.v6)
        )
        self.policy = Policy(tables())
        chain.node.run(["nft", "-f", "-"], input=RULES)
        for command in ("iptables", "ip6tables"):
            chain.node.run(
                [command, "-w", "-t", "security", "-A", "FORWARD", "-m", "mark", "--mark", "0x80000000/0x80000000",
                 "-j", "NFQUEUE", "--queue-num", "0"]
            )  # fmt: skip

    def open(self, **options: object) -> Engine:
        with self.chain.node.enter():
            return Engine(EngineConfig(**options), self.identities, self.policy, GENERATION)  # type: ignore[arg-type]

    @contextlib.contextmanager
    def running(self, **options: object) -> Iterator[Engine]:
        with self.open(**options) as engine:
            engine.start()
            yield engine

    def serve(self, family: int, kind: socket.SocketKind, port: int) -> socket.socket:
        with self.chain.server.enter():
            server = socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6, kind)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((self.chain.server.address(family), port))
        if kind == socket.SOCK_STREAM:
            server.listen(16)
        server.settimeout(5)
        return server

    def client(self, family: int, kind: socket.SocketKind, timeout: float = 5) -> socket.socket:
        with self.chain.client.enter():
            client = socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6, kind)
        client.settimeout(timeout)
        return client

    def queue_line(self) -> list[int]:
        """Queue number, port, waiting, copy mode, copy range, queue dropped, user dropped, id sequence."""
        with self.chain.node.enter():
            lines = Path("/proc/thread-self/net/netfilter/nfnetlink_queue").read_text().splitlines()
        return [int(word) for line in lines if line.split()[0] == "0" for word in line.split()]


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with Lab() as lab:
        yield Bench(lab.chain(network=81))


def events_of(engine: Engine) -> list[Event]:
    time.sleep(0.05)
    return engine.read_events()


def eventually(holds: Callable[[], bool], seconds: float = 5) -> bool:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def total(engine: Engine) -> Counters:
    return engine.counters()[0]


@pytest.mark.parametrize("family", [4, 6])
def test_tcp_is_allowed_rejected_and_dropped_by_policy(bench: Bench, family: int) -> None:
    address = bench.chain.server.address(family)
    with bench.running() as engine:
        with (
            bench.serve(family, socket.SOCK_STREAM, ALLOWED) as server,
            bench.client(family, socket.SOCK_STREAM) as client,
        ):
            client.connect((address, ALLOWED))
            peer, _ = server.accept()
            with peer:
                client.sendall(b"hello")
                assert peer.recv(16) == b"hello"
        (event,) = events_of(engine)
        assert (event.kind, event.verdict, event.rule) == (EventKind.FLOW, Verdict.ALLOW, ALLOW_RULE)
        assert (event.src_identity, event.dst_identity, event.generation) == (CLIENT, SERVER, GENERATION)
        assert (event.dst, event.dport, event.family) == (ip_address(address), ALLOWED, family)
        assert event.iif == bench.chain.node.ifindex("cli0") and event.oif == bench.chain.node.ifindex("srv0")

        with bench.client(family, socket.SOCK_STREAM) as client:
            started = time.monotonic()
            with pytest.raises(ConnectionRefusedError):
                client.connect((address, REJECTED))
            assert time.monotonic() - started < 1
        assert events_of(engine)[0].rule == REJECT_RULE

        with bench.client(family, socket.SOCK_STREAM, timeout=0.3) as client, pytest.raises(TimeoutError):
            client.connect((address, DENIED))
        assert [event.rule for event in events_of(engine)] == [DEFAULT_RULE]
        counters = total(engine)
        assert counters.rejected == 1 and counters.dropped == 1 and counters.allowed >= 5
        assert counters.packets == counters.allowed + counters.dropped + counters.rejected
        assert counters.verdict_errors == counters.netlink_errors == counters.id_gaps == 0


@pytest.mark.parametrize("family", [4, 6])
def test_udp_and_ping_are_decided_with_their_replies(bench: Bench, family: int) -> None:
    address = bench.chain.server.address(family)
    with bench.running() as engine:
        with (
            bench.serve(family, socket.SOCK_DGRAM, ALLOWED) as server,
            bench.client(family, socket.SOCK_DGRAM) as client,
        ):
            client.sendto(b"question", (address, ALLOWED))
            data, peer = server.recvfrom(64)
            server.sendto(b"answer to " + data, peer)
            assert client.recv(64) == b"answer to question"
        bench.chain.client.run(["ping", "-c", "2", "-i", "0.2", "-W", "2", address])
        events = events_of(engine)
        assert [event.rule for event in events] == [ALLOW_RULE, PING_RULE]
        assert total(engine).flow_hits >= 4  # two replies, the second ping and its reply

        with (
            bench.serve(family, socket.SOCK_DGRAM, DENIED) as server,
            bench.client(family, socket.SOCK_DGRAM) as client,
        ):
            server.settimeout(0.3)
            client.sendto(b"x", (address, DENIED))
            with pytest.raises(TimeoutError):
                server.recv(64)


def test_observe_lets_the_denied_pass_and_says_so(bench: Bench) -> None:
    with bench.running(observe=True) as engine:
        with bench.serve(4, socket.SOCK_DGRAM, DENIED) as server, bench.client(4, socket.SOCK_DGRAM) as client:
            client.sendto(b"x", (bench.chain.server.v4, DENIED))
            assert server.recv(64) == b"x"
        (event,) = events_of(engine)
        assert event.verdict == Verdict.DROP and event.flags & EventFlag.OBSERVED
        assert total(engine).would_deny == 1


def test_address_of_an_endpoint_counts_only_on_its_interface(bench: Bench) -> None:
    chain = bench.chain
    home = IdentityMap.build([entry(chain.client.v4, CLIENT, chain.node.ifindex("srv0"))])
    with bench.running() as engine:
        engine.publish(home, bench.policy, GENERATION)
        assert chain.client.run(["ping", "-c", "1", "-W", "1", chain.server.v4], check=False).returncode == 1
        assert events_of(engine)[0].kind == EventKind.FAILURE
        engine.publish(bench.identities, bench.policy, GENERATION)
        chain.client.run(["ping", "-c", "1", "-W", "1", chain.server.v4])


def transfer(bench: Bench, size: int, meanwhile: Callable[[], None]) -> None:
    """One TCP flow of `size` bytes from client to server; every byte must arrive."""
    received = 0

    def receive(server: socket.socket) -> None:
        nonlocal received
        peer, _ = server.accept()
        with peer:
            while data := peer.recv(1 << 20):
                received += len(data)

    with bench.serve(4, socket.SOCK_STREAM, ALLOWED) as server:
        reader = threading.Thread(target=receive, args=(server,))
        reader.start()
        with bench.client(4, socket.SOCK_STREAM, timeout=20) as client:
            client.connect((bench.chain.server.v4, ALLOWED))
            block = bytes(1 << 20)
            for _ in range(size >> 20):
                client.sendall(block)
                meanwhile()
        reader.join(20)
    assert received == size


def test_large_packets_come_up_whole(bench: Bench) -> None:
    with bench.running() as engine:
        transfer(bench, 32 << 20, lambda: None)
        counters = total(engine)
        assert counters.bytes > 32 << 20
        assert counters.bytes / counters.packets > 3000  # acknowledgements included; the MTU is 1500


def test_publishing_under_load_loses_nothing(bench: Bench) -> None:
    other = Policy(tables())
    published = 0

    with bench.running() as engine:

        def publish() -> None:
            nonlocal published
            for _ in range(4):
                published += 1
                engine.publish(bench.identities, (bench.policy, other)[published % 2], 1 + published % 31)

        transfer(bench, 64 << 20, publish)
        counters = total(engine)
        assert published == 256
        assert counters.id_gaps == counters.verdict_errors == counters.dropped == 0
        assert counters.packets == counters.allowed
        assert eventually(lambda: engine.reclaim() == 0)
        assert {event.kind for event in engine.read_events(4096)} == {EventKind.FLOW, EventKind.REDECIDED}


def test_change_of_policy_ends_an_open_flow(bench: Bench) -> None:
    with bench.running() as engine, bench.serve(4, socket.SOCK_STREAM, ALLOWED) as server:
        with bench.client(4, socket.SOCK_STREAM) as client:
            client.connect((bench.chain.server.v4, ALLOWED))
            peer, _ = server.accept()
            with peer:
                engine.publish(bench.identities, Policy(tables(port_action=Action.DENY)), GENERATION + 1)
                client.sendall(b"too late")
                peer.settimeout(0.5)
                with pytest.raises(TimeoutError):
                    peer.recv(16)
        redecided = [event for event in events_of(engine) if event.kind == EventKind.REDECIDED]
        assert redecided[0].verdict == Verdict.DROP and redecided[0].generation == GENERATION + 1


def test_packets_that_the_socket_could_not_hold_are_counted_as_gaps(bench: Bench) -> None:
    sent = 300
    with bench.open(receive_buffer=8192) as engine:
        # A server that takes them: no ICMP error adds to the count.
        with bench.serve(4, socket.SOCK_DGRAM, ALLOWED), bench.client(4, socket.SOCK_DGRAM) as client:
            for _ in range(sent):
                client.sendto(b"x" * 100, (bench.chain.server.v4, ALLOWED))
            lost = bench.queue_line()[6]
            assert 0 < lost < sent
            engine.start()
            assert eventually(lambda: total(engine).packets == sent - lost)
            client.sendto(b"x", (bench.chain.server.v4, ALLOWED))
            assert eventually(lambda: total(engine).packets == sent - lost + 1)
        counters = total(engine)
        assert counters.id_gaps == lost and counters.overruns >= 1
        assert bench.queue_line()[2] == 0  # nothing waits for a verdict


def test_a_socket_that_was_full_takes_packets_again_before_it_is_empty(bench: Bench) -> None:
    with bench.open(receive_buffer=65536) as engine, bench.serve(4, socket.SOCK_DGRAM, ALLOWED):
        (fd,) = engine.fds()
        with bench.client(4, socket.SOCK_DGRAM) as client, socket.socket(fileno=os.dup(fd)) as reader:
            while not bench.queue_line()[6]:
                client.sendto(b"x" * 100, (bench.chain.server.v4, ALLOWED))
            lost, numbered = bench.queue_line()[6:8]
            for _ in range(8):
                reader.recv(65536, socket.MSG_DONTWAIT)
            for _ in range(4):
                client.sendto(b"x" * 100, (bench.chain.server.v4, ALLOWED))
            assert bench.queue_line()[6:8] == [lost, numbered + 4]


def test_stop_under_load_answers_what_was_read_and_frees_the_queue(bench: Bench) -> None:
    stop = threading.Event()

    def flood() -> None:
        with bench.serve(4, socket.SOCK_DGRAM, ALLOWED), bench.client(4, socket.SOCK_DGRAM) as client:
            while not stop.is_set():
                for _ in range(50):
                    client.sendto(b"x" * 100, (bench.chain.server.v4, ALLOWED))
                time.sleep(0.001)

    sender = threading.Thread(target=flood)
    sender.start()
    try:
        for _ in range(3):  # the number is free again at once
            with bench.running() as engine:
                assert eventually(lambda e=engine: total(e).packets > 500)  # type: ignore[misc]
                started = time.monotonic()
                engine.stop()
                assert time.monotonic() - started < 1
                counters = total(engine)
                assert counters.packets == counters.allowed and counters.verdict_errors == 0
                assert bench.queue_line() == []
                engine.stop()
    finally:
        stop.set()
        sender.join()


def test_queue_that_is_taken_is_named(bench: Bench) -> None:
    with bench.open(), pytest.raises(FastpathError, match=r"queue 0.*taken") as caught:
        bench.open()
    assert caught.value.errno == errno.EBUSY


def test_missing_capability_is_told_from_a_taken_queue(bench: Bench) -> None:
    def open_as_nobody() -> int:
        os.setuid(65534)
        with pytest.raises(FastpathError, match="CAP_NET_ADMIN") as caught:
            Engine(EngineConfig(receive_buffer=65536), bench.identities, bench.policy, GENERATION)
        return caught.value.errno

    assert bench.chain.node.call(open_as_nobody) == errno.EPERM
