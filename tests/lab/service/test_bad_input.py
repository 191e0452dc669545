# SPDX-License-Identifier: Apache-2.0
"""What is wrong is said once, with file, line and field, and status 2 at start; at reload the last good state stays."""

import socket
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.control.client import ask
from tests.lab.service.nodes import Echo, Node

pytestmark = pytest.mark.timeout(60)

ENDPOINT = """apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {name: w, namespace: lab}
spec: {node: node, orchestrator: lab, workload: w, endpoint: eth0, interfaceName: cli0, ipNetworks: [10.1.1.1/32]}
---
"""


def gnp(spec: str) -> str:
    """A policy whose spec begins in line 10."""
    return (
        ENDPOINT
        + f"apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {{name: p}}\nspec:\n  {spec}\n"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (ENDPOINT + "kind: [unclosed\n", ("bad.yaml:", "YAML")),
        (
            ENDPOINT + "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolice\nmetadata: {name: p}\n",
            ("bad.yaml:7", "GlobalNetworkPolice"),
        ),
        (gnp("selectr: all()"), ("bad.yaml:10", "selectr", "selector")),
        (gnp('selector: "role = 5"'), ("bad.yaml:10", "selector")),
        (gnp("ingress: [{action: Allow, source: {nets: [10.0.0.0/33]}}]"), ("bad.yaml:10", "10.0.0.0/33")),
    ],
    ids=["yaml", "kind", "field", "selector", "cidr"],
)
def test_a_broken_policy_file_ends_the_start_with_its_place(node: Node, text: str, expected: tuple[str, ...]) -> None:
    node.policy(text, "bad.yaml")
    done = node.run()
    assert done.returncode == 2, done.stderr
    for words in expected:
        assert words in done.stderr
    assert "Traceback" not in done.stderr


def feed(node: Node, entries: str, settings: str = "") -> None:
    (node.directory / "feeds.d/list.txt").write_text(entries)
    (node.directory / "feeds.d/list.toml").write_text(f'name = "list"\nfile = "list.txt"\naction = "drop"\n{settings}')


def missing_directory(node: Node) -> str:
    (node.directory / "policy.d/policy.yaml").unlink()
    (node.directory / "policy.d").rmdir()
    return "policy.d"


def missing_list(node: Node) -> str:
    feed(node, "")
    (node.directory / "feeds.d/list.txt").unlink()
    return "list.txt"


def unreadable_list(node: Node) -> str:
    feed(node, "192.0.2.300\nnothing here\n192.0.2.1\n")
    return "list.txt:1"


def broken_list(node: Node) -> str:
    feed(node, "192.0.2.1\n# fine\n192.0.2.300\n")
    return "list.txt:3"


def unknown_feed_setting(node: Node) -> str:
    feed(node, "192.0.2.1\n", "acton = 1\n")
    return "list.toml:4"


def unknown_setting(node: Node) -> str:
    node.config.write_text("[queues]\ncont = 2\n")
    return "portcullis.toml:2"


def missing_config(node: Node) -> str:
    node.config.unlink()
    return "portcullis.toml"


def overlapping_queues(node: Node) -> str:
    node.configure(more='[netfilter]\nbackend = "nftables"\n')
    return "backend"


@pytest.mark.parametrize(
    "breaks",
    [
        missing_directory,
        unknown_setting,
        missing_config,
        overlapping_queues,
    ],
    ids=lambda function: function.__name__,
)
def test_broken_files_end_the_start_with_their_place(node: Node, breaks: Callable[[Node], str]) -> None:
    place = breaks(node)
    done = node.run()
    assert done.returncode == 2, done.stderr
    assert place in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("breaks", "state"),
    [(missing_list, "failed"), (unreadable_list, "failed"), (unknown_feed_setting, "failed")],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_bad_feed_keeps_no_node_from_starting(node: Node, breaks: Callable[[Node], str], state: str) -> None:
    place = breaks(node)
    (node.directory / "feeds.d/good.toml").write_text('file = "good.txt"\naction = "drop"\n')
    (node.directory / "feeds.d/good.txt").write_text("198.51.100.7\n")
    node.start()
    node.wait_for("ALARM: ")
    assert place in node.log()
    alerts = [record for record in node.events("alert") if record["portcullis"].get("feed_state") == state]
    assert len(alerts) == 1 and place in alerts[0]["alert"]["signature"]
    assert ask(node.directory / "control.sock", {"do": "status"})["feeds"]["good"] == 1


def test_a_line_that_is_no_indicator_is_left_out_and_said(node: Node) -> None:
    place = broken_list(node)
    node.start()
    node.wait_for("left out: ")
    assert place in node.log()


def test_a_queue_that_is_taken_is_named(node: Node) -> None:
    holder = (
        "import netfilterqueue,time; q=netfilterqueue.NetfilterQueue(); q.bind(1, lambda p: p.accept());"
        " print('bound', flush=True); time.sleep(60)"
    )
    process = node.net.node.popen([sys.executable, "-c", holder], stdout=-1, text=True)
    assert process.stdout.readline() == "bound\n"
    done = node.run()
    assert done.returncode == 2
    assert "queue 1" in done.stderr
    assert node.net.node.run(["nft", "list", "ruleset"]).stdout == ""


def test_a_port_that_is_taken_is_named(node: Node) -> None:
    node.configure(metrics="127.0.0.1:9477")
    with node.net.node.enter():
        holder = socket.create_server(("127.0.0.1", 9477))
    with holder:
        done = node.run()
    assert done.returncode == 2
    assert "9477" in done.stderr and "metrics.listen" in done.stderr
    assert node.net.node.run(["nft", "list", "ruleset"]).stdout == ""


def test_without_root_it_says_what_it_needs(node: Node) -> None:
    somebody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as config:  # that anybody can read
        Path(config.name).chmod(0o644)
        command = [*somebody, sys.executable, "-m", "appliance", "run", "--config", config.name]
        done = node.net.node.run(command, check=False, timeout=20)
    assert done.returncode == 2
    assert "CAP_NET_ADMIN" in done.stderr


def test_at_reload_the_last_good_state_stays_and_the_error_is_counted(node: Node, echo: Echo) -> None:
    node.configure(metrics="127.0.0.1:9477")
    node.start()
    node.policy("kind: [unclosed\n")
    node.wait_for("the last good state stays in force")
    assert "policy.yaml:" in node.log()
    with echo.connect() as sock:
        sock.sendall(b"still allowed")
        assert sock.recv(100) == b"still allowed"
    metrics = node.net.node.run(["curl", "-s", "http://127.0.0.1:9477/metrics"]).stdout
    assert "portcullis_reload_failures_total 1.0" in metrics
    assert 'portcullis_source_errors{source="policy"} 1.0' in metrics
