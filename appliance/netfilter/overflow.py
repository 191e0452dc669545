# SPDX-License-Identifier: Apache-2.0
"""When the connection table is full: new TCP connections go on untracked, in a table of their own.

The kernel drops what it cannot track before any rule of ours is asked. So, while the table is nearly full, a SYN and
what follows on its addresses and ports is taken out of tracking before that, in raw prerouting and output. Untracked
packets are all decided in user space, by policy and not by a fate; address translation does not happen for them.

    off        the chains are empty
    on         a SYN puts its connection into the set, packets of the set's connections are not tracked
    draining   no SYN any more; connections of the set go on until they have been silent for IDLE seconds
"""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from appliance.netfilter import nft

TABLE = "inet portcullis_full"
PRIORITY = -301  # before connection tracking (-200) and before raw (-300)
CHAINS = {"prerouting": "full_prerouting", "output": "full_output"}
SIZE = 65536  # connections of each IP version
IDLE = 120  # seconds
COUNTER = "untracked"
_SYN = "tcp flags & (fin|syn|rst|ack) == syn"
_FAMILIES = {4: ("ip", "ipv4_addr"), 6: ("ip6", "ipv6_addr")}

State = Literal["off", "on", "draining"]


class Fullness(NamedTuple):
    """entries and limit of this namespace's connection table; dropped: packets that found no room, since boot."""

    entries: int
    limit: int
    dropped: int


def fullness(proc: Path = Path("/proc")) -> Fullness:
    """Of the calling thread's namespace. OSError, ValueError where connection tracking is not there."""
    sysctl = proc / "sys/net/netfilter"
    entries, limit = (int((sysctl / name).read_text()) for name in ("nf_conntrack_count", "nf_conntrack_max"))
    names, *rows = (proc / "thread-self/net/stat/nf_conntrack").read_text().splitlines()
    column = names.split().index("drop")
    return Fullness(entries, limit, sum(int(row.split()[column], 16) for row in rows))


class Overflow:
    """Blocking; safe from any thread. Raises NftError."""

    def __init__(self) -> None:
        self.state: State = "off"
        self._made = False
        self._lock = threading.Lock()

    def set(self, state: State) -> None:
        """The first call makes the table."""
        with self._lock:
            lines = list(_table()) if not self._made else []
            lines += [f"flush chain {TABLE} {chain}" for chain in CHAINS.values()]
            lines += [f"add rule {TABLE} {chain} {rule}" for chain in CHAINS.values() for rule in rules(state)]
            nft.run("\n".join(lines) + "\n")
            self._made, self.state = True, state

    def idle(self) -> bool:
        """Whether no connection is left in the sets."""
        return not any(entry["set"].get("elem") for entry in nft.query(f"list table {TABLE}") if "set" in entry)

    def untracked(self) -> int:
        """SYNs that were taken out of tracking; 0 where the table is not there."""
        if not self._made:
            return 0
        try:
            found = nft.query(f"list counter {TABLE} {COUNTER}")
        except nft.NftError:
            return 0
        return sum(int(entry["counter"]["packets"]) for entry in found if "counter" in entry)

    def remove(self) -> None:
        """After Netfilter.remove(), when no queue of the namespace holds a packet: hooks go with the table."""
        with self._lock:
            if self._made:
                nft.run(f"delete table {TABLE}\n")
            self._made, self.state = False, "off"

    def empty(self) -> None:
        """Where another program's queue may hold packets: the table stays, and does nothing."""
        if self._made:
            self.set("off")


def rules(state: State) -> Iterator[str]:
    for version, (ip, _) in _FAMILIES.items() if state != "off" else ():
        there = f"{ip} saddr . tcp sport . {ip} daddr . tcp dport"
        back = f"{ip} daddr . tcp dport . {ip} saddr . tcp sport"
        if state == "on":
            # Where the set is full the rule ends here, and the kernel decides.
            yield f"{_SYN} update @open_{version} {{ {there} }} counter name {COUNTER} notrack accept"
        for ends in (there, back):
            yield f"{ends} @open_{version} update @open_{version} {{ {ends} }} notrack accept"


def _table() -> Iterator[str]:
    yield f"add table {TABLE}"
    yield f"add counter {TABLE} {COUNTER}"
    for version, (_, kind) in _FAMILIES.items():
        key = f"{kind} . inet_service . {kind} . inet_service"
        yield (
            f"add set {TABLE} open_{version} {{ type {key}; flags dynamic, timeout; size {SIZE}; timeout {IDLE}s; }}"
        )
    for hook, chain in CHAINS.items():
        yield f"add chain {TABLE} {chain} {{ type filter hook {hook} priority {PRIORITY}; policy accept; }}"
