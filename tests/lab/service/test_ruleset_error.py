# SPDX-License-Identifier: Apache-2.0
"""Rules that cannot be made: at the start, and after another program took them away."""

import json
import os
import socket
from pathlib import Path

import pytest

from appliance.lab import Namespace
from appliance.netfilter import backend
from tests.lab.service.nodes import Echo, Node, exchange, serve_echo, wait_until
from tests.lab.service.test_operator import portcullis

pytestmark = pytest.mark.timeout(120)

BROKEN = """#!/bin/sh
[ -e {flag} ] && {{ echo "out of order" >&2; exit 1; }}
exec /usr/sbin/{name} "$@"
"""


@pytest.fixture
def out_of_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, node: Node) -> Path:
    """While this file is there, iptables-nft-restore fails, and with it everything that makes our rules."""
    with node.net.node.enter():
        if backend.has_nft_queue():
            pytest.skip("this kernel has the nft queue statement: there are no iptables rules")
    flag, programs = tmp_path / "broken", tmp_path / "bin"
    programs.mkdir()
    for name in ("iptables-nft-restore", "ip6tables-nft-restore"):
        program = programs / name
        program.write_text(BROKEN.format(flag=flag, name=name))
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    return flag


def reaches(here: Namespace, address: str, port: int) -> bool:
    with here.enter():
        try:
            socket.create_connection((address, port), timeout=0.5).close()
        except OSError:
            return False
    return True


@pytest.mark.parametrize("action", ["drop", "allow"])
def test_lost_rules_that_cannot_be_made_again(node: Node, echo: Echo, out_of_order: Path, action: str) -> None:
    node.configure(more=f'[failures]\nruleset_lost = "{action}"\n')
    node.start()
    net = node.net
    net.node.spawn(serve_echo, 22)
    net.node.wait_for_port(22)
    kept = echo.connect()
    assert exchange(kept)
    out_of_order.touch()
    net.node.run(["nft", "flush", "ruleset"])
    node.wait_for("ALARM: ")
    for family in (4, 6):
        assert reaches(net.client, net.server.address(family), 7000) is (action == "allow")
        assert reaches(net.client, net.node.address(family, "cli0"), 22), "a failsafe port"
        assert reaches(net.node, "127.0.0.1" if family == 4 else "::1", 22), "loopback"
    if action == "drop":
        assert "drop" in net.node.run(["nft", "list", "table", "inet", "portcullis_closed"]).stdout
    out_of_order.unlink()
    node.wait_for("made again", timeout=3.0)
    wait_until(lambda: reaches(net.client, net.server.v4, 7000), 5.0, node.log)
    assert not reaches(net.client, net.server.v4, 7001), "policy denies it"
    assert exchange(kept)
    assert json.loads(portcullis(node, "status", "--json").stdout)["ruleset_errors"] >= 1
    assert node.service.stop() == 0
    assert "portcullis" not in net.node.run(["nft", "list", "tables"]).stdout


def test_at_the_start_drop_refuses(node: Node, out_of_order: Path) -> None:
    node.configure(more='[failures]\nruleset_error = "drop"\n')
    out_of_order.touch()
    done = node.run()
    assert done.returncode != 0
    assert "out of order" in done.stderr + done.stdout
    assert node.net.node.run(["nft", "list", "tables"]).stdout == ""


def test_at_the_start_allow_goes_on_without_rules_and_tries_again(node: Node, echo: Echo, out_of_order: Path) -> None:
    node.configure(more='[failures]\nruleset_error = "allow"\nruleset_lost = "allow"\n')
    node.net.server.spawn(serve_echo, 7001)
    node.net.server.wait_for_port(7001)
    out_of_order.touch()
    node.start()
    assert "ALARM: ruleset_error: nothing is filtered" in node.log()
    assert reaches(node.net.client, node.net.server.v4, 7001), "policy would deny it"
    out_of_order.unlink()
    node.wait_for("packets are filtered", timeout=3.0)
    assert not reaches(node.net.client, node.net.server.v4, 7001)
    assert reaches(node.net.client, node.net.server.v4, 7000)
