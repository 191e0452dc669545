# SPDX-License-Identifier: Apache-2.0
"""What there is in this network namespace beside our rules. Read only; blocking."""

from dataclasses import dataclass
from pathlib import Path

from pyroute2 import IPRoute

from appliance.netfilter import backend as backends
from appliance.netfilter import nft, overlap
from appliance.netfilter.backend import FAMILIES, PROC_NET


@dataclass(frozen=True)
class BoundQueue:
    """A row of /proc/net/netfilter/nfnetlink_queue."""

    number: int
    port: int  # netlink port id; that of a process's first socket is its pid
    waiting: int


def bound_queues() -> list[BoundQueue]:
    """Every NFQUEUE bound in this namespace."""
    path = PROC_NET / "netfilter/nfnetlink_queue"
    if not path.exists():
        return []
    rows = (line.split() for line in path.read_text().splitlines())
    return [BoundQueue(int(row[0]), int(row[1]), int(row[2])) for row in rows if len(row) >= 3]


def has_net_admin(process: str = "thread-self") -> bool:
    """process: as /proc names it; one that is gone has none."""
    try:
        text = Path("/proc", process, "status").read_text()
    except OSError:
        return False
    for line in text.splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> 12 & 1)
    return False


def table_exists(table: str) -> bool:
    family, name = table.split()
    tables = (entry.get("table", {}) for entry in nft.query(f"list tables {family}"))
    return any(entry.get("name") == name and entry.get("family") == family for entry in tables)


def conntrack_in_use() -> bool:
    """By entries, or by a loaded rule that needs it. (The kernel does not tell who asked for it.)"""
    count = Path("/proc/sys/net/netfilter/nf_conntrack_count")
    if count.exists() and int(count.read_text()) > 0:
        return True
    objects = nft.query("list ruleset")
    if any(entry.get("chain", {}).get("type") == "nat" or '"ct"' in repr(entry).replace("'", '"') for entry in objects):
        return True
    needs = ("conntrack", "-m state", "CONNMARK", "connmark", "MASQUERADE", "-j CT ")
    return any(need in rule for family in FAMILIES for rule in backends.xt_list(family) for need in needs)


def ip_rules() -> list[tuple[int, int, int]]:
    rules = []
    with IPRoute() as ip:
        for rule in (*ip.get_rules(family=2), *ip.get_rules(family=10)):
            mark, mask = rule.get_attr("FRA_FWMARK"), rule.get_attr("FRA_FWMASK")
            if mark is not None or mask:
                rules.append((rule.get_attr("FRA_PRIORITY") or 0, mark or 0, overlap.ALL if mask is None else mask))
    return rules


def bridge_warnings() -> list[str]:
    if Path("/proc/sys/net/bridge/bridge-nf-call-iptables").exists():
        return []
    with IPRoute() as ip:
        bridges = [link.get_attr("IFLA_IFNAME") for link in ip.get_links(kind="bridge")]
    if not bridges:
        return []
    return [f"br_netfilter is not loaded: traffic between ports of one bridge ({', '.join(bridges)}) is not seen"]


def program(port: int) -> str:
    try:
        name = Path("/proc", str(port), "comm").read_text().strip()
    except OSError:
        return f"netlink port {port}"
    return f"{name} (pid {port})"
