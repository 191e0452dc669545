# SPDX-License-Identifier: Apache-2.0
"""The node's own interfaces and addresses, live (rtnetlink)."""

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

# linux/rtnetlink.h: multicast groups of link and address changes.
_GROUPS = 0x1 | 0x10 | 0x100
# Settings of the network namespace; they exist while the module br_netfilter is loaded.
_BRIDGE_FILTER = {version: Path("/proc/sys/net/bridge", f"bridge-nf-call-{word}") for version, word in (
    (4, "iptables"), (6, "ip6tables"),
)}  # fmt: skip
_DEBOUNCE = 0.02  # seconds: an interface that comes up tells of its link and of each address


@dataclass(frozen=True)
class Interfaces:
    """`indexes`: name → ifindex. `addresses`: name → addresses of the node on it. `ports`: name → bridge it belongs to.

    `bridge_filter`: the IP versions for which br_netfilter shows what stays on a bridge.
    """

    indexes: dict[str, int] = field(default_factory=dict)
    addresses: dict[str, tuple[IPAddress, ...]] = field(default_factory=dict)
    ports: dict[str, str] = field(default_factory=dict)
    bridges: frozenset[str] = frozenset()
    bridge_filter: frozenset[int] = frozenset()

    @property
    def own(self) -> tuple[IPAddress, ...]:
        return tuple(sorted({a for group in self.addresses.values() for a in group}, key=lambda a: (a.version, a)))


def read_interfaces() -> Interfaces:
    """The interfaces of this network namespace. Blocking; raises OSError."""
    with IPRoute() as route:
        links = list(route.get_links())
        names = {link["index"]: str(link.get_attr("IFLA_IFNAME")) for link in links}
        bridges = {names[link["index"]] for link in links if _kind(link) == "bridge"}
        masters = {names[link["index"]]: names.get(link.get_attr("IFLA_MASTER") or 0, "") for link in links}
        addresses: dict[str, list[IPAddress]] = {name: [] for name in names.values()}
        for entry in route.get_addr():
            text = entry.get_attr("IFA_LOCAL") or entry.get_attr("IFA_ADDRESS")
            name = names.get(entry["index"])
            if text and name is not None:
                addresses[name].append(ipaddress.ip_address(text))
    return Interfaces(
        indexes={name: index for index, name in names.items()},
        addresses={name: tuple(found) for name, found in addresses.items()},
        ports={name: master for name, master in masters.items() if master in bridges},
        bridges=frozenset(bridges),
        bridge_filter=frozenset(version for version, file in _BRIDGE_FILTER.items() if _is_on(file)),
    )


def _kind(link: Any) -> str:
    """ "bridge", "veth" and so on; "" for hardware."""
    info = link.get_attr("IFLA_LINKINFO")
    return str(info.get_attr("IFLA_INFO_KIND")) if info is not None else ""


def _is_on(file: Path) -> bool:
    try:
        return file.read_text().strip() not in ("", "0")
    except OSError:
        return False  # br_netfilter is not loaded


class InterfaceWatch:
    """Calls `changed` (in the event loop) a moment after links or addresses changed."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._timer: asyncio.TimerHandle | None = None
        self._socket: socket.socket | None = None

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
        sock.bind((0, _GROUPS))
        loop.add_reader(sock.fileno(), self._readable)
        self._socket = sock

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def _readable(self) -> None:
        assert self._socket is not None
        # An overrun only means that something changed, which is all that is asked.
        with contextlib.suppress(BlockingIOError, OSError):
            while self._socket.recv(65536):
                pass
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_DEBOUNCE, self._fire)

    def _fire(self) -> None:
        self._timer = None
        self._changed()
