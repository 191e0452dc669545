# SPDX-License-Identifier: Apache-2.0
"""URLs, fingerprints and allowed names of a feed, in the real service."""

import hashlib
import http.client
import http.server
import socket
import ssl
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from appliance.inspection.protocols.fingerprint import ja3, ja4
from appliance.inspection.protocols.tls import TlsClientHello, TlsSession
from tests.appliance.inspection.tls_peers import certificate
from tests.lab.service.nodes import ALLOW, Node, wait_until

pytestmark = pytest.mark.timeout(120)
POLICY = ALLOW.replace("[7000, 80]", "[80, 443, 8443]")
FAMILIES = pytest.mark.parametrize("family", [4, 6])


def serve_web(port: int) -> None:
    class Server(http.server.ThreadingHTTPServer):
        address_family = socket.AF_INET6

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, *arguments: object) -> None:
            pass

    Server(("::", port), Handler).serve_forever()


def serve_tls(port: int, pem: bytes, newest: ssl.TLSVersion) -> None:
    import threading

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "server.pem"
        path.write_bytes(pem)
        context.load_cert_chain(path)
    context.maximum_version = newest

    def talk(connection: socket.socket) -> None:
        try:
            with context.wrap_socket(connection, server_side=True) as tls:
                while data := tls.recv(4096):
                    tls.sendall(data)
        except OSError:
            pass

    with socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
        while True:
            threading.Thread(target=talk, args=(listener.accept()[0],), daemon=True).start()


def client_context(suites: str = "") -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if suites:
        context.set_ciphers(suites)
    return context


def hello(context: ssl.SSLContext) -> TlsClientHello:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname="www.peer.example").do_handshake()
    (found,) = TlsSession().to_server(outgoing.read())
    assert isinstance(found, TlsClientHello)
    return found


@pytest.fixture
def listed(node: Node) -> Iterator[Callable[..., None]]:
    """Starts the service with a feed of these lines."""
    node.configure(inspectors=1)
    node.policy(POLICY)

    def start(*lines: str, action: str = "reject", more: str = "") -> None:
        (node.directory / "feeds.d" / "bad.toml").write_text(f'file = "bad.txt"\naction = "{action}"\n{more}')
        (node.directory / "feeds.d" / "bad.txt").write_text("\n".join(lines))
        node.start()

    return start


def get(node: Node, family: int, path: str, host: str = "") -> int | None:
    """Status, None: refused."""
    address = node.net.server.address(family)
    with node.net.client.enter():
        connection = http.client.HTTPConnection(address, 80, timeout=5.0)
        connection.connect()
    try:
        connection.request("GET", path, headers={"Host": host} if host else {})
        return connection.getresponse().status
    except (ConnectionResetError, http.client.RemoteDisconnected):
        return None
    finally:
        connection.close()


def tls_word(node: Node, family: int, context: ssl.SSLContext, port: int) -> bool:
    """Whether a word came back."""
    with node.net.client.enter():
        sock = socket.create_connection((node.net.server.address(family), port), 3.0)
    try:
        with context.wrap_socket(sock, server_hostname="www.peer.example") as tls:
            tls.sendall(b"word")
            return tls.recv(100) == b"word"
    except (ConnectionResetError, ssl.SSLError):
        return False


def found(node: Node) -> list[tuple[str, str]]:
    """(where, entry) of what the feed found."""
    alerts = (record["alert"]["metadata"] for record in node.events("alert"))
    return [(alert["source"][0], alert["entry"][0]) for alert in alerts if alert["feed"] == ["bad"]]


@FAMILIES
def test_a_listed_url_is_refused_and_its_host_is_not(node: Node, listed: Callable[..., None], family: int) -> None:
    node.net.server.spawn(serve_web, 80)
    node.net.server.wait_for_port(80)
    host = node.net.server.address(family)
    url = f"http://[{host}]/bad?x=1" if family == 6 else f"http://{host}/bad?x=1"
    listed(url, "https://never.example/x")
    assert "1 https URLs cannot be seen" in node.log()
    assert get(node, family, "/good") == 200
    assert get(node, family, "/a/../bad?x=1") is None
    assert get(node, family, "/bad?x=2") == 200
    wait_until(lambda: found(node) == [("http.url", url)], 10.0, node.log)


@FAMILIES
@pytest.mark.parametrize("kind", ["ja3", "ja4"])
def test_a_listed_client_is_refused_and_another_is_not(
    node: Node, listed: Callable[..., None], family: int, kind: str
) -> None:
    pem, _ = certificate()
    node.net.server.spawn(serve_tls, 443, pem, ssl.TLSVersion.TLSv1_3)
    node.net.server.wait_for_port(443)
    bad, good = client_context(), client_context("ECDHE+AESGCM")
    value = ja3(hello(bad)) if kind == "ja3" else ja4(hello(bad))
    assert value not in (ja3(hello(good)), ja4(hello(good)))
    listed(value)
    assert not tls_word(node, family, bad, 443)
    assert tls_word(node, family, good, 443)
    wait_until(lambda: found(node) == [(f"tls.{kind}", value)], 10.0, node.log)


@FAMILIES
@pytest.mark.parametrize("algorithm", ["sha1", "sha256"])
def test_a_listed_certificate_is_refused(node: Node, listed: Callable[..., None], family: int, algorithm: str) -> None:
    bad, good = certificate("bad.example"), certificate("good.example")
    node.net.server.spawn(serve_tls, 443, bad[0], ssl.TLSVersion.TLSv1_2)
    node.net.server.spawn(serve_tls, 8443, good[0], ssl.TLSVersion.TLSv1_2)
    for port in (443, 8443):
        node.net.server.wait_for_port(port)
    digest = hashlib.new(algorithm, bad[1]).hexdigest()
    listed(digest)
    assert not tls_word(node, family, client_context(), 443)
    assert tls_word(node, family, client_context(), 8443)
    wait_until(lambda: found(node) == [("tls.certificate", digest)], 10.0, node.log)
    assert f"feed bad: certificate {digest}" in node.log()


def test_an_allowed_name_wins_and_is_counted(node: Node, listed: Callable[..., None]) -> None:
    node.net.server.spawn(serve_web, 80)
    node.net.server.wait_for_port(80)
    node.configure(inspectors=1, metrics="127.0.0.1:9477")
    text = node.config.read_text()
    node.config.write_text(text.replace("[feeds]\n", '[feeds]\nallow = ["b\u00fccher.example"]\n'))
    listed("xn--bcher-kva.example", "evil.example")
    assert get(node, 4, "/", "www.xn--bcher-kva.example") == 200
    assert get(node, 4, "/", "www.evil.example") is None

    def saved() -> bool:
        metrics = node.net.node.run(["curl", "-s", "http://127.0.0.1:9477/metrics"]).stdout
        return 'portcullis_feed_saved{feed="bad"} 1.0' in metrics and 'portcullis_feed_hits{feed="bad"} 1.0' in metrics

    wait_until(saved, 10.0, node.log)
