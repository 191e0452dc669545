# SPDX-License-Identifier: Apache-2.0
"""From a fetched list to the next packet: the set of portcullis-feeds, taken up by a running service."""

import time

import pytest

from appliance.netfilter import nft
from appliance.netfilter.offload import TABLE
from tests.lab.service.nodes import Echo, Node, exchange, wait_until
from threatfeeds import FeedConfig
from threatfeeds.fetch.http import FetchError, Request, Response
from threatfeeds.fetch.store import Store
from threatfeeds.updater import Updater

pytestmark = pytest.mark.timeout(120)

URL = "https://lists.example/bad"
NO_BOTNETS = """
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: no-botnets}
spec:
  order: 1
  selector: all()
  types: [Egress]
  egress:
    - {action: Deny, destination: {selector: "category == 'botnet'"}}
"""


class Far:
    """A fetched feed of a node: its configuration, and what its source says."""

    def __init__(self, node: Node, settings: str = 'action = "drop"') -> None:
        self.node = node
        self.body: bytes | None = b""
        (node.directory / "feeds.d" / "far.toml").write_text(f'url = "{URL}"\n{settings}\n')
        self.updater = Updater(Store(node.directory / "fetched"), get=self.get)

    def get(self, request: Request) -> Response:
        if self.body is None:
            raise FetchError("the server answers 500", url=request.url)
        return Response(200, self.body, {})

    def fetch(self, *lines: str) -> None:
        self.body = "\n".join(lines).encode() if lines else None
        config = FeedConfig(name="far", url=URL)
        self.updater.update([config])
        self.updater.publish([config])


def passes(echo: Echo) -> bool:
    try:
        with echo.connect(timeout=1.0) as sock:
            return exchange(sock)
    except OSError:
        return False


def test_fetched_list_blocks_within_seconds_and_survives_a_bad_one(node: Node, echo: Echo) -> None:
    far = Far(node)
    node.start()
    node.wait_for("feed far is empty: portcullis-feeds has not fetched it yet")
    assert passes(echo)
    started = time.monotonic()
    far.fetch(node.net.server.v4)
    wait_until(lambda: not passes(echo), 10, node.log)
    assert time.monotonic() - started < 5
    far.fetch()
    node.wait_for("feed far failed")
    (node.directory / "fetched" / "feeds.set").write_bytes(b"PCFEEDS\0 nonsense")
    node.wait_for("feeds.set")
    assert not passes(echo)
    far.fetch("192.0.2.1")
    wait_until(lambda: passes(echo), 10, node.log)


def test_restart_without_network_blocks_at_once(node: Node, echo: Echo) -> None:
    far = Far(node)
    far.fetch(node.net.server.v4)
    far.fetch()
    node.start()
    assert not passes(echo)


def test_own_addresses_are_never_blocked(node: Node, echo: Echo) -> None:
    far = Far(node)
    far.fetch(node.net.node.v4, "0.0.0.0/0", "127.0.0.0/8", "192.0.2.1")
    node.start()
    assert passes(echo)
    assert node.net.client.run(["ping", "-c1", "-W2", node.net.node.v4], check=False).returncode == 0


def test_labelled_feed_is_selected_by_policy(node: Node, echo: Echo) -> None:
    far = Far(node, 'action = "alert"\nlabels = { category = "botnet" }')
    far.fetch(node.net.server.v4)
    node.start()
    assert passes(echo)
    node.policy(NO_BOTNETS, "botnets.yaml")
    wait_until(lambda: not passes(echo), 10, node.log)
    far.fetch("192.0.2.1")
    wait_until(lambda: passes(echo), 10, node.log)


def test_kernel_set_drops_before_the_queue_and_goes_with_the_service(node: Node, echo: Echo) -> None:
    far = Far(node, 'action = "drop"\nkernel = true')
    node.start()
    assert passes(echo)
    far.fetch(node.net.server.v4)
    node.wait_for("feed far: its addresses in the kernel are in step")
    assert not passes(echo)

    def dropped() -> int:
        with node.net.node.enter():
            found = nft.query(f"list counters table inet {TABLE}")
        return sum(entry["counter"]["packets"] for entry in found)

    assert dropped() > 0
    node.service.stop()
    with node.net.node.enter():
        assert not [table for table in nft.query("list tables") if table["table"]["name"] == TABLE]
