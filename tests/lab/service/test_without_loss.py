# SPDX-License-Identifier: Apache-2.0
"""Everything that can change does so under load: no datagram is lost, and every open connection goes on.

The rate is one that a busy machine holds; the benchmark has the full one.
"""

import json
from collections.abc import Iterator

import pytest

from appliance.lab.connections import Connections
from appliance.lab.manager import Manager
from appliance.lab.program import read_queues
from tests.lab.service.load import SINK, Flood
from tests.lab.service.nodes import ALLOW, Node
from tests.lab.service.test_operator import portcullis
from tests.patience import LOAD, PATIENCE

pytestmark = pytest.mark.timeout(240)

CONNECTIONS = int(1000 * LOAD)
ALLOWED = ALLOW.replace("ports: [7000]}", f"ports: [7000, {SINK}]}}")
# What waits for a successor: three seconds at 20,000 a second.
QUEUES = "count = 2\nlength = 65535\nreceive_buffer = 134217728"
RULE = 'alert http any any -> any any (msg:"m"; content:"{}"; sid:{};)\n'


@pytest.fixture
def manager(node: Node) -> Iterator[Manager]:
    made = Manager(node.net.node, node.config, node.directory, PATIENCE)
    yield made
    made.close()


def configure(node: Node, *, queues: str = QUEUES, inspectors: int = 0, fates: bool) -> None:
    node.configure(inspectors=inspectors, more=f"[fastpath]\nfates = {str(fates).lower()}\n")
    node.config.write_text(node.config.read_text().replace("count = 2", queues))


@pytest.mark.parametrize(("rate", "fates"), [(20_000, True), (5_000, False)], ids=["fates in the kernel", "no fates"])
def test_nothing_is_lost_whatever_changes(node: Node, manager: Manager, rate: int, fates: bool) -> None:
    configure(node, fates=fates)
    node.policy(ALLOWED)
    process = manager.start()
    connections = Connections(node.net.client, node.net.server, CONNECTIONS)
    flood = Flood(node, int(rate * LOAD))
    connections.all_go_on()

    node.policy(ALLOWED.replace("[7000, 80]", "[7000, 80, 8080]"))
    node.wait_for("generation 2 in force", 30.0)
    connections.all_go_on()
    node.wait_for("open flows decided again", 30.0)

    (node.directory / "feeds.d/list.txt").write_text("".join(f"198.51.{i // 250}.{i % 250}\n" for i in range(5000)))
    (node.directory / "feeds.d/list.toml").write_text('name = "list"\nfile = "list.txt"\naction = "drop"\n')
    node.wait_for("generation 3 in force", 30.0)
    connections.all_go_on()

    configure(node, queues=QUEUES.replace("count = 2", "count = 3"), inspectors=1, fates=fates)
    manager.hang_up(process)
    assert {0, 1, 2, 64} <= read_queues(node.net.node).keys()
    (node.directory / "signatures.d/local.rules").write_text(RULE.format("one", 1) + RULE.format("two", 2))
    node.wait_for("inspection ruleset 2 in force", 30.0)
    connections.all_go_on()

    configure(node, fates=fates)
    manager.hang_up(process)
    assert not {2, 64} & read_queues(node.net.node).keys()
    manager.wait_for_snapshot()
    process = manager.restart(process)
    connections.all_go_on()

    process = manager.take_over(process)
    connections.all_go_on()
    state = json.loads(portcullis(node, "status", "--json").stdout)
    assert state["redecided"]["flows"] >= CONNECTIONS and state["redecided"]["seconds"] > 0
    flood.finish()
    connections.finish()
    assert flood.arrived == flood.sent > 2 * rate * LOAD
    ledger = json.loads(portcullis(node, "status", "--json").stdout)["ledger"]
    assert ledger["ids_lost"] == ledger["queue_full"] == ledger["drop"] == 0, ledger
    process.terminate()
    assert process.wait(20) == 0
