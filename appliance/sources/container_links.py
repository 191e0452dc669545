# SPDX-License-Identifier: Apache-2.0
"""By which interface of the node a container's packets come in (rtnetlink; no privilege needed).

On a bridge that is the bridge: its address is the gateway of the network. Elsewhere it is the host's end of the
container's veth pair, found by the id under which the node knows the container's network namespace.
"""

import contextlib
import ipaddress
from dataclasses import dataclass, field

from pyroute2 import IPRoute, NetlinkError

from appliance.sources.engine_api import Address, Attachment, Details


@dataclass(frozen=True)
class Veth:
    """The host's end. namespace: id of the peer's network namespace (NETNSA_NSID); bridge: "" where it is in none."""

    name: str
    namespace: int
    bridge: str = ""


@dataclass(frozen=True)
class Links:
    """owners: the node's addresses → name of the interface; names: of all interfaces."""

    owners: dict[Address, str] = field(default_factory=dict)
    names: frozenset[str] = frozenset()
    veths: tuple[Veth, ...] = ()
    namespaces: dict[int, int] = field(default_factory=dict)  # process → id of its network namespace

    def interface_of(self, attachment: Attachment, details: Details | None) -> str:
        """"" when it is not known: a macvlan, another node's network, a gateway that is no bridge of this node."""
        for gateway in attachment.gateways:
            if gateway in self.owners:
                return self.owners[gateway]
        # Networks that lead nowhere have no gateway; Docker names its bridges so.
        bridge = f"br-{attachment.network_id[:12]}"
        if len(attachment.network_id) >= 12 and bridge in self.names:
            return bridge
        namespace = self.namespaces.get(details.pid) if details is not None else None
        own = [veth for veth in self.veths if veth.namespace == namespace] if namespace is not None else []
        routed = {veth.name for veth in own if not veth.bridge}
        bridges = {veth.bridge for veth in own if veth.bridge}
        candidates = routed or bridges
        return candidates.pop() if len(candidates) == 1 else ""


def read_links(pids: frozenset[int] = frozenset()) -> Links:
    """The interfaces of this network namespace and the namespaces of processes. Blocking; raises OSError."""
    with IPRoute() as route:
        links = list(route.get_links())
        names = {link["index"]: str(link.get_attr("IFLA_IFNAME")) for link in links}
        owners: dict[Address, str] = {}
        for entry in route.get_addr():
            text = entry.get_attr("IFA_LOCAL") or entry.get_attr("IFA_ADDRESS")
            if text and entry["index"] in names:
                address = ipaddress.ip_address(text)
                if not address.is_link_local:
                    owners[address] = names[entry["index"]]
        veths = []
        for link in links:
            namespace = link.get_attr("IFLA_LINK_NETNSID")
            if namespace is not None:
                bridge = names.get(link.get_attr("IFLA_MASTER") or 0, "")
                veths.append(Veth(names[link["index"]], int(namespace), bridge))
        namespaces = {}
        for pid in pids:
            with contextlib.suppress(NetlinkError):  # it ended meanwhile
                namespaces[pid] = int(route.get_netnsid(pid=pid)["nsid"])
    return Links(owners, frozenset(names.values()), tuple(veths), namespaces)
