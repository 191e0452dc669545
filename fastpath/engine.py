# SPDX-License-Identifier: Apache-2.0
"""The engine: worker threads in C that read queues and answer packets. Python publishes snapshots and reads events."""

import contextlib
import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, NamedTuple, Self

from fastpath._binding import Address, address_from_bytes, check, ffi, lib
from fastpath.errors import FastpathError
from fastpath.identity import IdentityMap
from fastpath.layout import API_VERSION, EVENT, QUEUE_NONE, Failure, Verdict
from fastpath.policy import Policy
from fastpath.takeover import held_queues

_READ_MAX = 4096
_FAILURES = len(Failure)


@dataclass(frozen=True)
class EngineConfig:
    """``struct fp_engine_config``; see there. ``cpus``: one CPU number for each of ``queue_count`` workers, or None.

    ``failure_action``: a :class:`Verdict` (ALLOW, DROP, REJECT) or ``FAILURE_POLICY``; what is not named drops.
    ``fds``: sockets of a predecessor, one each worker and the look-only one last, -1 for a queue that is bound anew;
    the engine's once it is open. ``last_ids``: as many, None: asked of the kernel. ``takeover_action``
    (the failure ``queue_takeover``): what becomes of packets that the predecessor left unanswered, ALLOW or DROP.
    ``resumed``: another process filtered here until now (the failure ``inspector_restart``).
    ``repeat_step``: packets of one denied flow within a second that give an event REPEATED, 0 for none.
    ``owners``: users and control groups are endpoints, by the addresses of :mod:`fastpath.owners`.
    """

    queue_first: int = 0
    queue_count: int = 1
    look_queue: int | None = None
    slow_first: int = 64
    slow_count: int = 0
    queue_length: int = 8192  # packets
    copy_range: int = 512  # bytes
    receive_buffer: int = 16 << 20  # bytes
    mark_mask: int = 0xFF000000
    flow_entries: int = 1 << 16
    flow_idle: int = 120  # seconds
    event_entries: int = 1 << 13
    fail_open: bool = False
    gso: bool = True
    observe: bool = False
    fates: bool = True
    failure_action: Mapping[Failure, int] = field(default_factory=dict)
    cpus: tuple[int, ...] | None = None
    fds: tuple[int, ...] | None = None
    last_ids: tuple[int, ...] | None = None
    takeover_action: Verdict = Verdict.DROP
    resumed: bool = False
    repeat_step: int = 0
    owners: bool = False


class Event(NamedTuple):
    """``struct fp_event``: what was decided about a flow or a packet, in the flow's original direction.

    ``time`` is nanoseconds since 1970, ``length`` bytes; ``kind`` is an :class:`~fastpath.layout.EventKind`, ``flags``
    :class:`~fastpath.layout.EventFlag` bits. Numbers stay plain: thousands of events a second are read.
    """

    time: int
    flow: int
    src_bytes: bytes
    dst_bytes: bytes
    sport: int
    dport: int
    proto: int
    family: int
    hook: int
    kind: int
    iif: int
    oif: int
    src_identity: int
    dst_identity: int
    rule: int
    staged_rule: int
    length: int
    uid: int
    verdict: int
    staged_verdict: int
    previous_fate: int
    failure: int
    generation: int
    flags: int
    icmp_type: int
    icmp_code: int
    slow_queue: int
    worker: int
    repeats: int = 0

    @property
    def src(self) -> Address:
        return address_from_bytes(self.src_bytes)

    @property
    def dst(self) -> Address:
        return address_from_bytes(self.dst_bytes)


class Counters(NamedTuple):
    """``struct fp_counters`` of one worker, since start. ``failures`` is indexed by :class:`Failure`."""

    packets: int
    bytes: int
    batches: int
    allowed: int
    dropped: int
    rejected: int
    inspected: int
    passed: int
    flow_hits: int
    flow_misses: int
    flow_inserted: int
    flow_evicted: int
    flow_full: int
    pair_hits: int
    pair_misses: int
    id_gaps: int
    overruns: int
    verdict_errors: int
    netlink_errors: int
    events: int
    events_lost: int
    would_deny: int
    failures: tuple[int, ...]
    flows: int
    generation: int
    taken_over: int


