# SPDX-License-Identifier: Apache-2.0
"""`run --takeover`: the running service names its descriptors, the successor duplicates them (pidfd_getfd(2)).

The successor has loaded everything by then, so it needs no snapshot: packets wait for the time of one question.
"""

import contextlib
import ctypes
import os
import select
import subprocess
from pathlib import Path

from appliance.control.client import ask
from appliance.service.handover import Taken, sort_out
from fastpath.errors import PortcullisError

PATIENCE = 10.0  # seconds for a predecessor to end
_PIDFD_GETFD = 438  # the same number on every architecture that Linux added it to


class HandoverError(PortcullisError):
    """There is nobody to take over from, or it cannot be done."""


class Predecessor:
    """The service that answers at `socket`. All calls block. Raises HandoverError, and ControlError if nobody answers.

    `generation` is the one in force there, 0 where it does not say; `offset` that of its ledger.
    """

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        answer = ask(socket, {"do": "handover"})
        self.pid, self.generation = int(answer["pid"]), int(answer.get("generation", 0))
        self._numbers = [int(number) for number in answer["fds"]]
        offset = answer.get("offset")
        self.offset = int(offset) if offset is not None else None

    def take(self) -> Taken:
        """Its queues; its workers have stopped then, and it ends."""
        pidfd = os.pidfd_open(self.pid)
        try:
            fds = [_duplicate(pidfd, number) for number in self._numbers]
            ask(self._socket, {"do": "release"})
        finally:
            os.close(pidfd)
        return sort_out(fds)

    def wait_for_end(self) -> None:
        """Until it is gone, and its ports and inspectors with it."""
        with contextlib.suppress(ProcessLookupError):
            pidfd = os.pidfd_open(self.pid)
            try:
                if not select.select([pidfd], [], [], PATIENCE)[0]:
                    raise HandoverError(f"process {self.pid} has handed its queues over and does not end")
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
