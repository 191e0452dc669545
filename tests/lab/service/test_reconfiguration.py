# SPDX-License-Identifier: Apache-2.0
"""SIGHUP with another configuration: the process starts again with its queues in its hands, or says why it does not."""

import json
import signal

import pytest

from appliance.lab.program import read_queues
from tests.lab.service.nodes import DENY_7000, Echo, Node, exchange, wait_until
from tests.lab.service.test_operator import portcullis
from tests.lab.service.test_reload import Datagrams
from tests.patience import LOAD

pytestmark = pytest.mark.timeout(120)
EACH = "[fastpath]\nfates = false\n"  # every packet needs a worker


def hang_up(node: Node) -> None:
    assert node.service.process is not None
    node.service.forget()
    node.service.process.send_signal(signal.SIGHUP)


def workers(node: Node, count: int) -> None:
    node.config.write_text(node.config.read_text().replace("count = 2", f"count = {count}"))


@pytest.mark.parametrize("count", [4, 1], ids=["more", "fewer"])
def test_the_number_of_workers_changes_and_no_packet_is_lost(node: Node, echo: Echo, count: int) -> None:
    node.configure(more=EACH)
    node.start()
    pid = node.service.pid
    sock = echo.connect(timeout=10.0)
    assert exchange(sock)
    load = Datagrams(node, flows=20, pause=0.0005)
    workers(node, count)
    hang_up(node)
    node.service.wait_for("READY=1", 30.0)
    assert exchange(sock)
    load.finish()
    assert load.sent > 100 * LOAD
    assert load.received == load.sent
    assert node.service.pid == pid
    assert set(read_queues(node.net.node)) == {*range(count), 32}
    with echo.connect() as fresh:
        assert exchange(fresh)
    ledger = json.loads(portcullis(node, "status", "--json").stdout)["ledger"]
    assert ledger["queue_full"] == 0, ledger
    assert node.service.stop() == 0
    assert node.net.node.run(["nft", "list", "ruleset"]).stdout == ""


def test_inspectors_come_and_open_flows_go_on(node: Node, echo: Echo) -> None:
    node.start()
    sock = echo.connect(timeout=10.0)
    assert exchange(sock)
    node.configure(inspectors=2)
    hang_up(node)
    node.service.wait_for("READY=1", 30.0)
    assert {64, 65} <= read_queues(node.net.node).keys()
    assert exchange(sock)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("[mark]\nmask = 0x00ff0000\n", "mark.mask cannot be changed while the service runs"),
        ("[mark]\nmask = 1\n", "mask"),
        ('[failures]\nqueue_full = "perhaps"\n', "queue_full"),
        ('[policy]\npaths = ["/nowhere"]\n', "/nowhere"),
    ],
    ids=["mark", "range", "value", "path"],
)
def test_a_configuration_that_cannot_be_taken_is_refused_and_the_service_goes_on(
    node: Node, echo: Echo, more: str, words: str
) -> None:
    node.start()
    sock = echo.connect()
    text = node.config.read_text()
    if "[policy]" in more:
        text = text.replace(f'[policy]\npaths = ["{node.directory}/policy.d"]\n', "")
    node.config.write_text(text + more)
    hang_up(node)
    node.wait_for("(the configuration that is in force stays)", 30.0)
    assert words in node.log()
    node.wait_for("reloaded", 30.0)
    assert exchange(sock)
    node.policy(DENY_7000)
    wait_until(lambda: not exchange(sock), 30.0, node.log)


def test_queues_are_not_moved(node: Node, echo: Echo) -> None:
    node.start()
    node.config.write_text(node.config.read_text().replace("[queues]", "[queues]\nfirst = 8"))
    hang_up(node)
    node.wait_for("not moved", 30.0)
    with echo.connect() as sock:
        assert exchange(sock)
