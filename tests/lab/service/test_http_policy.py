# SPDX-License-Identifier: Apache-2.0
"""Rules with http on real packets: a web server behind the service."""

import os
import signal
import socket
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from appliance.lab import Chain
from tests.lab.service.nodes import ALLOW, Node, wait_until
from tests.lab.service.test_failures import inspector

HTTP = ALLOW.replace(
    'destination: {ports: [7000, 80]}}',
    'destination: {ports: [80]}, http: {methods: [GET], paths: [{prefix: /public}]}}',
)  # fmt: skip
WIDER = HTTP.replace("methods: [GET]", "methods: [GET, POST]")


class Client:
    """A connection to the web server; what it asks is written by hand."""

    def __init__(self, net: Chain, family: int = 4, timeout: float = 1.5) -> None:
        with net.client.enter():
            self.sock = socket.socket(socket.AF_INET6 if family == 6 else socket.AF_INET, socket.SOCK_STREAM)
        self.sock.settimeout(timeout)
        self.sock.connect((net.server.address(family), 80))

    def ask(self, method: str, target: str) -> str:
        """The answer's body; empty: none came."""
        try:
            self.sock.sendall(f"{method} {target} HTTP/1.1\r\nHost: web\r\n\r\n".encode())
            data = b""
            while b"\r\n\r\n" not in data or not data.endswith(b"."):
                received = self.sock.recv(65536)
                if not received:
                    return ""
                data += received
        except OSError:
            return ""
        return data.rpartition(b"\r\n\r\n")[2].decode()


def ask(net: Chain, method: str, target: str, family: int = 4) -> str:
    """One request on a connection of its own."""
    client = Client(net, family)
    with client.sock:
        return client.ask(method, target)


class Web(BaseHTTPRequestHandler):
    """Says what it was asked: `GET /path.`"""

    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        body = f"{self.command} {self.path}.".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_DELETE = answer

    def log_message(self, format: str, *args: object) -> None:
        pass


def serve_web() -> None:
    class Server(ThreadingHTTPServer):
        address_family = socket.AF_INET6

        def server_bind(self) -> None:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            super().server_bind()

    Server(("::", 80), Web).serve_forever()


@pytest.fixture
def web(node: Node) -> Iterator[Node]:
    node.net.server.spawn(serve_web)
    node.net.server.wait_for_port(80)
    node.configure(inspectors=1, more='[failures]\ninspector_restart = "allow"\n')
    node.policy(HTTP)
    node.start()
    yield node


@pytest.mark.parametrize("family", [4, 6])
def test_requests_are_decided_by_method_and_path(web: Node, family: int) -> None:
    assert ask(web.net, "GET", "/public/a", family) == "GET /public/a."
    for method, target in (
        ("POST", "/public/a"),
        ("GET", "/admin"),
        ("GET", "/public/../admin"),
        ("GET", "/public/%2e%2e/admin"),
        ("GET", "/public/%252e%252e/admin"),
        ("GET", "/public/..%5cadmin"),
    ):
        assert ask(web.net, method, target, family) == "", target


def test_a_later_request_of_a_connection_is_decided_too_and_the_event_names_the_rule(web: Node) -> None:
    client = Client(web.net)
    with client.sock:
        assert client.ask("GET", "/public/1") == "GET /public/1."
        assert client.ask("GET", "/public/2") == "GET /public/2."
        assert client.ask("DELETE", "/public/2") == ""
    denied = [event for event in web.events("drop") if event.get("app_proto") == "http"]
    assert [(event["portcullis"]["policy"], event["portcullis"]["http_method"]) for event in denied] == [
        ("server", "DELETE")
    ]
    assert "not enforced" not in web.log()


def test_what_is_not_http_does_not_pass(web: Node) -> None:
    client = Client(web.net)
    with client.sock:
        client.sock.sendall(b"SSH-2.0-client\r\n")
        with pytest.raises(OSError):
            client.sock.recv(1)
    wait_until(lambda: bool(web.events("drop")), 3.0, web.log)


def test_a_change_of_methods_is_in_force_on_open_connections(web: Node) -> None:
    client = Client(web.net, timeout=5.0)
    with client.sock:
        assert client.ask("GET", "/public") == "GET /public."
        web.policy(WIDER)
        web.wait_for("policy generation 2 in force")
        assert client.ask("POST", "/public") == "POST /public."
        web.policy(HTTP)
        web.wait_for("policy generation 3 in force")
        assert client.ask("GET", "/public") == "GET /public."
        client.sock.settimeout(1.5)
        assert client.ask("POST", "/public") == ""
    assert "calculated in" not in web.log(), "only what changed is compiled"


def test_the_first_rules_with_http_come_and_the_last_ones_go_while_it_runs(node: Node) -> None:
    node.net.server.spawn(serve_web)
    node.net.server.wait_for_port(80)
    node.configure(inspectors=1)
    node.policy(ALLOW)
    node.start()
    assert ask(node.net, "POST", "/admin") == "POST /admin."
    for generation in (2, 4):
        node.policy(HTTP)
        node.wait_for(f"policy generation {generation} in force")
        assert ask(node.net, "GET", "/public") == "GET /public."
        assert ask(node.net, "POST", "/admin") == ""
        node.policy(ALLOW)
        node.wait_for(f"policy generation {generation + 1} in force")
        assert ask(node.net, "POST", "/admin") == "POST /admin."
    assert "calculated in" not in node.log(), "only what changed is compiled"


def test_a_restarted_inspector_has_the_rules_before_it_has_packets(web: Node) -> None:
    client = Client(web.net, timeout=8.0)
    with client.sock:
        web.policy(WIDER.replace("/public", "/elsewhere"))
        web.wait_for("policy generation 2 in force")
        web.policy(HTTP)
        web.wait_for("policy generation 3 in force")
        assert client.ask("GET", "/public") == "GET /public."
        before = inspector(web)
        os.kill(before, signal.SIGKILL)
        wait_until(lambda: inspector(web) not in (0, before), 10.0, web.log)
        # Between two requests the connection can be followed by one that has not seen its beginning.
        assert client.ask("GET", "/public/again") == "GET /public/again."
        client.sock.settimeout(1.5)
        assert client.ask("POST", "/public") == ""


def test_observing_denies_no_request_and_says_which_it_would(node: Node) -> None:
    node.net.server.spawn(serve_web)
    node.net.server.wait_for_port(80)
    node.configure(mode="observe", inspectors=1)
    node.policy(HTTP)
    node.start()
    assert ask(node.net, "POST", "/public") == "POST /public."

    def said() -> bool:
        return any(
            event["portcullis"].get("http_method") == "POST" and event["portcullis"]["observed"]
            for event in node.events("flow")
        )

    wait_until(said, 3.0, node.log)


def test_without_inspectors_it_is_said_that_requests_are_not_decided(node: Node) -> None:
    node.policy(HTTP)
    node.start()
    node.wait_for("http: GlobalNetworkPolicy server: not enforced without inspectors")
