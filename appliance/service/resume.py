# SPDX-License-Identifier: Apache-2.0
"""The first thing that `portcullis run` does: packets that wait since the predecessor ended are answered.

    descriptors handed on ─▶ snapshot valid? ─▶ engine runs ─▶ all else is loaded ─▶ an ordinary new generation
                                  └ no, and said ──────────────▶ all is loaded ─▶ engine runs

Imports what it needs and no more: until the engine runs, packets wait.
"""

import os
import time
from dataclasses import dataclass, replace

from appliance.service.handover import Taken, from_manager
from appliance.service.snapshot import SnapshotError, read
from fastpath.engine import Engine, EngineConfig
from fastpath.errors import FastpathError
from fastpath.identity import IdentityMap
from fastpath.policy import Policy


@dataclass(frozen=True)
class Resumed:
    """What a predecessor left. `engine`, None where it left no snapshot that can be used (`refused` says why), answers
    packets by the policy of `generation`; inspectors are waited for. `seconds`: until it did."""

    taken: Taken
    engine: Engine | None = None
    config: EngineConfig | None = None
    identities: IdentityMap | None = None
    policy: Policy | None = None
    generation: int = 0
    seconds: float = 0.0
    refused: str = ""
    offset: int | None = None  # of the ledger of these queues

    @property
    def queues(self) -> tuple[int, ...]:
        return queues_of(self.config) if self.config is not None else ()


def resume() -> Resumed:
    """Raises nothing about what was left: it is used, or said to be of no use."""
    started = time.perf_counter()
    taken, kept = from_manager()
    if kept < 0:
        return Resumed(taken)
    try:
        if not taken:
            return Resumed(taken)  # the queues went with the network namespace, or with the manager
        found = read(kept)
        queues = queues_of(found.config)
        if set(queues) != set(taken.fds):
            raise SnapshotError(f"it is of queues {list(queues)}, and there are {sorted(taken.fds)}")
        fds, last_ids = taken.in_order(queues)
        config = replace(found.config, fds=fds, last_ids=last_ids, resumed=True)
        identities, policy = IdentityMap.build(found.entries), Policy(found.tables)
        engine = _start(Engine(config, identities, policy, found.generation))
    except (SnapshotError, FastpathError, ValueError) as error:
        return Resumed(taken, refused=str(error))
    finally:
        os.close(kept)
    seconds = time.perf_counter() - started
    return Resumed(taken, engine, config, identities, policy, found.generation, seconds, offset=found.offset)


def _start(engine: Engine) -> Engine:
    engine.inspectors_wait(True)
    try:
        engine.start()
    except FastpathError:
        engine.release()  # the queues are for the ordinary way
        raise
    return engine


def queues_of(config: EngineConfig) -> tuple[int, ...]:
    """In the order of the engine's workers, the look-only one last."""
    workers = range(config.queue_first, config.queue_first + config.queue_count)
    return (*workers, *(() if config.look_queue is None else (config.look_queue,)))
