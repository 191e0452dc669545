# SPDX-License-Identifier: Apache-2.0
"""The real service, and other NFQUEUE programs, in a namespace: start, wait until ready, count what came to them."""

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from appliance.lab.namespaces import LabError, Namespace

REPOSITORY = Path(__file__).resolve().parents[2]
COMMAND = (sys.executable, "-m", "appliance", "run", "--config")


class QueueState(NamedTuple):
    """One line of /proc/net/netfilter/nfnetlink_queue."""

    owner: int  # netlink port
    waiting: int  # packets
    full: int  # packets dropped because the queue was full
    lost: int  # packets dropped because the socket was full
    queued: int  # packets numbered since the queue exists: all that were handed up, `lost` included


def read_queues(namespace: Namespace) -> dict[int, QueueState]:
    """The queues bound in a namespace, by number. Raises LabError where the kernel has no such file."""
    with namespace.enter():
        try:
            text = Path("/proc/thread-self/net/netfilter/nfnetlink_queue").read_text()
        except OSError as error:
            raise LabError(f"{namespace.label}: no queue counters: {error.strerror}") from error
    found = {}
    for line in text.splitlines():
        number, owner, waiting, _mode, _range, full, lost, queued = map(int, line.split()[:8])
        found[number] = QueueState(owner, waiting, full, lost, queued)
    return found


class Program:
    """A program with NFQUEUE in a namespace, its output in a file. Ended by stop() or with the namespace."""

    def __init__(self, namespace: Namespace, command: Sequence[str], log: Path) -> None:
        self.namespace = namespace
        self.log = log
        self.command = list(command)
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self.process is not None, "not started"
        return self.process.pid

    def output(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def start(self, *, queues: Sequence[int] = (), timeout: float = 20.0, env: dict[str, str] | None = None) -> None:
        """Returns when `queues` are bound. LabError, with the end of the output, if it ends or takes longer."""
        variables = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": "1", **(env or {})}
        with self.log.open("ab") as log:
            self.process = self.namespace.popen(self.command, stdout=log, stderr=subprocess.STDOUT, env=variables)
        self._wait(lambda: set(queues) <= read_queues(self.namespace).keys(), timeout)

    def _wait(self, ready: Callable[[], bool], timeout: float) -> None:
        assert self.process is not None
        deadline = time.monotonic() + timeout
        while not ready():
            status = self.process.poll()
            if status is not None:
                raise LabError(f"{self._name()} ended with status {status}:\n{self._tail()}")
            if time.monotonic() > deadline:
                raise LabError(f"{self._name()} is not ready after {timeout} s:\n{self._tail()}")
            time.sleep(0.02)

    def stop(self, *, timeout: float = 15.0) -> int:
        """SIGTERM, then the exit status. LabError if it does not end."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise LabError(f"{self._name()} did not end within {timeout} s:\n{self._tail()}") from None

    def _name(self) -> str:
        return " ".join(self.command[-4:])

    def _tail(self) -> str:
        return "\n".join(self.output().splitlines()[-25:])


class Service(Program):
    """`portcullis run --config FILE`, ready when it says so to its service manager (sd_notify)."""

    def __init__(self, namespace: Namespace, config: Path, log: Path) -> None:
        super().__init__(namespace, [*COMMAND, str(config)], log)
        self._said = ""
        self._socket: socket.socket | None = None
        self._listening = threading.Thread()

    def start(self, *, queues: Sequence[int] = (), timeout: float = 30.0, env: dict[str, str] | None = None) -> None:
        path = self.log.with_suffix(".notify")
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.bind(str(path))
        self._said = ""  # of an earlier process
        path.chmod(0o666)  # the service may run as another user
        self._listening = threading.Thread(target=self._listen, args=(self._socket,), daemon=True)
        self._listening.start()
        started = time.monotonic()
        super().start(queues=queues, timeout=timeout, env={"NOTIFY_SOCKET": str(path), **(env or {})})
        self._wait(lambda: self.said("READY=1"), timeout - (time.monotonic() - started))

    def wait_for(self, line: str, timeout: float) -> None:
        """Until the service has sent this line to its manager. LabError if it ends or takes longer."""
        self._wait(lambda: self.said(line), timeout)

    def said(self, line: str) -> bool:
        """True once the service has sent this line to its manager."""
        assert self._socket is not None, "not started"
        return line in self._said.splitlines()

    def give_away(self) -> socket.socket:
        """The manager's socket: somebody else listens to it from here on."""
        assert self._socket is not None, "not started"
        sock, self._socket = self._socket, None
        self._listening.join()
        return sock

    def _listen(self, sock: socket.socket) -> None:
        """As a manager does, at once: a queue that is full would hold the service up."""
        while sock is self._socket:
            if select.select([sock], [], [], 0.2)[0]:
                self._said += sock.recv(4096).decode() + "\n"

    def forget(self) -> None:
        """What the service said until now no longer counts."""
        self._said = ""
