# SPDX-License-Identifier: Apache-2.0
"""The control process's end of an inspector's socket, for what is sent.

What is sent is in the inspector's hands, unless it is far behind, when send() returns: a packet that something decides
only afterwards comes to the inspector after it. A stream of asyncio's would keep it until the event loop turns.
"""

import asyncio
import contextlib
import select
import socket
import time

_ROOM = 16 << 20  # bytes that may wait for the inspector to read them
_SO_SNDBUFFORCE = 32  # asm-generic/socket.h


class Channel:
    """Belongs to the event loop in which it was made."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock.dup()  # the other one is its reader's
        self._socket.setblocking(False)
        with contextlib.suppress(OSError):  # without the right to it less has room
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _ROOM)
        self._left = bytearray()
        self._loop = asyncio.get_running_loop()

    def send(self, data: bytes) -> None:
        """At once as far as there is room; the rest follows. Nothing happens when the inspector is gone: whoever reads
        from it learns that, too."""
        if self._left:
            self._left += data
            return
        self._left += data[self._try(data) :]
        if self._left:
            self._loop.add_writer(self._socket, self._flush)

    def insist(self, seconds: float) -> bool:
        """Blocks until all is in the inspector's hands. False: it does not read."""
        deadline = time.monotonic() + seconds
        poll = select.poll()
        poll.register(self._socket, select.POLLOUT)
        while self._left:
            left = deadline - time.monotonic()
            if left <= 0 or not poll.poll(1000 * left):
                return False
            self._flush()
        return True

    def close(self) -> None:
        self._loop.remove_writer(self._socket)
        self._socket.close()

    def _flush(self) -> None:
        del self._left[: self._try(self._left)]
        if not self._left:
            self._loop.remove_writer(self._socket)

    def _try(self, data: bytes | bytearray) -> int:
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0
        except OSError:
            return len(data)
