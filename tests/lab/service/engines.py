# SPDX-License-Identifier: Apache-2.0
"""A container engine inside a namespace of ours. Nothing outside of it is touched: the engine has its own storage, and
its own /run, /dev/shm and cgroup mount in its own mount namespace.

The image is a tar of one static busybox.
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
from abc import ABC, abstractmethod
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar

from appliance.lab import LabError, Namespace

IMAGE = "localhost/box:1"
PRIVATE = """
mount -t cgroup2 none /sys/fs/cgroup && mount -t tmpfs none /run && mount -t tmpfs none /dev/shm || exit 9
exec "$@"
"""


class Engine(ABC):
    """Started by `start()`, gone with everything it made after `stop()`."""

    name: ClassVar[str]             # of the client program, and of the setting that names the socket
    programs: ClassVar[tuple[str, ...]]
    processes: ClassVar[tuple[str, ...]]    # keys of a container's State that are process ids, its monitor first
    limits: ClassVar[tuple[str, ...]]       # options of every container
    networks: ClassVar[tuple[str, ...]]     # options of every network

    def __init__(self, namespace: Namespace) -> None:
        self.namespace = namespace
        self.directory = Path(tempfile.mkdtemp(prefix="pc-engine-"))  # short: paths of Unix sockets have 107 bytes
        self.socket = self.directory / "api.sock"
        self._service: subprocess.Popen[bytes] | None = None
        self._started: dict[int, int] = {}  # process id → inode of its network namespace

    @classmethod
    def missing(cls) -> str:
        """Why there can be no such engine here; "" if nothing speaks against it."""
        needed = [name for name in (*cls.programs, "busybox", "nsenter") if shutil.which(name) is None]
        return f"{', '.join(needed)} not installed" if needed else ""

    @abstractmethod
    def _daemon(self) -> list[str]:
        """The command that serves the API at `socket`."""

    @abstractmethod
    def _client(self) -> list[str]:
        """The command that asks there."""

    def start(self) -> None:
        """Raises LabError with the engine's words if it does not work on this machine."""
        log = self.directory / "log"
        with log.open("ab") as output:
            self._service = self.namespace.popen(
                ["unshare", "--mount", "sh", "-c", PRIVATE, "sh", *self._daemon()], stdout=output, stderr=output
            )
        deadline = time.monotonic() + 40
        while not self.socket.exists():
            if self._service.poll() is not None or time.monotonic() > deadline:
                raise LabError(f"{self.name} does not start: {log.read_text(errors='replace')[-500:]}")
            time.sleep(0.05)
        if not any("localhost/box" in line for line in self.run("images").splitlines()):
            self.run("import", str(self._image()), IMAGE)

    def stop_service(self) -> None:
        """The engine goes; of Podman's the containers stay."""
        assert self._service is not None
        self._service.terminate()
        self._service.wait(20)
        self.socket.unlink(missing_ok=True)

    def stop(self) -> None:
        try:
            if self._service is not None and self._service.poll() is None:
                with contextlib.suppress(LabError):
                    self._remove_all()
                self.stop_service()
        finally:
            self._kill_orphans()
            shutil.rmtree(self.directory, ignore_errors=True)

    def network(self, name: str, *subnets: str) -> None:
        options = [word for subnet in subnets for word in ("--subnet", subnet)]
        self.run("network", "create", *self.networks, *(["--ipv6"] if len(subnets) > 1 else []), *options, name)

    def container(self, name: str, network: str, *command: str, publish: str = "", **labels: str) -> None:
        """Starts a container; without a command it sleeps. `publish` is `port of the host:port`."""
        options = [word for key, value in labels.items() for word in ("--label", f"{key}={value}")]
        options += ["--publish", publish] if publish else []
        command = command or ("/bin/sleep", "600")
        self.run("run", "--detach", "--name", name, *self._attached(network), *self.limits, *options, IMAGE, *command)
        state = self.inspect(name)["State"]
        self._started |= {state[key]: _network(state[key]) for key in self.processes}

    def _attached(self, network: str) -> list[str]:
        name, _, address = network.partition(":ip=")
        return ["--network", name, *(["--ip", address] if address else [])]

    @abstractmethod
    def remove(self, name: str) -> None:
        """The container goes at once."""

    @abstractmethod
    def _remove_all(self) -> None: ...

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
        done = subprocess.run([*self._client(), *words], capture_output=True, text=True, timeout=timeout)
        if done.returncode:
            raise LabError(f"{self.name} {' '.join(words[:2])}: {done.stderr.strip()[-500:]}")
        return done.stdout

    def inside(self, name: str, *command: str, timeout: float = 10.0) -> subprocess.CompletedProcess[str]:
        """A program of this machine in the container's network."""
        words = ["nsenter", f"--net=/proc/{self.pid(name)}/ns/net", *command]
        return subprocess.run(words, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL)

    def _kill_orphans(self) -> None:
        """Containers whose engine went away before them."""
        for pid, network in self._started.items():
            with contextlib.suppress(OSError):
                if _network(pid) == network:
                    os.kill(pid, signal.SIGKILL)

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


