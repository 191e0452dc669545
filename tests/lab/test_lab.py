# SPDX-License-Identifier: Apache-2.0
"""The lab itself: what it makes works, and nothing of it stays behind."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyroute2 import netns

from appliance.lab import Chain, Lab, LabError, Namespace, have_root

pytestmark = [
    pytest.mark.skipif(not have_root(), reason="network namespaces need root"),
    pytest.mark.timeout(20),
]
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def chain() -> Iterator[Chain]:
    with Lab() as lab:
        yield lab.chain()


def inode() -> int:
    return Path("/proc/thread-self/ns/net").stat().st_ino


@pytest.mark.parametrize("family", [4, 6])
def test_client_reaches_server_through_node(chain: Chain, family: int) -> None:
    done = chain.client.run(["ping", "-c", "1", "-W", "2", chain.server.address(family)])
    assert "ttl=63" in done.stdout


def test_addresses_are_usable_at_once() -> None:
    with Lab() as lab:
        client, _, server = lab.chain(network=78)
        client.run(["ping", "-6", "-c", "1", "-W", "2", server.v6])


def test_offloads_stay_on(chain: Chain) -> None:
    link = chain.node.ip.get_links(chain.node.ifindex("cli0"))[0]
    assert link.get_attr("IFLA_GSO_MAX_SIZE") >= 65536


def test_call_runs_inside_and_returns_the_value(chain: Chain) -> None:
    assert chain.server.call(inode) == chain.server.path.stat().st_ino != inode()


def test_call_raises_the_exception_of_the_function(chain: Chain) -> None:
    def fail() -> None:
        raise KeyError("inside")

    with pytest.raises(KeyError, match="inside"):
        chain.client.call(fail)


def test_call_is_bounded(chain: Chain) -> None:
    started = time.monotonic()
    with pytest.raises(LabError, match="not finished"):
        chain.client.call_for(0.2, time.sleep, 30)
    assert time.monotonic() - started < 5


def test_enter_leaves_again_and_sockets_stay_inside(chain: Chain) -> None:
    outside = inode()
    with chain.server.enter():
        assert inode() == chain.server.path.stat().st_ino
        listener = socket.create_server((chain.server.v4, 5001))
    assert inode() == outside
    with listener, chain.client.enter(), socket.create_connection((chain.server.v4, 5001), timeout=2):
        pass


def test_wait_for_port(chain: Chain) -> None:
    with pytest.raises(LabError, match="5002"):
        chain.server.wait_for_port(5002, timeout=0.1)
    with chain.server.enter():
        listener = socket.create_server((chain.server.v4, 5002))
        datagrams = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        datagrams.bind(("::", 5003))
    with listener, datagrams:
        chain.server.wait_for_port(5002, address=chain.server.v4)
        chain.server.wait_for_port(5003, "udp")
        with pytest.raises(LabError):
            chain.server.wait_for_port(5002, address="127.0.0.1", timeout=0.1)


def test_run_reports_what_failed(chain: Chain) -> None:
    with pytest.raises(LabError, match="client: false: exit 1"):
        chain.client.run(["false"])
    with pytest.raises(LabError, match=r"not finished after 0\.1 s"):
        chain.client.run(["sleep", "5"], timeout=0.1)
    assert chain.client.run(["cat"], input="text").stdout == "text"


def test_close_ends_processes_and_removes_namespaces() -> None:
    with Lab() as lab:
        client, _, server = lab.chain(network=79)
        names = [namespace.name for namespace in lab.namespaces.values()]
        process = client.popen(["sleep", "60"])
        forked = server.spawn(time.sleep, 60)
        daemon = client.run(["sh", "-c", "sleep 60 >/dev/null 2>&1 & echo $!"]).stdout.strip()
        assert set(names) <= set(netns.listnetns())
    assert process.poll() is not None
    assert forked.exitcode is not None
    status = Path("/proc", daemon, "status")
    assert not status.exists() or "State:\tZ" in status.read_text()  # perhaps nobody reaps orphans here
    assert not set(names) & set(netns.listnetns())


@pytest.mark.parametrize("how", ["exit", "sigterm", "sigkill"])
def test_an_ended_program_leaves_nothing(how: str) -> None:
    script = "from appliance.lab import Lab\nlab = Lab()\nprint(lab.namespace('alone').name, flush=True)\ninput()\n"
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    assert process.stdin is not None and process.stdout is not None
    with process:
        name = process.stdout.readline().strip()
        assert name in netns.listnetns()
        if how == "exit":
            process.stdin.write("\n")
            process.stdin.close()
        else:
            process.send_signal(signal.SIGTERM if how == "sigterm" else signal.SIGKILL)
        process.wait(10)
    if how == "sigkill":
        Lab().close()  # the next lab sweeps
    assert name not in netns.listnetns()


def test_labels_are_unique_and_two_labs_live_side_by_side() -> None:
    with Lab() as first, Lab() as second:
        one: Namespace = first.namespace("same")
        two = second.namespace("same")
        assert one.name != two.name
        with pytest.raises(LabError, match="same"):
            first.namespace("same")
