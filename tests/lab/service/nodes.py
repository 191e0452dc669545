# SPDX-License-Identifier: Apache-2.0
"""The real service in the node between a client and a server; an echo server and its clients."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from appliance.lab import Chain
from appliance.lab.program import REPOSITORY, Service
from tests.patience import PATIENCE

ALLOW = """
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {name: client, namespace: lab, labels: {role: client}}
spec:
  {node: node, orchestrator: lab, workload: client, endpoint: eth0, interfaceName: cli0,
   ipNetworks: [10.77.1.2/32, "fd00:77:1::2/128"]}
---
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {name: server, namespace: lab, labels: {role: server}}
spec:
  {node: node, orchestrator: lab, workload: server, endpoint: eth0, interfaceName: srv0,
   ipNetworks: [10.77.2.2/32, "fd00:77:2::2/128"]}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: clients}
spec:
  selector: role == "client"
  types: [Egress]
  egress: [{action: Allow}]
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: server}
spec:
  selector: role == "server"
  types: [Ingress]
  ingress:
    - {action: Allow, protocol: TCP, source: {selector: role == "client"}, destination: {ports: [7000, 80]}}
    - {action: Allow, protocol: UDP, source: {selector: role == "client"}, destination: {ports: [7000]}}
"""
INSPECTED = ALLOW.replace(
    "metadata: {name: server}", 'metadata: {name: server, annotations: {portcullis.dev/inspect: "true"}}'
)
DENY_7000 = ALLOW.replace("[7000, 80]", "[80]").replace("ports: [7000]", "ports: [7001]")

CONFIG = """
mode = "{mode}"
node = "node"
[queues]
count = 2
[policy]
paths = ["{dir}/policy.d"]
[inspection]
inspectors = {inspectors}
signatures = ["{dir}/signatures.d/*.rules"]
[feeds]
paths = ["{dir}/feeds.d"]
state = "{dir}/fetched"
[events]
file = "{dir}/eve.json"
[control]
socket = "{dir}/control.sock"
state = "{dir}/state"
[metrics]
listen = "{metrics}"
"""


class Node:
    """The service and its files. `start()` when the files are as they shall be."""

    def __init__(self, chain: Chain, directory: Path) -> None:
        self.net = chain
        self.directory = directory
        for folder in ("policy.d", "feeds.d", "signatures.d"):
            (directory / folder).mkdir()
        self.config = directory / "portcullis.toml"
        self.configure()
        self.policy(ALLOW)
        self.service = Service(chain.node, self.config, directory / "log")

    def configure(self, mode: str = "enforce", inspectors: int = 0, metrics: str = "", more: str = "") -> None:
        text = CONFIG.format(mode=mode, inspectors=inspectors, metrics=metrics, dir=self.directory)
        self.config.write_text(text + more)

    def policy(self, text: str, name: str = "policy.yaml") -> None:
        """Replaces the file as an editor does: a new one under the old name."""
        path = self.directory / "policy.d" / name
        fresh = path.with_suffix(".new")
        fresh.write_text(text)
        fresh.replace(path)

    def start(self) -> None:
        self.service.start()

    def run(self, timeout: float = 20.0) -> subprocess.CompletedProcess[str]:
        """The service until it ends by itself: for what cannot start."""
        command = [sys.executable, "-m", "appliance", "run", "--config", str(self.config)]
        return self.net.node.run(
            command, timeout=timeout, check=False, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}
        )

    def status(self) -> str:
        """What `portcullis status` prints."""
        command = [sys.executable, "-m", "appliance", "status", "--socket", str(self.directory / "control.sock")]
        return self.net.node.run(command, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}).stdout

    def log(self) -> str:
        return self.service.output()

    def wait_for(self, words: str, timeout: float = 10.0) -> None:
        """Until the service's output has these words."""
        wait_until(lambda: words in self.log(), timeout, lambda: f"no {words!r} in the log:\n{self.log()}")

    def events(self, event_type: str) -> list[dict[str, Any]]:
        path = self.directory / "eve.json"
        # The last line may be in the middle of being written.
        lines = path.read_text().rpartition("\n")[0].splitlines() if path.exists() else []
        return [record for record in map(json.loads, lines) if record["event_type"] == event_type]


def wait_until(true: Callable[[], bool], timeout: float, why: Callable[[], str]) -> None:
    deadline = time.monotonic() + timeout * PATIENCE
    while not true():
        assert time.monotonic() < deadline, why()
        time.sleep(0.02)


class Echo:
    """A TCP and UDP echo server at port 7000 of the server, and connections to it."""

    def __init__(self, net: Chain) -> None:
        self.net = net
        net.server.spawn(serve_echo, 7000)
        net.server.wait_for_port(7000)

    def connect(self, family: int = 4, timeout: float = 3.0) -> socket.socket:
        address = self.net.server.address(family)
        with self.net.client.enter():
            sock = socket.socket(socket.AF_INET6 if family == 6 else socket.AF_INET, socket.SOCK_STREAM)
        sock.settimeout(timeout)
        sock.connect((address, 7000))
        return sock


def exchange(sock: socket.socket, word: bytes = b"word") -> bool:
    """Whether the echo came back."""
    try:
        sock.sendall(word)
        return sock.recv(4096) == word
    except OSError:
        return False


def serve_echo(port: int) -> None:
    """Until killed. TCP: echoes; the word `say N` makes it speak by itself after N seconds."""
    import threading

    def talk(connection: socket.socket) -> None:
        with connection:
            while data := connection.recv(65536):
                if data.startswith(b"say "):
                    time.sleep(float(data[4:]))
                    data = b"said"
                connection.sendall(data)

    def datagrams() -> None:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE: what waited comes all at once
            sock.bind(("::", port))
            while True:
                data, sender = sock.recvfrom(65536)
                sock.sendto(data, sender)

    threading.Thread(target=datagrams, daemon=True).start()
    with socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=512) as listener:
        while True:
            threading.Thread(target=talk, args=(listener.accept()[0],), daemon=True).start()
