# SPDX-License-Identifier: Apache-2.0
"""Queues that outlive a process: packets wait in the kernel while one service ends and the next one starts.

Three ways to the sockets, which are the queues' owners for the kernel:

    the service manager's store   FDSTORE, handed back after a crash or a restart (sd_pid_notify_with_fds(3))
    a new program in our place    the process executes itself again, with the same descriptors in the same manner
    `run --takeover`              appliance.service.predecessor

The rules stay where they are each time. The successor answers what its predecessor had read and left unanswered. Kept
with them is a sealed snapshot (appliance.service.snapshot), by which it answers before it has loaded anything else:
whatever this module imports is waited for by packets.
"""

import fcntl
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from appliance.service import snapshot
from fastpath.takeover import held_queues, queue_rows

NAME = "queue"  # of every stored descriptor that is one
FIRST = 3  # SD_LISTEN_FDS_START


@dataclass(frozen=True)
class Taken:
    """Sockets of a predecessor by queue number, the last packet number the kernel gave in each, and the
    kernel's list of queues at that time."""

    fds: Mapping[int, int]
    last_ids: Mapping[int, int]
    rows: str = ""

    def __bool__(self) -> bool:
        return bool(self.fds)

    def in_order(self, queues: Iterable[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """(descriptor or -1, last id or 0) of each queue."""
        numbers = tuple(queues)
        return tuple(self.fds.get(n, -1) for n in numbers), tuple(self.last_ids.get(n, 0) for n in numbers)

    def close_others(self, queues: Iterable[int]) -> None:
        """Closes what no worker of ours reads: the kernel drops what waits there."""
        for number in self.fds.keys() - set(queues):
            os.close(self.fds[number])


def sort_out(fds: Iterable[int]) -> Taken:
    """Which queue each descriptor owns; what owns none (another network namespace, no netlink) is closed."""
    given = tuple(fds)
    rows = queue_rows()
    held = held_queues(given, rows)
    for fd in set(given) - {queue.fd for queue in held}:
        os.close(fd)
    return Taken({queue.queue: queue.fd for queue in held}, {queue.queue: queue.last_id for queue in held}, rows)


def from_manager(environment: Mapping[str, str] | None = None) -> tuple[Taken, int]:
    """What the service manager kept for us (sd_listen_fds_with_names(3)): queues, and a snapshot's descriptor or -1."""
    variables = os.environ if environment is None else environment
    if variables.get("LISTEN_PID") != str(os.getpid()):
        return Taken({}, {}), -1
    count = int(variables.get("LISTEN_FDS", "0"))
    names = variables.get("LISTEN_FDNAMES", "").split(":")
    given: dict[str, list[int]] = {NAME: [], snapshot.NAME: []}
    for fd, name in zip(range(FIRST, FIRST + count), names, strict=False):
        os.set_inheritable(fd, False)
        given.setdefault(name, []).append(fd)
    kept = given[snapshot.NAME]
    for fd in kept[:-1]:  # of several the newest
        os.close(fd)
    return sort_out(given[NAME]), kept[-1] if kept else -1


def execute(command: Sequence[str], queues: Sequence[int], kept: int) -> None:
    """This process becomes `command`, which finds the queues, and the snapshot if `kept` is no -1, as if a service
    manager had kept them. Returns only with an OSError."""
    names = [NAME] * len(queues) + [snapshot.NAME] * (kept >= 0)
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD, FIRST + len(names)) for fd in (*queues, *([kept] if kept >= 0 else []))]
    for number, fd in enumerate(high, FIRST):
        os.dup2(fd, number, inheritable=True)
        os.close(fd)
    listen = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(names)), "LISTEN_FDNAMES": ":".join(names)}
    os.execve(command[0], list(command), {**os.environ, **listen})
