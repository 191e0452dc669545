# SPDX-License-Identifier: Apache-2.0
"""HostEndpoint and WorkloadEndpoint: fields, limits and cross-field rules of Calico's CRD and of its Go validator."""

import re
from collections.abc import Callable
from typing import Any

from rules.policy.model import HostEndpointSpec, NamedPort, Net, WorkloadEndpointSpec
from rules.policy.reader import DNS_SUBDOMAIN, REQUIRED, Reader, is_port_name
from rules.policy.wording import Path, what

_INTERFACE = re.compile(r"[a-zA-Z0-9_.-]{1,15}\Z")
_CONTAINER = re.compile(r"[a-zA-Z0-9]([-a-zA-Z0-9]*[a-zA-Z0-9])?\Z")
_PORT_FIELDS = ("name", "protocol", "port")
_WORKLOAD_FIELDS = (
    "orchestrator", "workload", "node", "containerID", "pod", "endpoint", "serviceAccountName", "ipNetworks", "ipNATs",
    "ipv4Gateway", "ipv6Gateway", "profiles", "interfaceName", "mac", "ports", "allowSpoofedSourcePrefixes",
    "qosControls",
)  # fmt: skip
_QOS_LIMITS = {
    "ingressBandwidth": (1000, 10**15), "egressBandwidth": (1000, 10**15),
    "ingressBurst": (1000, 34359738360), "egressBurst": (1000, 34359738360),
    "ingressPeakrate": (1010, 1010 * 10**12), "egressPeakrate": (1010, 1010 * 10**12),
    "ingressMinburst": (1000, 10**8), "egressMinburst": (1000, 10**8),
    "ingressPacketRate": (1, 10_000), "egressPacketRate": (1, 10_000),
    "ingressPacketBurst": (1, 10_000), "egressPacketBurst": (1, 10_000),
    "ingressMaxConnections": (1, 2**32 - 1), "egressMaxConnections": (1, 2**32 - 1),
}  # fmt: skip
_DSCP = re.compile(r"DF|EF|AF[1-4][1-3]|CS[0-6]|0*([0-9]|[1-5][0-9]|6[0-3])", re.IGNORECASE | re.ASCII)
# As Go's net.ParseMAC: 6, 8 or 20 octets, one separator throughout.
_MAC = re.compile(
    r"[0-9a-f]{2}(?:((?::[0-9a-f]{2})+)|((?:-[0-9a-f]{2})+))|[0-9a-f]{4}(?:\.[0-9a-f]{4})+", re.IGNORECASE | re.ASCII
)


def read_host_endpoint(r: Reader, value: Any, path: Path) -> HostEndpointSpec:
    fields = r.mapping(value, path, ("node", "interfaceName", "expectedIPs", "profiles", "ports"))
    node = r.name(fields, "node", path, longest=253)
    if not node:
        r.fail((*path, "node"), "node must be specified")
    interface = r.text(fields, "interfaceName", path)
    if interface:
        _check_interface(r, interface, path)
    addresses = r.addresses(fields, "expectedIPs", path)
    if not interface and not r.items(fields, "expectedIPs", path):
        r.fail(path, "at least one of interfaceName or expectedIPs must be specified")
    return HostEndpointSpec(
        node, interface, addresses, _profiles(r, fields, path, unique=True), _ports(r, fields, path, _host_port)
    )


def read_workload_endpoint(r: Reader, value: Any, path: Path) -> WorkloadEndpointSpec:
    fields = r.mapping(value, path, _WORKLOAD_FIELDS)
    interface = r.text(fields, "interfaceName", path)
    _check_interface(r, interface, path)
    container = r.text(fields, "containerID", path)
    if container and not _CONTAINER.match(container):
        r.fail((*path, "containerID"), f"{what(container)} is not a container's id")
    addresses = r.nets(fields, "ipNetworks", path, strict=False, unique=False)
    for net in addresses:
        if net.length != 128:
            r.fail((*path, "ipNetworks"), f"{net} is more than one address")
    for key, v4 in (("ipv4Gateway", True), ("ipv6Gateway", False)):
        gateway = r.address(fields, key, path)
        if gateway is not None and gateway.is_v4 is not v4:
            r.fail((*path, key), f"{gateway} is of the other IP version")
    mac = r.text(fields, "mac", path)
    if mac and not is_mac(mac):
        r.fail((*path, "mac"), f"{what(mac)} is not a MAC address")
    for i, item in enumerate(r.items(fields, "ipNATs", path)):
        _nat(r, item, (*path, "ipNATs", i), addresses)
    r.name(fields, "endpoint", path)
    _qos(r, fields.get("qosControls"), (*path, "qosControls"))
    unenforced = [f"spec.{key}" for key in ("ipNATs", "qosControls") if fields.get(key)]
    unenforced += [
        f"spec.ports[{i}].hostPort"
        for i, port in enumerate(r.items(fields, "ports", path))
        if isinstance(port, dict) and port.get("hostPort")
    ]
    return WorkloadEndpointSpec(
        r.name(fields, "node", path),
        interface,
        addresses,
        _profiles(r, fields, path, unique=False),
        _ports(r, fields, path, _workload_port),
        r.name(fields, "orchestrator", path),
        r.name(fields, "workload", path),
        r.name(fields, "pod", path),
        r.name(fields, "serviceAccountName", path),
        r.nets(fields, "allowSpoofedSourcePrefixes", path, strict=False, unique=False),
        tuple(unenforced),
    )


