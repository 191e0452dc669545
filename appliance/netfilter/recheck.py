# SPDX-License-Identifier: Apache-2.0
"""Flows of single addresses, decided anew while all others keep their fates: the nft side. Pure.

While addresses are rechecked the chains that carry a fate out first look for them:

    fate_allow ─▶ recheck: an end in recheck_4, recheck_6? ─▶ again: first time since the set changed?
                                                                 take the generation from the connection mark
                  a mark without generation is no fate: back to classify, which asks, with the fate as the previous one

`rechecked` holds the conntrack ids of flows that came up: their next fate is obeyed though their address still stands
in the set. With nothing to recheck the chains that carry a fate out have no rule of this.
"""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from appliance.netfilter.marks import GENERATION, MarkLayout

Address = IPv4Address | IPv6Address

SETS = {4: "recheck_4", 6: "recheck_6"}
RECHECKED = "rechecked"
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
    """Chains that are always there and jumped to only while something is rechecked."""
    ends = [("ip saddr", 4), ("ip daddr", 4), ("ip6 saddr", 6), ("ip6 daddr", 6)]
    return {
        "recheck": [f"{end} @{SETS[family]} goto again" for end, family in ends],
        "again": [
            f"ct id @{RECHECKED} return",
            f"add @{RECHECKED} {{ ct id }}",
            f"ct mark set ct mark & {~marks.at(GENERATION) & 0xFFFFFFFF:#010x}",
        ],
    }


def before_fate(marks: MarkLayout) -> tuple[str, str]:
    """What a chain that carries a fate out begins with while something is rechecked."""
    return "jump recheck", f"ct mark & {marks.at(GENERATION):#010x} == 0x00000000 return"


def fill(table: str, addresses: Iterable[Address], *, again: bool = True) -> list[str]:
    """These and no others. again: flows that came up for an earlier one come up once more."""
    lines = [f"flush set {table} {name}" for name in SETS.values()]
    if again:
        lines.append(f"flush set {table} {RECHECKED}")
    families: dict[int, list[str]] = {4: [], 6: []}
    for address in addresses:
        families[address.version].append(str(address))
    lines += [
        f"add element {table} {SETS[family]} {{ {', '.join(sorted(members))} }}"
        for family, members in families.items()
        if members
    ]
    return lines


def ids(objects: Iterable[dict[str, Any]]) -> frozenset[int]:
    """Conntrack ids in what `list set` answers."""
    elements = (element for entry in objects for element in entry.get("set", {}).get("elem", ()))
    return frozenset(int(element["elem"]["val"] if isinstance(element, dict) else element) for element in elements)
