# SPDX-License-Identifier: Apache-2.0
"""Network namespaces, veth pairs, addresses and routes that clean up after themselves.

    with Lab() as lab:
        client, node, server = lab.chain()      # client eth0 ── cli0 node srv0 ── eth0 server
        server.popen([sys.executable, "-m", "http.server", "80"])
        server.wait_for_port(80)
        print(client.run(["curl", "-s", f"http://{server.v4}/"]).stdout)

Names are unique (`pc-<pid>-<lab>-client`), so labs of several programs live side by side. Everything a
lab made (namespaces, their links, the processes started in them) goes when its `with` block ends, at
interpreter exit and on SIGTERM; what a killed program left is removed by the next lab that starts. Needs root.
"""

import atexit
import contextlib
import itertools
import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType, TracebackType
from typing import NamedTuple

from pyroute2 import config as pyroute2_settings
from pyroute2 import netns

from appliance.lab.namespaces import LabError, Namespace

PREFIX = "pc"  # of names; what follows it is the process that made them

_lab_numbers = itertools.count()
_open_labs: set["Lab"] = set()


def have_root() -> bool:
    """True where labs can be made."""
    return os.geteuid() == 0


class Chain(NamedTuple):
    """client eth0 ── cli0 node srv0 ── eth0 server; `node` forwards."""

    client: Namespace
    node: Namespace
    server: Namespace


class Lab:
    """A set of namespaces and the wires between them. Use as a context manager, or call close()."""

    def __init__(self) -> None:
        if not have_root():
            raise LabError("network namespaces need root")
        # pyroute2 waits 2 s for a child process: not enough where the kernel loads modules for the first namespace.
        pyroute2_settings.default_communicate_timeout = 30
        _remove_stale()
        self._pid = os.getpid()
        self._number = next(_lab_numbers)
        self.namespaces: dict[str, Namespace] = {}
        _install_cleanup()
        _open_labs.add(self)

    def __enter__(self) -> "Lab":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def namespace(self, label: str) -> Namespace:
        """A new namespace with lo up. `label` is unique in this lab."""
        if label in self.namespaces:
            raise LabError(f"this lab already has a namespace {label}")
        made = Namespace(f"{PREFIX}-{self._pid}-{self._number}-{label}", label)
        self.namespaces[label] = made
        return made

    def link(self, left: tuple[Namespace, str], right: tuple[Namespace, str], *, mtu: int = 1500) -> None:
        """A veth pair between two namespaces, both ends up. Offloads stay at the veth default (GSO, TSO on)."""
        left_ns, left_name = left
        right_ns, right_name = right
        left_ns.ip.link(
            "add",
            ifname=left_name,
            kind="veth",
            mtu=mtu,
            peer={"ifname": right_name, "mtu": mtu, "net_ns_fd": right_ns.name},
        )
        left_ns.set_link(left_name, state="up")
        right_ns.set_link(right_name, state="up")

    def chain(self, *, network: int = 77, mtu: int = 1500) -> Chain:
        """client (10.n.1.2, fd00:n:1::2) ── node (….1) ── server (10.n.2.2, fd00:n:2::2), n = `network`, 1..255."""
        client, node, server = (self.namespace(label) for label in ("client", "node", "server"))
        for number, (host, interface) in enumerate(((client, "cli0"), (server, "srv0")), start=1):
            self.link((node, interface), (host, "eth0"), mtu=mtu)
            node.add_address(interface, f"10.{network}.{number}.1/24")
            node.add_address(interface, f"fd00:{network}:{number}::1/64")
            host.add_address("eth0", f"10.{network}.{number}.2/24")
            host.add_address("eth0", f"fd00:{network}:{number}::2/64")
            host.add_route("default", f"10.{network}.{number}.1")
            host.add_route("default", f"fd00:{network}:{number}::1")
        node.enable_forwarding()
        return Chain(client, node, server)

    def close(self) -> None:
        """End the processes, remove the namespaces. Does nothing in a forked child, and the second time."""
        _open_labs.discard(self)
        if os.getpid() != self._pid:
            return
        while self.namespaces:
            _, namespace = self.namespaces.popitem()
            try:
                namespace.close()
            except Exception as error:  # the other namespaces must still go
                print(f"lab: {namespace.name}: {error}", file=sys.stderr)


def _remove_stale() -> None:
    """Namespaces of labs whose program is dead. They hold links only: a process in one keeps it."""
    for name in netns.listnetns():
        parts = name.split("-")
        if len(parts) == 4 and parts[0] == PREFIX and parts[1].isdigit() and not Path("/proc", parts[1]).exists():
            with contextlib.suppress(Exception):
                netns.remove(name)


def _close_all() -> None:
    for lab in list(_open_labs):
        lab.close()


def _on_sigterm(number: int, frame: FrameType | None) -> None:
    _close_all()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTERM)


_cleanup_installed = False


def _install_cleanup() -> None:
    global _cleanup_installed
    if _cleanup_installed:
        return
    _cleanup_installed = True
    atexit.register(_close_all)
    # A program with a handler of its own closes its labs itself.
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _on_sigterm)
