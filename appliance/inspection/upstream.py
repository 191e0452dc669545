# SPDX-License-Identifier: Apache-2.0
"""The workers' queues, in front of an inspector's: packets of its flows may still be on their way through them."""

import contextlib
import os
from pathlib import Path

QUEUES = Path("/proc/thread-self/net/netfilter/nfnetlink_queue")
_SIZE = 1 << 16  # bytes, some 1,000 rows


class Upstream:
    """Says whether a packet waits in one of `queues`. The file stays open: a confined process could not open it."""

    def __init__(self, queues: range, path: Path = QUEUES) -> None:
        self._queues = queues
        self._file: int | None = None
        with contextlib.suppress(OSError):  # readable by root's group alone
            self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def waiting(self) -> bool:
        """False, too, where it cannot be known."""
        if self._file is None:
            return False
        # Columns as nfnetlink_queue.c, seq_show: queue, port, waiting, ...
        rows = (line.split() for line in os.pread(self._file, _SIZE, 0).splitlines())
        return any(row[2] != b"0" and int(row[0]) in self._queues for row in rows)

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
