# SPDX-License-Identifier: Apache-2.0
"""How many flows an inspector remembers, and for how long, is what the configuration says."""

import socket
from typing import Any

import pytest

from appliance.control.client import ask
from tests.lab.service.nodes import INSPECTED, Echo, Node, wait_until

pytestmark = pytest.mark.timeout(90)
FLOWS = 1024


def inspector(node: Node) -> dict[str, Any]:
    return ask(node.directory / "control.sock", {"do": "status"})["inspectors"].get("64", {})


def speak(node: Node, flows: int) -> None:
    """Each flow is one question and its answer."""
    for _ in range(flows):
        with node.net.client.enter():
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with sock:
            sock.settimeout(5.0)
            sock.connect((node.net.server.v4, 7000))
            sock.send(b"word")
            assert sock.recv(10) == b"word"


def test_they_are_as_many_and_as_old_as_configured(node: Node, echo: Echo) -> None:
    node.configure(inspectors=1)
    text = node.config.read_text()
    node.config.write_text(text.replace("[inspection]\n", f"[inspection]\nflow_entries = {FLOWS}\nflow_idle = 1\n"))
    node.policy(INSPECTED)
    node.start()
    speak(node, FLOWS + 76)
    wait_until(lambda: inspector(node).get("packets", 0) >= 2 * (FLOWS + 76), 10, lambda: str(inspector(node)))
    found = inspector(node)
    assert found["flows"] <= FLOWS and found["flows_evicted"] + found["flows_aged"] >= 76

    def aged() -> bool:
        speak(node, 1)  # who is idle goes when a flow comes
        return inspector(node)["flows_aged"] > 64

    wait_until(aged, 15, lambda: str(inspector(node)))
