# SPDX-License-Identifier: Apache-2.0
"""What can wait rests between its steps, and comes to the same."""

import resource
import struct
from collections.abc import Callable

from fastpath import IdentityMap, Policy, PolicyTables
from fastpath.layout import IDENTITY_CHAINS, NONE

COUNT = 20_000  # several steps
MAP = IdentityMap.build([(number.to_bytes(16, "big"), 128, 1, 0) for number in range(COUNT)])
POLICY = Policy(
    PolicyTables(
        predicate_offsets=bytes(struct.calcsize("=I") * (COUNT + 1)),
        identities=IDENTITY_CHAINS.pack(NONE, NONE, NONE, NONE) * COUNT,
    )
)


def rests(work: Callable[[], object]) -> int:
    """How often the thread went to sleep of itself, at most."""
    before = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
    work()
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw - before


def test_an_identity_map() -> None:
    assert rests(lambda: MAP.export(idle=1)) >= 2 * COUNT // 4096 - 1
    assert MAP.export(idle=1) == MAP.export()


def test_a_policy() -> None:
    assert rests(lambda: POLICY.lend(idle=1)) >= COUNT // 4096
    lent, tables = POLICY.lend(idle=1), POLICY.tables()
    assert (lent.identities, lent.predicate_offsets) == (tables.identities, tables.predicate_offsets)
    assert Policy(lent).tables() == tables
