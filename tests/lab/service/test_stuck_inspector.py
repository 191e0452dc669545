# SPDX-License-Identifier: Apache-2.0
"""Policy changes while one of two inspectors stands still: in force for everybody else, and the one is replaced."""

import time

import pytest

from tests.lab.service.nodes import Node, wait_until
from tests.lab.service.test_http_policy import HTTP, WIDER, Client, serve_web
from tests.lab.service.test_overload import inspectors, queue_of, stopped
from tests.patience import PATIENCE

pytestmark = pytest.mark.timeout(120)


def client_of(node: Node, queue: int) -> Client:
    """A connection to the web server that this inspector reads."""
    for _ in range(64):
        client = Client(node.net, timeout=5.0)
        assert client.ask("GET", "/public") == "GET /public."
        if queue_of(node, client.sock) == queue:
            return client
        client.sock.close()
    raise AssertionError(f"no flow came to queue {queue}")


def test_policy_does_not_wait_for_a_stuck_inspector_and_it_comes_back_with_the_new_rules(node: Node) -> None:
    node.net.server.spawn(serve_web)
    node.net.server.wait_for_port(80)
    node.configure(inspectors=2)
    node.policy(HTTP)
    node.start()
    other, own = client_of(node, 65), client_of(node, 64)
    before = inspectors(node)
    with stopped(node, 64):
        started = time.monotonic()
        node.policy(WIDER)
        node.wait_for("policy generation 2 in force", 2.0)
        assert other.ask("POST", "/public") == "POST /public."
        # Without the bound: 5 s, the patience of rules with http.
        assert time.monotonic() - started < 3.0 * PATIENCE
        node.wait_for("the inspector of queue 64 has ended and is started again")
    wait_until(lambda: 64 in inspectors(node) and inspectors(node)[64] != before[64], 10.0, node.log)
    assert inspectors(node)[65] == before[65]
    # What the lost inspector had read of a flow nobody knows (`inspector_restart`): it does not go on by old rules.
    own.sock.settimeout(1.5)
    assert own.ask("DELETE", "/public") == ""
    for queue in (64, 65):
        fresh = client_of(node, queue)
        assert fresh.ask("POST", "/public") == "POST /public."
        fresh.sock.settimeout(1.5)
        assert fresh.ask("DELETE", "/public") == ""
    assert "was not accepted within" not in node.log()
