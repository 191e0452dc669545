# SPDX-License-Identifier: Apache-2.0
"""Domain policy on real packets: a client asks, a scripted resolver answers, and the first connection is allowed."""

import contextlib
import random
import signal
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import dns.exception
import dns.message
import dns.query
import dns.rdatatype
import pytest

from tests.lab.service.nodes import ALLOW, Node, wait_until

pytestmark = pytest.mark.timeout(90)

POLICY = ALLOW.replace(
    "egress: [{action: Allow}]",
    """egress:
    - {action: Allow, protocol: UDP, destination: {ports: [53], nets: ["10.77.2.0/24"]}}
    - {action: Allow, protocol: UDP, destination: {ports: [53], nets: ["fd00:77:2::/64"]}}
    - {action: Allow, protocol: TCP, destination: {ports: [53]}}
    - {action: Allow, destination: {domains: ["www.allowed.test", "*.wild.test", "db.inside.test"]}}""",
)
for ports in ("[7000]", "[7000, 80]"):
    POLICY = POLICY.replace(f'role == "client"}}, destination: {{ports: {ports}}}', 'role == "client"}')

# The addresses of the world behind the server: every one of them answers.
ADDRESSES = [f"203.0.113.{i}" for i in range(1, 60)] + [f"2001:db8:113::{i:x}" for i in range(1, 20)]
OTHER_RESOLVER = "10.77.2.9"

ZONE = {
    ("www.allowed.test.", "A"): (1, ["A 203.0.113.1"]),
    ("www.allowed.test.", "AAAA"): (1, ["AAAA 2001:db8:113::1"]),
    ("alias.www.test.", "A"): (300, ["CNAME www.allowed.test.", "www.allowed.test. A 203.0.113.1"]),
    ("a.b.wild.test.", "A"): (300, ["A 203.0.113.2"]),
    ("wild.test.", "A"): (300, ["A 203.0.113.3"]),
    ("other.test.", "A"): (300, ["A 203.0.113.4"]),
    ("alias.wild.test.", "A"): (300, ["CNAME cdn.else.test.", "cdn.else.test. A 203.0.113.5"]),
    ("x.wild.test.", "A"): (300, ["A 203.0.113.6"]),
    ("inside.wild.test.", "A"): (300, ["A 192.168.7.7"]),
    ("db.inside.test.", "A"): (300, ["A 192.168.7.7"]),
    ("late.wild.test.", "A"): (300, ["A 203.0.113.7"]),
    # Two names of policy at one address, which no identity is ready for.
    ("both.wild.test.", "A"): (300, ["CNAME www.allowed.test.", "www.allowed.test. A 203.0.113.8"]),
    ("forged.wild.test.", "A"): (300, ["A 203.0.113.9"]),
    ("long.wild.test.", "A"): (300, [f"A 203.0.113.{i}" for i in range(20, 59)]),
}  # fmt: skip


def serve_names(address: str) -> None:
    """The scripted resolver: UDP and TCP, until killed. `forged.` is answered late."""
    import threading

    import dns.flags
    import dns.rrset

    def answer(wire: bytes) -> bytes:
        query = dns.message.from_wire(wire)
        response = dns.message.make_response(query)
        question = query.question[0]
        name = question.name.to_text().lower()
        ttl, records = ZONE.get((name, dns.rdatatype.to_text(question.rdtype)), (0, []))
        for record in records:
            owner, kind, data = ([name, *record.split()])[-3:]
            response.answer.append(dns.rrset.from_text(owner, ttl, "IN", kind, data))
        if name.startswith("forged."):
            time.sleep(0.8)
        return response.to_wire()

    def stream() -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.create_server((address, 53), family=family) as listener:
            while True:
                connection, _ = listener.accept()
                with connection:
                    size = struct.unpack("!H", connection.recv(2))[0]
                    wire = answer(connection.recv(size))
                    connection.sendall(struct.pack("!H", len(wire)) + wire)

    threading.Thread(target=stream, daemon=True).start()
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((address, 53))
        while True:
            wire, client = sock.recvfrom(4096)
            sock.sendto(answer(wire), client)


