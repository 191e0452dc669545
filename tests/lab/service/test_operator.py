# SPDX-License-Identifier: Apache-2.0
"""The command line against the running service: status, explain, a policy on trial."""

import json
import os
import subprocess
import sys

import pytest

from appliance.lab.program import REPOSITORY
from tests.lab.service.nodes import ALLOW, DENY_7000, Echo, Node, exchange, wait_until

pytestmark = pytest.mark.timeout(90)


def portcullis(node: Node, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command, told which socket is the service's."""
    return node.net.node.run(
        [sys.executable, "-m", "appliance", *arguments, "--socket", str(node.directory / "control.sock")],
        check=False,
        timeout=20,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )


def test_status_and_explain_tell_what_is_in_force(node: Node, echo: Echo) -> None:
    node.start()
    with echo.connect() as sock:
        assert exchange(sock)
    status = json.loads(portcullis(node, "status", "--json").stdout)
    assert status["mode"] == "enforce" and status["generation"] == 1
    assert status["fastpath"]["allowed"] >= 1
    assert "generation" in portcullis(node, "status").stdout
    flow = ["--src", node.net.client.v4, "--dst", node.net.server.v4, "--proto", "tcp", "--dport"]
    allowed = portcullis(node, "explain", *flow, "7000").stdout
    assert allowed.startswith("allow") and "policy server, rule 0: allow" in allowed
    denied = portcullis(node, "explain", *flow, "7001").stdout
    assert denied.startswith("deny") and "end of tier" in denied


def apply(node: Node, text: str, *options: str) -> subprocess.CompletedProcess[str]:
    path = node.directory / "next.yaml"
    path.write_text(text)
    return portcullis(node, "apply", str(path), *options)


def test_a_policy_that_nobody_confirms_goes_back(node: Node, echo: Echo) -> None:
    node.start()
    sock = echo.connect(timeout=0.5)
    assert exchange(sock)
    assert apply(node, DENY_7000, "--confirm", "2s").returncode == 0
    assert not exchange(sock)
    node.wait_for("was not confirmed", 6.0)
    with echo.connect() as fresh:
        assert exchange(fresh)
    assert (node.directory / "policy.d/policy.yaml").read_text() == ALLOW


def test_a_confirmed_policy_stays(node: Node, echo: Echo) -> None:
    node.start()
    assert apply(node, DENY_7000, "--confirm", "30s").returncode == 0
    assert portcullis(node, "confirm").returncode == 0
    with pytest.raises(TimeoutError):
        echo.connect(timeout=0.5)
    assert portcullis(node, "rollback").returncode == 2


def test_after_a_crash_an_unconfirmed_policy_goes_back(node: Node, echo: Echo) -> None:
    node.start()
    assert apply(node, DENY_7000, "--confirm", "1s").returncode == 0
    assert node.service.process is not None
    node.service.process.kill()
    node.service.process.wait(10)
    node.start()
    node.wait_for("was not confirmed", 6.0)
    wait_until(lambda: (node.directory / "policy.d/policy.yaml").exists(), 5.0, node.log)
    with echo.connect() as fresh:
        assert exchange(fresh)


def test_an_invalid_policy_is_not_applied(node: Node, echo: Echo) -> None:
    node.start()
    done = apply(node, ALLOW.replace("ingress:", "ingres:"), "--confirm", "30s")
    assert done.returncode == 2
    assert "next.yaml:" in done.stderr and "ingres" in done.stderr
    with echo.connect() as sock:
        assert exchange(sock)


def test_without_a_service_the_command_says_so(node: Node) -> None:
    done = portcullis(node, "status")
    assert done.returncode == 2
    assert "no service runs here" in done.stderr
