# SPDX-License-Identifier: Apache-2.0
"""The loss ledger: where each packet that the rules sent to user space ended.

    hits = answered + waiting + lost
    fail-closed   lost = queue full + ids lost       counted by the kernel
    fail-open     lost = passed                    the kernel counts none: (hits - ids) + ids lost

`hits` are counted by our rules, `ids` by the kernel when it numbers a packet, what was answered by the workers. What
nobody answered comes to the obey chains with its question still in the mark and is counted there a second time: that
is what holds the fail-open sum to the truth. What does not add up is shown as `unaccounted`, never hidden.

Counters are read one after the other, while packets move on. Two things keep that out of the sum:
- `hits` less what queues have numbered or refused is the same number as long as rules and queues live, whoever serves
  them: the *offset*. A reading of queues, then of rules, gives it or, under load, a little more; so the least that was
  ever read counts, and a successor is given its predecessor's.
- What is held against each other is read on either side: hits before what was numbered, packets before their verdicts.
  Then a packet on its way can be missing on neither.
"""

from collections.abc import Iterable, Mapping, Sequence
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
    What waited then is ours to answer. `queues` are those of the moment before the workers began; offset: see above."""

    netfilter: Mapping[str, int] = field(default_factory=dict)
    queues: Mapping[int, QueueCounters] = field(default_factory=dict)
    offset: int = 0


@dataclass(frozen=True)
class Reading:
    """Of the own queues, the look-only one among them, and of the workers: before and after the rules were read."""

    netfilter: Mapping[str, int]
    queues: tuple[tuple[QueueCounters, ...], tuple[QueueCounters, ...]]
    workers: tuple[Sequence[Counters], Sequence[Counters]] = ((), ())

    @property
    def offset(self) -> int:
        return _hits(self.netfilter) - _numbered(self.queues[0])


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
    unaccounted: int = 0

    @property
    def answered(self) -> int:
        return self.allow + self.drop + self.reject + self.inspect + self.once + self.taken_over

    def as_dict(self) -> dict[str, int]:
        numbers = {name: int(value) for name, value in asdict(self).items() if name != "fail_open"}
        return {**numbers, "answered": self.answered}


def read_queues(text: str) -> dict[int, QueueCounters]:
    """The kernel's file, rows by queue number. Columns: queue, netlink port, waiting, copy mode, copy range, dropped
    because full, dropped because of the socket, packets numbered, 1 (nfnetlink_queue.c, seq_show)."""
    rows = (line.split() for line in text.splitlines())
    queues = (
        QueueCounters(int(row[0]), int(row[2]), int(row[5]), int(row[6]), int(row[7])) for row in rows if len(row) >= 8
    )
    return {queue.number: queue for queue in queues}


def baseline(reading: Reading, begun: str, offset: int | None = None) -> Baseline:
    """begun: the kernel's list of queues before the workers began. offset: a predecessor's for the same queues."""
    own = {queue.number for rows in reading.queues for queue in rows}
    queues = {number: row for number, row in read_queues(begun).items() if number in own}
    least = reading.offset if offset is None else min(offset, reading.offset)
    return Baseline(reading.netfilter, queues, least)


def ledger(reading: Reading, before: Baseline, *, fail_open: bool) -> Ledger:
    first, last = reading.queues
    early, late = reading.workers
    old = tuple(before.queues.values())
    waited = sum(row.waiting for row in old)
    taken_over = sum(worker.taken_over for worker in late)
    # Since the beginning, in which the offset stands for a reading of the rules.
    hits = _hits(reading.netfilter) - before.offset - _numbered(old) + waited
    numbered = _numbered(last) - _numbered(old) + waited
    waiting = sum(row.waiting for row in last)
    full = sum(row.full for row in last) - sum(row.full for row in old)
    ids = sum(row.ids for row in first) - sum(row.ids for row in old) + waited
    read = sum(worker.packets for worker in late)
    ids_lost = max(0, ids - sum(row.waiting for row in first) - taken_over - read)
    unanswered = _since("bypassed", reading, before) + _since("look_bypassed", reading, before)
    never_numbered = max(0, hits - numbered)
    passed = never_numbered + ids_lost if fail_open else 0
    # What a worker has read and not answered is still among what waits.
    unread = max(0, sum(worker.packets for worker in early) - sum(map(_decided, late)) - waiting)
    return Ledger(
        fail_open=fail_open,
        hits=hits,
        allow=sum(worker.allowed for worker in late),
        drop=sum(worker.dropped for worker in late),
        reject=sum(worker.rejected for worker in late),
        inspect=sum(worker.inspected for worker in late),
        once=sum(worker.passed for worker in late),
        taken_over=taken_over,
        refused=sum(worker.verdict_errors for worker in late),
        queue_full=full,
        ids_lost=ids_lost,
        passed=passed,
        unanswered=unanswered,
        waiting=waiting,
        unaccounted=max(0, passed - unanswered) if fail_open else never_numbered + unread,
    )


def _decided(worker: Counters) -> int:
    """Packets that a worker has read and answered."""
    return worker.allowed + worker.dropped + worker.rejected + worker.inspected + worker.passed


def _hits(netfilter: Mapping[str, int]) -> int:
    return netfilter.get("queued", 0) + netfilter.get("look", 0)


def _numbered(rows: Iterable[QueueCounters]) -> int:
    """Or refused: what became of hits in the queues."""
    return sum(row.ids + row.full for row in rows)


def _since(name: str, reading: Reading, before: Baseline) -> int:
    return reading.netfilter.get(name, 0) - before.netfilter.get(name, 0)