def serve_all(port: int) -> None:
    """Echoes at every address until killed."""
    import threading

    def talk(connection: socket.socket) -> None:
        with connection:
            while data := connection.recv(4096):
                connection.sendall(data)

    with socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
        while True:
            threading.Thread(target=talk, args=(listener.accept()[0],), daemon=True).start()


class World:
    def __init__(self, node: Node) -> None:
        self.node = node
        self.net = node.net
        server, router = node.net.server, node.net.node
        addresses = (*ADDRESSES, "192.168.7.7", OTHER_RESOLVER)
        server.run(["ip", "-batch", "-"], input="".join(f"address add {address} dev lo\n" for address in addresses))
        routes = (
            ("203.0.113.0/24", server.v4), ("192.168.7.7/32", server.v4), (f"{OTHER_RESOLVER}/32", server.v4),
            ("2001:db8:113::/64", server.v6),
        )  # fmt: skip
        router.run(["ip", "-batch", "-"], input="".join(f"route replace {to} via {by}\n" for to, by in routes))
        for address in (server.v4, OTHER_RESOLVER, server.v6):
            server.spawn(serve_names, address)
        for port in (8080, 80, 443):
            server.spawn(serve_all, port)
            server.wait_for_port(port)
        server.wait_for_port(53)
        time.sleep(0.3)

    def configure(self, **more: object) -> None:
        settings = {
            "trusted": [self.net.server.v4, self.net.server.v6], "ttl_floor": 1, "wait": 1000,
            "state": str(self.node.directory / "domains.json"), **more,
        }  # fmt: skip
        lines = "\n".join(f"{key} = {_toml(value)}" for key, value in settings.items())
        self.node.configure(inspectors=2, more=f"[domains]\n{lines}\n")
        self.node.policy(POLICY)

    def start(self, **more: object) -> None:
        self.configure(**more)
        self.node.start()

    def restart(self, state: str = "") -> None:
        """`state`: what the file says when the service starts again, if not what it wrote."""
        self.node.service.stop()
        if state:
            (self.node.directory / "domains.json").write_text(state)
        self.node.service.forget()
        self.node.start()

    def ask(self, name: str, kind: str = "A", *, resolver: str = "", tcp: bool = False) -> list[str]:
        """The addresses that the client gets; [] where no answer comes."""
        query = dns.message.make_query(name, kind)
        send = dns.query.tcp if tcp else dns.query.udp
        with self.net.client.enter():
            try:
                response = send(query, resolver or self.net.server.v4, timeout=3)
            except (dns.exception.Timeout, OSError):
                return []
        return [
            record.to_text() for rrset in response.answer for record in rrset
            if dns.rdatatype.to_text(rrset.rdtype) in ("A", "AAAA")
        ]  # fmt: skip

    def open(self, address: str, port: int = 8080) -> socket.socket:
        """One SYN: it is repeated only after a second."""
        with self.net.client.enter():
            sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        try:
            sock.settimeout(0.5)
            sock.connect((address, port))
        except OSError:
            sock.close()
            raise
        return sock

    def connects(self, address: str) -> bool:
        try:
            self.open(address).close()
        except OSError:
            return False
        return True


def _toml(value: object) -> str:
    return str(value) if isinstance(value, int) else repr(value).replace("'", '"')


@pytest.fixture
def world(node: Node) -> Iterator[World]:
    yield World(node)


@pytest.mark.parametrize("tcp", [False, True])
def test_the_first_connection_after_an_answer_is_allowed(world: World, tcp: bool) -> None:
    world.start()
    assert not world.connects("203.0.113.1")
    assert world.ask("www.allowed.test", tcp=tcp) == ["203.0.113.1"]
    assert world.connects("203.0.113.1"), world.node.log()
    assert not world.connects("203.0.113.4")
    assert world.ask("other.test", tcp=tcp) == ["203.0.113.4"]
    assert not world.connects("203.0.113.4"), "the name is not in policy"


def test_ipv6(world: World) -> None:
    world.start()
    assert not world.connects("2001:db8:113::1")
    assert world.ask("www.allowed.test", "AAAA", resolver=world.net.server.v6) == ["2001:db8:113::1"]
    assert world.connects("2001:db8:113::1")
    assert not world.connects("2001:db8:113::2")


