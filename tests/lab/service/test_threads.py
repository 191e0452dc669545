# SPDX-License-Identifier: Apache-2.0
"""One queue and one thread for each core; threads stay on the cores that the configuration names."""

import os
from pathlib import Path

from appliance.lab.program import read_queues
from tests.lab.service.nodes import Echo, Node, exchange


def workers(pid: int) -> dict[str, set[int]]:
    """Threads that handle packets → the cores they may run on."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    found = {(task / "comm").read_text().strip(): int(task.name) for task in tasks}
    return {name: os.sched_getaffinity(task) for name, task in found.items() if name.startswith("fp-worker")}


def test_a_queue_and_a_thread_for_each_core(node: Node, echo: Echo) -> None:
    cores = os.sched_getaffinity(0)
    text = node.config.read_text()
    node.config.write_text(text.replace("count = 2", "count = 0"))
    node.start()
    assert workers(node.service.pid) == {f"fp-worker-{number}": cores for number in range(len(cores))}
    assert set(range(len(cores))) <= read_queues(node.net.node).keys()
    with echo.connect() as sock:
        assert exchange(sock)


def test_threads_stay_on_the_cores_that_are_named(node: Node, echo: Echo) -> None:
    last = max(os.sched_getaffinity(0))
    node.configure(more=f"[fastpath]\ncpus = [{last}]\n")
    node.start()
    assert workers(node.service.pid) == {"fp-worker-0": {last}, "fp-worker-1": {last}}
    with echo.connect() as sock:
        assert exchange(sock)
