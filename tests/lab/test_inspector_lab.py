# SPDX-License-Identifier: Apache-2.0
"""Inspectors on real packets: client ── node ── server, every packet of a flow queued until its fate is known.

The node's rules here are the smallest that speak the mark byte: the appliance's own chains have tests of their own.
"""

import asyncio
import contextlib
import http.client
import os
import signal
import socket
import ssl
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from appliance.inspection.messages import FeedNames, InspectionEvent, InspectionRuleset, SignatureSource
from appliance.inspection.pool import InspectionError, InspectorPool, PoolSettings
from appliance.lab import Chain, Lab, have_root

pytestmark = [
    pytest.mark.skipif(not have_root(), reason="network namespaces need root"),
    pytest.mark.timeout(60),
]
REPOSITORY = Path(__file__).parents[2]
QUEUE = 64
GENERATION = 5
FAMILIES = pytest.mark.parametrize("family", [4, 6])

_TABLE = """
table inet lab {
  chain classify {
    type filter hook forward priority 149;
    ct mark & 0xff000000 == 0x15000000 counter name allowed accept
    ct mark & 0xff000000 == 0x16000000 drop
    ct mark & 0xff000000 == 0x17000000 meta l4proto tcp reject with tcp reset
    meta l4proto != { tcp, udp } accept
    ct direction original meta mark set 0x14000abc
    ct direction reply meta mark set 0x94000abc
  }
  chain obey {
    type filter hook forward priority 151;
    meta mark & 0x00ffffff == 0xabc counter name kept
    meta mark & 0xff000000 == 0x00000000 accept
    ct mark set meta mark and 0xff000000
    meta mark & 0xff000000 == 0x15000000 accept
    meta mark & 0xff000000 == 0x17000000 meta l4proto tcp reject with tcp reset
    meta mark & 0xff000000 == 0x16000000 drop
    counter name unanswered drop
  }
  counter allowed {}
  counter kept {}
  counter unanswered {}
}
"""

_HTTP_SERVER = """
import http.server, socket
class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        body = b"hello" * (200000 if self.path == "/large" else 1)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *arguments):
        pass
Server(("::", 80), Handler).serve_forever()
"""

_TLS_SERVER = """
import socket, ssl, sys, threading
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[2], sys.argv[1])
def serve(connection):
    with context.wrap_socket(connection, server_side=True) as tls:
        while tls.recv(4096):
            tls.sendall(b"hello" * 1000)
listener = socket.create_server(("::", 443), family=socket.AF_INET6, dualstack_ipv6=True)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""

_DNS_SERVER = """
import socket
sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
sock.bind(("::", 53))
while True:
    data, peer = sock.recvfrom(2048)
    sock.sendto(data[:2] + b"\\x81\\x83" + data[4:], peer)
"""

_FAULTY_WORKER = """
import sys
from appliance.inspection.matching import Matching
original = Matching.payload
def faulty(self, flow, packet, direction, data):
    if b"explode" in data:
        raise ZeroDivisionError("injected")
    original(self, flow, packet, direction, data)
Matching.payload = faulty
from appliance.inspection.worker import main
sys.exit(main(sys.argv[1:]))
"""

RULESET = InspectionRuleset(
    version=1,
    signatures=(
        SignatureSource(
            "lab.rules",
            'drop http any any -> any any (msg:"dropped path"; http.uri; content:"/evil-drop"; sid:1;)\n'
            'reject http any any -> any any (msg:"rejected path"; http.uri; content:"/EVIL-reject"; nocase; sid:2;)\n'
            'alert http any any -> any any (msg:"noticed path"; http.uri; content:"/notice"; sid:3;)\n',
        ),
    ),
    names=(FeedNames("bad names", "reject", ("bad.example",)), FeedNames("bad queries", "drop", ("evil.test",))),
)


class Rig:
    """A pool that runs in a thread of its own, with its children in the node's namespace."""

    def __init__(self, chain: Chain, *worker: str) -> None:
        self.chain = chain
        self.events: list[InspectionEvent] = []
        command = chain.node.command(["env", f"PYTHONPATH={REPOSITORY}", sys.executable, *worker])
        settings = PoolSettings(queue_first=QUEUE, backoff_first=0.1)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.pool = InspectorPool(settings, lambda event, _queue: self.events.append(event), command=command)

    def do(self, coroutine: object) -> object:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)  # type: ignore[arg-type]

    def close(self) -> None:
        self.do(self.pool.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def wait(self, condition: Callable[[], bool], seconds: float = 5.0) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"did not happen within {seconds} s; events: {self.events}"
            time.sleep(0.02)

    def told(self, kind: str, action: str, **fields: object) -> list[InspectionEvent]:
        return [
            event
            for event in list(self.events)
            if event.kind == kind
            and event.action == action
            and all(event.fields.get(name) == value for name, value in fields.items())
        ]

    def counter(self, name: str) -> int:
        """Packets of a counter of the node's table."""
        return int(
            self.chain.node.run(["nft", "list", "counter", "inet", "lab", name]).stdout.split("packets")[1].split()[0]
        )


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    folder = tmp_path_factory.mktemp("inspector")
    with Lab() as lab:
        chain = lab.chain()
        chain.node.run(["nft", "-f", "-"], input=_TABLE)
        for tool in ("iptables-nft", "ip6tables-nft"):
            rule = ["-m", "mark", "!", "--mark", "0/0xff000000", "-j", "NFQUEUE", "--queue-num", str(QUEUE)]
            chain.node.run([tool, "-t", "security", "-A", "FORWARD", *rule])
        key, certificate = folder / "key.pem", folder / "certificate.pem"
        chain.server.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj",
             "/CN=lab", "-keyout", key, "-out", certificate]
        )  # fmt: skip
        chain.server.popen([sys.executable, "-c", _HTTP_SERVER])
        chain.server.popen([sys.executable, "-c", _DNS_SERVER])
        chain.server.popen([sys.executable, "-c", _TLS_SERVER, key, certificate])
        chain.server.wait_for_port(80)
        chain.server.wait_for_port(443)
        yield chain