def test_wildcards_and_aliases(world: World) -> None:
    world.start()
    for name, allowed in (("a.b.wild.test", True), ("wild.test", False), ("alias.wild.test", True)):
        (address,) = world.ask(name)
        assert world.connects(address) is allowed, name


def test_names_that_meet_at_one_address(world: World) -> None:
    """Needs a new program: the answer waits for it, the generation stays."""
    world.start()
    assert world.ask("both.wild.test") == ["203.0.113.8"]
    assert world.connects("203.0.113.8"), world.node.log()
    assert "generation 2" not in world.node.log()


def test_many_names_one_after_the_other(world: World) -> None:
    world.start()
    assert len(world.ask("long.wild.test")) == 39
    assert all(world.connects(f"203.0.113.{i}") for i in random.Random(1).sample(range(20, 59), 10))


def test_a_name_expires_and_open_connections_stay(world: World) -> None:
    world.start()
    assert world.ask("www.allowed.test") == ["203.0.113.1"]
    with world.open("203.0.113.1") as kept:
        time.sleep(2.2)
        assert not world.connects("203.0.113.1")
        kept.sendall(b"still")
        assert kept.recv(100) == b"still"
    assert world.ask("www.allowed.test") == ["203.0.113.1"]
    assert world.connects("203.0.113.1")


def test_a_resolver_that_is_not_trusted_teaches_nothing(world: World) -> None:
    world.start()
    assert world.ask("x.wild.test", resolver=OTHER_RESOLVER) == ["203.0.113.6"]
    assert not world.connects("203.0.113.6")
    assert world.ask("x.wild.test") == ["203.0.113.6"]
    assert world.connects("203.0.113.6")


def test_forged_answers_teach_nothing(world: World) -> None:
    """While the resolver takes its time: answers from elsewhere, with another id, and to nobody's question."""
    world.start()
    query = dns.message.make_query("forged.wild.test", "A", id=1000)
    forged = dns.message.make_response(query)
    forged.answer.append(dns.rrset.from_text("forged.wild.test.", 300, "IN", "A", "203.0.113.10"))
    with world.net.client.enter():
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sock:
        sock.bind((world.net.client.v4, 4444))
        sock.sendto(query.to_wire(), (world.net.server.v4, 53))
        # A forged answer that comes before the query has left makes a connection of its own, and the kernel then drops
        # the query.
        wait_until(
            lambda: "sport=4444" in world.net.node.run(["conntrack", "-L", "-p", "udp"]).stdout, 3, world.node.log
        )
        forged.id = 1001
        wrong_id = forged.to_wire()
        forged.id = 1000
        from scapy.layers.inet import IP, UDP  # type: ignore[attr-defined]

        # Not scapy's own sockets: it remembers the interfaces of the namespace in which it looked first.
        with world.net.server.enter():
            raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
        with raw:
            client = world.net.client.v4
            for source, port, data in (
                (OTHER_RESOLVER, 4444, forged.to_wire()), (world.net.server.v4, 4444, wrong_id),
                (world.net.server.v4, 4445, forged.to_wire()),
            ):  # fmt: skip
                raw.sendto(bytes(IP(src=source, dst=client) / UDP(sport=53, dport=port) / data), (client, 0))
        sock.settimeout(3)
        answers = []
        while not answers or answers[-1].id != 1000:
            answers.append(dns.message.from_wire(sock.recv(4096)))
    assert not world.connects("203.0.113.10")
    assert world.connects("203.0.113.9"), "the real answer counts all the same"


def test_private_addresses_enter_where_configured_only(world: World) -> None:
    world.start(allow_private=["*.inside.test"])
    assert world.ask("inside.wild.test") == ["192.168.7.7"]
    assert not world.connects("192.168.7.7")
    assert world.ask("db.inside.test") == ["192.168.7.7"]
    assert world.connects("192.168.7.7")


