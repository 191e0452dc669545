# SPDX-License-Identifier: Apache-2.0
"""A reject that is found in what the server says: the client, which waits for it, learns it at once."""

import time

import pytest

from tests.lab.service.nodes import INSPECTED, Echo, Node, exchange, wait_until
from tests.patience import PATIENCE

pytestmark = pytest.mark.timeout(90)
RULE = 'reject tcp any any -> any any (msg:"banner"; flow:to_client; content:"said"; sid:1;)\n'


@pytest.mark.parametrize("family", [4, 6])
def test_the_client_is_reset_at_once_and_the_server_when_it_repeats(node: Node, echo: Echo, family: int) -> None:
    (node.directory / "signatures.d" / "banner.rules").write_text(RULE)
    node.configure(inspectors=1)
    node.policy(INSPECTED)
    node.start()
    other = echo.connect(family, timeout=5.0)
    with echo.connect(family, timeout=30.0) as sock:
        port = sock.getsockname()[1]
        assert exchange(sock)
        sock.sendall(b"say 0.5")  # acknowledged long before the answer: nothing of the client's is under way
        started = time.monotonic()
        with pytest.raises(ConnectionResetError):
            sock.recv(100)
        assert time.monotonic() - started < 5.0 * PATIENCE

    def server_waits() -> bool:
        return f":{port} " in node.net.server.run(["ss", "-Htn", "state", "established"]).stdout

    wait_until(lambda: not server_waits(), 5.0, node.log)
    assert exchange(other)
    assert [record["alert"]["signature_id"] for record in node.events("alert")] == [1]
