# SPDX-License-Identifier: Apache-2.0
"""Policy of users and systemd units of the node itself, on real packets of their sockets."""

import os
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.lab.program import COMMAND, REPOSITORY
from tests.lab.service.nodes import Echo, Node, wait_until

# Ports 7000 to the outside, 9000 from it; nothing else.
POLICY = """
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {{name: owned}}
spec:
  selector: {selector}
  types: [Egress, Ingress]
  egress: [{{action: Allow, protocol: {protocol}, destination: {{ports: [7000]}}}}]
  ingress: [{{action: Allow, protocol: TCP, destination: {{ports: [9000]}}}}]
"""
NOBODY = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
# `ip netns exec` gives every program a /sys of its own, without control groups.
MOUNT = 'mount -t cgroup2 none /sys/fs/cgroup && exec "$@"'
JOIN = 'mount -t cgroup2 none /sys/fs/cgroup && echo $$ >"/sys/fs/cgroup/$0/cgroup.procs" && exec "$@"'
FIRST, SECOND = 7000, 7001


def connects(node: Node, port: int, *before: str) -> bool:
    words = [*before, "nc", "-z", "-w", "1", node.net.server.v4, str(port)]
    return node.net.node.run(words, check=False).returncode == 0


def listen(node: Node, port: int, *before: str) -> None:
    node.net.node.popen([*before, "nc", "-l", "-k", "-p", str(port)])
    node.net.node.wait_for_port(port)


def reaches_port(node: Node, address: str, port: int) -> bool:
    words = ["nc", "-z", "-w", "1", address, str(port)]
    return node.net.client.run(words, check=False).returncode == 0


@pytest.fixture
def servers(node: Node, echo: Echo) -> Node:
    node.net.server.popen(["nc", "-l", "-k", "-p", str(SECOND)])
    node.net.server.wait_for_port(SECOND)
    return node


@pytest.fixture
def unit() -> Iterator[str]:
    """Name of a control group, made with `cgroup()`, and removed when its last program has ended."""
    name = f"pc-{uuid.uuid4().hex[:8]}.service"
    yield name
    words = "[ ! -d {0} ] || find {0} -depth -type d -delete"
    if not in_groups("true", name).returncode:
        wait_until(lambda: not in_groups(words, name).returncode, 5, lambda: f"control group {name} stays")


def cgroup(words: str, name: str) -> None:
    """Skips where there are no control groups of version 2 to make."""
    done = in_groups(words, name)
    if done.returncode:
        pytest.skip(f"no control groups can be made here: {done.stderr.strip()}")


def in_groups(words: str, name: str) -> subprocess.CompletedProcess[str]:
    """Runs `words` with {0} for the group's folder."""
    text = "mount -t cgroup2 none /sys/fs/cgroup && { " + words.format(f"/sys/fs/cgroup/{name}") + "; }"
    return subprocess.run(["unshare", "--mount", "sh", "-c", text], capture_output=True, text=True, timeout=10)


def test_a_user_is_an_endpoint(servers: Node) -> None:
    node = servers
    node.configure(more='\n[identities]\nusers = ["nobody"]\n')
    node.policy(POLICY.format(selector='portcullis.dev/user == "nobody"', protocol="TCP"))
    for port in (9000, 9001):
        listen(node, port, *NOBODY)
    listen(node, 9002)
    node.start()
    assert connects(node, FIRST) and connects(node, SECOND), "root is nobody's business"
    assert connects(node, FIRST, *NOBODY)
    assert not connects(node, SECOND, *NOBODY)
    inside = node.net.node.address(4, "cli0")
    assert reaches_port(node, inside, 9000) and reaches_port(node, inside, 9002)
    assert not reaches_port(node, inside, 9001)
    denied = {(event["portcullis"]["policy"], event["dest_port"]) for event in node.events("drop")}
    assert denied == {("owned", SECOND), ("owned", 9001)}
    asked = ["--endpoint", "local/user-nobody", "--direction", "egress", "--proto", "tcp", "--dport", str(SECOND)]
    words = [*COMMAND[:3], "explain", "--socket", str(node.directory / "control.sock"), *asked]
    assert node.net.node.run(words, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}).stdout.startswith("deny")
    assert "unseen" not in node.status()


def test_the_same_tuple_by_another_user_is_decided_anew(servers: Node) -> None:
    node = servers
    node.configure(more='\n[identities]\nusers = ["nobody"]\n')
    node.policy(POLICY.format(selector='portcullis.dev/user == "nobody"', protocol="TCP"))
    node.start()
    from_port = ["nc", "-z", "-w", "1", "-p", "40404", node.net.server.v4, str(SECOND)]
    assert node.net.node.run([*NOBODY, *from_port], check=False).returncode
    assert node.net.node.run(from_port, check=False).returncode == 0


def test_a_change_of_policy_cuts_an_open_connection_also_when_an_answer_comes_first(servers: Node) -> None:
    node = servers
    node.configure(more='\n[identities]\nusers = ["nobody"]\n')
    node.policy(POLICY.format(selector='portcullis.dev/user == "nobody"', protocol="TCP"))
    node.start()
    script = (
        "import socket, sys; s = socket.create_connection((sys.argv[1], 7000), 5); s.settimeout(4);"
        "s.sendall(b'say 2'); print('open', flush=True); print(s.recv(10))"
    )
    client = node.net.node.popen(
        [*NOBODY, "python3", "-c", script, node.net.server.v4], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert client.stdout.readline() == b"open\n"
    generations = node.log().count("in force after")
    node.policy(POLICY.format(selector='portcullis.dev/user == "nobody"', protocol="UDP"))
    wait_until(lambda: node.log().count("in force after") > generations, 5, node.log)
    assert client.stdout.read() == b"", "the server's word came through"
    assert client.wait(10), "it waited for the server's word in vain"


def test_a_unit_is_an_endpoint_from_its_start_on(servers: Node, unit: str) -> None:
    node = servers
    node.configure(more=f'\n[identities]\nunits = ["{unit}"]\n')
    node.policy(POLICY.format(selector=f'portcullis.dev/unit == "{unit}"', protocol="TCP"))
    node.service.command[:0] = ["sh", "-c", MOUNT, "sh"]
    node.start()
    cgroup("mkdir {0} {0}/inner", unit)
    member, inner = (["sh", "-c", JOIN, folder] for folder in (unit, f"{unit}/inner"))
    wait_until(lambda: not connects(node, SECOND, *member), 10, node.log)
    assert connects(node, FIRST, *member)
    assert connects(node, FIRST, *inner) and not connects(node, SECOND, *inner)
    assert connects(node, SECOND)


def test_a_unit_counts_before_its_user(servers: Node, unit: str) -> None:
    node = servers
    node.configure(more=f'\n[identities]\nunits = ["{unit}"]\nusers = ["root"]\n')
    node.policy(POLICY.format(selector='portcullis.dev/user == "root"', protocol="UDP"))
    node.service.command[:0] = ["sh", "-c", MOUNT, "sh"]
    cgroup("mkdir {0}", unit)
    node.start()
    assert not connects(node, SECOND)
    assert connects(node, SECOND, "sh", "-c", JOIN, unit), "the unit is an endpoint that no policy selects"


def test_a_user_that_is_none_is_said(node: Node, tmp_path: Path) -> None:
    node.configure(more='\n[identities]\nusers = ["no-such-user"]\n')
    node.start()
    assert "identities.users: this machine has no user 'no-such-user'" in node.log()
