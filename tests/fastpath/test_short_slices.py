# SPDX-License-Identifier: Apache-2.0
import platform
import threading
from pathlib import Path

import pytest

from fastpath.engine import short_slices


def _slice() -> int:
    """Nanoseconds, of this thread (proc_sched_show_task)."""
    lines = Path("/proc/thread-self/sched").read_text().splitlines()
    return next(int(line.split(":")[1]) for line in lines if line.startswith("se.slice"))


def test_a_thread_asks_for_itself_alone() -> None:
    try:
        before = _slice()
    except (OSError, StopIteration):
        pytest.skip(f"Linux {platform.release()} does not tell the slices of a thread")
    found: list[int] = []

    def ask() -> None:
        short_slices()
        found.append(_slice())
        started = threading.Thread(target=lambda: found.append(_slice()))
        started.start()
        started.join()

    asking = threading.Thread(target=ask)
    asking.start()
    asking.join()
    assert found[0] == 100_000 < found[1]
    assert _slice() == before