@pytest.fixture
def rig(chain: Chain) -> Iterator[Rig]:
    with contextlib.closing(Rig(chain, "-m", "appliance.inspection.worker")) as rig:
        rig.do(rig.pool.start(RULESET))
        yield rig


def url(chain: Chain, family: int, path: str) -> str:
    address = chain.server.address(family)
    return f"http://[{address}]{path}" if family == 6 else f"http://{address}{path}"


def curl(chain: Chain, family: int, path: str) -> tuple[int, str]:
    """(exit status, body)"""
    done = chain.client.run(["curl", "-sS", "-m", "2", url(chain, family, path)], check=False)
    return done.returncode, done.stdout


def handshake(chain: Chain, family: int, name: str) -> bool:
    address = chain.server.address(family)
    target = f"[{address}]:443" if family == 6 else f"{address}:443"
    done = chain.client.run(
        ["timeout", "3", "openssl", "s_client", "-connect", target, "-servername", name],
        input="GET / HTTP/1.0\r\n\r\n",
        check=False,
    )
    return "Cipher is (NONE)" not in done.stdout and "New, " in done.stdout


def resolve(address: str, name: str) -> bool:
    """Whether a query is answered."""
    query = struct.pack("!HHHHHH", 7, 0x100, 1, 0, 0, 0)
    query += b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0\0\1\0\1"
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(1)
        sock.sendto(query, (address, 53))
        try:
            return sock.recv(2048)[:2] == query[:2]
        except TimeoutError:
            return False


def two_requests(address: str, first: str, second: str) -> tuple[int, str]:
    """The first status on a connection, and what came of the second request on it."""
    connection = http.client.HTTPConnection(address, 80, timeout=1.5)
    connection.request("GET", first)
    response = connection.getresponse()
    response.read()
    try:
        connection.request("GET", second)
        return response.status, str(connection.getresponse().status)
    except OSError as error:
        return response.status, type(error).__name__
    finally:
        connection.close()


@FAMILIES
def test_clean_request_passes_and_its_connection_goes_on_being_inspected(rig: Rig, family: int) -> None:
    assert curl(rig.chain, family, "/fine") == (0, "hello")
    rig.wait(lambda: bool(rig.told("http", "", url="/fine")))
    address = rig.chain.server.address(family)
    assert rig.chain.client.call(two_requests, address, "/fine", "/also-fine") == (200, "200")
    assert rig.chain.client.call(two_requests, address, "/fine", "/evil-reject") == (200, "ConnectionResetError")
    assert rig.chain.client.call(two_requests, address, "/fine", "/evil-drop") == (200, "TimeoutError")
    assert not rig.told("fate", "allow")


@FAMILIES
def test_signature_in_the_uri_drops_or_rejects(rig: Rig, family: int) -> None:
    assert curl(rig.chain, family, "/evil-drop")[0] == 28
    started = time.monotonic()
    assert curl(rig.chain, family, "/x/%65vil-Reject")[0] == 56
    assert time.monotonic() - started < 1.5
    rig.wait(lambda: bool(rig.told("alert", "drop", sid=1) and rig.told("alert", "reject", sid=2)))


def test_alert_lets_pass(rig: Rig) -> None:
    assert curl(rig.chain, 4, "/notice") == (0, "hello")
    rig.wait(lambda: len(rig.told("alert", "alert", sid=3)) == 1)


@FAMILIES
def test_server_name_of_a_feed_is_blocked_and_another_gets_an_allow_fate(rig: Rig, family: int) -> None:
    before = rig.counter("allowed")
    assert not handshake(rig.chain, family, "www.bad.example")
    rig.wait(lambda: bool(rig.told("feed", "reject", name="www.bad.example", source="tls.sni")))
    assert rig.counter("allowed") == before
    assert handshake(rig.chain, family, "good.example")
    rig.wait(lambda: bool(rig.told("fate", "allow")))
    assert rig.told("fate", "allow")[0].reason == "encrypted"
    assert rig.counter("allowed") > before


