# SPDX-License-Identifier: Apache-2.0
"""Load from outside, counted at both ends: a flood of datagrams."""

import json
import threading
from pathlib import Path

import pytest

from appliance.lab.program import REPOSITORY
from tests.lab.service.nodes import Node, wait_until

SINK = 9000  # port of the datagrams, which nobody but a rule receives
BUILDS = ("build/meson", "build/editable")


def flood_program() -> Path:
    for build in BUILDS:
        path = REPOSITORY / build / "bench/c/udp_flood"
        if path.exists():
            return path
    pytest.skip("udp_flood is not built: make test builds it")


class Flood:
    """Datagrams of `flows` flows at `rate` a second, as many new flows every two seconds. `arrived` is counted by the
    kernel of the server."""

    def __init__(self, node: Node, rate: int, flows: int = 200) -> None:
        self.node = node
        node.net.server.run(["nft", "add table inet sink; add counter inet sink arrived; add chain inet sink input"
                             " { type filter hook input priority 0; };"
                             f" add rule inet sink input udp dport {SINK} counter name arrived drop"])  # fmt: skip
        self._command = [str(flood_program()), node.net.server.v4, str(SINK), "2000", str(rate), str(flows), "64"]
        self._stop = threading.Event()
        self.sent = 0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            words = self.node.net.client.run(self._command, timeout=60).stdout.split()
            self.sent += int(words[words.index("sent") + 1])

    @property
    def arrived(self) -> int:
        listed = self.node.net.server.run(["nft", "-j", "list counter inet sink arrived"]).stdout
        return next(int(e["counter"]["packets"]) for e in json.loads(listed)["nftables"] if "counter" in e)

    def finish(self) -> None:
        """Returns when all has arrived. Fails if some of it never does."""
        self._stop.set()
        self._thread.join()
        wait_until(lambda: self.arrived >= self.sent, 10.0, lambda: f"{self.sent} sent, {self.arrived} arrived")
