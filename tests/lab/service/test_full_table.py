# SPDX-License-Identifier: Apache-2.0
"""A connection table without room: new connections are dropped by the kernel and counted, or go on untracked."""

import socket
import struct

import pytest

from appliance.lab import Namespace
from appliance.netfilter.nfnetlink import NESTED, NfNetlink, attribute
from appliance.netfilter.overflow import fullness
from appliance.service.fulltable import FULL
from tests.lab.service.nodes import ALLOW, DENY_7000, Echo, Node, exchange, wait_until

CT_NEW = 0x100  # of subsystem ctnetlink
CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, CTA_STATUS, CTA_TIMEOUT = 1, 2, 3, 7
CTA_TUPLE_IP, CTA_TUPLE_PROTO = 1, 2
ASSURED = 0x4 | 0x8  # and confirmed: the kernel gives up no such entry for a new one
CREATE, EXCLUSIVE = 0x400, 0x200
MOST = 600_000  # entries: where a machine allows more, the test would take too long
BATCH = 500


def _ends(source: int, sport: int, target: int, dport: int) -> bytes:
    addresses = attribute(1, struct.pack("!I", source)) + attribute(2, struct.pack("!I", target))
    ports = attribute(1, b"\x11") + attribute(2, struct.pack("!H", sport)) + attribute(3, struct.pack("!H", dport))
    return attribute(CTA_TUPLE_IP | NESTED, addresses) + attribute(CTA_TUPLE_PROTO | NESTED, ports)


class _Creating(NfNetlink):
    def _message(self, kind: int, flags: int, family: int, payload: bytes) -> bytes:
        return super()._message(kind, flags | CREATE, family, payload)


def fill(share: float) -> None:
    """Assured entries of nobody's traffic, up to a share of the limit; beyond 1 until there is no room."""
    now = fullness()
    wanted = min(int(now.limit * share), now.limit) - now.entries
    with _Creating(timeout=20) as netlink:
        for first in range(0, wanted, BATCH):
            messages = []
            for number in range(first, min(first + BATCH, wanted)):
                source, port = 0x0B000000 + number // 50_000, 1024 + number % 50_000
                messages.append((CT_NEW, socket.AF_INET,
                    attribute(CTA_TUPLE_ORIG | NESTED, _ends(source, port, 0x0B010000, 9))
                    + attribute(CTA_TUPLE_REPLY | NESTED, _ends(0x0B010000, 9, source, port))
                    + attribute(CTA_STATUS, struct.pack("!I", ASSURED))
                    + attribute(CTA_TIMEOUT, struct.pack("!I", 3600))))  # fmt: skip
            netlink.batch(messages)


def state(node: Namespace) -> tuple[int, int, int]:
    found = node.call(fullness)
    return found.entries, found.limit, found.dropped


@pytest.fixture
def full(node: Node) -> Node:
    node.net.client.run(["ping", "-c", "1", "-W", "2", node.net.server.v4])  # neighbours know each other
    if state(node.net.node)[1] > MOST:
        pytest.skip(f"the connection table of this machine has room for more than {MOST} entries")
    return node


def connects(echo: Echo) -> bool:
    try:
        with echo.connect(timeout=1) as sock:
            return exchange(sock)
    except OSError:
        return False


@pytest.mark.timeout(240)
def test_what_the_kernel_drops_is_said_and_counted(full: Node, echo: Echo) -> None:
    full.start()
    assert connects(echo)
    full.net.node.call_for(60, fill, 1.0)
    full.wait_for("conntrack_full: ")
    full.wait_for("the kernel will drop new connections")
    assert not connects(echo)
    wait_until(lambda: "the kernel dropped" in full.log(), 30, full.log)
    assert state(full.net.node)[2] > 0


@pytest.mark.timeout(240)
def test_new_connections_go_on_untracked_and_policy_decides_them(full: Node, echo: Echo) -> None:
    full.configure(more='[failures]\nconntrack_full = "allow"\n')
    full.start()
    with echo.connect() as older:
        assert exchange(older)
        full.net.node.call_for(60, fill, (1 + FULL) / 2)
        full.wait_for("new TCP connections go untracked")
        full.net.node.call_for(60, fill, 1.0)
        assert exchange(older)
        assert connects(echo)
        with echo.connect(6) as sock:
            assert exchange(sock)
        full.policy(DENY_7000)
        wait_until(lambda: not connects(echo), 10, full.log)
        full.policy(ALLOW)
        wait_until(lambda: connects(echo), 10, full.log)
    assert full.service.stop() == 0
    assert "portcullis" not in full.net.node.run(["nft", "list", "tables"]).stdout
