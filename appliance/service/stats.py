# SPDX-License-Identifier: Apache-2.0
"""Numbers of the running service, gathered for the status line, for stats events and for Prometheus."""

import time
from dataclasses import dataclass, replace
from typing import Any

from appliance.config import Config
from appliance.events import EventSink
from appliance.events.console import Status, status_line
from appliance.inspection.pool import InspectorPool
from appliance.metrics import MetricsSnapshot
from appliance.netfilter import Netfilter
from appliance.service.fulltable import FullTable
from appliance.service.handover import Taken
from appliance.service.ledger import Baseline, Ledger, QueueCounters, Reading, baseline, ledger, read_queues
from appliance.service.redecisions import Redecided
from appliance.service.udpfates import UdpFates
from fastpath import Counters, Engine
from fastpath.layout import Failure
from fastpath.takeover import queue_rows

PLAIN_INTERVAL = 60.0  # seconds between status lines where the output is no terminal


@dataclass(frozen=True)
class Reloads:
    """Changes put in force and changes that could not be, since the start; the last one's duration and time."""

    done: int = 0
    failed: int = 0
    seconds: float = 0.0
    time: float = 0.0


class Stats:
    """Reading is safe from any thread."""

    def __init__(
        self,
        config: Config,
        engine: Engine,
        netfilter: Netfilter,
        pool: InspectorPool | None,
        sink: EventSink,
        before: Baseline,
        full: FullTable,
        udp_fates: UdpFates,
    ) -> None:
        self._config = config
        self._engine = engine
        self._netfilter = netfilter
        self._pool = pool
        self._sink = sink
        self._before = before
        self._full = full
        self._udp_fates = udp_fates
        self._started = time.monotonic()
        self._told = (self._started, 0)
        self._next_plain = self._started

    def line(self, *, generation: int, policies: int, errors: int, width: int = 120) -> str:
        """The status line; its rate is that since the previous call."""
        total = _total(self._engine.counters())
        now = time.monotonic()
        before, packets = self._told
        self._told = now, total["packets"]
        return status_line(
            Status(
                mode=self._config.mode,
                uptime=now - self._started,
                flows=total["flows"],
                packet_rate=(total["packets"] - packets) / max(now - before, 0.001),
                allowed=total["allowed"],
                inspected=total["inspected"],
                dropped=total["dropped"],
                rejected=total["rejected"],
                would_deny=total["would_deny"],
                lost=total["id_gaps"],
                policies=policies,
                generation=generation,
                errors=errors,
            ),
            width=width,
        )

    def due(self) -> bool:
        """Whether a line should be printed where there is no terminal: at once, then once a minute."""
        now = time.monotonic()
        if now < self._next_plain:
            return False
        self._next_plain = now + PLAIN_INTERVAL
        return True

    def collect(self) -> dict[str, Any]:
        """Nested counters for a stats event. Blocking (netlink)."""
        return {
            "uptime": int(time.monotonic() - self._started),
            "fastpath": _total(self._engine.counters()),
            "failures": self.failures(),
            "netfilter": self._netfilter.counters(),
            "ruleset_lost": self._netfilter.lost,
            "conntrack": self._full.counts(),
            "udp_fates": self._udp_fates.state(),
            "ruleset_errors": self._netfilter.errors,
            "ledger": self.ledger().as_dict(),
            "inspectors": {name: dict(counters) for name, counters in self._inspectors().items()},
        }

    def failures(self) -> dict[str, int]:
        """Packets that met each failure of the fastpath."""
        workers = self._engine.counters()
        return {failure.name.lower(): sum(worker.failures[failure] for worker in workers) for failure in Failure}

    def ledger(self) -> Ledger:
        """Blocking (netlink)."""
        reading = read(self._netfilter, self._engine)
        if reading.offset < self._before.offset:
            self._before = replace(self._before, offset=reading.offset)
        return ledger(reading, self._before, fail_open=self._config.failures.queue_full == "allow")

    @property
    def offset(self) -> int:
        """For a successor with the same queues."""
        return self._before.offset

    def _answers_late(self) -> int:
        """DNS answers that did not wait long enough, of the inspectors that run."""
        statuses = self._pool.status() if self._pool is not None else ()
        return sum(status.counters.get("answers_late", 0) for status in statuses)

    def metrics(
        self,
        *,
        generation: int,
        policies: int,
        identities: int,
        reloads: Reloads,
        redecided: Redecided,
        sources: dict[str, int],
        feeds: dict[str, int],
        feed_health: dict[str, dict[str, float]],
        domains: dict[str, int],
        flood_held: int,
        host_policy: dict[tuple[str, ...], int],
        version: str,
    ) -> MetricsSnapshot:
        return MetricsSnapshot(
            workers=self._engine.counters(),
            ledger=self.ledger().as_dict(),
            netfilter=self._netfilter.counters(),
            ruleset_lost=self._netfilter.lost,
            conntrack=self._full.counts(),
            udp_fates_ended=self._udp_fates.ended,
            ruleset_errors=self._netfilter.errors,
            inspectors=self._inspectors(),
            inspector_restarts=sum(status.restarts for status in self._pool.status()) if self._pool is not None else 0,
            sources=sources,
            feeds=feeds,
            feed_health=feed_health,
            domains={**domains, "answers_late": self._answers_late()},
            flood_held=flood_held,
            host_policy=host_policy,
            generation=generation,
            policies=policies,
            identities=identities,
            reloads=reloads.done,
            reload_failures=reloads.failed,
            reload_seconds=reloads.seconds,
            reload_time=reloads.time,
            redecided_flows=redecided.flows,
            redecided_seconds=redecided.seconds,
            events_written=self._sink.written,
            events_lost=self._sink.lost,
            mode=self._config.mode,
            version=version,
        )

    def _inspectors(self) -> dict[str, dict[str, int]]:
        return {str(status.queue): status.counters for status in self._pool.status()} if self._pool is not None else {}


def _total(workers: list[Counters]) -> dict[str, int]:
    names = [name for name in Counters._fields if name not in ("failures", "generation")]
    return {name: sum(getattr(worker, name) for worker in workers) for name in names}


def first_reading(
    config: Config, netfilter: Netfilter, engine: Engine, taken: Taken, offset: int | None
) -> Baseline:
    """taken: of a predecessor, whose ledger had this offset. Blocking."""
    settings = netfilter.settings
    own = {number for number in (*settings.queues, settings.look_queue) if number is not None}
    # What passes without a number is not in the offset.
    same = set(taken.fds) == own and config.failures.queue_full != "allow"
    return baseline(read(netfilter, engine), taken.rows, offset if same else None)


def read(netfilter: Netfilter, engine: Engine) -> Reading:
    """Blocking, a millisecond. Where the kernel's list of queues cannot be read there are none."""
    settings = netfilter.settings
    own = {*settings.queues, settings.look_queue}

    def queues() -> tuple[QueueCounters, ...]:
        return tuple(queue for number, queue in read_queues(queue_rows()).items() if number in own)

    early, first = engine.counters(), queues()
    counters = netfilter.counters()
    return Reading(counters, (first, queues()), (early, engine.counters()))
