# SPDX-License-Identifier: Apache-2.0
"""Every setting of the appliance with its default, its unit and its range. This is the one place where defaults live.

`systemd/portcullis.toml` is the commented copy of it for people; a test keeps the two equal.
"""

from typing import Annotated, Literal, cast

import msgspec
from msgspec import Meta

from threatfeeds.settings import Section

Mode = Literal["observe", "enforce"]
Action = Literal["allow", "drop", "reject", "policy"]

# "mode" is resolved when the file is loaded: allow in observe, drop in enforce.
PassOrDrop = Literal["mode", "allow", "drop"]
AnyAction = Literal["mode", "allow", "drop", "reject"]

QueueNumber = Annotated[int, Meta(ge=0, le=65535)]
# Descriptions stand behind "expected" in errors.
InterfaceName = Annotated[str, Meta(pattern=r'^[^\s/:"{}]{1,15}$', description="an interface's name, such as eth0")]
UserName = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*\$?$",
        description="the name of a user, such as www-data, or a number, such as 33",
    ),
]
UnitName = Annotated[
    str,
    Meta(
        pattern=r"^(/[^/]+)+$|^[A-Za-z0-9:_.\\@-]+$",
        description="the name of a unit, such as nginx.service, or the path of a control group, such as"
        " /machine.slice/box",
    ),
]
Bytes = Annotated[int, Meta(ge=0)]
EventType = Literal["flow", "alert", "drop", "dns", "tls", "http", "stats"]


class Hooks(Section, frozen=True):
    """Where packets are looked at."""

    forward: bool = True
    input: bool = True
    output: bool = True

    def names(self) -> tuple[str, ...]:
        return tuple(name for name in ("forward", "input", "output") if getattr(self, name))


class Queues(Section, frozen=True):
    """NFQUEUE numbers and sizes. Calico Enterprise uses 100 and 101."""

    first: QueueNumber = 0
    count: Annotated[int, Meta(ge=0, le=256)] = 0  # 0: one per core
    length: Annotated[int, Meta(ge=1, le=65535)] = 16384  # packets
    copy_range: Annotated[int, Meta(ge=128, le=65531)] = 512  # bytes
    receive_buffer: Annotated[int, Meta(ge=65536, le=1 << 30)] = 16 << 20  # bytes
    look: QueueNumber = 32
    slow_first: QueueNumber = 64

    def workers(self, cores: int) -> int:
        """Number of queues, one worker each, on a machine with `cores` usable cores."""
        return self.count or max(1, cores)


class Mark(Section, frozen=True):
    """The eight bits of the packet and connection mark that are ours."""

    mask: Annotated[int, Meta(ge=0xFF, le=0xFF000000)] = 0xFF000000
    allow_overlap: bool = False


class NetfilterSection(Section, frozen=True):
    """Chains in the kernel."""

    priority: Annotated[int, Meta(ge=-200, le=1000)] = 150
    backend: Literal["auto", "nft", "xt"] = "auto"
    log_group: Annotated[int, Meta(ge=0, le=65535)] = 9470


class Bridge(Section, frozen=True):
    """Bridges whose ports the node stands between."""

    interfaces: tuple[InterfaceName, ...] = ()


class Failsafe(Section, frozen=True):
    """Ports that policy never closes, in input and output. Calico's defaults for host endpoints."""

    inbound: tuple[str, ...] = (
        "tcp:22",
        "tcp:179",
        "tcp:2379",
        "tcp:2380",
        "tcp:5473",
        "tcp:6443",
        "tcp:6666",
        "tcp:6667",
        "udp:68",
    )
    outbound: tuple[str, ...] = (
        "tcp:179",
        "tcp:2379",
        "tcp:2380",
        "tcp:5473",
        "tcp:6443",
        "tcp:6666",
        "tcp:6667",
        "udp:53",
        "udp:67",
    )

    def inbound_ports(self) -> tuple[tuple[str, int], ...]:
        return tuple(parse_port(text) for text in self.inbound)

    def outbound_ports(self) -> tuple[tuple[str, int], ...]:
        return tuple(parse_port(text) for text in self.outbound)


