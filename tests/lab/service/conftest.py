# SPDX-License-Identifier: Apache-2.0
"""A node with the real service, not started yet, and an echo server behind it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.lab import Lab
from tests.lab.service.hosts import listen
from tests.lab.service.nodes import Echo, Node


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with Lab() as lab:
        made = Node(lab.chain(), tmp_path)
        yield made
        if made.service.process is not None and made.service.process.poll() is None:
            made.service.stop()


@pytest.fixture
def echo(node: Node) -> Echo:
    return Echo(node.net)


@pytest.fixture
def listening(node: Node) -> Node:
    """With listeners at the ports of `hosts.PORTS` in each namespace."""
    listen(node.net)
    return node
