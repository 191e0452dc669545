# SPDX-License-Identifier: Apache-2.0
"""Fates in the connection marks of conntrack: count them, take them back. Entries themselves are never deleted.

Blocking. All raise FastpathError where the kernel refuses. The walk is C (fastpath.h), and takes its time: what waits
for it waits for nothing, and packets and changes of policy need the processor meanwhile.
"""

from collections.abc import Callable, Collection, Iterable
from ipaddress import IPv4Address, IPv6Address

from appliance.netfilter.marks import GENERATION, GENERATION_MAX, GENERATION_MIN, MarkLayout
from fastpath import Connections

IDLE = 4  # times as long as it works a walk rests that nobody waits for
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
        return found.void()


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
        return found.void(spared)
