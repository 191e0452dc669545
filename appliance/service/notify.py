# SPDX-License-Identifier: Apache-2.0
"""Messages to the service manager (systemd, sd_notify(3)): a datagram to the socket in $NOTIFY_SOCKET."""

import os
import socket
import time
from collections.abc import Sequence

PATIENCE = 0.2  # seconds for a manager whose queue of messages is full


class Notifier:
    """Sends state to the service manager; does nothing where there is none.

    A manager that does not listen is no reason to stop filtering: errors of the socket are swallowed.
    """

    def __init__(self, address: str | None = None) -> None:
        self._address = os.environ.get("NOTIFY_SOCKET", "") if address is None else address

    def ready(self, status: str) -> None:
        self._send(f"READY=1\nSTATUS={status}")

    def reloading(self) -> None:
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def status(self, text: str) -> None:
        self._send(f"STATUS={text}")

    def watchdog(self) -> None:
        self._send("WATCHDOG=1")

    def store(self, name: str, fds: Sequence[int]) -> None:
        """Keeps descriptors for the process that is started after us. FDPOLL=0: a queue's socket that overran would
        otherwise count as broken, and be dropped."""
        if self._address and fds:
            self._send(f"FDSTORE=1\nFDNAME={name}\nFDPOLL=0", fds)

    def forget(self, name: str) -> bool:
        """What is stored under this name must not be handed to anybody any more. False: the manager was not told."""
        return self._send(f"FDSTOREREMOVE=1\nFDNAME={name}")

    @property
    def listening(self) -> bool:
        """Whether there is a service manager."""
        return bool(self._address)

    def stopping(self) -> None:
        self._send("STOPPING=1")

    def _send(self, message: str, fds: Sequence[int] = ()) -> bool:
        if not self._address:
            return False
        # A leading @ names a socket in the abstract namespace.
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.settimeout(PATIENCE)
                sock.connect(address)
                socket.send_fds(sock, [message.encode()], list(fds)) if fds else sock.send(message.encode())
        except OSError:
            return False
        return True