def is_mac(text: str) -> bool:
    return _MAC.fullmatch(text) is not None and sum(c.isalnum() for c in text) in (12, 16, 40)


def _check_interface(r: Reader, name: str, path: Path) -> None:
    if name != "*" and not _INTERFACE.match(name):
        why = "Too long: may not be more than 15 bytes" if len(name) > 15 else "not an interface's name"
        r.fail((*path, "interfaceName"), f"{why}: {what(name)} (1 to 15 of a-z A-Z 0-9 _ . -, or *)")


def _profiles(r: Reader, fields: Any, path: Path, *, unique: bool) -> tuple[str, ...]:
    names = r.strings(fields, "profiles", path, unique=unique)
    for i, name in enumerate(names):
        if not DNS_SUBDOMAIN.match(name):
            r.fail((*path, "profiles", i), f"{what(name)} is not a profile's name")
    return names


def _ports(
    r: Reader, fields: Any, path: Path, read_port: Callable[[Reader, Any, Path], NamedPort | None]
) -> tuple[NamedPort, ...]:
    read = (read_port(r, port, (*path, "ports", i)) for i, port in enumerate(r.items(fields, "ports", path)))
    return tuple(port for port in read if port is not None)


def _host_port(r: Reader, value: Any, path: Path) -> NamedPort | None:
    return _port(r, r.mapping(value, path, _PORT_FIELDS), path)


def _workload_port(r: Reader, value: Any, path: Path) -> NamedPort | None:
    return _port(r, r.mapping(value, path, (*_PORT_FIELDS, "hostPort", "hostIP")), path)


def _port(r: Reader, fields: Any, path: Path) -> NamedPort | None:
    host_port = r.integer(fields, "hostPort", path, 0, 65535, 0)
    if fields.get("hostIP"):
        r.net(fields["hostIP"], (*path, "hostIP"), strict=True)
    name = r.text(fields, "name", path)
    if not name and not host_port:
        r.fail((*path, "name"), f"{REQUIRED}: a port needs a name")
    elif name and not is_port_name(name):
        r.fail((*path, "name"), f"{what(name)} is not a port name: at most 15 of a-z, 0-9 and -, with a letter")
    proto = r.protocol(fields, "protocol", path)
    if "protocol" not in fields:
        r.fail((*path, "protocol"), REQUIRED)
    elif proto is not None and proto not in (6, 17, 132):
        r.fail((*path, "protocol"), "protocol does not support ports: expected TCP, UDP or SCTP")
    port = r.integer(fields, "port", path, 1, 65535)
    if "port" not in fields:
        r.fail((*path, "port"), REQUIRED)
    return NamedPort(name, proto, port) if proto is not None and port is not None else None


def _nat(r: Reader, value: Any, path: Path, addresses: tuple[Net, ...]) -> None:
    fields = r.mapping(value, path, ("internalIP", "externalIP"))
    internal, external = (r.address(fields, key, path) for key in ("internalIP", "externalIP"))
    for key, found in (("internalIP", internal), ("externalIP", external)):
        if found is None and not fields.get(key):
            r.fail((*path, key), REQUIRED)
    if internal is not None and external is not None and internal.is_v4 is not external.is_v4:
        r.fail(path, "mismatched IP versions: internalIP and externalIP")
    if internal is not None and internal not in addresses:
        r.fail((*path, "internalIP"), f"NAT is not in the endpoint networks: {internal} is not among ipNetworks")


def _qos(r: Reader, value: Any, path: Path) -> None:
    """Calico takes 0 for a control that is not there."""
    fields = r.mapping(value, path, (*_QOS_LIMITS, "dscp"))
    for key, (low, high) in _QOS_LIMITS.items():
        if fields.get(key) != 0:
            r.integer(fields, key, path, low, high)
    dscp = fields.get("dscp")
    if dscp is not None and (isinstance(dscp, bool) or not _DSCP.fullmatch(str(dscp))):
        r.fail((*path, "dscp"), f"expected 0..63 or a name such as AF11, found {what(dscp)}")
