# SPDX-License-Identifier: Apache-2.0
"""Feeds of a running service: entries by command, lists that change, lists that would block too much."""

import contextlib
import json
import os
import socket
import subprocess
import sys

import pytest

from appliance.lab.program import REPOSITORY
from tests.lab.service.nodes import Echo, Node, exchange, wait_until

pytestmark = pytest.mark.timeout(120)


def feeds(node: Node, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "appliance", "feeds", *words, "--config", str(node.config)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return node.net.node.run(command, timeout=60, check=False, env=environment)


def listed(node: Node, *lines: str, settings: str = "") -> None:
    (node.directory / "feeds.d/list.toml").write_text(f'file = "../list.txt"\naction = "drop"\n{settings}')
    fresh = node.directory / "list.new"
    fresh.write_text("\n".join(lines))
    fresh.replace(node.directory / "list.txt")


def passes(echo: Echo, family: int = 4) -> bool:
    try:
        with echo.connect(family, timeout=1.0) as sock:
            return exchange(sock)
    except OSError:
        return False


def test_an_entry_by_command_cuts_open_flows_and_refuses_new_ones(node: Node, echo: Echo) -> None:
    node.start()
    server, other = node.net.server.address(4), echo.connect(6)
    with echo.connect() as open_flow:
        assert exchange(open_flow)
        done = feeds(node, "add", server, "--reason", "seen in a scan", "--json")
        answer = json.loads(done.stdout)
        assert (answer["entry"], answer["feed"], answer["allowed"]) == (server, "local", [])
        open_flow.settimeout(1.0)
        assert not exchange(open_flow)
    assert not passes(echo)
    assert exchange(other)  # nobody else's flow
    assert f"local: lists {server}" in feeds(node, "test", server).stdout
    node.service.stop()
    node.start()
    assert not passes(echo)
    assert feeds(node, "remove", server).returncode == 0
    assert passes(echo)


def test_the_allowlist_wins_over_a_command_and_says_so(node: Node, echo: Echo) -> None:
    node.start()
    own = node.net.node.address(4, "srv0")
    done = feeds(node, "add", own)
    assert done.returncode == 1
    assert f"the allowlist wins: own address {own}" in done.stdout
    done = feeds(node, "add", "10.0.0.0/8")
    assert done.returncode == 0
    assert "the rest is enforced" in done.stdout
    assert not passes(echo)


@pytest.mark.parametrize("others", [1, 3000])
def test_a_changed_list_is_a_change(node: Node, echo: Echo, others: int) -> None:
    """Few entries are taken one by one, many by their difference; neither makes a new program."""
    server = node.net.server.address(4)
    before = [f"198.{18 + at // 65536}.{at // 256 % 256}.{at % 256}" for at in range(0, 3 * others, 3)]
    listed(node, *before)
    node.start()
    with echo.connect() as open_flow:
        assert exchange(open_flow)
        listed(node, *(entry + "/31" for entry in before), server)
        node.wait_for("(a change: for new flows")
        open_flow.settimeout(1.0)
        wait_until(lambda: not exchange(open_flow), 5, node.log)
    assert not passes(echo)
    assert passes(echo, 6)
    listed(node, *before)
    wait_until(lambda: passes(echo), 10, node.log)
    assert "calculated in" not in node.log()


def test_a_list_that_would_block_much_of_recent_traffic_waits(node: Node, echo: Echo) -> None:
    server = node.net.server.address(4)
    listed(node, "198.51.100.7")
    node.start()
    node.net.client.call(talk_much, server)
    wait_until(lambda: len(node.events("flow")) >= 120, 20, node.log)
    listed(node, "198.51.100.7", server)
    node.wait_for("ALARM: feed list quarantined")
    assert passes(echo)
    (alert,) = [e for e in node.events("alert") if e["portcullis"].get("feed_state") == "quarantined"]
    assert "percent of recent traffic" in alert["alert"]["signature"]
    done = feeds(node, "list", "--json")
    assert done.returncode == 0, done.stderr
    (shown,) = json.loads(done.stdout)
    assert (shown["state"], "max_share" in shown["problem"]) == ("quarantined", True)
    assert f"+ {server}\n" in feeds(node, "diff", "list").stdout
    node.service.stop()
    node.start()
    assert "feed list is still quarantined" in node.log()
    assert passes(echo)
    done = feeds(node, "update", "--accept", "list")
    assert "accepted by the running service: list" in done.stdout
    assert not passes(echo)


def talk_much(server: str) -> None:
    # All open at once: a port that was given back may be given again, and is no new flow.
    with contextlib.ExitStack() as stack:
        for _ in range(120):
            sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            sock.sendto(b"x", (server, 7000))
