# SPDX-License-Identifier: Apache-2.0
"""One service in a network namespace: two would take each other's rules away, whatever their queues.

The claim is an abstract unix socket: its name belongs to the network namespace, and goes with the process that holds
it. Whoever connects learns that process from the socket itself, and is turned away.
"""

import asyncio
import contextlib
import socket
import struct

from appliance.netfilter.surroundings import has_net_admin
from fastpath.errors import PortcullisError

NAME = "\0portcullis"
_CREDENTIALS = struct.Struct("=iII")  # struct ucred: pid, uid, gid


class InstanceError(PortcullisError):
    """Another service filters here."""


class Claim:
    """Held from claim() to close(), in an event loop."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None

    def claim(self) -> None:
        """Raises InstanceError, naming the process."""
        ours = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            ours.bind(NAME)
            ours.listen(64)
        except OSError:
            ours.close()
            # Anybody may use the name; only who could filter keeps others from it.
            if (holder := _holder()) and has_net_admin(str(holder)):
                raise InstanceError(
                    f"another portcullis filters this network namespace (pid {holder}): stop it, or take over from it"
                    " with `portcullis run --takeover`"
                ) from None
            return
        ours.setblocking(False)
        self._socket = ours
        asyncio.get_running_loop().add_reader(ours.fileno(), self._turn_away, ours)

    def close(self) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None

    @staticmethod
    def _turn_away(ours: socket.socket) -> None:
        with contextlib.suppress(OSError):
            ours.accept()[0].close()


def _holder() -> int:
    """The process that listens there; 0: none."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(NAME)
        except OSError:
            return 0
        pid, _, _ = _CREDENTIALS.unpack(probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return int(pid)
