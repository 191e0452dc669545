# SPDX-License-Identifier: Apache-2.0
"""One service ends and the next goes on: no packet lost, whether it was asked to, killed, or restarted."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from appliance.lab.manager import Manager
from appliance.lab.program import REPOSITORY, read_queues
from tests.lab.service.nodes import DENY_7000, Echo, Node, exchange, wait_until
from tests.lab.service.test_operator import portcullis
from tests.lab.service.test_reload import Datagrams
from tests.patience import LOAD, PATIENCE

pytestmark = pytest.mark.timeout(90)


def adds_up(node: Node) -> None:
    """At any moment under load."""
    for _ in range(5):
        ledger = json.loads(portcullis(node, "status", "--json").stdout)["ledger"]
        assert ledger["unaccounted"] == 0, ledger


def test_a_takeover_loses_no_packet(node: Node, echo: Echo) -> None:
    node.configure(more="[fastpath]\nfates = false\n")  # every packet needs a worker
    node.start()
    old = node.service.process
    assert old is not None
    sock = echo.connect()
    assert exchange(sock)
    load = Datagrams(node, flows=20, pause=0.0005)
    time.sleep(0.5)
    command = [sys.executable, "-m", "appliance", "run", "--takeover", "--config", str(node.config)]
    with (node.directory / "second").open("wb") as log:
        new = node.net.node.popen(
            command, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}
        )
    said = node.directory / "second"
    wait_until(lambda: "mode enforce" in said.read_text(), 20.0, said.read_text)
    assert old.wait(10) == 0, node.log()
    assert "the queues are handed over" in node.log()
    assert exchange(sock)
    adds_up(node)
    load.finish()
    assert load.sent > 500 * LOAD
    assert load.received == load.sent
    with echo.connect() as fresh:
        assert exchange(fresh)
    wait_until(lambda: not any(row.waiting for row in read_queues(node.net.node).values()), 5.0, lambda: "they wait")
    ledger = json.loads(portcullis(node, "status", "--json").stdout)["ledger"]
    assert ledger["ids_lost"] == 0 and ledger["queue_full"] == 0, ledger
    assert ledger["unaccounted"] == 0, ledger
    new.terminate()
    assert new.wait(10) == 0
    assert node.net.node.run(["nft", "list", "ruleset"]).stdout == ""


def test_without_a_service_there_is_nothing_to_take_over(node: Node) -> None:
    done = node.net.node.run(
        [sys.executable, "-m", "appliance", "run", "--takeover", "--config", str(node.config)],
        check=False, timeout=20, env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    assert done.returncode == 2
    assert "no service runs here" in done.stderr


@pytest.fixture
def manager(node: Node) -> Iterator[Manager]:
    made = Manager(node.net.node, node.config, node.directory, PATIENCE)
    yield made
    made.close()


@pytest.mark.parametrize("family", [4, 6])
def test_after_a_crash_packets_have_waited_in_the_queue(node: Node, echo: Echo, manager: Manager, family: int) -> None:
    node.configure(more="[fastpath]\nfates = false\n")
    process = manager.start()
    assert len(manager.stored["queue"]) == 3  # two workers and the look-only one
    assert "FDPOLL=0" in manager.said
    sock = echo.connect(family, timeout=10.0)
    assert exchange(sock)
    process.kill()
    process.wait(10)
    sock.sendall(b"sent while nobody was there")
    second = manager.start()
    assert sock.recv(100) == b"sent while nobody was there"
    with echo.connect(family) as fresh:
        assert exchange(fresh)
    second.terminate()
    assert second.wait(10) == 0
    manager.read()
    assert not manager.stored


def test_a_successor_answers_from_the_snapshot_before_it_has_loaded_anything(
    node: Node, echo: Echo, manager: Manager
) -> None:
    """What it would load says otherwise: answers before that come from the snapshot."""
    node.configure(more="[fastpath]\nfates = false\n")
    process = manager.start()
    manager.wait_for_snapshot()
    sock = echo.connect(timeout=10.0)
    assert exchange(sock)
    process.kill()
    process.wait(10)
    node.policy(DENY_7000)
    sock.sendall(b"sent while nobody was there")
    started = time.monotonic()
    second = manager.start(wait=False)
    assert sock.recv(100) == b"sent while nobody was there"
    answered = time.monotonic() - started
    manager.wait_for("READY=1")
    assert "answered by the snapshot of generation 1" in node.log()
    assert answered < time.monotonic() - started
    sock.settimeout(1.0)
    assert not exchange(sock), "the policy that was loaded is not in force"
    second.terminate()
    assert second.wait(10) == 0


def test_a_snapshot_that_is_broken_is_not_used(node: Node, echo: Echo, manager: Manager) -> None:
    process = manager.start()
    manager.wait_for_snapshot()
    process.kill()
    process.wait(10)
    os.close(manager.stored["snapshot"].pop())
    manager.stored["snapshot"] = [os.memfd_create("not sealed")]
    second = manager.start()
    assert "of no use: it is not sealed" in node.log()
    with echo.connect() as fresh:
        assert exchange(fresh)
    second.terminate()
    assert second.wait(10) == 0


def test_a_change_that_voids_decisions_takes_the_snapshot_back(node: Node, echo: Echo, manager: Manager) -> None:
    """Between the change and the next snapshot a crash must not bring the old policy back."""
    process = manager.start()
    manager.wait_for_snapshot()
    first = manager.stored["snapshot"]
    node.policy(DENY_7000)
    node.wait_for("generation 2 in force", 30.0)
    manager.read()
    assert manager.stored.get("snapshot") != first
    manager.wait_for_snapshot()
    process.terminate()
    assert process.wait(10) == 0


def test_a_restart_loses_no_packet(node: Node, echo: Echo, manager: Manager) -> None:
    node.configure(more="[fastpath]\nfates = false\n")  # every packet needs a worker
    process = manager.start()
    sock = echo.connect(timeout=10.0)
    assert exchange(sock)
    load = Datagrams(node, flows=20, pause=0.0005)
    manager.wait_for_snapshot()
    process = manager.restart(process)
    assert exchange(sock)
    adds_up(node)
    load.finish()
    assert load.sent > 500 * LOAD
    assert load.received == load.sent
    assert "answered by the snapshot" in node.log()
    ledger = json.loads(portcullis(node, "status", "--json").stdout)["ledger"]
    assert ledger["ids_lost"] == 0 and ledger["queue_full"] == 0, ledger
    assert ledger["unaccounted"] == 0, ledger
    process.terminate()
    assert process.wait(10) == 0
    assert node.net.node.run(["nft", "list", "ruleset"]).stdout == ""
