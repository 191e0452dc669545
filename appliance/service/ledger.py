# SPDX-License-Identifier: Apache-2.0
"""The loss ledger: where each packet that the rules sent to user space ended.

    hits = answered + waiting + lost
    fail-closed   lost = queue full + ids lost       counted by the kernel
    fail-open     lost = passed                    the kernel counts none: (hits - ids) + ids lost

`hits` are counted by our rules, `ids` by the kernel when it numbers a packet, what was answered by the workers. What
nobody answered comes to the obey chains with its question still in the mark and is counted there a second time: that
is what holds the fail-open sum to the truth. What does not add up is shown as `unaccounted`, never hidden. While
packets are on their way the parts, read one after the other, may differ by what moved meanwhile.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

from fastpath import Counters


@dataclass(frozen=True)
class QueueCounters:
    """A row of /proc/net/netfilter/nfnetlink_queue, in packets. `full` and `overrun` are losses of the kernel;
    `ids` have been numbered, those lost by overrun among them."""

    number: int
    waiting: int
    full: int
    overrun: int
    ids: int


@dataclass(frozen=True)
class Baseline:
    """What was counted before this service: rule counters and queues outlive one that was killed or has handed over.
    What waited then is ours to answer. `queues` are those of the moment before the workers began. `netfilter`, which
    takes longer to read, is read afterwards and taken back by what queues have numbered or refused since; packets that
    come while it is read, under load, are off by that much."""

    netfilter: Mapping[str, int] = field(default_factory=dict)
    queues: Mapping[int, QueueCounters] = field(default_factory=dict)


@dataclass(frozen=True)
class Ledger:
    """Packets since the start.

    `taken_over` are answers for what a predecessor had read and left; `ids_lost` were numbered by the kernel and never
    read by a worker; `refused` are verdicts (among the answered) for packets that the kernel had flushed; `passed` went
    on unanswered; `unanswered` is what the obey chains saw of these and of packets that no inspector answered.
    """

    fail_open: bool = False
    hits: int = 0
    allow: int = 0
    drop: int = 0
    reject: int = 0
    inspect: int = 0
    once: int = 0
    taken_over: int = 0
    refused: int = 0
    queue_full: int = 0
    ids_lost: int = 0
    passed: int = 0
    unanswered: int = 0
    waiting: int = 0

    @property
    def answered(self) -> int:
        return self.allow + self.drop + self.reject + self.inspect + self.once + self.taken_over

    @property
    def unaccounted(self) -> int:
        if self.fail_open:
            return max(0, self.passed - self.unanswered)
        return self.hits - (self.answered + self.queue_full + self.ids_lost + self.waiting)

    def as_dict(self) -> dict[str, int]:
        numbers = {name: int(value) for name, value in asdict(self).items() if name != "fail_open"}
        return {**numbers, "answered": self.answered, "unaccounted": self.unaccounted}


def read_queues(text: str) -> dict[int, QueueCounters]:
    """The kernel's file, rows by queue number. Columns: queue, netlink port, waiting, copy mode, copy range, dropped
    because full, dropped because of the socket, packets numbered, 1 (nfnetlink_queue.c, seq_show)."""
    rows = (line.split() for line in text.splitlines())
    queues = (
        QueueCounters(int(row[0]), int(row[2]), int(row[5]), int(row[6]), int(row[7])) for row in rows if len(row) >= 8
    )
    return {queue.number: queue for queue in queues}


def base(netfilter: Mapping[str, int], begun: str, now: Sequence[str], own: Collection[int]) -> Baseline:
    """begun: the kernel's list of queues before the workers began; now: before and after `netfilter` was read, in the
    middle of which it is taken to have been true."""
    old = {number: row for number, row in read_queues(begun).items() if number in own}
    none = QueueCounters(0, 0, 0, 0, 0)
    growth = [
        row.ids + row.full - old.get(number, none).ids - old.get(number, none).full
        for text in now
        for number, row in read_queues(text).items()
        if number in own
    ]
    since = sum(growth) // len(now)
    return Baseline({**netfilter, "queued": netfilter.get("queued", 0) - since}, old)


def ledger(
    workers: Sequence[Counters],
    netfilter: Mapping[str, int],
    queues: Iterable[QueueCounters],
    *,
    fail_open: bool,
    before: Baseline | None = None,
) -> Ledger:
    """workers and queues: the look-only ones among them."""
    base = before or Baseline()
    none = QueueCounters(0, 0, 0, 0, 0)

    def since(name: str) -> int:
        return netfilter.get(name, 0) - base.netfilter.get(name, 0)

    rows = tuple(queues)
    old = tuple(base.queues.get(row.number, none) for row in rows)
    waited = sum(row.waiting for row in old)
    taken_over = sum(worker.taken_over for worker in workers)
    hits = since("queued") + since("look") + waited
    ids = sum(row.ids for row in rows) - sum(row.ids for row in old) + waited
    waiting = sum(row.waiting for row in rows)
    ids_lost = ids - waiting - taken_over - sum(worker.packets for worker in workers)
    return Ledger(
        fail_open=fail_open,
        hits=hits,
        allow=sum(worker.allowed for worker in workers),
        drop=sum(worker.dropped for worker in workers),
        reject=sum(worker.rejected for worker in workers),
        inspect=sum(worker.inspected for worker in workers),
        once=sum(worker.passed for worker in workers),
        taken_over=taken_over,
        refused=sum(worker.verdict_errors for worker in workers),
        queue_full=sum(row.full for row in rows) - sum(row.full for row in old),
        ids_lost=ids_lost,
        passed=hits - ids + ids_lost if fail_open else 0,
        unanswered=since("bypassed") + since("look_bypassed"),
        waiting=waiting,
    )
