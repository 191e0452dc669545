# SPDX-License-Identifier: Apache-2.0
"""Elements that netlink alone exchanges are those that nft would have made of the same operations."""

import random
from collections.abc import Callable, Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest

from appliance.lab import Lab, Namespace
from appliance.netfilter import elements, nft
from appliance.netfilter.addresses import Asked, Interval, difference
from appliance.netfilter.elements import Add, Flush, Interface, Operation, Range

TABLE = "inet lab"
MAKE = f"""
add table {TABLE}
flush table {TABLE}
add chain {TABLE} one
add chain {TABLE} two
add map {TABLE} marks {{ type mark : verdict; }}
add set {TABLE} allowed {{ type mark; }}
add set {TABLE} four {{ type ipv4_addr; }}
add set {TABLE} six {{ type ipv6_addr; }}
add set {TABLE} links {{ type iface_index; }}
"""
KINDS = {"marks": "map", "allowed": "set", "four": "set", "six": "set", "links": "set"}


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    with Lab() as lab:
        yield lab.namespace("node")


def operations(seed: int) -> list[Operation]:
    rng = random.Random(seed)
    found: list[Operation] = [Flush(kind, name) for name, kind in KINDS.items() if rng.random() < 0.5]  # type: ignore[arg-type]
    for _ in range(rng.randrange(12)):
        found.append(rng.choice([
            Add("marks", rng.getrandbits(32), rng.choice(("one", "two"))), Add("allowed", rng.getrandbits(32)),
            Add("four", IPv4Address(rng.getrandbits(32))), Add("six", IPv6Address(rng.getrandbits(128))),
            Add("links", Interface(rng.randrange(1, 1 << 20))),
        ]))  # fmt: skip
    return found


def told(change: Callable[[Sequence[Operation]], object]) -> list[list[dict[str, Any]]]:
    """What nft lists after each of a row of changes."""
    nft.run(MAKE)
    seen = []
    for seed in range(30):
        change(operations(seed))
        seen.append([entry for entry in nft.query(f"list table {TABLE}") if "set" in entry or "map" in entry])
        for entry in seen[-1]:
            for value in entry.values():
                value.pop("handle", None)
                value.get("elem", []).sort(key=str)
    nft.run(f"delete table {TABLE}\n")
    return seen


def both() -> tuple[list[list[dict[str, Any]]], list[list[dict[str, Any]]]]:
    exchange = elements.Exchange()
    return (
        told(lambda change: exchange.commit(TABLE, change)),
        told(lambda change: nft.run("".join(f"{line}\n" for line in elements.text(TABLE, change)))),
    )


def test_netlink_does_what_nft_does(namespace: Namespace) -> None:
    by_netlink, by_nft = namespace.call(both)
    assert by_netlink == by_nft
    assert any(entry.get("map", {}).get("elem") for entry in by_nft[-1] + by_nft[0] + by_nft[10])


def refused(change: Sequence[Operation]) -> tuple[str, int]:
    """(the error, elements of `allowed` afterwards)"""
    nft.run(MAKE)
    exchange = elements.Exchange()
    exchange.commit(TABLE, [Add("allowed", 7)])
    with pytest.raises(nft.NftError) as error:
        exchange.commit(TABLE, change)
    listed = nft.query(f"list set {TABLE} allowed")
    return str(error.value), sum(len(entry.get("set", {}).get("elem", ())) for entry in listed)


@pytest.mark.parametrize("bad", [Add("nothing", 1), Add("marks", 1, "no_such_chain"), Flush("set", "nothing")])
def test_all_of_a_change_is_done_or_nothing(namespace: Namespace, bad: Operation) -> None:
    error, left = namespace.call(refused, [Flush("set", "allowed"), Add("allowed", 8), Add("allowed", 9), bad])
    assert TABLE in error
    assert left == 1


def test_a_table_that_is_gone_is_an_error(namespace: Namespace) -> None:
    def ask() -> str:
        with pytest.raises(nft.NftError) as error:
            elements.Exchange().commit(TABLE, [Flush("set", "allowed")])
        return str(error.value)

    assert "No such file" in namespace.call(ask)


def intervals(rng: random.Random, version: int) -> list[Interval]:
    """Some, the first and the last address among them; sorted, none touching the next."""
    most = (1 << (32 if version == 4 else 128)) - 1
    some = [0, 1, most - 1, most, *(rng.getrandbits(20) * 3 for _ in range(20))]
    ends = sorted(rng.sample(some, 2 * rng.randrange(9)))
    found: list[Interval] = []
    for first, last in zip(ends[::2], ends[1::2], strict=True):
        if not found or first > found[-1][1] + 1:
            found.append((first, last if rng.random() < 0.7 else first))
    return found


@pytest.mark.parametrize("version", [4, 6])
def test_intervals_come_and_go_as_nft_would_have_it(namespace: Namespace, version: int) -> None:
    rng = random.Random(version)
    with namespace.enter():
        exchange = elements.Exchange()
        nft.run(f"add table {TABLE}\nadd set {TABLE} some {{ type ipv{version}_addr; flags interval; }}\n")
        nft.run(f"add set {TABLE} other {{ type ipv{version}_addr; flags interval; }}\n")
        held: list[Interval] = []
        for _ in range(60):
            wanted = intervals(rng, version)
            _, gone, come = difference(Asked(0, version), held, wanted)
            for name in ("some", "other"):
                changes = [Range(name, version, *one, drop=True) for one in gone]
                changes += [Range(name, version, *one) for one in come]
                if name == "some":
                    exchange.commit(TABLE, changes)
                elif changes:
                    nft.run("\n".join(elements.text(TABLE, changes)) + "\n")
            held = wanted
            some, other = (
                nft.query(f"list set {TABLE} {name}")[-1]["set"].get("elem", []) for name in ("some", "other")
            )
            assert sorted(map(str, some)) == sorted(map(str, other)) and bool(some) == bool(wanted)
        exchange.close()
