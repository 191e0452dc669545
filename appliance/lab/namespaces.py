# SPDX-License-Identifier: Apache-2.0
"""One network namespace: its addresses and routes, and programs and Python functions that run inside."""

import contextlib
import ctypes
import ipaddress
import multiprocessing
import multiprocessing.connection
import os
import signal
import socket
import subprocess
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from pyroute2 import IPRoute, netns

from fastpath.errors import PortcullisError

P = ParamSpec("P")
R = TypeVar("R")

Address = ipaddress.IPv4Interface | ipaddress.IPv6Interface

CLONE_NEWNET = 0x40000000
IFA_F_NODAD = 0x02
NETNS_DIR = Path("/run/netns")
GRACE = 2.0  # seconds a process has between SIGTERM and SIGKILL

_fork = multiprocessing.get_context("fork")


class LabError(PortcullisError):
    """A namespace, link or process of a lab could not be made."""


def _setns(fd: int) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(fd, CLONE_NEWNET) != 0:
        raise LabError(f"setns: {os.strerror(ctypes.get_errno())}")


class Namespace:
    """One network namespace. Made by `Lab.namespace()`; closed by its lab.

    name       as `ip netns` shows it
    addresses  interface name → addresses, in the order they were added
    """

    def __init__(self, name: str, label: str) -> None:
        self.name = name
        self.label = label
        self.addresses: dict[str, list[Address]] = {}
        self._popen: list[subprocess.Popen[Any]] = []
        self._forks: list[Any] = []
        netns.create(name, libc=ctypes.CDLL(None, use_errno=True))  # else it runs ldconfig to find it
        try:
            self.ip = IPRoute(netns=name)  # rtnetlink of this namespace
            # Addresses are usable at once, also the link-local ones of veths made later.
            self.sysctl({"net.ipv6.conf.all.accept_dad": 0, "net.ipv6.conf.default.accept_dad": 0})
            self.ip.link("set", index=self.ip.link_lookup(ifname="lo")[0], state="up")
        except BaseException:
            netns.remove(name)
            raise

    def __repr__(self) -> str:
        return f"<Namespace {self.name}>"

    @property
    def path(self) -> Path:
        return NETNS_DIR / self.name

    # -- addresses ---------------------------------------------------------------------------------

    def address(self, family: int, interface: str | None = None) -> str:
        """First address of family 4 or 6, of any interface or of the named one."""
        for name, addresses in self.addresses.items():
            for address in addresses:
                if address.version == family and interface in (None, name):
                    return str(address.ip)
        raise LabError(f"{self.name} has no IPv{family} address on {interface or 'any interface'}")

    @property
    def v4(self) -> str:
        return self.address(4)

    @property
    def v6(self) -> str:
        return self.address(6)

    def ifindex(self, interface: str) -> int:
        found = self.ip.link_lookup(ifname=interface)
        if not found:
            raise LabError(f"{self.name} has no interface {interface}")
        return int(found[0])

    def add_address(self, interface: str, address: str) -> None:
        """`address` with its prefix length: "10.0.0.1/24". IPv6 skips duplicate address detection."""
        parsed = ipaddress.ip_interface(address)
        options: dict[str, Any] = {"flags": IFA_F_NODAD} if parsed.version == 6 else {}
        self.ip.addr(
            "add",
            index=self.ifindex(interface),
            address=str(parsed.ip),
            prefixlen=parsed.network.prefixlen,
            family=socket.AF_INET6 if parsed.version == 6 else socket.AF_INET,
            **options,
        )
        self.addresses.setdefault(interface, []).append(parsed)

    def add_route(self, destination: str, gateway: str) -> None:
        """`destination` is a prefix or "default" (of the gateway's family)."""
        family = ipaddress.ip_address(gateway).version
        if destination == "default":
            destination = "0.0.0.0/0" if family == 4 else "::/0"
        self.ip.route(
            "add", dst=destination, gateway=gateway, family=socket.AF_INET if family == 4 else socket.AF_INET6
        )

    def set_link(self, interface: str, **attributes: Any) -> None:
        """As `ip link set`: state="up", mtu=9000, address=..."""
        self.ip.link("set", index=self.ifindex(interface), **attributes)

    def sysctl(self, values: Mapping[str, int | str]) -> None:
        with self.enter():
            for key, value in values.items():
                Path("/proc/sys", *key.split(".")).write_text(str(value))

    def enable_forwarding(self) -> None:
        self.sysctl({"net.ipv4.ip_forward": 1, "net.ipv6.conf.all.forwarding": 1})

    # -- running things ----------------------------------------------------------------------------

    @contextlib.contextmanager
    def enter(self) -> Iterator[None]:
        """The calling thread is inside for the length of the block: sockets it makes belong here for ever.

        `/proc/net` shows the namespace of the process's first thread; use `/proc/thread-self/net`.
        """
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            inside = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                _setns(inside)
            finally:
                os.close(inside)
            try:
                yield
            finally:
                _setns(before)
        finally:
            os.close(before)

    def command(self, args: Sequence[str | os.PathLike[str]]) -> list[str]:
        """The command line that runs `args` inside. The process replaces `ip`: its pid is the command's."""
        words = [os.fspath(arg) for arg in args]
        if words[0] == "ip":
            return ["ip", "-n", self.name, *words[1:]]  # it goes there by itself, and nothing is mounted for it
        return ["ip", "netns", "exec", self.name, *words]

    def run(
        self,
        args: Sequence[str | os.PathLike[str]],
        *,
        timeout: float = 10.0,
        input: str | None = None,
        check: bool = True,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run to the end; text streams. LabError if it takes too long, or, with `check`, fails (with its stderr)."""
        try:
            done = subprocess.run(
                self.command(args), capture_output=True, text=True, timeout=timeout, input=input, env=env
            )
        except subprocess.TimeoutExpired as error:
            raise LabError(f"{self.label}: {' '.join(map(str, args))}: not finished after {timeout} s") from error
        if check and done.returncode != 0:
            why = (done.stderr or done.stdout).strip()
            raise LabError(f"{self.label}: {' '.join(map(str, args))}: exit {done.returncode}: {why}")
        return done

    def popen(self, args: Sequence[str | os.PathLike[str]], **options: Any) -> subprocess.Popen[Any]:
        """Start and return; ended with the lab. Options as subprocess.Popen (stdin defaults to nothing)."""
        options.setdefault("stdin", subprocess.DEVNULL)
        process = subprocess.Popen(self.command(args), **options)
        self._popen.append(process)
        return process

    def call(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a Python function in a forked child inside; what it returns or raises comes back (pickled).

        At most 30 seconds; for more, `call_for(seconds, function, ...)`.
        """
        return self.call_for(30.0, function, *args, **kwargs)

    python = call

    def call_for(self, timeout: float, function: Callable[..., R], /, *args: Any, **kwargs: Any) -> R:
        """As `call`, ended with LabError after `timeout` seconds."""
        ours, theirs = _fork.Pipe(duplex=False)
        child = _fork.Process(target=_answer, args=(self.path, theirs, function, args, kwargs), daemon=True)
        child.start()
        theirs.close()
        try:
            if not ours.poll(timeout):
                raise LabError(f"{self.label}: {function.__qualname__}: not finished after {timeout} s")
            outcome, value = ours.recv()
        except EOFError:
            raise LabError(f"{self.label}: {function.__qualname__}: died without an answer") from None
        finally:
            ours.close()
            _end_fork(child, 0.5)
        if outcome == "raised":
            raise value
        result: R = value
        return result

    def spawn(self, function: Callable[P, Any], /, *args: P.args, **kwargs: P.kwargs) -> Any:
        """Start a Python function in a forked child inside; ended with the lab. Returns a multiprocessing.Process."""
        child = _fork.Process(target=_inside, args=(self.path, function, args, kwargs), daemon=True)
        child.start()
        self._forks.append(child)
        return child

    def wait_for_port(
        self, port: int, protocol: str = "tcp", *, timeout: float = 5.0, address: str | None = None
    ) -> None:
        """Until a socket here listens on (tcp) or is bound to (udp) the port. No packet is sent.

        address: only a socket bound to this one (or to every address).
        """
        deadline = time.monotonic() + timeout
        while not self._is_bound(port, protocol, address):
            if time.monotonic() > deadline:
                raise LabError(f"{self.label}: nothing listens on {protocol} port {port} after {timeout} s")
            time.sleep(0.02)

    def _is_bound(self, port: int, protocol: str, address: str | None) -> bool:
        listening = {"tcp": "0A", "udp": "07"}[protocol]
        wanted = None if address is None else ipaddress.ip_address(address)
        with self.enter():
            tables = [Path(f"/proc/thread-self/net/{protocol}{suffix}").read_text() for suffix in ("", "6")]
        for table in tables:
            for line in table.splitlines()[1:]:
                fields = line.split()
                host, _, number = fields[1].partition(":")
                if int(number, 16) != port or fields[3] != listening:
                    continue
                words = [bytes.fromhex(host[i : i + 8])[::-1] for i in range(0, len(host), 8)]
                bound = ipaddress.ip_address(b"".join(words))
                if wanted is None or bound == wanted or int(bound) == 0:
                    return True
        return False

    def pids(self) -> list[int]:
        """Processes that are inside, this one excepted."""
        inode = self.path.stat().st_ino
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                with contextlib.suppress(OSError):
                    if (entry / "ns/net").stat().st_ino == inode:
                        found.append(int(entry.name))
        return found

    def close(self) -> None:
        """Ends what runs inside, and removes it. Its lab does."""
        for child in self._forks:
            _end_fork(child, 0.0)
        for process in self._popen:
            if process.poll() is None:
                process.terminate()
        deadline = time.monotonic() + GRACE
        for process in self._popen:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(GRACE)
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    with contextlib.suppress(OSError):  # unflushed input of a process that is gone
                        stream.close()
        # What daemonised itself: nothing but what was started here can be inside.
        for number in (signal.SIGTERM, signal.SIGKILL):
            left = self.pids()
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            deadline = time.monotonic() + GRACE
            while left and time.monotonic() < deadline and self.pids():
                time.sleep(0.02)
        # A namespace lives on for a while after its name is gone; its veths, and their peers, should not.
        with contextlib.suppress(Exception):
            for link in self.ip.get_links():
                if link.get_attr("IFLA_IFNAME") != "lo":
                    with contextlib.suppress(Exception):
                        self.ip.link("del", index=link["index"])
        self.ip.close()
        netns.remove(self.name)


def _inside(path: Path, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    _setns(fd)
    os.close(fd)
    return function(*args, **kwargs)


def _answer(
    path: Path,
    pipe: "multiprocessing.connection.Connection[Any, Any]",
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> None:
    try:
        pipe.send(("returned", _inside(path, function, args, kwargs)))
    except BaseException as error:
        trace = traceback.format_exc()
        try:
            error.add_note(f"in the namespace: {trace}")
            pipe.send(("raised", error))
        except Exception:  # an exception that does not pickle
            pipe.send(("raised", LabError(trace)))


def _end_fork(child: Any, patience: float) -> None:
    """`patience`: seconds in which it may end by itself."""
    child.join(patience)
    for end in (child.terminate, child.kill):
        if child.exitcode is None:
            end()
            child.join(GRACE)
