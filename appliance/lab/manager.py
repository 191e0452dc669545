# SPDX-License-Identifier: Apache-2.0
"""As much of a service manager as keeps descriptors: a notify socket, and descriptors passed on at the next start."""

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from appliance.lab.namespaces import LabError, Namespace
from appliance.lab.program import REPOSITORY

# Descriptors 3 and up, and LISTEN_PID its own, as sd_listen_fds(3) has it.
_START = """
import fcntl, os, sys
fds = [fcntl.fcntl(int(fd), fcntl.F_DUPFD, 100) for fd in sys.argv[1].split(',') if fd]
for number, fd in enumerate(fds, 3):
    os.dup2(fd, number, inheritable=True)
if fds:
    os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(fds)), LISTEN_FDNAMES=sys.argv[2])
os.execv(sys.executable, [sys.executable, '-m', 'appliance', 'run', '--config', sys.argv[3]])
"""


class Manager:
    """`stored`: descriptors by name. `said`: what the service sent since the last start. Waiting for what does not come
    raises LabError, with the end of the service's log; `patience` makes it wait longer."""

    def __init__(self, namespace: Namespace, config: Path, directory: Path, patience: float = 1.0) -> None:
        self.path = directory / "manager"
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(self.path))
        self._namespace = namespace
        self._config = config
        self._directory = directory
        self._patience = patience
        self._successor = directory / "successor"
        self.stored: dict[str, list[int]] = {}
        self.said = ""

    def start(self, *, wait: bool = True) -> "subprocess.Popen[bytes]":
        """The service, with what is stored."""
        self.said = ""
        fds = [(fd, name) for name, stored in self.stored.items() for fd in stored]
        numbers, names = ",".join(str(fd) for fd, _ in fds), ":".join(name for _, name in fds)
        # What `systemctl list-jobs` says is in the node's own folder.
        path = f"{self._directory / 'bin'}:{os.environ['PATH']}"
        with (self._directory / "log").open("ab") as log:
            process = self._namespace.popen(
                [sys.executable, "-c", _START, numbers, names, str(self._config)],
                pass_fds=[fd for fd, _ in fds], stdout=log, stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONPATH": str(REPOSITORY), "PATH": path, "NOTIFY_SOCKET": str(self.path),
                     "INVOCATION_ID": "0" * 32},
            )  # fmt: skip
        if wait:
            self.wait_for("READY=1")
        return process

    def restart(self, process: "subprocess.Popen[bytes]", *, wait: bool = True) -> "subprocess.Popen[bytes]":
        """As `systemctl restart`: the job stands while the service is asked to end."""
        jobs = self._directory / "bin" / "systemctl"
        jobs.parent.mkdir(exist_ok=True)
        jobs.write_text("#!/bin/sh\necho '101 portcullis.service restart running'\n")
        jobs.chmod(0o755)
        process.send_signal(signal.SIGTERM)
        if process.wait(20 * self._patience):
            raise LabError(f"the service did not end as it should:\n{self.log()[-2000:]}")
        jobs.unlink()
        self.read()
        return self.start(wait=wait)

    def wait_for(self, line: str, timeout: float = 30.0) -> None:
        """Until the service has said this line; its log if it does not."""
        self._wait(lambda: line in self.read().splitlines(), timeout, line)

    def wait_for_snapshot(self) -> None:
        self._wait(lambda: bool(self.read() and self.stored.get("snapshot")), 20.0, "a snapshot")

    def hang_up(self, process: "subprocess.Popen[bytes]", timeout: float = 60.0) -> None:
        """SIGHUP after a change of the configuration: returns when the successor is ready."""
        self.read()
        self.said = ""
        process.send_signal(signal.SIGHUP)
        self.wait_for("READY=1", timeout)

    def take_over(self, process: "subprocess.Popen[bytes]", timeout: float = 60.0) -> "subprocess.Popen[bytes]":
        """`portcullis run --takeover` outside of any manager, from the process that runs: its successor, when that is
        at work and the other has ended."""
        said = self._successor
        command = [sys.executable, "-m", "appliance", "run", "--takeover", "--config", str(self._config)]
        with said.open("wb") as log:
            new = self._namespace.popen(
                command, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}
            )
        self._wait(lambda: "portcullis: mode " in said.read_text(), timeout, "a successor")
        if process.wait(30 * self._patience):
            raise LabError(f"the predecessor did not end as it should:\n{self.log()[-2000:]}")
        return new

    def log(self) -> str:
        """All that the services have said, one that took over last."""
        paths = (self._directory / "log", self._successor)
        return "".join(path.read_text(errors="replace") for path in paths if path.exists())

    def read(self) -> str:
        """Everything said since the start. What is to be stored is stored, what is to be forgotten closed."""
        while select.select([self.socket], [], [], 0)[0]:
            message, fds, _, _ = socket.recv_fds(self.socket, 4096, 64)
            self.said += message.decode() + "\n"
            lines = message.decode().splitlines()
            name = next((line.removeprefix("FDNAME=") for line in lines if line.startswith("FDNAME=")), "")
            if "FDSTORE=1" in lines:
                self._forget(name)
                self.stored[name] = list(fds)
            elif "FDSTOREREMOVE=1" in lines:
                self._forget(name)
        return self.said

    def _wait(self, true: Callable[[], bool], timeout: float, what: str) -> None:
        deadline = time.monotonic() + timeout * self._patience
        while not true():
            if time.monotonic() > deadline:
                raise LabError(f"no {what} within {timeout} s:\n{self.log()[-2000:]}")
            time.sleep(0.02)

    def _forget(self, name: str) -> None:
        for fd in self.stored.pop(name, []):
            os.close(fd)

    def close(self) -> None:
        for name in list(self.stored):
            self._forget(name)
        self.socket.close()
