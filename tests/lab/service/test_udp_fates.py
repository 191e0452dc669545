# SPDX-License-Identifier: Apache-2.0
"""The fate of a UDP flow ends, its packets do not: on real packets through the whole service."""

import socket
import time
from typing import Any

import pytest

from appliance.control.client import ask
from tests.lab.service.nodes import Echo, Node, wait_until
from tests.lab.service.test_local_owners import NOBODY, POLICY

pytestmark = pytest.mark.timeout(90)

ONE_SECOND = "\n[fastpath]\nudp_fate_seconds = 1\n"
SPEAK = """
import socket, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("", 40404))
sock.settimeout(0.3)
sock.connect((sys.argv[1], 7000))
sock.send(b"word")
sys.exit(sock.recv(10) != b"word")
"""


def state(node: Node) -> dict[str, Any]:
    return ask(node.directory / "control.sock", {"do": "status"})


def flow(node: Node) -> socket.socket:
    with node.net.client.enter():
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(2.0)
    sock.connect((node.net.server.v4, 7000))
    return sock


def test_it_comes_up_again_and_again_and_loses_no_packet(node: Node, echo: Echo) -> None:
    node.net.node.sysctl({"net.netfilter.nf_conntrack_acct": 0})
    node.configure(more=ONE_SECOND)
    node.start()
    sent = 0
    with flow(node) as sock:
        while state(node)["udp_fates"]["ended"] < 2:
            for _ in range(20):
                sock.send(sent.to_bytes(4, "big"))
                assert sock.recv(10) == sent.to_bytes(4, "big")
                sent += 1
                time.sleep(0.005)
        told = state(node)
    assert told["netfilter"]["fate_allowed"] > sent, "most of them stay in the kernel"
    assert 2 <= told["fastpath"]["packets"] < sent
    assert told["fastpath"]["dropped"] == told["fastpath"]["rejected"] == 0
    assert "decided anew after 1 s, beyond 268435456 bytes, which are not counted here" in node.status()


def test_without_limits_it_stays(node: Node, echo: Echo) -> None:
    node.configure(more="\n[fastpath]\nudp_fate_seconds = 0\nudp_fate_bytes = 0\n")
    node.start()
    assert "udp fates   no limit; ended 0" in node.status()


def test_a_socket_that_another_user_took_over_is_decided_by_that_user(node: Node, echo: Echo) -> None:
    """Same addresses and ports, and the kernel still has the connection of the one before."""
    node.configure(more='\n[identities]\nusers = ["nobody"]\n' + ONE_SECOND)
    node.policy(POLICY.format(selector='portcullis.dev/user == "nobody"', protocol="TCP"))
    node.start()

    def speaks(*before: str) -> bool:
        words = [*before, "python3", "-c", SPEAK, node.net.server.v4]
        return node.net.node.run(words, check=False).returncode == 0

    assert speaks(), "root is nobody's business"
    wait_until(lambda: not speaks(*NOBODY), 15, node.log)
    wait_until(lambda: any(drop["dest_port"] == 7000 for drop in node.events("drop")), 5, node.log)
