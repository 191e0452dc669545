# SPDX-License-Identifier: Apache-2.0
"""A Debian system with the appliance installed, booted in a container: its own systemd, network and file tree.

The network of the container is a node with two neighbours, namespaces inside of it:

    client 10.77.1.2 ── cli0 10.77.1.1 (node) 10.77.2.1 srv0 ── 10.77.2.2 server
"""

import contextlib
import ctypes
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.lab.service.nodes import wait_until

CLONE_NEWNET = 0x40000000
SO_RCVBUFFORCE = 33
BOOT = 90.0  # seconds
# nspawn wants a place of its own below /run/systemd, also where no systemd runs; nothing of the host's is changed.
START = """
mkdir -p /run/systemd && mount -t tmpfs tmpfs /run/systemd && mkdir -p /run/systemd/nspawn
exec systemd-nspawn -q -D "$1" --volatile=overlay --boot --private-network --register=no --keep-unit --machine "$2" \
    --capability=CAP_NET_ADMIN --console=pipe
"""
NETWORK = """
set -e
for side in "client cli0 1" "server srv0 2"; do
    set -- $side
    ip netns add $1
    ip link add $2 type veth peer name eth0 netns $1
    ip address add 10.77.$3.1/24 dev $2
    ip link set $2 up
    ip -n $1 address add 10.77.$3.2/24 dev eth0
    ip -n $1 link set eth0 up
    ip -n $1 link set lo up
    ip -n $1 route add default via 10.77.$3.1
done
echo 1 >/proc/sys/net/ipv4/ip_forward
"""
ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "SYSTEMD_COLORS": "0"}


class Machine:
    """Boots `tree`, which stays as it is: changes are kept in memory. AssertionError, with the console, when it does
    not come up."""

    def __init__(self, tree: Path, place: Path) -> None:
        self._console = place / "console"
        with self._console.open("wb") as console:
            self._nspawn = subprocess.Popen(
                ["unshare", "--mount", "--propagation", "private", "sh", "-ec", START, "sh",
                 str(tree), f"portcullis-{os.getpid()}"],
                stdin=subprocess.DEVNULL, stdout=console, stderr=subprocess.STDOUT,
                env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
            )  # fmt: skip
        try:
            wait_until(self._is_up, BOOT, self.console)
            self.run("sh", "-c", NETWORK)
        except BaseException:
            self.close()
            raise

    def console(self) -> str:
        return self._console.read_text(errors="replace")

    @property
    def _leader(self) -> int:
        """Process 1 of the container."""
        assert self._nspawn.poll() is None, self.console()
        pid = self._nspawn.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return int(children[0]) if children else 0

    def _is_up(self) -> bool:
        if not self._leader:
            return False
        with contextlib.suppress(subprocess.TimeoutExpired):
            state = self.run("systemctl", "is-system-running", check=False).stdout.strip()
            return state in ("running", "degraded")
        return False

    @property
    def root(self) -> Path:
        """Its file tree, with what is mounted in it."""
        return Path(f"/proc/{self._leader}/root")

    def run(self, *command: str, check: bool = True, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["nsenter", "-t", str(self._leader), "-a", *command],
            capture_output=True, text=True, timeout=timeout, env=ENVIRONMENT, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        if check:
            assert done.returncode == 0, f"{' '.join(command)}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    def show(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.run("systemctl", "show", "-P", name, unit).stdout.strip()

    def journal(self, unit: str) -> str:
        return self.run("journalctl", "--unit", unit, "--no-pager", "--output", "cat", "--boot").stdout

    def write(self, path: str, text: str) -> None:
        """A file of root, readable by all; its folder is made."""
        target = self.root / path.removeprefix("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        fresh = target.with_name(f".{target.name}.new")
        fresh.write_text(text)
        fresh.chmod(0o644)
        fresh.replace(target)

    def drop_in(self, unit: str, text: str) -> None:
        """Settings of a unit until the machine goes; "" takes them back."""
        folder = f"/run/systemd/system/{unit}.d"
        if text:
            self.write(f"{folder}/test.conf", text)
        else:
            shutil.rmtree(self.root / folder.removeprefix("/"), ignore_errors=True)
        self.run("systemctl", "daemon-reload")

    @contextlib.contextmanager
    def enter(self, namespace: str) -> Iterator[None]:
        """The calling thread is in a network namespace of the machine: "client" or "server"."""
        libc = ctypes.CDLL(None, use_errno=True)
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        inside = os.open(self.root / "run/netns" / namespace, os.O_RDONLY | os.O_CLOEXEC)
        try:
            assert libc.setns(inside, CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
            yield
        finally:
            assert libc.setns(before, CLONE_NEWNET) == 0
            os.close(inside)
            os.close(before)

    def close(self) -> None:
        """Power off; what does not go by itself is ended with nspawn."""
        if self._nspawn.poll() is None:
            with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
                self.run("systemctl", "poweroff", "--force", check=False, timeout=10.0)
            try:
                self._nspawn.wait(20.0)
            except subprocess.TimeoutExpired:
                self._nspawn.kill()
                self._nspawn.wait()


class Stream:
    """Numbered datagrams from client to server through the node, one every `pause` seconds, echoed, in a `with` block.

    sent; lost: numbers that never came back; gap: longest wait, seconds, between two answers.
    """

    def __init__(self, machine: Machine, port: int = 7000, pause: float = 0.001) -> None:
        with machine.enter("server"):
            self._server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with machine.enter("client"):
            self._client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._server.bind(("", port))
        self._client.connect(("10.77.2.2", port))
        for sock in (self._server, self._client):
            sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 8 << 20)
            sock.settimeout(0.2)
        self._pause = pause
        self._stop = threading.Event()
        self._ended = threading.Event()
        self._back: set[int] = set()
        self.sent = 0
        self.gap = 0.0
        self._threads = [threading.Thread(target=work) for work in (self._echo, self._listen, self._send)]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *_: object) -> None:
        self.finish()

    def _send(self) -> None:
        while not self._stop.is_set():
            self._client.send(self.sent.to_bytes(4, "big"))
            self.sent += 1
            time.sleep(self._pause)

    def _echo(self) -> None:
        while not self._ended.is_set():
            with contextlib.suppress(TimeoutError):
                data, sender = self._server.recvfrom(64)
                self._server.sendto(data, sender)

    def _listen(self) -> None:
        last = time.monotonic()
        while not self._ended.is_set():
            with contextlib.suppress(TimeoutError):
                self._back.add(int.from_bytes(self._client.recv(64), "big"))
                now = time.monotonic()
                self.gap, last = max(self.gap, now - last), now

    @property
    def answered(self) -> int:
        return len(self._back)

    @property
    def lost(self) -> list[int]:
        return sorted(set(range(self.sent)) - self._back)

    def wait_for(self, more: int, timeout: float = 30.0) -> None:
        """Until so many more answers have come."""
        wanted = self.answered + more
        wait_until(lambda: self.answered >= wanted, timeout, lambda: f"{self.answered} of {self.sent} came back")

    def finish(self, patience: float = 10.0) -> None:
        """Ends the sending, and waits for what is under way."""
        self._stop.set()
        self._threads[2].join()
        deadline = time.monotonic() + patience
        while self.lost and time.monotonic() < deadline:
            time.sleep(0.02)
        self._ended.set()
        for thread in self._threads:
            thread.join()
        self._server.close()
        self._client.close()


def wait_for(true: Callable[[], bool], machine: Machine, unit: str, timeout: float = 60.0) -> None:
    """Until it is so; fails with what the unit wrote."""
    wait_until(true, timeout, lambda: machine.journal(unit))