def _numbers(name: str, ctype: str, numbers: tuple[int, ...] | None, workers: int) -> Any:
    if numbers is None:
        return ffi.NULL
    if len(numbers) != workers:
        raise ValueError(f"{name}: {len(numbers)} numbers for {workers} workers")
    return ffi.new(ctype, numbers)


def _config(config: EngineConfig) -> tuple[Any, tuple[Any, ...]]:
    """The C configuration and what it points to."""
    c = ffi.new("struct fp_engine_config *")
    c.api_version = API_VERSION
    c.look_queue = QUEUE_NONE if config.look_queue is None else config.look_queue
    for name in (
        "queue_first", "queue_count", "slow_first", "slow_count", "queue_length", "copy_range", "receive_buffer",
        "mark_mask", "flow_entries", "flow_idle", "event_entries", "fail_open", "gso", "observe", "fates",
        "takeover_action", "resumed", "repeat_step", "owners",
    ):  # fmt: skip
        setattr(c, name, getattr(config, name))
    for failure in Failure:
        c.failure_action[failure] = config.failure_action.get(failure, Verdict.DROP)
    workers = config.queue_count + (config.look_queue is not None)
    c.cpus = cpus = _numbers("cpus", "int32_t[]", config.cpus, config.queue_count)
    c.fds = fds = _numbers("fds", "int32_t[]", config.fds, workers)
    c.last_ids = last_ids = _numbers("last_ids", "uint32_t[]", config.last_ids, workers)
    return c, (cpus, fds, last_ids)


def _taken_over(config: EngineConfig) -> EngineConfig:
    """With ``last_ids``. FastpathError (EBADF) for a socket in the wrong place: its packets would get no verdict."""
    queues = [*range(config.queue_first, config.queue_first + config.queue_count)]
    if config.look_queue is not None:
        queues.append(config.look_queue)
    fds = config.fds or ()
    held = {found.fd: found for found in held_queues(fd for fd in fds if fd >= 0)}
    for fd, queue in zip(fds, queues, strict=False):
        if fd >= 0 and (fd not in held or held[fd].queue != queue):
            raise FastpathError(errno.EBADF, f"descriptor {fd} does not hold queue {queue}")
    if config.last_ids is not None:
        return config
    return replace(config, last_ids=tuple(held[fd].last_id if fd in held else 0 for fd in fds))


def _refs(identities: IdentityMap, policy: Policy, generation: int, observe: bool) -> Any:
    refs = ffi.new("struct fp_snapshot_refs *")
    refs.identities = identities._pointer
    refs.policy = policy._pointer
    refs.generation = generation
    refs.observe = observe
    return refs



def short_slices() -> None:
    """The calling thread gets the core when something wakes it, not at the next tick; see ``fastpath.h``. A kernel
    that does not have this takes no notice."""
    lib.fp_short_slices()