@FAMILIES
def test_query_for_a_name_of_a_feed_is_dropped(rig: Rig, family: int) -> None:
    address = rig.chain.server.address(family)
    assert rig.chain.client.call(resolve, address, "fine.test")
    assert not rig.chain.client.call(resolve, address, "www.evil.test")
    rig.wait(lambda: bool(rig.told("feed", "drop", name="www.evil.test", source="dns.query")))


def test_large_transfer_arrives_whole_and_foreign_mark_bits_are_kept(rig: Rig) -> None:
    kept = rig.counter("kept")
    status, body = curl(rig.chain, 4, "/large")
    assert status == 0 and len(body) == 1_000_000
    rig.wait(lambda: rig.pool.status()[0].counters.get("bytes", 0) > 1_000_000)
    assert rig.counter("kept") - kept > 15  # of 64 KiB at most
    assert rig.counter("unanswered") == 0
    assert rig.pool.status()[0].counters["failure_inspector_error"] == 0


def test_new_ruleset_takes_effect_and_a_bad_signature_is_named(rig: Rig) -> None:
    assert curl(rig.chain, 4, "/later") == (0, "hello")
    text = 'reject http any any -> any any (msg:"later"; http.uri; content:"/later"; sid:9;)\nalert nonsense\n'
    errors = rig.do(rig.pool.publish(InspectionRuleset(version=2, signatures=(SignatureSource("new.rules", text),))))
    assert errors == ("new.rules:2: the options do not stand in parentheses",)
    assert curl(rig.chain, 4, "/later")[0] == 56
    assert rig.pool.status()[0].version == 2


def test_killed_inspector_is_started_again_with_the_same_ruleset(rig: Rig) -> None:
    first = rig.pool.status()[0].pid
    os.kill(first, signal.SIGKILL)
    rig.wait(lambda: rig.pool.status()[0].pid not in (0, first) and rig.pool.status()[0].state == "ready", 10)
    assert rig.pool.status()[0].restarts == 1
    assert curl(rig.chain, 4, "/fine") == (0, "hello")
    assert curl(rig.chain, 4, "/evil-reject")[0] == 56


def test_inspector_whose_heart_stops_is_replaced(chain: Chain) -> None:
    with contextlib.closing(Rig(chain, "-m", "appliance.inspection.worker")) as rig:
        rig.pool._settings = PoolSettings(queue_first=QUEUE, heartbeat_timeout=2.5)
        rig.do(rig.pool.start(RULESET))
        first = rig.pool.status()[0].pid
        os.kill(first, signal.SIGSTOP)
        rig.wait(lambda: rig.pool.status()[0].pid not in (0, first) and rig.pool.status()[0].state == "ready", 12)
        assert curl(chain, 4, "/fine") == (0, "hello")


def test_packet_gets_a_verdict_after_an_exception(chain: Chain) -> None:
    with contextlib.closing(Rig(chain, "-c", _FAULTY_WORKER)) as rig:
        rig.do(rig.pool.start(RULESET))
        assert curl(chain, 4, "/explode")[0] == 28
        rig.wait(lambda: bool(rig.told("failure", "drop", detail="ZeroDivisionError: injected")))
        assert curl(chain, 4, "/fine") == (0, "hello")
        waiting = chain.node.run(["cat", "/proc/net/netfilter/nfnetlink_queue"]).stdout.split()
        assert waiting[2] == "0"


def test_taken_queue_is_named(rig: Rig) -> None:
    with contextlib.closing(Rig(rig.chain, "-m", "appliance.inspection.worker")) as second:
        start = second.pool.start(RULESET)
        with pytest.raises(InspectionError, match="queue 64 is taken"):
            second.do(start)
    assert curl(rig.chain, 4, "/fine") == (0, "hello")


def download(address: str, size: int) -> int:
    """Bytes received over one TLS connection that outlives its inspection."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    received = 0
    with (
        socket.create_connection((address, 443), 5) as sock,
        context.wrap_socket(sock, server_hostname="x.test") as tls,
    ):
        while received < size:
            tls.sendall(b"more")
            for _ in range(5):
                received += len(tls.recv(1000))
    return received


def test_hand_over_to_the_kernel_causes_no_retransmission(rig: Rig) -> None:
    def retransmitted() -> int:
        snmp = rig.chain.server.run(["cat", "/proc/net/snmp"]).stdout.splitlines()
        names, values = (line.split() for line in snmp if line.startswith("Tcp:"))
        return int(values[names.index("RetransSegs")])

    before = retransmitted()
    for _ in range(20):
        assert rig.chain.client.call(download, rig.chain.server.v4, 50_000) >= 50_000
    rig.wait(lambda: len(rig.told("fate", "allow")) == 20)
    assert retransmitted() == before
