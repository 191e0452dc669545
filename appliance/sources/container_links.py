# SPDX-License-Identifier: Apache-2.0
"""By which interface of the node a container's packets come in (rtnetlink; no privilege needed).

On a bridge that is the bridge: its address is the gateway of the network. Elsewhere it is the host's end of the
container's veth pair, found by the id under which the node knows the container's network namespace.
"""

import contextlib
import ipaddress
from dataclasses import dataclass, field

from pyroute2 import IPRoute, NetlinkError

from appliance.sources.engine_api import Address, Attachment, Container, Details


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

    def interface_of(self, container: Container, attachment: Attachment, details: Details | None) -> str:
        """ "" when it is not known: a macvlan, another node's network, a gateway that is no bridge of this node."""
        named = {other: self._by_name(other) for other in container.attachments}
        if named.get(attachment):
            return named[attachment]
        namespace = self.namespaces.get(details.pid) if details is not None else None
        if namespace is None:
            return ""
        own = {veth.bridge or veth.name for veth in self.veths if veth.namespace == namespace}
        left = own - set(named.values())
        return left.pop() if len(left) == 1 and list(named.values()).count("") == 1 else ""

    def _by_name(self, attachment: Attachment) -> str:
        for gateway in attachment.gateways:
            if gateway in self.owners:
                return self.owners[gateway]
        # Networks that lead nowhere have no gateway; Docker names its bridges so.
        bridge = f"br-{attachment.network_id[:12]}"
        return bridge if len(attachment.network_id) >= 12 and bridge in self.names else ""


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
