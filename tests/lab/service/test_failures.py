# SPDX-License-Identifier: Apache-2.0
"""What happens when a part of the appliance dies: what the configuration says, and allowed flows go on."""

import json
import os
import re
import signal
import subprocess

import pytest

from tests.lab.service.nodes import INSPECTED, Echo, Node, exchange, wait_until
from tests.lab.service.test_operator import portcullis

pytestmark = pytest.mark.timeout(90)


def kill(node: Node) -> None:
    process = node.service.process
    assert process is not None
    process.kill()
    process.wait(10)


def test_kill_9_in_enforce_mode_allowed_flows_go_on_and_new_ones_wait_for_nobody(node: Node, echo: Echo) -> None:
    node.start()
    for family in (4, 6):
        sock = echo.connect(family)
        assert exchange(sock)
        node_dead = sock
    kill(node)
    assert exchange(node_dead)
    with pytest.raises(TimeoutError):
        echo.connect(timeout=1.0)
    # The successor takes the rules over; the old flow is decided again and goes on, new ones are let in.
    node.start()
    assert exchange(node_dead)
    with echo.connect() as sock:
        assert exchange(sock)


def test_kill_9_in_observe_mode_lets_everything_pass(node: Node, echo: Echo) -> None:
    node.configure(mode="observe")
    node.start()
    sock = echo.connect()
    assert exchange(sock)
    kill(node)
    assert exchange(sock)
    with echo.connect() as fresh:
        assert exchange(fresh)


@pytest.mark.parametrize(("mode", "action"), [("enforce", "allow"), ("observe", "drop")])
def test_while_nobody_listens_the_action_holds_whatever_the_mode(
    node: Node, echo: Echo, mode: str, action: str
) -> None:
    node.configure(mode=mode, more=f'[failures]\nno_listener = "{action}"\n')
    node.start()
    sock = echo.connect()
    assert exchange(sock)
    kill(node)
    assert exchange(sock), "what was decided before does not need a listener"
    if action == "allow":
        with echo.connect(timeout=1.0) as fresh:
            assert exchange(fresh)
    else:
        with pytest.raises(TimeoutError):
            echo.connect(timeout=1.0)


def inspector(node: Node) -> int:
    """The pid of the inspector."""
    assert node.service.process is not None
    found = subprocess.run(
        ["pgrep", "-f", "--parent", str(node.service.process.pid), "inspection.worker"], capture_output=True, text=True
    ).stdout.split()
    return int(found[0]) if found else 0


@pytest.mark.parametrize("action", ["drop", "allow"])
def test_a_killed_inspector_is_started_again_and_meanwhile_the_action_holds(
    node: Node, echo: Echo, action: str
) -> None:
    node.configure(inspectors=1, more=f'[failures]\ninspector_down = "{action}"\ninspector_restart = "{action}"\n')
    node.policy(INSPECTED)
    node.start()
    sock = echo.connect(timeout=1.0)
    assert exchange(sock)
    pid = inspector(node)
    assert pid
    os.kill(pid, signal.SIGKILL)
    passed = exchange(sock)
    wait_until(lambda: inspector(node) not in (0, pid), 10.0, node.log)
    assert "the inspector of queue 64 has ended" in node.log()
    # What had been read of the old connection is lost; a new one is inspected from its beginning.
    assert passed == (action == "allow")
    assert exchange(sock, b"again") == (action == "allow")
    counted = json.loads(portcullis(node, "status", "--json").stdout)["failures"]["inspector_restart"]
    assert counted > 0
    with echo.connect(timeout=5.0) as fresh:
        assert exchange(fresh)


def test_the_end_leaves_the_node_as_it_was(node: Node, echo: Echo) -> None:
    def state() -> tuple[str, ...]:
        commands = (["nft", "list", "ruleset"], ["iptables-save"], ["ip6tables-save"], ["ip", "rule"])
        return tuple(re.sub(r"packets \d+ bytes \d+", "", node.net.node.run(c).stdout) for c in commands)

    node.net.node.run(
        [
            "nft",
            "add table inet other; add chain inet other c { type filter hook forward priority 0; };"
            " add rule inet other c tcp dport 4711 counter drop",
        ]
    )
    before = state()
    node.start()
    assert state() != before
    sock = echo.connect()
    assert exchange(sock)
    assert node.service.stop() == 0
    assert state() == before
    assert exchange(sock)
    marks = node.net.node.run(["conntrack", "-L"], check=False).stdout
    assert re.findall(r"mark=[1-9]", marks) == []
