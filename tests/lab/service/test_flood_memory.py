# SPDX-License-Identifier: Apache-2.0
"""A flood of connections that are never opened costs memory until the tables are full, and none after."""

from pathlib import Path

import pytest

from appliance.lab.program import read_queues
from tests.lab.service.nodes import ALLOW, INSPECTED, Echo, Node, exchange, wait_until
from tests.lab.service.test_floods import send_burst

pytestmark = pytest.mark.timeout(180)
AT_ONCE = 2000  # fewer than a queue holds
MORE = 15_000  # flows
MOST = 700  # bytes of a flow that finds a full table


def flood(node: Node, family: int, flows: range) -> None:
    """A SYN of each flow to a port that is allowed, and where nobody answers. All of them come up."""
    source = node.net.client.address(family)
    for first in flows[::AT_ONCE]:
        count = min(AT_ONCE, flows.stop - first)
        node.net.client.call_for(30.0, send_burst, family, "tcp", 80, first, source, 1, count)
        wait_until(lambda: not any(queue.waiting for queue in read_queues(node.net.node).values()), 10.0, node.log)


def resident(node: Node) -> int:
    """Bytes, of the service and its children."""
    pids = [node.service.pid]
    for pid in pids:
        pids += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    rows = [row.split() for pid in pids for row in Path(f"/proc/{pid}/status").read_text().splitlines()]
    return 1024 * sum(int(row[1]) for row in rows if row[0] == "VmRSS:")


@pytest.mark.parametrize("inspectors", [0, 1], ids=["allowed", "inspected"])
def test_a_flood_of_syns_does_not_grow_the_service(node: Node, echo: Echo, inspectors: int) -> None:
    node.configure(inspectors=inspectors, more="[fastpath]\nflow_entries = 1024\n")
    node.policy(INSPECTED if inspectors else ALLOW)
    node.start()
    node.net.server.run(["nft", "add table inet deaf; add chain inet deaf input { type filter hook input priority 0; };"
                         " add rule inet deaf input tcp dport 80 drop"])  # fmt: skip
    assert exchange(echo.connect(6))  # neighbours are known
    with echo.connect() as sock:
        assert exchange(sock)
        # Full: 1024 flows of a worker, 65536 of an inspector, which are some 2200 bytes each.
        flood(node, 4, range(1024, 64_024 if inspectors else 9024))
        flood(node, 6, range(1024, 9024))
        before = resident(node)
        flood(node, 6, range(10_000, 10_000 + MORE))
        assert resident(node) - before < MOST * MORE
        assert sum(queue.full + queue.lost for queue in read_queues(node.net.node).values()) == 0
        assert exchange(sock)
