# SPDX-License-Identifier: Apache-2.0
"""The node's own interfaces and addresses, live (rtnetlink)."""

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import Callable
from dataclasses import dataclass, field

from pyroute2 import IPRoute

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

# linux/rtnetlink.h: multicast groups of link and address changes.
_GROUPS = 0x1 | 0x10 | 0x100
_DEBOUNCE = 0.02  # seconds: an interface that comes up tells of its link and of each address


@dataclass(frozen=True)
class Interfaces:
    """`indexes`: name → ifindex. `addresses`: name → addresses of the node on it."""

    indexes: dict[str, int] = field(default_factory=dict)
    addresses: dict[str, tuple[IPAddress, ...]] = field(default_factory=dict)

    @property
    def own(self) -> tuple[IPAddress, ...]:
        return tuple(sorted({a for group in self.addresses.values() for a in group}, key=lambda a: (a.version, a)))


def read_interfaces() -> Interfaces:
    """The interfaces of this network namespace. Blocking; raises OSError."""
    with IPRoute() as route:
        names = {link["index"]: str(link.get_attr("IFLA_IFNAME")) for link in route.get_links()}
        addresses: dict[str, list[IPAddress]] = {name: [] for name in names.values()}
        for entry in route.get_addr():
            text = entry.get_attr("IFA_LOCAL") or entry.get_attr("IFA_ADDRESS")
            name = names.get(entry["index"])
            if text and name is not None:
                addresses[name].append(ipaddress.ip_address(text))
    return Interfaces(
        indexes={name: index for index, name in names.items()},
        addresses={name: tuple(found) for name, found in addresses.items()},
    )


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
