# SPDX-License-Identifier: Apache-2.0
"""Flows of single addresses, decided anew while all others keep their fates: the nft side. Pure.

While addresses are rechecked the map of fates leads to chains that first look for them:

    anew_allow ─▶ recheck: an end in recheck_4, recheck_6? ─▶ again: first time since the set changed?
                                                                 take the generation from the connection mark
                  a mark without generation is no fate: back to classify, which asks, with the fate as the previous one

`rechecked` holds the conntrack ids of flows that came up: their next fate is obeyed though their address still stands
in the set. With nothing to recheck the map leads to the chains that carry a fate out: no packet meets a rule of this.
"""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from appliance.netfilter.elements import Add, Flush, Operation
from appliance.netfilter.marks import GENERATION, MarkLayout

Address = IPv4Address | IPv6Address

SETS = {4: "recheck_4", 6: "recheck_6"}
RECHECKED = "rechecked"
FATES = ("allow", "drop", "reject")
_SIZE = 65536  # flows remembered; the others come up again until the sweep has passed
_TIMEOUT = 60  # seconds; longer than a recheck takes


def sets(table: str) -> list[str]:
    """Lines that make the sets, empty."""
    return [
        f"add set {table} {SETS[4]} {{ type ipv4_addr; }}",
        f"add set {table} {SETS[6]} {{ type ipv6_addr; }}",
        f"add set {table} {RECHECKED} {{ typeof ct id; flags dynamic,timeout; timeout {_TIMEOUT}s; size {_SIZE}; }}",
    ]


def chains(marks: MarkLayout) -> dict[str, list[str]]:
    """Chains that are always there and reached only while something is rechecked."""
    anew = ["jump recheck", f"ct mark & {marks.at(GENERATION):#010x} == 0x00000000 return"]
    ends = [("ip saddr", 4), ("ip daddr", 4), ("ip6 saddr", 6), ("ip6 daddr", 6)]
    return {
        **{f"anew_{fate}": [*anew, f"goto fate_{fate}"] for fate in FATES},
        "recheck": [f"{end} @{SETS[family]} goto again" for end, family in ends],
        "again": [
            f"ct id @{RECHECKED} return",
            f"add @{RECHECKED} {{ ct id }}",
            f"ct mark set ct mark & {~marks.at(GENERATION) & 0xFFFFFFFF:#010x}",
        ],
    }


def fill(addresses: Iterable[Address], *, again: bool = True) -> list[Operation]:
    """These and no others. again: flows that came up for an earlier one come up once more."""
    emptied = [*SETS.values(), *([RECHECKED] if again else [])]
    return [*(Flush("set", name) for name in emptied), *_added(addresses)]


def join(addresses: Iterable[Address]) -> list[Operation]:
    """These, too; all flows that came up for an earlier one come up once more."""
    return [Flush("set", RECHECKED), *_added(addresses)]


def _added(addresses: Iterable[Address]) -> list[Operation]:
    return [Add(SETS[one.version], one) for one in sorted(addresses, key=lambda one: (one.version, int(one)))]


def ids(objects: Iterable[dict[str, Any]]) -> frozenset[int]:
    """Conntrack ids in what `list set` answers."""
    elements = (element for entry in objects for element in entry.get("set", {}).get("elem", ()))
    return frozenset(int(element["elem"]["val"] if isinstance(element, dict) else element) for element in elements)
