# SPDX-License-Identifier: Apache-2.0
"""What the Docker Engine API (v1.41; Podman serves the same) says about containers. Pure: bytes in, structs out.

Read are GET /containers/json, GET /containers/{id}/json and the lines of GET /events; fields that are not needed are
ignored, fields of the wrong type make the whole answer an ApiError.
"""

import ipaddress
import re
from dataclasses import dataclass, field
from typing import Any

import msgspec

from fastpath.errors import PortcullisError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

API = "/v1.41"
LIST = f"{API}/containers/json"
# type=container and type=network. Actions are filtered here: the engines do not agree on their names.
EVENTS = f"{API}/events?filters=%7B%22type%22%3A%5B%22container%22%2C%22network%22%5D%7D"
MAX_LIST = 64 << 20  # bytes of the list of containers
MAX_DETAILS = 4 << 20  # bytes
MAX_EVENT = 1 << 20  # bytes of one event
MAX_CONTAINERS = 100_000

# Podman says "died" and "remove" where Docker says "die" and "destroy".
_ACTIONS = frozenset((
    "start", "restart", "die", "died", "stop", "rename", "update", "destroy", "remove", "connect", "disconnect",
))  # fmt: skip
_ID = re.compile(r"[0-9a-f]{12,64}\Z")


class ApiError(PortcullisError):
    """An answer that is not what the API promises."""


class _Attachment(msgspec.Struct, rename="pascal"):
    network_id: str | None = msgspec.field(default=None, name="NetworkID")
    gateway: str | None = None
    ip_address: str | None = msgspec.field(default=None, name="IPAddress")
    ipv6_gateway: str | None = msgspec.field(default=None, name="IPv6Gateway")
    global_ipv6_address: str | None = msgspec.field(default=None, name="GlobalIPv6Address")


class _Networks(msgspec.Struct, rename="pascal"):
    networks: dict[str, _Attachment | None] | None = None


class _HostConfig(msgspec.Struct, rename="pascal"):
    network_mode: str = ""

    @property
    def joined(self) -> str:
        mode, _, target = self.network_mode.partition(":")
        return target if mode == "container" else ""


class _Listed(msgspec.Struct, rename="pascal"):
    id: str
    names: list[str] | None = None
    labels: dict[str, str] | None = None
    state: str = "running"
    network_settings: _Networks | None = None
    host_config: _HostConfig | None = None  # Docker only


class _State(msgspec.Struct, rename="pascal"):
    pid: int = 0


class _Inspected(msgspec.Struct, rename="pascal"):
    id: str
    state: _State = msgspec.field(default_factory=_State)
    host_config: _HostConfig = msgspec.field(default_factory=_HostConfig)


class _Event(msgspec.Struct, rename="pascal"):
    type: str = ""
    action: str = ""


@dataclass(frozen=True)
class Attachment:
    """A container in a network. `gateways`: the network's routers, for a bridge its own addresses on this node."""

    network: str
    network_id: str
    addresses: tuple[Address, ...]
    gateways: tuple[Address, ...] = ()


@dataclass(frozen=True)
class Container:
    """A running container; `name` without the API's leading slash, `attachments` in the order of the networks' names.

    joined: id or name of the container whose network it uses. problems: what the engine said of it that cannot be used.
    """

    id: str
    name: str
    labels: dict[str, str] = field(default_factory=dict)
    attachments: tuple[Attachment, ...] = ()
    joined: str = ""
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Details:
    """pid: of the container's first process, 0 when it does not run. joined: the container whose network it uses."""

    pid: int = 0
    joined: str = ""


def read_containers(body: bytes) -> tuple[Container, ...]:
    """Running containers of GET /containers/json, by id. Raises ApiError."""
    listed = _decode(body, list[_Listed])
    if len(listed) > MAX_CONTAINERS:
        raise ApiError(f"{len(listed)} containers, more than {MAX_CONTAINERS}")
    found: dict[str, Container] = {}
    for entry in listed:
        if not _ID.match(entry.id):
            raise ApiError(f"{entry.id[:80]!r} is not a container's id")
        if entry.state in ("running", "paused"):
            problems: list[str] = []
            attachments = _attachments(entry, problems)
            joined = entry.host_config.joined if entry.host_config is not None else ""
            found[entry.id] = Container(
                entry.id, _name(entry), entry.labels or {}, attachments, joined, tuple(problems)
            )
    return tuple(found[key] for key in sorted(found))


def read_details(body: bytes) -> Details:
    """GET /containers/{id}/json. Raises ApiError."""
    inspected = _decode(body, _Inspected)
    return Details(max(inspected.state.pid, 0), inspected.host_config.joined)


def concerns(line: bytes) -> bool:
    """Whether an event may have changed which containers run, their names, labels or addresses. Raises ApiError."""
    event = _decode(line, _Event)
    return event.type in ("container", "network") and event.action in _ACTIONS


def _decode(body: bytes, kind: Any) -> Any:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ApiError(f"unexpected answer: {error}") from None


def _name(entry: _Listed) -> str:
    """A container that others link to (Docker) has names with a second slash, which are not its own."""
    names = [name.removeprefix("/") for name in entry.names or ()]
    return next((name for name in names if name and "/" not in name), entry.id[:12])


def _attachments(entry: _Listed, problems: list[str]) -> tuple[Attachment, ...]:
    networks = entry.network_settings.networks if entry.network_settings is not None else None
    found = []
    for name, item in sorted((networks or {}).items()):
        if item is None:
            continue
        addresses = _addresses(problems, item.ip_address, item.global_ipv6_address)
        if addresses:
            gateways = _addresses(problems, item.gateway, item.ipv6_gateway)
            found.append(Attachment(name, item.network_id or "", addresses, gateways))
    return tuple(found)


def _addresses(problems: list[str], *texts: str | None) -> tuple[Address, ...]:
    found: list[Address] = []
    for text in filter(None, texts):
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            address = None
        if address is None or "%" in text or address.is_unspecified or address.is_loopback or address.is_multicast:
            problems.append(f"{text[:80]!r} is not an address of a container")
        else:
            found.append(address)
    return tuple(found)
