# SPDX-License-Identifier: Apache-2.0
"""What descriptors that a predecessor left behind hold: the kernel's list of queues names the owner's netlink port."""

import os
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

_QUEUES = Path("/proc/thread-self/net/netfilter/nfnetlink_queue")
_COLUMNS = 8


class HeldQueue(NamedTuple):
    """A bound queue; ``waiting`` packets without a verdict, ``last_id`` the number of the newest packet so far."""

    fd: int
    queue: int
    waiting: int
    last_id: int


def port_of(fd: int) -> int | None:
    """The netlink port of a socket, None for anything else and where there is none yet."""
    try:
        with socket.socket(fileno=os.dup(fd)) as held:
            return int(held.getsockname()[0]) or None if held.family == socket.AF_NETLINK else None
    except OSError:
        return None


def queue_rows() -> str:
    """The kernel's list of the queues of this network namespace, one a line; "" where there can be none."""
    try:
        return _QUEUES.read_text(encoding="ascii")
    except FileNotFoundError:
        return ""


def held_queues(fds: Iterable[int], text: str | None = None) -> list[HeldQueue]:
    """The queues that these descriptors own, in their order; others are left out. text: queue_rows() of now.

    Columns as nfnetlink_queue.c, seq_show: queue, port, waiting, copy mode, copy range, dropped, dropped, last id, 1.
    """
    lines = (queue_rows() if text is None else text).splitlines()
    rows = {int(words[1]): words for words in map(str.split, lines) if len(words) >= _COLUMNS}
    ports = ((fd, port_of(fd)) for fd in fds)
    found = ((fd, rows[port]) for fd, port in ports if port in rows)
    return [HeldQueue(fd, int(row[0]), int(row[2]), int(row[7])) for fd, row in found]