class Podman(Engine):
    """Containers run without cgroups and with low limits, so that neither a host without systemd nor one with both
    versions of cgroups is in the way."""

    name = "podman"
    programs = ("podman",)
    processes = ("ConmonPid", "Pid")
    limits = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024", "--cgroups", "disabled")
    networks = ("--disable-dns",)

    def _daemon(self) -> list[str]:
        place = self.directory
        return [
            "podman", "--root", f"{place}/root", "--runroot", f"{place}/run", "--tmpdir", f"{place}/tmp",
            "--network-config-dir", f"{place}/networks", "--storage-driver", "vfs", "--cgroup-manager", "cgroupfs",
            "--events-backend", "file", "system", "service", "--time", "0", f"unix://{self.socket}",
        ]  # fmt: skip

    def _client(self) -> list[str]:
        return ["podman", "--remote", "--url", f"unix://{self.socket}"]

    def remove(self, name: str) -> None:
        self.run("rm", "--force", "--time", "0", name)

    def _remove_all(self) -> None:
        self.run("rm", "--force", "--time", "0", "--all")


class Docker(Engine):
    """dockerd with its own containerd. With `iptables` it sets its own rules in the namespace, as on a machine where
    nobody told it otherwise: networks are then kept apart by them."""

    name = "docker"
    programs = ("dockerd", "containerd", "runc")
    processes = ("Pid",)
    limits = ()
    networks = ()

    def __init__(self, namespace: Namespace, *, iptables: bool = False) -> None:
        super().__init__(namespace)
        self._iptables = iptables

    def _daemon(self) -> list[str]:
        rules = [] if self._iptables else ["--iptables=false", "--ip-masq=false"]
        return [
            "dockerd", "--host", f"unix://{self.socket}", "--data-root", f"{self.directory}/data",
            "--exec-root", "/run/docker", "--pidfile", "/run/docker.pid", "--storage-driver", "vfs",
            "--exec-opt", "native.cgroupdriver=cgroupfs", "--cgroup-parent", self._group, "--bridge", "none",
            "--userland-proxy=false", "--shutdown-timeout", "1", *rules,
        ]  # fmt: skip

    def _client(self) -> list[str]:
        return ["docker", "--host", f"unix://{self.socket}"]

    @property
    def _group(self) -> str:
        return f"/{self.directory.name}"

    def remove(self, name: str) -> None:
        self.run("rm", "--force", name)

    def _remove_all(self) -> None:
        if names := self.run("ps", "--all", "--quiet").split():
            self.run("rm", "--force", *names)

    def stop(self) -> None:
        super().stop()
        # The cgroups of its containers are the machine's.
        words = 'mount -t cgroup2 none /sys/fs/cgroup && find "/sys/fs/cgroup$1" -depth -type d -exec rmdir {} +'
        command = ["unshare", "--mount", "sh", "-c", words, "sh", self._group]
        subprocess.run(command, capture_output=True, timeout=10, check=False)


def _network(pid: int) -> int:
    return Path(f"/proc/{pid}/ns/net").stat().st_ino
