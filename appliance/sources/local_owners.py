# SPDX-License-Identifier: Apache-2.0
"""Users and systemd units of this machine as WorkloadEndpoints: the programs behind its own sockets.

A packet of a local socket has the machine's address. Who owns the socket the kernel tells the fastpath, which then
looks up an address of 100::/64 (RFC 6666: no packet ever has it) that stands for the user or the control group; these
are the endpoints with such addresses. As containers they have the profile that allows everything, until a policy
selects them.
"""

import asyncio
import pwd
import re
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address
from pathlib import Path

from appliance.events.units import ROOTS, control_groups
from appliance.sources.base import SourceError, SourceSnapshot
from appliance.sources.inotify import Inotify
from rules.policy import Resource, load_object
from rules.policy.endpoints import DEFAULT_ALLOW
from rules.policy.model import LOOPBACK

NAMESPACE = "local"
ORIGIN = "sockets of the node"
USER_LABEL, UNIT_LABEL = "portcullis.dev/user", "portcullis.dev/unit"
RESCAN = 2.0  # seconds; finds what inotify was too late for
_PREFIX = 0x0100 << 112
_USER = 1 << 63


@dataclass(frozen=True)
class Group:
    """A control group: its path below the root of the hierarchy, and the kernel's number for it."""

    path: str
    number: int


def user_address(uid: int) -> IPv6Address:
    """As fp_owner_user_address()."""
    return IPv6Address(_PREFIX | _USER | uid)


def group_address(number: int) -> IPv6Address:
    """As fp_owner_cgroup_address()."""
    return IPv6Address(_PREFIX | number)


def is_owner(packed: bytes) -> bool:
    """Whether an address of 16 bytes stands for a user or a control group."""
    return packed.startswith(b"\x01\x00" + bytes(6))


def endpoints(node: str, users: Mapping[str, int], units: Mapping[str, Sequence[Group]]) -> tuple[Resource, ...]:
    """users: name → number. units: as configured → its control group and all below it; one that does not run has none,
    and is no endpoint. Pure."""
    found = [_endpoint(node, f"user-{name}", USER_LABEL, name, [user_address(uid)]) for name, uid in users.items()]
    found += [
        _endpoint(node, f"unit-{unit}", UNIT_LABEL, unit, [group_address(group.number) for group in groups])
        for unit, groups in units.items()
        if groups
    ]
    return tuple(sorted(found, key=lambda resource: resource.name))


def members(unit: str, groups: Iterable[Group]) -> list[Group]:
    """The control groups of a unit ("nginx.service"), or at and below a path ("/machine.slice/box")."""
    if unit.startswith("/"):
        return [group for group in groups if f"{group.path}/".startswith(f"{unit.rstrip('/')}/")]
    return [group for group in groups if unit in group.path.split("/")]


def _endpoint(node: str, name: str, label: str, value: str, addresses: Sequence[IPv6Address]) -> Resource:
    name = re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-.")[:253].rstrip("-.")
    labels = {
        label: re.sub(r"[^A-Za-z0-9_.-]+", "-", value).strip("-_.")[:63].rstrip("-_."),
        "projectcalico.org/orchestrator": NAMESPACE,
        "projectcalico.org/namespace": NAMESPACE,
    }
    return load_object(
        {
            "apiVersion": "projectcalico.org/v3",
            "kind": "WorkloadEndpoint",
            "metadata": {"name": name, "namespace": NAMESPACE, "labels": labels},
            "spec": {
                "node": node,
                "orchestrator": NAMESPACE,
                "workload": name,
                "endpoint": "sockets",
                "interfaceName": LOOPBACK,
                "ipNetworks": [f"{address}/128" for address in sorted(addresses)],
                "profiles": [DEFAULT_ALLOW],
            },
        },
        ORIGIN,
    )


class LocalOwners:
    """A Source of WorkloadEndpoint resources. users: names or numbers; units: names, or paths of control groups."""

    name = "owners"

    def __init__(
        self, node: str, users: Sequence[str], units: Sequence[str], *, roots: Sequence[Path] = ROOTS
    ) -> None:
        self._node = node
        self._users = tuple(users)
        self._units = tuple(units)
        self._roots = tuple(roots)
        self._current: SourceSnapshot[Resource] | None = None
        self._folders: tuple[Path, ...] = ()  # where control groups come and go
        self._lock = asyncio.Lock()

    async def snapshot(self) -> SourceSnapshot[Resource]:
        return self._current if self._current is not None else await self.resync()

    async def resync(self) -> SourceSnapshot[Resource]:
        """Keeps the snapshot object when nothing changed, so that identity tells."""
        async with self._lock:
            fresh = await asyncio.to_thread(self._read)
            if self._current is None or fresh != self._current:
                self._current = fresh
            return self._current

    async def watch(self) -> AsyncIterator[SourceSnapshot[Resource]]:
        told = await self.snapshot()
        async for _ in self._changes():
            current = await self.resync()
            if current is not told:
                told = current
                yield current

    async def _changes(self) -> AsyncIterator[None]:
        while True:
            folders = self._folders
            try:
                inotify = Inotify(folders)
            except OSError:  # one went away between the look and the watch, or there are too many watches
                await asyncio.sleep(RESCAN)
                yield
                continue
            try:
                while folders == self._folders:
                    await inotify.read(RESCAN)
                    yield
            finally:
                inotify.close()

    def _read(self) -> SourceSnapshot[Resource]:
        users: dict[str, int] = {}
        errors: list[SourceError] = []
        for name in self._users:
            uid = _uid(name)
            if uid is None:
                errors.append(SourceError(f"this machine has no user {name!r}", field="identities.users"))
            else:
                users[name] = uid
        units: dict[str, list[Group]] = {unit: [] for unit in self._units}
        folders: set[Path] = set()
        for root in filter(_is_version_2, self._roots if units else ()):
            groups = [Group(path, number) for number, path in control_groups(root)]
            for unit, found in units.items():
                found += members(unit, groups)
            folders.update(_watched(root, groups, units.values()))
        self._folders = tuple(sorted(folders))
        if units and not folders:
            errors.append(SourceError("this machine has no control groups of version 2", field="identities.units"))
        made = endpoints(self._node, users, units)
        return SourceSnapshot({ORIGIN: made} if made else {}, tuple(errors))


def _uid(name: str) -> int | None:
    if name.isdecimal():
        return int(name) if int(name) < 0xFFFFFFFF else None
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        return None


def _is_version_2(root: Path) -> bool:
    return (root / "cgroup.controllers").exists()


def _watched(root: Path, groups: Sequence[Group], units: Iterable[Sequence[Group]]) -> Iterator[Path]:
    """Slices, in which units start, and the units found, in which programs make groups of their own."""
    yield root
    known = {group.number for found in units for group in found}
    for group in groups:
        if group.path.endswith(".slice") or group.number in known:
            yield root / group.path.lstrip("/")
