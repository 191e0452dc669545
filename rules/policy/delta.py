# SPDX-License-Identifier: Apache-2.0
"""What a change makes of a program that is in force."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rules.policy.early import Region
from rules.policy.identities import Entry
from rules.policy.model import HttpMatch, Net
from rules.policy.program import Program

if TYPE_CHECKING:
    from fastpath import PolicyChange


@dataclass(frozen=True, slots=True)
class Delta:
    """For fastpath.IdentityMap.update(): entries to set, and entries (identity and ifindex 0) to remove."""

    set: tuple[Entry, ...]
    remove: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """From one program to the next. change: for fastpath.Policy.update(), None where the policy stays as it is.
    `redecide`: addresses of endpoints that were something else before, whose open flows may have another verdict now;
    `voids`: any open flow may have. `names`: names are asked for that were not, or are no more: what LearnedNames has
    is to be applied again, for every address. `requests`: rules with `http` that came, by rule id. `regions`: where
    addresses may have other predicates of early chains; None: anywhere."""

    program: Program
    delta: Delta
    change: "PolicyChange | None"
    redecide: tuple[Net, ...] = ()
    voids: bool = False
    names: bool = False
    requests: Mapping[int, HttpMatch] = field(default_factory=dict)
    regions: tuple[Region, ...] | None = None