class Failures(Section, frozen=True):
    """What happens to packets when something fails. A loaded configuration never contains "mode"."""

    queue_full: PassOrDrop = "mode"
    no_listener: PassOrDrop = "mode"
    inspector_down: PassOrDrop = "mode"
    inspector_overload: AnyAction = "mode"
    inspector_restart: PassOrDrop = "mode"
    truncated_packet: AnyAction = "mode"
    decode_error: PassOrDrop = "mode"
    midstream_flow: Literal["policy", "allow", "drop", "reject"] = "policy"
    spoofed_source: AnyAction = "mode"
    stream_memory: AnyAction = "mode"
    queue_takeover: PassOrDrop = "mode"
    conntrack_full: PassOrDrop = "mode"
    ruleset_error: PassOrDrop = "mode"
    ruleset_lost: PassOrDrop = "mode"

    def action(self, name: str) -> Action:
        """The resolved action of the failure `name`. Raises AttributeError for an unknown name."""
        return cast(Action, getattr(self, name))

    def resolved(self, mode: Mode) -> "Failures":
        fallback = "allow" if mode == "observe" else "drop"
        changes = {name: fallback for name in self.__struct_fields__ if getattr(self, name) == "mode"}
        return msgspec.structs.replace(self, **changes)


class PolicySection(Section, frozen=True):
    """Policy resources."""

    paths: tuple[str, ...] = ("/etc/portcullis/policy.d",)
    deny_action: Literal["drop", "reject"] = "drop"
    inspect_default: bool = False
    inspect_ports: tuple[str, ...] = ()

    def inspect_terms(self) -> tuple[tuple[str, int, int], ...]:
        """(protocol, first port, last port) of every entry of inspect_ports."""
        return tuple(parse_ports(text) for text in self.inspect_ports)


class Inspection(Section, frozen=True):
    """Inspectors: the slow path."""

    inspectors: Annotated[int, Meta(ge=0, le=256)] = 1  # processes; 0: nothing is inspected
    reader: Literal["fastpath", "netfilterqueue"] = "fastpath"
    depth: Bytes = 1 << 20  # bytes of each direction
    signatures: tuple[str, ...] = ("/etc/portcullis/signatures.d/*.rules",)
    memory: Annotated[int, Meta(ge=1 << 20)] = 64 << 20  # bytes of waiting stream data, each inspector
    flow_entries: Annotated[int, Meta(ge=1024, le=1 << 20)] = 65536  # each inspector
    flow_idle: Annotated[int, Meta(ge=1, le=86400)] = 300  # seconds
    patience: Annotated[int, Meta(ge=10, le=60000)] = 1000  # milliseconds that a packet waits at an inspector
    tls_ports: tuple[str, ...] = (
        "tcp:443",
        "tcp:465",
        "tcp:563",
        "tcp:636",
        "tcp:853",
        "tcp:989-995",
        "tcp:2376",
        "tcp:3269",
        "tcp:4433",
        "tcp:4443",
        "tcp:5061",
        "tcp:5223",
        "tcp:5671",
        "tcp:6697",
        "tcp:8443",
        "tcp:8883",
        "tcp:9443",
        "tcp:10443",
    )

    def tls_terms(self) -> tuple[tuple[str, int, int], ...]:
        """(protocol, first port, last port) of every entry of tls_ports."""
        return tuple(parse_ports(text) for text in self.tls_ports)


class Flood(Section, frozen=True):
    """Repeated denials that the kernel answers by itself. In mode observe nothing is denied, and this does nothing."""

    enabled: bool = True
    threshold: Annotated[int, Meta(ge=1, le=1_000_000)] = 50  # denials in a second
    timeout: Annotated[int, Meta(ge=1, le=3600)] = 10  # seconds
    size: Annotated[int, Meta(ge=1, le=1 << 20)] = 16384  # elements


class Feeds(Section, frozen=True):
    """Threat feeds."""

    paths: tuple[str, ...] = ("/etc/portcullis/feeds.d",)
    allow: tuple[str, ...] = ()
    state: str = "/var/lib/portcullis-feeds"


class Containers(Section, frozen=True):
    """Container engines whose containers are endpoints: paths of their sockets, "" for none."""

    docker: str = ""
    podman: str = ""
    unit: bool = False
    state: str = "/run/portcullis-containers/containers.json"


class Identities(Section, frozen=True):
    """What the node says about itself."""

    host_endpoints: Literal["off", "auto"] = "off"
    users: tuple[UserName, ...] = ()
    units: tuple[UnitName, ...] = ()

    @property
    def owners(self) -> bool:
        """Whether local sockets are endpoints of their own."""
        return bool(self.users or self.units)


