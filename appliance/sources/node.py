# SPDX-License-Identifier: Apache-2.0
"""The node's own interfaces as host endpoints, made by themselves. Pure.

As Calico's automatic host endpoints they have the profile that allows everything, so nothing changes until a policy
selects them. Interfaces that somebody already speaks for are left out: those of a host endpoint, and those by which a
workload's packets come in.
"""

import re
from collections.abc import Iterable, Mapping

from appliance.sources.engine_api import Address
from rules.policy import Resource, load_object
from rules.policy.endpoints import DEFAULT_ALLOW
from rules.policy.model import LOOPBACK, HostEndpointSpec, Net, WorkloadEndpointSpec, parse_net
from rules.policy.reader import LABEL_VALUE

_NAMEABLE = re.compile(r"[a-zA-Z0-9_.-]{1,15}\Z")
EVERY = "*"


def host_endpoints(
    node: str, addresses: Mapping[str, Iterable[Address]], known: Iterable[Resource] = ()
) -> tuple[Resource, ...]:
    """One for each interface with an address. addresses: interface name → the node's addresses on it.

    Link-local addresses are the same on many interfaces and name none. known: resources from elsewhere.
    """
    taken, claimed = _spoken_for(node, known)
    if EVERY in taken:
        return ()  # an endpoint with a name would count before the operator's own for all interfaces
    found: dict[str, Resource] = {}
    for interface in sorted(addresses):
        own = [address for address in addresses[interface] if not address.is_link_local]
        nets = {parse_net(str(address))[0] for address in own}
        if not own or interface == LOOPBACK or interface in taken or nets & claimed or not _NAMEABLE.match(interface):
            continue
        name = re.sub(r"[^a-z0-9.]+", "-", f"{node}-{interface}".lower()).strip("-.")
        name = f"{name}-{len(found)}-auto-hep" if f"{name}-auto-hep" in found else f"{name}-auto-hep"
        labels = {
            "node": node,
            "interface": interface,
            "kubernetes.io/hostname": node,
            "projectcalico.org/created-by": "portcullis",
        }
        found[name] = load_object(
            {
                "apiVersion": "projectcalico.org/v3",
                "kind": "HostEndpoint",
                "metadata": {
                    "name": name,
                    "labels": {key: value for key, value in labels.items() if LABEL_VALUE.match(value)},
                },
                "spec": {
                    "node": node,
                    "interfaceName": interface,
                    "profiles": [DEFAULT_ALLOW],
                    "expectedIPs": [str(address) for address in own],
                },
            },
            "interfaces of the node",
        )
    return tuple(found.values())


def _spoken_for(node: str, known: Iterable[Resource]) -> tuple[set[str], set[Net]]:
    """Names of interfaces, and addresses of host endpoints, that somebody has described."""
    interfaces: set[str] = set()
    addresses: set[Net] = set()
    for resource in known:
        spec = resource.spec
        if isinstance(spec, WorkloadEndpointSpec | HostEndpointSpec) and spec.node == node:
            interfaces.add(spec.interface)
            if isinstance(spec, HostEndpointSpec):
                addresses.update(spec.addresses)
    return interfaces, addresses
