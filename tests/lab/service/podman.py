# SPDX-License-Identifier: Apache-2.0
"""Podman with its API socket inside a namespace of ours. Nothing outside of it is touched: the engine has its own
storage, and its own /run, /dev/shm and cgroup tree in its own mount namespace.

The image is a tar of one static busybox. Containers run without cgroups and with low limits, so that neither a host
without systemd nor one with both versions of cgroups is in the way.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time
from io import BytesIO
from pathlib import Path
from typing import Any

from appliance.lab import Namespace
from appliance.lab.namespaces import LabError

IMAGE = "localhost/box:1"
PRIVATE = """
mount -t cgroup2 none /sys/fs/cgroup && mount -t tmpfs none /run && mount -t tmpfs none /dev/shm || exit 9
exec "$@"
"""
LIMITS = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024", "--cgroups", "disabled")


def missing() -> str:
    """Why there can be no Podman here; "" if nothing speaks against it."""
    needed = [program for program in ("podman", "busybox", "nsenter") if shutil.which(program) is None]
    return f"{', '.join(needed)} not installed" if needed else ""


class Podman:
    """Started by `start()`, gone with everything it made after `stop()`."""

    def __init__(self, namespace: Namespace) -> None:
        self.namespace = namespace
        self.directory = Path(tempfile.mkdtemp(prefix="pc-podman-"))  # short: paths of Unix sockets have 107 bytes
        self.socket = self.directory / "api.sock"
        self._service: subprocess.Popen[bytes] | None = None
        self._processes: dict[int, int] = {}  # of containers, their monitors first → inode of the network namespace

    def start(self) -> None:
        """Raises LabError with the engine's words if it does not work on this machine."""
        log = self.directory / "log"
        with log.open("ab") as output:
            self._service = self.namespace.popen(
                ["unshare", "--mount", "sh", "-c", PRIVATE, "sh", *self._local(), "system", "service", "--time", "0",
                 f"unix://{self.socket}"],
                stdout=output, stderr=output,
            )  # fmt: skip
        deadline = time.monotonic() + 20
        while not self.socket.exists():
            if self._service.poll() is not None or time.monotonic() > deadline:
                raise LabError(f"podman does not start: {log.read_text(errors='replace')[-500:]}")
            time.sleep(0.05)
        if not any("localhost/box" in line for line in self.run("images").splitlines()):
            self.run("import", str(self._image()), IMAGE)

    def stop_service(self) -> None:
        """The engine goes, its containers stay."""
        assert self._service is not None
        self._service.terminate()
        self._service.wait(10)
        self.socket.unlink(missing_ok=True)

    def stop(self) -> None:
        try:
            if self._service is not None and self._service.poll() is None:
                with contextlib.suppress(LabError):
                    self.run("rm", "--force", "--time", "0", "--all")
                self.stop_service()
        finally:
            self._kill_orphans()
            shutil.rmtree(self.directory, ignore_errors=True)

    def network(self, name: str, *subnets: str) -> None:
        options = [word for subnet in subnets for word in ("--subnet", subnet)]
        self.run("network", "create", "--disable-dns", *(["--ipv6"] if len(subnets) > 1 else []), *options, name)

    def container(self, name: str, network: str, *command: str, **labels: str) -> None:
        """Starts a container; without a command it sleeps."""
        options = [word for key, value in labels.items() for word in ("--label", f"{key}={value}")]
        command = command or ("/bin/sleep", "600")
        self.run("run", "--detach", "--name", name, "--network", network, *LIMITS, *options, IMAGE, *command)
        state = self.inspect(name)["State"]
        self._processes |= {pid: _network(pid) for pid in (state["ConmonPid"], state["Pid"])}

    def inspect(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.run("inspect", name))[0]
        return found

    def pid(self, name: str) -> int:
        return int(self.inspect(name)["State"]["Pid"])

    def addresses(self, name: str) -> tuple[str, str]:
        """(IPv4, IPv6) in its first network."""
        networks = self.inspect(name)["NetworkSettings"]["Networks"]
        first = next(iter(networks.values()))
        return first["IPAddress"], first["GlobalIPv6Address"]

    def run(self, *words: str, timeout: float = 60.0) -> str:
        """The client, against the engine's socket. LabError with what it says if it fails."""
        command = ["podman", "--remote", "--url", f"unix://{self.socket}", *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
        if done.returncode:
            raise LabError(f"podman {' '.join(words[:2])}: {done.stderr.strip()[-500:]}")
        return done.stdout

    def inside(self, name: str, *command: str, timeout: float = 10.0) -> subprocess.CompletedProcess[str]:
        """A program of this machine in the container's network."""
        words = ["nsenter", f"--net=/proc/{self.pid(name)}/ns/net", *command]
        return subprocess.run(words, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL)

    def _kill_orphans(self) -> None:
        """Containers whose engine went away before them."""
        for pid, network in self._processes.items():
            with contextlib.suppress(OSError):
                if _network(pid) == network:
                    os.kill(pid, signal.SIGKILL)

    def _local(self) -> list[str]:
        place = self.directory
        return [
            "podman", "--root", f"{place}/root", "--runroot", f"{place}/run", "--tmpdir", f"{place}/tmp",
            "--network-config-dir", f"{place}/networks", "--storage-driver", "vfs", "--cgroup-manager", "cgroupfs",
            "--events-backend", "file",
        ]  # fmt: skip

    def _image(self) -> Path:
        """A tree of one program and the names it is called by."""
        busybox = shutil.which("busybox")
        assert busybox is not None
        path = self.directory / "image.tar"
        with tarfile.open(path, "w") as tar:
            for folder in ("bin", "etc", "tmp"):
                entry = tarfile.TarInfo(folder)
                entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(entry)
            tar.add(Path(busybox).resolve(), "bin/busybox")
            for name in ("sleep", "httpd"):
                entry = tarfile.TarInfo(f"bin/{name}")
                entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
                tar.addfile(entry)
            entry = tarfile.TarInfo("etc/passwd")
            users = b"root:x:0:0:root:/:/bin/sh\n"
            entry.size = len(users)
            tar.addfile(entry, BytesIO(users))
        return path


def _network(pid: int) -> int:
    return Path(f"/proc/{pid}/ns/net").stat().st_ino
