# SPDX-License-Identifier: Apache-2.0
"""Fates in the connection marks of conntrack: count them, take them back. Entries themselves are never deleted.

Blocking. All raise FastpathError where the kernel refuses. The walk is C (fastpath.h). One that nobody waits for
(`idle`) takes its time, in a thread that leaves the processor to packets and changes of policy.
"""

import os
import socket
import threading
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from appliance.netfilter.marks import GENERATION, GENERATION_MAX, GENERATION_MIN, Fate, MarkLayout
from fastpath import Connections

IDLE = 4  # times as long as it works a walk rests that nobody waits for
NICE = 10  # of that thread
DECIDED = range(GENERATION_MIN, GENERATION_MAX + 1)
ANY = range(GENERATION_MAX + 1)


def count(marks: MarkLayout, generations: Iterable[int]) -> int:
    """Entries decided under these generations."""
    with Connections(marks.mask, cleared=0, generations=generations) as found:
        return found.count()


def sweep(marks: MarkLayout, generations: Iterable[int], *, idle: int = 0) -> int:
    """Clear our byte where it carries one of these generations (0: none, but something), and nothing else; returns how
    many had it. A flow decided anew between the walk and the update loses that fate, too: it comes up once more."""
    with Connections(marks.mask, cleared=marks.mask, generations=generations, idle=idle) as found:
        return _stepped_back(found.void) if idle else found.void()


def void(
    marks: MarkLayout, addresses: Collection[IPv4Address | IPv6Address], spared: Callable[[], Iterable[int]]
) -> int:
    """Take the generation, not the fate, from the mark of each flow of these addresses: it is decided anew and comes up
    with that fate as its previous one. Returns how many. spared(): ids of entries that need no more.

    Policy sees an entry's original source and its reply source, behind everybody's NAT; after source NAT on input the
    reply's destination.
    """
    bits = marks.at(GENERATION)
    with Connections(marks.mask, cleared=bits, generations=DECIDED, addresses=addresses, idle=IDLE) as found:
        return _stepped_back(lambda: found.void(spared))


def age(marks: MarkLayout, carried: int = 0) -> int:
    """UDP flows that are allowed, and have carried so many bytes where some are asked for, lose the generation in
    their marks as in void(). Returns how many."""
    bits = marks.at(GENERATION)
    with Connections(
        marks.mask, cleared=bits, generations=DECIDED, fate=Fate.ALLOW, protocol=socket.IPPROTO_UDP, carried=carried,
        idle=IDLE,
    ) as found:  # fmt: skip
        return _stepped_back(found.void)


def counts_bytes(proc: Path = Path("/proc")) -> bool:
    """Whether the kernel counts what a connection carries, in the namespace of the calling thread."""
    try:
        return int((proc / "sys/net/netfilter/nf_conntrack_acct").read_text()) != 0
    except (OSError, ValueError):
        return False


def _stepped_back(walk: Callable[[], int]) -> int:
    """In a thread of its own: to come forward again one would need CAP_SYS_NICE."""
    with ThreadPoolExecutor(1, "conntrack", _step_back) as thread:
        return thread.submit(walk).result()


def _step_back() -> None:
    thread = threading.get_native_id()
    os.setpriority(os.PRIO_PROCESS, thread, max(NICE, os.getpriority(os.PRIO_PROCESS, thread)))