def test_names_outlive_a_restart_but_not_a_damaged_file(world: World) -> None:
    world.start()
    assert world.ask("x.wild.test") == ["203.0.113.6"]
    world.restart()
    assert not world.connects("203.0.113.7")
    assert world.connects("203.0.113.6")
    world.restart('{"version": 1, "pairs": [["x.wild.test", 5]]}')
    assert not world.connects("203.0.113.6")
    world.node.wait_for("names are learned anew")
    assert world.ask("x.wild.test") == ["203.0.113.6"]
    assert world.connects("203.0.113.6")


def test_a_policy_that_comes_later_brings_its_names(world: World) -> None:
    world.configure()
    world.node.policy(POLICY.replace('"*.wild.test", ', ""))
    world.node.start()
    assert world.ask("late.wild.test") == ["203.0.113.7"]
    assert not world.connects("203.0.113.7")
    world.node.policy(POLICY)
    # What was answered before the policy asked for it is in force with it.
    wait_until(lambda: world.connects("203.0.113.7"), 10.0, world.node.log)
    world.node.wait_for("inspection ruleset 2 in force")
    assert world.ask("late.wild.test") == ["203.0.113.7"]
    assert world.connects("203.0.113.7")


def test_the_node_itself_learns_from_its_own_questions(world: World, tmp_path: Path) -> None:
    """Failsafe DNS is looked at only, and its answers count."""
    world.start()
    query = dns.message.make_query("x.wild.test", "A")
    with world.net.node.enter():
        response = dns.query.udp(query, world.net.server.v4, timeout=3)
    assert response.answer
    wait_until(lambda: world.connects("203.0.113.6"), 3.0, world.node.log)


def request(host: str) -> bytes:
    return f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()


def client_hello(name: str) -> bytes:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname=name)
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


def arrives(world: World, address: str, port: int, data: bytes) -> bool:
    """Whether all of it comes back from the echo server."""
    with world.open(address, port) as sock:
        sock.settimeout(1.0)
        got = b""
        try:
            sock.sendall(data)
            while len(got) < len(data):
                piece = sock.recv(65536)
                if not piece:
                    break
                got += piece
        except OSError:
            return False
        return got == data


@pytest.mark.parametrize(("port", "shown"), [(80, request), (443, client_hello)])
def test_the_name_that_is_shown_must_be_one_that_policy_allows(
    world: World, port: int, shown: Callable[[str], bytes]
) -> None:
    world.start()
    assert world.ask("alias.www.test") == ["203.0.113.1"]
    for name, allowed in (("www.allowed.test", True), ("alias.www.test", True), ("a.wild.test", True),
                          ("other.test", False), ("allowed.test", False)):  # fmt: skip
        assert arrives(world, "203.0.113.1", port, shown(name)) is allowed, name
    assert any(
        record.get("portcullis", {}).get("policy") == "clients" or "clients" in str(record)
        for record in world.node.events("drop")
    )


def test_a_later_request_with_another_name_ends_the_connection(world: World) -> None:
    world.start()
    world.ask("www.allowed.test")
    with world.open("203.0.113.1", 80) as sock:
        for host, allowed in (("www.allowed.test", True), ("other.test", False), ("www.allowed.test", False)):
            with contextlib.suppress(OSError):
                sock.sendall(request(host))
                assert (sock.recv(65536) == request(host)) is allowed


def test_a_reload_that_changes_nothing_and_a_step_keep_what_was_learned(world: World) -> None:
    """Then policies and endpoints change one by one, beside names that come and go."""
    world.start()
    assert world.ask("x.wild.test") == ["203.0.113.6"]
    process = world.node.service.process
    assert process is not None
    process.send_signal(signal.SIGHUP)
    world.node.wait_for("reloaded")
    assert world.connects("203.0.113.6")
    assert world.ask("late.wild.test") == ["203.0.113.7"]
    assert world.connects("203.0.113.7")
    more = (
        POLICY
        + """---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: more}
spec:
  selector: role == "client"
  types: [Egress]
  egress: [{action: Allow, protocol: UDP, destination: {nets: ["203.0.113.0/28"], ports: [9]}}]
"""
    )
    world.node.policy(more)
    world.node.wait_for("policy generation")
    assert world.connects("203.0.113.6") and world.connects("203.0.113.7")
    assert world.ask("www.allowed.test") == ["203.0.113.1"]
    assert world.connects("203.0.113.1")
    assert not world.connects("203.0.113.4")
