# SPDX-License-Identifier: Apache-2.0
"""Queues that outlive a process: packets wait in the kernel while one service ends and the next one starts.

Two ways to the sockets, which are the queues' owners for the kernel:

    the service manager's store   FDSTORE at start, handed back after a crash or a restart (sd_pid_notify_with_fds(3))
    `run --takeover`              the running service names its descriptors, the successor duplicates them
                                  (pidfd_getfd(2))

The rules stay where they are both times. The successor answers what its predecessor had read and left unanswered.
"""

import contextlib
import ctypes
import os
import select
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from appliance.control.client import ask
from fastpath.errors import PortcullisError
from fastpath.takeover import held_queues

NAME = "queue"  # of every stored descriptor
FIRST = 3  # SD_LISTEN_FDS_START
PATIENCE = 10.0  # seconds for a predecessor to end
_PIDFD_GETFD = 438  # the same number on every architecture that Linux added it to


class HandoverError(PortcullisError):
    """There is nobody to take over from, or it cannot be done."""


@dataclass(frozen=True)
class Taken:
    """Sockets of a predecessor by queue number, and the last packet number the kernel gave in each."""

    fds: Mapping[int, int]
    last_ids: Mapping[int, int]

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
    held = held_queues(given)
    for fd in set(given) - {queue.fd for queue in held}:
        os.close(fd)
    return Taken({queue.queue: queue.fd for queue in held}, {queue.queue: queue.last_id for queue in held})


def from_manager(environment: Mapping[str, str] | None = None) -> Taken:
    """What the service manager kept for us (sd_listen_fds_with_names(3))."""
    variables = os.environ if environment is None else environment
    if variables.get("LISTEN_PID") != str(os.getpid()):
        return Taken({}, {})
    count = int(variables.get("LISTEN_FDS", "0"))
    names = variables.get("LISTEN_FDNAMES", "").split(":")
    given = range(FIRST, FIRST + count)
    for fd in given:
        os.set_inheritable(fd, False)
    return sort_out(fd for fd, name in zip(given, names, strict=False) if name == NAME)


def from_process(socket: Path) -> tuple[Taken, int]:
    """Asks the running service for its queues and makes it end; returns them and its pid when its workers have stopped.

    Blocking. Raises HandoverError, and ControlError when nobody answers.
    """
    answer = ask(socket, {"do": "handover"})
    pid, numbers = int(answer["pid"]), [int(number) for number in answer["fds"]]
    pidfd = os.pidfd_open(pid)
    try:
        fds = [_duplicate(pidfd, number) for number in numbers]
        ask(socket, {"do": "release"})
    finally:
        os.close(pidfd)
    return sort_out(fds), pid


def wait_for_end(pid: int) -> None:
    """Until the predecessor is gone and its ports and inspectors with it. Blocking."""
    with contextlib.suppress(ProcessLookupError):
        pidfd = os.pidfd_open(pid)
        try:
            if not select.select([pidfd], [], [], PATIENCE)[0]:
                raise HandoverError(f"process {pid} has handed its queues over and does not end")
        finally:
            os.close(pidfd)


def restart_is_asked(unit: str = "portcullis.service") -> bool:
    """Whether the service manager ends us in order to start us again. Blocking, for a second at most."""
    if "INVOCATION_ID" not in os.environ:
        return False
    try:
        jobs = subprocess.run(
            ["systemctl", "list-jobs", "--plain", "--no-legend"], capture_output=True, text=True, timeout=1.0
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return False
    return any(words[1:3] == [unit, "restart"] for words in map(str.split, jobs.splitlines()))


def _duplicate(pidfd: int, number: int) -> int:
    fd = int(ctypes.CDLL(None, use_errno=True).syscall(_PIDFD_GETFD, pidfd, number, 0))
    if fd < 0:
        raise HandoverError(f"a queue of the running service cannot be taken over: {os.strerror(ctypes.get_errno())}")
    os.set_inheritable(fd, False)
    return fd
