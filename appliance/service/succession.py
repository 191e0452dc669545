# SPDX-License-Identifier: Apache-2.0
"""From one process to the next: the engine that goes on, or one in its place, without a packet lost between them."""

import contextlib
import ctypes
import gc
import sys
import time
from collections.abc import Collection

from appliance.config import Config
from appliance.netfilter import Netfilter
from appliance.netfilter.surroundings import bound_queues
from appliance.service import snapshot
from appliance.service.handover import Taken, sort_out
from appliance.service.resume import Resumed
from appliance.service.settings import engine_config, worker_queues
from fastpath import Engine, IdentityMap, Policy

DRAIN = 0.5  # seconds that inspectors have for what waits before they end, and workers before their queue goes


def open_engine(
    config: Config,
    left: Resumed,
    taken: Taken,
    netfilter: Netfilter,
    identities: IdentityMap,
    policy: Policy,
    generation: int,
) -> Engine:
    """The one that already answers from a snapshot, if it is as configured; else another one, which runs. Blocking.

    Raises FastpathError and NetfilterError.
    """
    queues = worker_queues(config)
    if left.engine is not None and left.config is not None:
        if snapshot.comparable(left.config) == snapshot.comparable(engine_config(config, taken)):
            return left.engine
        if gone := set(left.queues) - set(queues):  # nothing must wait there when they are closed
            netfilter.install(left.generation)
            drain(gone)
        taken = sort_out(left.engine.release())
    engine = Engine(engine_config(config, taken), identities, policy, generation)
    engine.inspectors_wait(bool(taken))
    engine.start()
    taken.close_others(queues)
    return engine


def drain(queues: Collection[int]) -> None:
    """Until nothing waits in these, or for a while. Blocking."""
    deadline = time.monotonic() + DRAIN
    while any(queue.waiting for queue in bound_queues() if queue.number in queues) and time.monotonic() < deadline:
        time.sleep(0.005)


def give_memory_back() -> None:
    """What nobody refers to any more goes to the kernel while packets are still answered: it takes its time, and
    would when they are not."""
    gc.unfreeze()
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def command() -> list[str]:
    """What this process was started with; whoever takes over has done so."""
    return [sys.executable, *(word for word in sys.orig_argv[1:] if word != "--takeover")]
