# SPDX-License-Identifier: Apache-2.0
"""A second service on a node refuses clearly, and the first one notices nothing of it."""

import pytest

from appliance.lab.program import read_queues
from tests.lab.service.nodes import Echo, Node, exchange

pytestmark = pytest.mark.timeout(90)


@pytest.mark.parametrize("apart", [False, True], ids=["the same configuration", "queues and files of its own"])
def test_the_second_service_refuses(node: Node, echo: Echo, apart: bool) -> None:
    node.configure(inspectors=1)
    node.start()
    rules, queues = node.net.node.run(["nft", "-s", "list", "ruleset"]).stdout, read_queues(node.net.node).keys()
    with echo.connect() as sock:
        assert exchange(sock)
        if apart:
            queues_apart = "[queues]\nfirst = 200\nlook = 232\nslow_first = 264\n"
            text = node.config.read_text().replace("[queues]\n", queues_apart)
            for name in ("control.sock", "state", "eve.json"):
                text = text.replace(f"{node.directory}/{name}", f"{node.directory}/second-{name}")
            node.config.write_text(text)
        done = node.run()
        assert done.returncode == 2, done.stderr
        assert "Traceback" not in done.stderr
        assert "another portcullis" in done.stderr
        assert node.net.node.run(["nft", "-s", "list", "ruleset"]).stdout == rules
        assert read_queues(node.net.node).keys() == queues
        assert exchange(sock)
    with echo.connect() as fresh:
        assert exchange(fresh)
