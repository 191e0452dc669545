# SPDX-License-Identifier: Apache-2.0
"""Bridges whose ports we stand between: what has to be different for frames that no router sees.

br_netfilter lifts the IP packets in a bridge's frames to the hooks of the IP layer, where they meet the same chains
as routed ones, with the bridge as interface and the ports beside it. Two things are of the bridge alone:

- A broadcast or multicast frame is flooded: the copies share one connection entry that nobody has confirmed, and the
  queue drops, uncounted, all of them but one. So they are not tracked, and decided one by one.
- What a link cannot live without (neighbour discovery, group membership, DHCP) crosses the bridge, not the node: the
  policy of a workload says nothing about it. It passes. ARP is no IP and never comes here.
"""

from collections.abc import Collection, Iterator
from pathlib import Path

from pyroute2 import IPRoute

from appliance.netfilter.nft import NftError

CHAIN = "untracked"
PRIORITY = -301  # before connection tracking (-200) and before raw (-300)
OPTIONS = ("br_nf_call_iptables", "br_nf_call_ip6tables")
LOADED = Path("/proc/sys/net/bridge")


def untracked(bridges: Collection[str]) -> Iterator[str]:
    """Rules of the chain in prerouting."""
    if bridges:
        yield f"iifname {names(bridges)} meta pkttype {{ broadcast, multicast }} notrack"


def essentials(bridges: Collection[str], icmpv6: str) -> Iterator[str]:
    """Rules of classify_forward. icmpv6: the types that a link needs."""
    if bridges:
        crosses = f"iifname {names(bridges)} oifname {names(bridges)}"
        yield f"{crosses} icmpv6 type {{ {icmpv6} }} accept"
        yield f"{crosses} ip protocol igmp accept"
        yield f"{crosses} meta nfproto ipv4 udp sport {{ 67, 68 }} udp dport {{ 67, 68 }} accept"
        yield f"{crosses} meta nfproto ipv6 udp dport {{ 546, 547 }} accept"


def names(bridges: Collection[str]) -> str:
    return "{ " + ", ".join(f'"{name}"' for name in sorted(bridges)) + " }"


def lift(bridges: Collection[str], on: bool = True) -> list[str]:
    """Shows the hooks of the IP layer what these bridges forward, or stops that; returns those where it was otherwise.

    Raises NftError for what is no bridge, and where br_netfilter is not loaded.
    """
    changed = []
    with IPRoute() as ip:
        there = {link.get_attr("IFLA_IFNAME"): link for link in ip.get_links(kind="bridge")}
        for name in sorted(bridges):
            if name not in there and not on:
                continue
            if name not in there:
                raise NftError(f"there is no bridge {name}: make it first, or take it out of [bridge] interfaces")
            if not LOADED.is_dir():
                raise NftError(f"bridge {name}: the kernel module br_netfilter is not loaded (modprobe br_netfilter)")
            data = there[name].get_attr("IFLA_LINKINFO").get_attr("IFLA_INFO_DATA")
            if any(data.get_attr(f"IFLA_{option.upper()}") != int(on) for option in OPTIONS):
                ip.link("set", index=there[name]["index"], kind="bridge", **dict.fromkeys(OPTIONS, int(on)))
                changed.append(name)
    return changed
