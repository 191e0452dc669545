# SPDX-License-Identifier: Apache-2.0
"""The node's interfaces as the container source reads them, in real namespaces."""

import ipaddress
import subprocess
from collections.abc import Iterator

import pytest

from appliance.lab import Chain, Lab
from appliance.service.interfaces import read_interfaces
from appliance.sources.container_links import read_links
from appliance.sources.engine_api import Attachment, Container, Details


@pytest.fixture
def chain() -> Iterator[Chain]:
    with Lab() as lab:
        yield lab.chain()


def test_the_veth_of_a_process_in_another_namespace(chain: Chain) -> None:
    inside: subprocess.Popen[bytes] = chain.server.popen(["sleep", "60"])
    gone = chain.client.popen(["true"])
    gone.wait(5)
    with chain.node.enter():
        links = read_links(frozenset({inside.pid, gone.pid}))
    nowhere = Attachment("ptp", "", ())
    container = Container("0" * 64, "web", {}, (nowhere,))
    assert links.interface_of(container, nowhere, Details(inside.pid)) == "srv0"
    assert links.interface_of(container, nowhere, Details(gone.pid)) == ""
    gateway = ipaddress.ip_address(chain.node.address(4, "cli0"))
    routed = Attachment("routed", "", (), (gateway,))
    assert links.interface_of(Container("0" * 64, "web", {}, (routed,)), routed, None) == "cli0"


def test_bridges_and_their_ports(chain: Chain) -> None:
    chain.node.run(["ip", "link", "add", "br7", "type", "bridge"])
    chain.node.run(["ip", "link", "add", "p7", "type", "veth", "peer", "name", "q7"])
    chain.node.run(["ip", "link", "set", "p7", "master", "br7"])
    with chain.node.enter():
        interfaces = read_interfaces()
    assert interfaces.bridges == {"br7"}
    assert interfaces.ports == {"p7": "br7"}
