# SPDX-License-Identifier: Apache-2.0
"""What a client sees while feeds change: small datagrams, each of a flow of its own, and whether their echo came."""

import contextlib
import json
import select
import socket
import time
from pathlib import Path

ECHO = 7000


def probe(address: str, stop: str, written: str, interval: float) -> None:
    """Until the file `stop` exists. Writes [[sent, seconds until the echo or null], ...] to `written`; `sent` by the
    monotonic clock. Each datagram has another source port: each needs a verdict."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    waiting: dict[int, tuple[socket.socket, float, int]] = {}
    rows: list[list[float | None]] = []
    poll = select.epoll()
    next_send = time.monotonic()
    over = 0.0
    while True:
        now = time.monotonic()
        if not over and Path(stop).exists():
            over = now + 1.0
        if over and (now > over or not waiting):
            break
        if not over and now >= next_send:
            next_send = max(next_send + interval, now - 20 * interval)
            sock = socket.socket(family, socket.SOCK_DGRAM)
            sock.setblocking(False)
            poll.register(sock, select.EPOLLIN)
            waiting[sock.fileno()] = (sock, time.monotonic(), len(rows))
            rows.append([time.monotonic(), None])
            with contextlib.suppress(OSError):
                sock.sendto(b"x", (address, ECHO))
        for descriptor, _ in poll.poll(max(0.0, min(next_send - time.monotonic(), 0.01))):
            sock, sent, row = waiting.pop(descriptor)
            rows[row][1] = time.monotonic() - sent
            poll.unregister(sock)
            sock.close()
        if len(waiting) > 400:  # what was refused: its socket is not needed
            for descriptor in [d for d, (_, sent, _) in waiting.items() if sent < time.monotonic() - 1.0]:
                sock = waiting.pop(descriptor)[0]
                poll.unregister(sock)
                sock.close()
    Path(written).write_text(json.dumps(rows))
