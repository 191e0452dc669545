# SPDX-License-Identifier: Apache-2.0
"""portcullis.service under a real systemd: start, reload, restart, crash, hang, stop, a wrong configuration."""

import json
import signal

import pytest

from tests.lab.service.nodes import DENY_7000
from tests.systemd_container.machine import Machine, Stream, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
UNIT = "portcullis.service"
QUEUES = 3  # descriptors: of two workers and the look-only one; the snapshot may be beside them


def status(machine: Machine) -> dict[str, object]:
    found: dict[str, object] = json.loads(machine.run("portcullis", "status", "--json").stdout)
    return found


def queue_drops(machine: Machine) -> list[tuple[int, int]]:
    """(queue full, socket full) of every queue."""
    lines = machine.run("cat", "/proc/net/netfilter/nfnetlink_queue").stdout.splitlines()
    return [(int(line.split()[5]), int(line.split()[6])) for line in lines]


def test_start_returns_when_the_policy_is_in_force(machine: Machine) -> None:
    machine.run("systemctl", "start", UNIT)
    assert machine.show(UNIT, "Type") == "notify"
    assert machine.show(UNIT, "ActiveState") == "active"
    assert machine.show(UNIT, "StatusText") == "enforce: policy is in force"
    assert int(machine.show(UNIT, "NFileDescriptorStore")) >= QUEUES
    found = status(machine)
    assert (found["mode"], found["resources"]) == ("enforce", 4)
    assert "active (running)" in machine.run("systemctl", "status", "--no-pager", UNIT).stdout
    with Stream(machine) as stream:
        stream.wait_for(100)
    assert stream.lost == []


def test_reload_reads_the_policy_again_in_the_same_process(machine: Machine) -> None:
    machine.run("systemctl", "start", UNIT)
    pid = machine.show(UNIT, "MainPID")
    with Stream(machine) as stream:
        stream.wait_for(100)
        more = DENY_7000.replace("metadata: {name: ", "metadata: {name: more-")
        machine.write("/etc/portcullis/policy.d/more.yaml", more)
        machine.run("systemctl", "reload", UNIT)
        wait_for(lambda: status(machine)["resources"] == 8, machine, UNIT)
        wait_for(lambda: machine.show(UNIT, "StatusText").endswith("reloaded"), machine, UNIT)
        stream.wait_for(100)
    assert stream.lost == []
    assert machine.show(UNIT, "MainPID") == pid
    assert machine.show(UNIT, "ActiveState") == "active"


def test_restart_loses_no_packet(machine: Machine) -> None:
    machine.run("systemctl", "start", UNIT)
    pid = machine.show(UNIT, "MainPID")
    with Stream(machine) as stream:
        stream.wait_for(200)
        machine.run("systemctl", "restart", UNIT)
        assert machine.show(UNIT, "MainPID") != pid
        stream.wait_for(200)
    print(f"restart: {stream.sent} datagrams, longest wait for an answer {stream.gap:.3f} s")
    assert stream.lost == [], f"of {stream.sent}"
    assert set(queue_drops(machine)) == {(0, 0)}
    assert int(machine.show(UNIT, "NFileDescriptorStore")) >= QUEUES
    assert "ruleset" not in machine.journal(UNIT)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV], ids=["killed", "crashed"])
def test_what_dies_is_started_again_and_packets_have_waited(machine: Machine, number: signal.Signals) -> None:
    machine.run("systemctl", "start", UNIT)
    pid = machine.show(UNIT, "MainPID")
    before = int(machine.show(UNIT, "NRestarts"))
    with Stream(machine) as stream:
        stream.wait_for(100)
        machine.run("kill", f"-{number.name}", pid)
        wait_for(lambda: machine.show(UNIT, "MainPID") not in (pid, "0"), machine, UNIT)
        wait_for(lambda: machine.show(UNIT, "ActiveState") == "active", machine, UNIT)
        stream.wait_for(200)
    assert int(machine.show(UNIT, "NRestarts")) == before + 1
    # What the dead process had read and not answered is `queue_takeover`, drop in mode enforce: a batch at most.
    assert len(stream.lost) <= 2, f"{stream.lost} of {stream.sent}"


def test_what_hangs_is_started_again(machine: Machine) -> None:
    machine.drop_in(UNIT, "[Service]\nWatchdogSec=4\n")
    machine.run("systemctl", "start", UNIT)
    pid = machine.show(UNIT, "MainPID")
    before = machine.show(UNIT, "WatchdogTimestampMonotonic")
    # It lives through more than one interval while it is well.
    wait_for(lambda: int(machine.show(UNIT, "WatchdogTimestampMonotonic")) > int(before) + 6_000_000, machine, UNIT)
    assert machine.show(UNIT, "MainPID") == pid
    machine.run("kill", "-STOP", pid)
    wait_for(lambda: "Watchdog timeout" in machine.journal(UNIT), machine, UNIT)
    wait_for(lambda: machine.show(UNIT, "MainPID") not in (pid, "0"), machine, UNIT)
    wait_for(lambda: machine.show(UNIT, "ActiveState") == "active", machine, UNIT)


def test_stop_leaves_no_rule_and_no_queue(machine: Machine) -> None:
    machine.run("systemctl", "start", UNIT)
    assert "portcullis" in machine.run("nft", "list", "ruleset").stdout
    machine.run("systemctl", "stop", UNIT)
    assert machine.show(UNIT, "Result") == "success"
    assert machine.run("nft", "list", "ruleset").stdout.strip() == ""
    assert machine.show(UNIT, "NFileDescriptorStore") == "0"
    assert machine.run("cat", "/proc/net/netfilter/nfnetlink_queue").stdout == ""
    with Stream(machine) as stream:  # mode enforce goes with the service
        stream.wait_for(50)


def test_a_wrong_configuration_is_told_and_not_tried_again(machine: Machine) -> None:
    machine.write("/etc/portcullis/portcullis.toml", '\nmode = "enforced"\n')
    assert machine.run("systemctl", "start", UNIT, check=False).returncode != 0
    assert machine.show(UNIT, "ActiveState") == "failed"
    assert machine.show(UNIT, "ExecMainStatus") == "2"
    told = machine.run("systemctl", "status", "--no-pager", "--full", UNIT, check=False).stdout
    assert "/etc/portcullis/portcullis.toml:2: mode: expected one of" in told
    assert machine.show(UNIT, "NRestarts") == "0"
    assert machine.run("nft", "list", "ruleset").stdout.strip() == ""


def test_a_wrong_configuration_at_reload_leaves_the_old_one_in_force(machine: Machine) -> None:
    machine.run("systemctl", "start", UNIT)
    machine.write("/etc/portcullis/policy.d/allow.yaml", "kind: Nonsense\n")
    machine.run("systemctl", "reload", UNIT)
    wait_for(lambda: bool(status(machine)["errors"]), machine, UNIT)
    with Stream(machine) as stream:
        stream.wait_for(50)
    assert machine.show(UNIT, "ActiveState") == "active"
