# SPDX-License-Identifier: Apache-2.0
"""Repeated denials that the kernel answers by itself for a while: the nft side. Pure.

    classify, a new TCP or UDP flow ─▶ flood_<hook>_<protocol>: in flood_<hook>_<protocol>_<family>? ─▶ drop or refuse
                                                              in flood_source_<family>? ───────────▶ the same
                                       else the question goes up as ever

A tuple is (interfaces, source, destination, destination port): a sender who forges his address can only bring about
what that address is denied anyway, on the interfaces he sends over. A source is one that a feed denies whole. The
elements are verdicts and expire by themselves; flows that are open are not asked for here.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from appliance.netfilter.elements import Flush, Operation

Address = IPv4Address | IPv6Address

PROTOCOLS = {6: "tcp", 17: "udp"}
COUNTERS = ("flood_dropped", "flood_rejected")
PREFIX = "flood_"  # of chains and maps
_FAMILIES = {4: ("ip", "ipv4_addr"), 6: ("ip6", "ipv6_addr")}
_INTERFACES = {"forward": ("iif", "oif"), "input": ("iif",), "output": ("oif",)}
_CHAINS = {False: "flood_drop", True: "flood_reject"}


@dataclass(frozen=True)
class Denied:
    """New flows of this tuple. iif, oif: ifindex, 0 where the hook has none. reject: or dropped."""

    hook: str
    iif: int
    oif: int
    protocol: int  # of PROTOCOLS
    source: Address
    destination: Address
    port: int
    reject: bool = False

    def element(self) -> tuple[str, str]:
        """(map, key)"""
        indexes = {"iif": self.iif, "oif": self.oif}
        parts = [str(indexes[name]) for name in _INTERFACES[self.hook]]
        parts += [str(self.source), str(self.destination), str(self.port)]
        return f"flood_{self.hook}_{PROTOCOLS[self.protocol]}_{self.source.version}", " . ".join(parts)

    def __str__(self) -> str:
        return f"{self.source} → {self.destination} {PROTOCOLS[self.protocol]}/{self.port}"


@dataclass(frozen=True)
class DeniedSource:
    """New flows from this address, wherever they go."""

    source: Address
    reject: bool = False

    def element(self) -> tuple[str, str]:
        return f"flood_source_{self.source.version}", str(self.source)

    def __str__(self) -> str:
        return f"everything from {self.source}"


def _maps(hooks: Iterable[str]) -> dict[str, str]:
    """Name → type of its keys."""
    maps = {f"flood_source_{version}": kind for version, (_, kind) in _FAMILIES.items()}
    for hook in hooks:
        for protocol in PROTOCOLS.values():
            for version, (_, kind) in _FAMILIES.items():
                parts = [*("iface_index" for _ in _INTERFACES[hook]), kind, kind, "inet_service"]
                maps[f"flood_{hook}_{protocol}_{version}"] = " . ".join(parts)
    return maps


def maps(table: str, hooks: Iterable[str], size: int) -> list[str]:
    """Lines that make the maps, which must not be there: one of another size cannot be taken over."""
    return [
        f"add map {table} {name} {{ type {kind} : verdict; flags timeout; size {size}; }}"
        for name, kind in _maps(hooks).items()
    ]


def flush(hooks: Iterable[str]) -> list[Operation]:
    return [Flush("map", name) for name in _maps(hooks)]


def chains(hooks: Iterable[str], *, count: bool) -> dict[str, list[str]]:
    dropped, rejected = (f"counter name {name} " if count else "" for name in COUNTERS)
    bodies = {"flood_drop": [f"{dropped}drop"], "flood_reject": [f"{rejected}goto refuse"]}
    for hook in hooks:
        for protocol in PROTOCOLS.values():
            rules = []
            for version, (family, _) in _FAMILIES.items():
                parts = [*_INTERFACES[hook], f"{family} saddr", f"{family} daddr", f"{protocol} dport"]
                rules.append(f"{' . '.join(parts)} vmap @flood_{hook}_{protocol}_{version}")
                rules.append(f"{family} saddr vmap @flood_source_{version}")
            bodies[f"flood_{hook}_{protocol}"] = rules
    return bodies


def add(table: str, denied: Sequence[Denied | DeniedSource], seconds: int) -> str:
    """One transaction. An element that is there already stays as it is."""
    maps: dict[str, list[str]] = {}
    for entry in denied:
        name, key = entry.element()
        maps.setdefault(name, []).append(f"{key} timeout {seconds}s : goto {_CHAINS[entry.reject]}")
    return "".join(f"add element {table} {name} {{ {', '.join(keys)} }}\n" for name, keys in maps.items())
