# SPDX-License-Identifier: Apache-2.0
"""Validated resources: immutable; selectors are parsed, networks are bytes, defaults are filled in."""

import math
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from rules.policy.selector import Node

V4_MAPPED = b"\0" * 10 + b"\xff\xff"
PROTOCOLS = {"TCP": 6, "UDP": 17, "ICMP": 1, "ICMPv6": 58, "SCTP": 132, "UDPLite": 136}
PORT_PROTOCOLS = frozenset((6, 17, 132))
LOOPBACK = "lo"


class Net(NamedTuple):
    """A network as the identity map has it: 16 bytes in network order, host bits zero; IPv4 below ::ffff:0:0/96."""

    addr: bytes
    length: int

    @property
    def is_v4(self) -> bool:
        return self.length >= 96 and self.addr.startswith(V4_MAPPED)

    def within(self, length: int) -> "Net":
        """The network of that length that it lies in; `length` is not above its own."""
        return Net(mask(self.addr, length), length)

    def __str__(self) -> str:
        if self.is_v4:
            return f"{socket.inet_ntop(socket.AF_INET, self.addr[12:])}/{self.length - 96}"
        return f"{socket.inet_ntop(socket.AF_INET6, self.addr)}/{self.length}"


def mask(addr: bytes, length: int) -> bytes:
    """`addr` with everything behind the first `length` bits zero."""
    whole, rest = divmod(length, 8)
    if rest:
        return addr[:whole] + bytes((addr[whole] & (0xFF00 >> rest & 0xFF),)) + b"\0" * (15 - whole)
    return addr[:whole] + b"\0" * (16 - whole)


def parse_net(text: str) -> tuple[Net, bool]:
    """(network, whether host bits were set) of a CIDR or an address. Raises ValueError."""
    address, slash, bits = text.partition("/")
    try:
        if ":" in address:
            packed, width, offset = socket.inet_pton(socket.AF_INET6, address), 128, 0
            if packed.startswith(V4_MAPPED):
                width, offset = 32, 96
        else:
            packed, width, offset = V4_MAPPED + socket.inet_pton(socket.AF_INET, address), 32, 96
    except (OSError, UnicodeError, ValueError):
        raise ValueError(f"{text!r} is not an address or a network") from None
    if not slash:
        return Net(packed, 128), False
    if not bits.isascii() or not bits.isdigit() or len(bits) > 3 or (len(bits) > 1 and bits[0] == "0"):
        raise ValueError(f"{text!r} is not a network: prefix length {bits!r}")
    length = int(bits)
    if width == 32 and ":" in address:
        length -= 96
    if not 0 <= length <= width:
        raise ValueError(f"{text!r} is not a network: prefix length {bits}")
    masked = mask(packed, offset + length)
    return Net(masked, offset + length), masked != packed


class PortRange(NamedTuple):
    first: int
    last: int


class Icmp(NamedTuple):
    type: int | None
    code: int | None


class NamedPort(NamedTuple):
    name: str
    proto: int
    port: int


class HttpPath(NamedTuple):
    exact: str | None
    prefix: str | None


class HttpMatch(NamedTuple):
    methods: tuple[str, ...]
    paths: tuple[HttpPath, ...]


class Services(NamedTuple):
    name: str
    namespace: str  # empty: the policy's own


class ServiceAccounts(NamedTuple):
    names: tuple[str, ...]
    selector: Node | None


@dataclass(frozen=True, slots=True)
class EntityRule:
    nets: tuple[Net, ...] = ()
    not_nets: tuple[Net, ...] = ()
    selector: Node | None = None
    not_selector: Node | None = None
    namespace_selector: Node | None = None
    services: Services | None = None
    ports: tuple[PortRange | str, ...] = ()
    not_ports: tuple[PortRange | str, ...] = ()
    service_accounts: ServiceAccounts | None = None
    domains: tuple[str, ...] = ()


ANYTHING = EntityRule()


@dataclass(frozen=True, slots=True)
class Rule:
    action: str  # Allow, Deny, Log, Pass
    ip_version: int | None = None
    proto: int | None = None
    not_proto: int | None = None
    icmp: Icmp | None = None
    not_icmp: Icmp | None = None
    source: EntityRule = ANYTHING
    destination: EntityRule = ANYTHING
    http: HttpMatch | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)
    line: int | None = None


@dataclass(frozen=True, slots=True)
class TierSpec:
    order: float = math.inf
    default_action: str = "Deny"


@dataclass(frozen=True, slots=True)
class PolicySpec:
    """Of every policy kind; Kubernetes policies are converted to it when loaded."""

    tier: str = "default"
    order: float = math.inf
    ingress: tuple[Rule, ...] = ()
    egress: tuple[Rule, ...] = ()
    selector: Node | None = None
    namespace_selector: Node | None = None
    service_account_selector: Node | None = None
    types: tuple[str, ...] = ()
    do_not_track: bool = False
    pre_dnat: bool = False
    apply_on_forward: bool = False
    staged_action: str | None = None  # staged kinds only


@dataclass(frozen=True, slots=True)
class ProfileSpec:
    ingress: tuple[Rule, ...] = ()
    egress: tuple[Rule, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NetworkSetSpec:
    nets: tuple[Net, ...] = ()
    domains: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class HostEndpointSpec:
    node: str
    interface: str = ""
    addresses: tuple[Net, ...] = ()
    profiles: tuple[str, ...] = ()
    ports: tuple[NamedPort, ...] = ()


@dataclass(frozen=True, slots=True)
class WorkloadEndpointSpec:
    node: str = ""
    interface: str = ""
    addresses: tuple[Net, ...] = ()
    profiles: tuple[str, ...] = ()
    ports: tuple[NamedPort, ...] = ()
    orchestrator: str = ""
    workload: str = ""
    pod: str = ""
    service_account: str = ""
    spoofed: tuple[Net, ...] = ()  # sources it may use besides its own addresses
    unenforced: tuple[str, ...] = ()  # fields that are valid and that nobody here acts on


@dataclass(frozen=True, slots=True)
class ServiceEndpointsSpec:
    """Addresses behind a service, as an EndpointSlice or Endpoints object gives them."""

    service: str
    addresses: tuple[Net, ...] = ()
    ports: tuple[tuple[int, int], ...] = ()  # (protocol, port)


@dataclass(frozen=True, slots=True)
class EmptySpec:
    """Kinds whose labels are all that counts: Namespace, ServiceAccount."""


Spec = (
    TierSpec
    | PolicySpec
    | ProfileSpec
    | NetworkSetSpec
    | HostEndpointSpec
    | WorkloadEndpointSpec
    | ServiceEndpointsSpec
    | EmptySpec
)


@dataclass(frozen=True, slots=True)
class Metadata:
    name: str
    namespace: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    unused_namespace: str = ""  # given to a resource of the whole cluster


@dataclass(frozen=True, slots=True)
class Resource:
    """One resource. `kind` is the document's; `api` ("calico", "kubernetes") tells two NetworkPolicy apart."""

    kind: str
    metadata: Metadata
    spec: Spec
    file: str
    line: int
    api: str = "calico"

    @property
    def name(self) -> str:
        return self.metadata.name

    @property
    def namespace(self) -> str:
        return self.metadata.namespace

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What makes it the same resource as another."""
        return self.api, self.kind, self.namespace, self.name

    @property
    def title(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


Raw = Mapping[str, Any]