class Engine:
    """Binds the queues at once, decides packets from :meth:`start` to :meth:`stop`. A context manager.

    Control methods are for one thread at a time. Raises :class:`FastpathError`: EBUSY (a queue is taken; the message
    says which), EPERM (no CAP_NET_ADMIN), EOPNOTSUPP or EPROTONOSUPPORT (no NFQUEUE), EINVAL, EBADF (``fds``).
    """

    def __init__(self, config: EngineConfig, identities: IdentityMap, policy: Policy, generation: int) -> None:
        c, keep = _config(config if config.fds is None else _taken_over(config))
        refs = _refs(identities, policy, generation, config.observe)
        out = ffi.new("struct fp_engine **")
        bad_queue = ffi.new("uint16_t *", QUEUE_NONE)
        status = lib.fp_engine_open(c, refs, out, bad_queue)
        del keep
        if status < 0:
            at = "" if bad_queue[0] == QUEUE_NONE else f" (queue {bad_queue[0]})"
            raise FastpathError(-status, f"cannot open the fastpath{at}")
        self._pointer = ffi.gc(out[0], lib.fp_engine_free)
        self._events = ffi.new("struct fp_event[]", _READ_MAX)
        self._turn = 0

    def start(self) -> None:
        """Starts the worker threads."""
        check(lib.fp_engine_start(self._pointer), "cannot start the workers")

    def publish(self, identities: IdentityMap, policy: Policy, generation: int, observe: bool = False) -> None:
        """Puts a new snapshot in force, at each worker's next batch. ``generation`` is 1..31."""
        refs = _refs(identities, policy, generation, observe)
        check(lib.fp_engine_publish(self._pointer, refs), "cannot publish")

    def overload(self, inspector: int, overloaded: bool) -> None:
        """Whether new flows for an inspector (0 is that of ``slow_first``) meet Failure.INSPECTOR_OVERLOAD."""
        check(lib.fp_engine_overload(self._pointer, inspector, overloaded), "no such inspector")

    def reclaim(self) -> int:
        """Frees snapshots that no worker uses any more. Returns how many still wait."""
        return check(lib.fp_engine_reclaim(self._pointer), "cannot reclaim")

    @property
    def workers(self) -> int:
        """Worker threads; the look-only one is the last."""
        return int(lib.fp_engine_workers(self._pointer))

    @property
    def event_fd(self) -> int:
        """Readable when there are events. :meth:`read_events` clears it."""
        return int(lib.fp_engine_event_fd(self._pointer))

    def read_events(self, max: int = 1024) -> list[Event]:
        """Takes up to ``max`` (at most 4096) events of all workers. If it returns that many, more may wait."""
        left = min(max, _READ_MAX)
        with contextlib.suppress(BlockingIOError):
            os.read(self.event_fd, 8)
        events: list[Event] = []
        workers = self.workers
        for i in range(workers):
            worker = (self._turn + i) % workers
            count = check(lib.fp_engine_read_events(self._pointer, worker, self._events, left), "cannot read events")
            events.extend(map(Event._make, EVENT.iter_unpack(ffi.buffer(self._events, count * EVENT.size))))
            left -= count
            if not left:
                # Whoever could not be asked comes first next time, and the descriptor stays readable for it.
                self._turn = worker
                os.write(self.event_fd, (1).to_bytes(8, "little"))
                break
        return events

    def counters(self) -> list[Counters]:
        """One for each worker. Each value is whole; the set is not a cut in time."""
        result = []
        out = ffi.new("struct fp_counters *")
        for worker in range(self.workers):
            check(lib.fp_engine_counters(self._pointer, worker, out), "cannot read counters")
            values = (getattr(out, name) for name in Counters._fields)
            result.append(Counters._make(v if isinstance(v, int) else tuple(v)[:_FAILURES] for v in values))
        return result

    def inspectors_wait(self, waiting: bool) -> None:
        """No inspector reads yet, or any more: ``inspector_restart`` decides about what they would get."""
        lib.fp_engine_inspectors_wait(self._pointer, waiting)

    def inspector_lost(self, number: int) -> None:
        """Inspector ``number`` ended: ``inspector_restart`` decides about the TCP flows that it was reading."""
        check(lib.fp_engine_inspector_lost(self._pointer, number), f"there is no inspector {number}")

    def stop(self) -> None:
        """Stops the workers after they answered what they had read, and closes the queues. May be called twice."""
        check(lib.fp_engine_stop(self._pointer), "cannot stop the workers")

    def fds(self) -> tuple[int, ...]:
        """The queues' sockets, for a descriptor store; they stay the engine's. -1 where there is none any more."""
        out = ffi.new("int32_t[]", self.workers)
        check(lib.fp_engine_fds(self._pointer, out, self.workers), "cannot name the sockets")
        return tuple(out)

    def release(self) -> tuple[int, ...]:
        """As :meth:`stop`, but packets wait in the queues, which stay bound. Returns the sockets, now the caller's."""
        fds = self.fds()
        check(lib.fp_engine_release(self._pointer), "cannot stop the workers")
        return fds

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
