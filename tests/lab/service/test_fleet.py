# SPDX-License-Identifier: Apache-2.0
"""Ten thousand endpoints on one node: real addresses, real packets, verdicts as the policy says; then one changes."""

import json
import random
import select
import socket
import time
from collections.abc import Sequence

import pytest

from tests.lab.service.nodes import Echo, Node

pytestmark = pytest.mark.timeout(120)

EACH = 5000  # endpoints behind each of the node's two interfaces
APPS = 40
PAIRS = 400
WAIT = 2.0  # seconds for a handshake


def address(number: int) -> str:
    """Endpoints of the client's side come first."""
    side, rest = divmod(number, EACH)
    return f"10.200.{64 * side + rest // 250}.{rest % 250 + 1}"


def app(number: int) -> int:
    return number % APPS


def allowed(source: int, destination: int) -> bool:
    """What the policies of `documents` say of two applications: each lets a third of them in."""
    return (source * 7 + destination * 11) % 3 == 0


def endpoint(number: int, application: int) -> dict[str, object]:
    return {
        "apiVersion": "projectcalico.org/v3", "kind": "WorkloadEndpoint",
        "metadata": {"name": f"w{number}", "namespace": "lab", "labels": {"app": f"a{application}"}},
        "spec": {"node": "node", "interfaceName": "cli0" if number < EACH else "srv0",
                 "ipNetworks": [address(number)]},
    }  # fmt: skip


def policies() -> list[dict[str, object]]:
    found = []
    for destination in range(APPS):
        peers = ", ".join(f"'a{source}'" for source in range(APPS) if allowed(source, destination))
        ingress = [{"action": "Allow", "protocol": "TCP", "source": {"selector": f"app in {{{peers}}}"},
                    "destination": {"ports": [7000]}}]  # fmt: skip
        found.append({
            "apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy",
            "metadata": {"name": f"p{destination}"},
            "spec": {"selector": f"app == 'a{destination}'", "types": ["Ingress", "Egress"], "ingress": ingress,
                     "egress": [{"action": "Allow"}]},
        })  # fmt: skip
    return found


def text(documents: Sequence[dict[str, object]]) -> str:
    return "\n---\n".join(json.dumps(document) for document in documents)


def give_addresses(node: Node) -> None:
    net = node.net
    for side, (namespace, interface, gateway) in enumerate(
        ((net.client, "cli0", net.client.v4), (net.server, "srv0", net.server.v4))
    ):
        lines = "\n".join(f"addr add {address(side * EACH + i)}/32 dev lo" for i in range(EACH))
        namespace.run(["ip", "-batch", "-"], input=lines, timeout=30)
        net.node.run(["ip", "route", "add", f"10.200.{64 * side}.0/18", "via", gateway, "dev", interface])


def connected(node: Node, pairs: Sequence[tuple[int, int]]) -> list[bool]:
    """All at once, each from its own address to its own address."""
    sockets: list[socket.socket] = []
    poll = select.epoll()
    done: dict[int, bool] = {}
    try:
        with node.net.client.enter():
            for source, destination in pairs:
                sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
                sock.setblocking(False)
                sock.bind((address(source), 0))
                sock.connect_ex((address(destination), 7000))
                poll.register(sock.fileno(), select.EPOLLOUT)
                sockets.append(sock)
        deadline = time.monotonic() + WAIT
        while len(done) < len(pairs) and (left := deadline - time.monotonic()) > 0:
            for number, _ in poll.poll(left):
                sock = next(sock for sock in sockets if sock.fileno() == number)
                done[number] = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
                poll.unregister(number)
        return [done.get(sock.fileno(), False) for sock in sockets]
    finally:
        for sock in sockets:
            sock.close()
        poll.close()


def test_ten_thousand_endpoints_and_a_change_of_one(node: Node, echo: Echo) -> None:
    rng = random.Random(10)
    give_addresses(node)
    changing = rng.randrange(EACH)
    node.policy(text(policies()))
    node.policy(text([endpoint(i, app(i)) for i in range(2 * EACH) if i != changing]), "endpoints.yaml")
    node.policy(text([endpoint(changing, app(changing))]), "one.yaml")
    node.start()

    pairs = [(rng.randrange(EACH), EACH + rng.randrange(EACH)) for _ in range(PAIRS)]
    assert connected(node, pairs) == [allowed(app(a), app(b)) for a, b in pairs]

    # The same endpoint with other labels: what it may reach is another third.
    targets = [(changing, EACH + i) for i in range(APPS)]
    assert connected(node, targets) == [allowed(app(changing), app(b)) for _, b in targets]
    other = (app(changing) + 1) % APPS
    node.policy(text([endpoint(changing, other)]), "one.yaml")
    node.wait_for("a change: for new flows after")
    assert connected(node, targets) == [allowed(other, app(b)) for _, b in targets]
