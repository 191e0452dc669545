# SPDX-License-Identifier: Apache-2.0
"""Users and control groups as endpoints."""

import asyncio
import os
from ipaddress import IPv6Address
from pathlib import Path

import pytest

from appliance.sources.local_owners import Group, LocalOwners, endpoints, group_address, is_owner, members, user_address
from rules.policy.model import WorkloadEndpointSpec


def test_addresses_are_those_of_the_core() -> None:
    assert user_address(1000) == IPv6Address("100::8000:0:0:3e8")
    assert group_address(0x1234567890) == IPv6Address("100::12:3456:7890")
    assert is_owner(user_address(7).packed) and is_owner(group_address(7).packed)
    assert not is_owner(IPv6Address("100:0:0:1::7").packed)


def test_endpoints_have_labels_and_addresses() -> None:
    made = endpoints("n1", {"www-data": 33}, {"nginx.service": [Group("/system.slice/nginx.service", 9)], "gone": []})
    unit, user = made
    assert (user.name, user.metadata.namespace) == ("user-www-data", "local")
    assert user.metadata.labels["portcullis.dev/user"] == "www-data"
    assert unit.metadata.labels["portcullis.dev/unit"] == "nginx.service"
    assert isinstance(user.spec, WorkloadEndpointSpec)
    assert [net.addr for net in user.spec.addresses] == [user_address(33).packed]
    assert user.spec.node == "n1" and user.spec.interface == "lo"


def test_names_that_labels_cannot_have() -> None:
    made = endpoints("n1", {}, {"/user.slice/getty@tty1.service": [Group("/x", 3)]})
    assert made[0].name == "unit-user.slice-getty-tty1.service"
    assert made[0].metadata.labels["portcullis.dev/unit"] == "user.slice-getty-tty1.service"


@pytest.mark.parametrize(
    ("unit", "numbers"),
    [("a.service", [2, 3]), ("/system.slice", [1, 2, 3, 4]), ("/system.slice/a.service/", [2, 3]), ("a", []),
     ("/system", [])],
)  # fmt: skip
def test_a_unit_is_its_group_and_all_below_it(unit: str, numbers: list[int]) -> None:
    paths = ["/system.slice", "/system.slice/a.service", "/system.slice/a.service/x", "/system.slice/aa.service"]
    groups = [Group(path, number) for number, path in enumerate(paths, start=1)]
    assert [group.number for group in members(unit, groups)] == numbers


def hierarchy(root: Path) -> None:
    """As one of control groups of version 2."""
    (root / "system.slice").mkdir(parents=True)
    (root / "cgroup.controllers").touch()


def test_units_are_followed(tmp_path: Path) -> None:
    hierarchy(tmp_path)
    source = LocalOwners("n1", ["root"], ["a.service"], roots=[tmp_path / "none", tmp_path])

    async def follow() -> list[list[str]]:
        seen = [[item.name for item in (await source.snapshot()).all()]]
        watch = source.watch()
        for act in (Path.mkdir, Path.rmdir):
            following = asyncio.ensure_future(anext(watch))
            await asyncio.sleep(0.1)
            act(tmp_path / "system.slice" / "a.service")
            seen.append([item.name for item in (await asyncio.wait_for(following, 10)).all()])
        await watch.aclose()
        return seen

    assert asyncio.run(follow()) == [["user-root"], ["unit-a.service", "user-root"], ["user-root"]]


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    source = LocalOwners("n1", ["no-such-user", str(os.getuid())], ["a.service"], roots=[tmp_path])
    snapshot = asyncio.run(source.snapshot())
    assert [error.field for error in snapshot.errors] == ["identities.users", "identities.units"]
    assert [item.name for item in snapshot.all()] == [f"user-{os.getuid()}"]
