# SPDX-License-Identifier: Apache-2.0
"""portcullis-feeds.timer fetches as its own user, and the set it writes is in force in portcullis.service."""

import json
from collections.abc import Iterator

import pytest

from tests.systemd_container.machine import Machine, Stream, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
FEEDS = "portcullis-feeds.service"
FEED = """
url = "http://127.0.0.1:8080/list.txt"
insecure = true
action = "drop"
"""


def entries(machine: Machine) -> int:
    """Of the feed, in force."""
    feeds: dict[str, int] = json.loads(machine.run("portcullis", "status", "--json").stdout)["feeds"]
    return feeds.get("far", 0)


@pytest.fixture
def source(machine: Machine) -> Iterator[Machine]:
    """The list server of the feed, on the machine's loopback."""
    machine.write("/srv/list.txt", "198.51.100.1\n198.51.100.2\n")
    machine.write("/etc/portcullis/feeds.d/far.toml", FEED)
    machine.run("systemd-run", "--collect", "--unit=list-server", "python3", "-m", "http.server",
                "--bind", "127.0.0.1", "--directory", "/srv", "8080")  # fmt: skip
    wait_for(lambda: "127.0.0.1:8080" in machine.run("ss", "-ltn").stdout, machine, "list-server")
    yield machine
    machine.run("systemctl", "stop", "list-server", check=False)


def test_what_the_timer_fetched_is_in_force(source: Machine) -> None:
    machine = source
    machine.run("systemctl", "start", "portcullis.service")
    assert entries(machine) == 0
    machine.run("systemctl", "start", "portcullis-feeds.timer")
    wait_for(lambda: entries(machine) == 2, machine, FEEDS)
    owners = machine.run("find", "/var/lib/portcullis-feeds", "-mindepth", "1", "-printf", "%U\n").stdout.split()
    assert set(owners) == {machine.run("id", "-u", "portcullis-feeds").stdout.strip()}
    assert machine.show("portcullis-feeds.timer", "ActiveState") == "active"
    # It runs again, from the end of this run on.
    timer = "portcullis-feeds.timer"
    wait_for(lambda: machine.show(timer, "NextElapseUSecMonotonic") not in ("", "infinity"), machine, FEEDS)
    assert machine.show(FEEDS, "Result") == "success"


def test_a_source_that_fails_leaves_the_last_good_list(source: Machine) -> None:
    machine = source
    machine.run("systemctl", "start", "portcullis.service", FEEDS)
    wait_for(lambda: entries(machine) == 2, machine, FEEDS)
    machine.run("systemctl", "stop", "list-server")
    done = machine.run("portcullis", "feeds", "update", "far", check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    health = json.loads(machine.run("cat", "/var/lib/portcullis-feeds/health.json").stdout)
    assert health["far"]["problem"], health
    machine.run("systemctl", "restart", "portcullis.service")
    assert entries(machine) == 2


def test_packets_go_on_while_feeds_are_taken_up(source: Machine) -> None:
    machine = source
    machine.run("systemctl", "start", "portcullis.service")
    with Stream(machine) as stream:
        stream.wait_for(50)
        machine.run("systemctl", "start", FEEDS)
        wait_for(lambda: entries(machine) == 2, machine, FEEDS)
        stream.wait_for(50)
    assert stream.lost == []