class Domains(Section, frozen=True):
    """Names in policies and network sets."""

    trusted: tuple[str, ...] = ()  # addresses; (): the nameservers of /etc/resolv.conf
    allow_private: tuple[str, ...] = ()
    ttl_floor: Annotated[int, Meta(ge=0, le=86400)] = 10  # seconds
    ttl_cap: Annotated[int, Meta(ge=1, le=604800)] = 86400  # seconds
    wait: Annotated[int, Meta(ge=0, le=3000)] = 200  # milliseconds
    agree: bool = True
    state: str = "/var/lib/portcullis/domains.json"  # "" for none


class Events(Section, frozen=True):
    """EVE JSON."""

    file: str = ""  # path, "-" for standard output, "" for none
    types: tuple[EventType, ...] = ("flow", "alert", "drop", "dns", "tls", "http", "stats")


class Metrics(Section, frozen=True):
    """Prometheus metrics."""

    listen: str = "127.0.0.1:9477"

    def address(self) -> tuple[str, int] | None:
        """(host, port), or None when switched off."""
        return parse_listen(self.listen) if self.listen else None


class Control(Section, frozen=True):
    """How the command line reaches the running service, and what outlives it."""

    socket: str = "/run/portcullis/control.sock"  # "" for none
    state: str = "/var/lib/portcullis"


class Fastpath(Section, frozen=True):
    """The C engine."""

    cpus: tuple[Annotated[int, Meta(ge=0, le=4095)], ...] = ()
    flow_entries: Annotated[int, Meta(ge=1024, le=1 << 26)] = 65536
    flow_idle: Annotated[int, Meta(ge=1, le=86400)] = 180  # seconds
    event_entries: Annotated[int, Meta(ge=64, le=1 << 22)] = 16384
    gso: bool = True
    fates: bool = True
    udp_fate_seconds: Annotated[int, Meta(ge=0, le=86400)] = 60  # 0: for as long as the kernel has the connection
    udp_fate_bytes: Bytes = 256 << 20  # of both directions; 0: any number

    @property
    def udp_fates_end(self) -> bool:
        return self.fates and bool(self.udp_fate_seconds or self.udp_fate_bytes)


class Log(Section, frozen=True):
    """What the service says about itself."""

    level: Literal["debug", "info", "warning", "error"] = "info"


class Config(Section, frozen=True):
    """The whole configuration. Made by appliance.config.load_config, never by hand outside tests."""

    mode: Mode = "observe"
    node: str = ""  # "" is resolved to the host name
    scope: Literal["gateway", "node"] = "gateway"
    hooks: Hooks = Hooks()
    queues: Queues = Queues()
    mark: Mark = Mark()
    netfilter: NetfilterSection = NetfilterSection()
    bridge: Bridge = Bridge()
    failsafe: Failsafe = Failsafe()
    failures: Failures = Failures()
    policy: PolicySection = PolicySection()
    inspection: Inspection = Inspection()
    flood: Flood = Flood()
    feeds: Feeds = Feeds()
    domains: Domains = Domains()
    containers: Containers = Containers()
    identities: Identities = Identities()
    events: Events = Events()
    metrics: Metrics = Metrics()
    control: Control = Control()
    fastpath: Fastpath = Fastpath()
    log: Log = Log()


def parse_port(text: str) -> tuple[str, int]:
    """ "tcp:22" → ("tcp", 22). Raises ValueError."""
    proto, first, last = parse_ports(text)
    if first != last:
        raise ValueError(f"expected one port, got the range {text!r}")
    return proto, first


def parse_ports(text: str) -> tuple[str, int, int]:
    """ "tcp:80" → ("tcp", 80, 80), "udp:5000-5010" → ("udp", 5000, 5010). Raises ValueError."""
    proto, separator, ports = text.partition(":")
    first_text, dash, last_text = ports.partition("-")
    if not dash:
        last_text = first_text
    if proto not in ("tcp", "udp", "sctp") or not separator or not _is_port(first_text) or not _is_port(last_text):
        raise ValueError(f'expected "tcp:80", "udp:5000-5010" or the like, got {text!r}')
    first, last = int(first_text), int(last_text)
    if first > last:
        raise ValueError(f"the range {text!r} ends before it begins")
    return proto, first, last


def parse_listen(text: str) -> tuple[str, int]:
    """ "127.0.0.1:9477" or "[::1]:9477" → (host, port). Raises ValueError."""
    host, separator, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        separator = ""
    if not separator or not host or not _is_port(port):
        raise ValueError(f'expected "ADDRESS:PORT" such as "127.0.0.1:9477", got {text!r}')
    return host, int(port)


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= 65535
