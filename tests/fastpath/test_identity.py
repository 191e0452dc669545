# SPDX-License-Identifier: Apache-2.0
"""IdentityMap against a naive search with ipaddress."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastpath import FastpathError, IdentityMap
from fastpath._binding import address_bytes, address_from_bytes
from fastpath.layout import PREFIX_ENTRY

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


def entry(network: Network, identity: int, ifindex: int = 0) -> tuple[bytes, int, int, int]:
    length = network.prefixlen + (96 if network.version == 4 else 0)
    return address_bytes(network.network_address), length, identity, ifindex


# Few distinct bits, so that prefixes nest and addresses fall into them.
v4_addresses = st.integers(0, 255).map(lambda n: IPv4Address(0x0A000000 | (n & 0xF0) << 12 | n & 0x0F))
v6_addresses = st.integers(0, 255).map(lambda n: IPv6Address(0xFD << 120 | (n & 0xF0) << 60 | n & 0x0F))
# ::ffff:a.b.c.d is how IPv4 is written down here, no address of its own.
addresses = st.one_of(v4_addresses, v6_addresses, st.ip_addresses()).map(lambda a: getattr(a, "ipv4_mapped", None) or a)
networks = st.one_of(st.tuples(v4_addresses, st.integers(0, 32)), st.tuples(v6_addresses, st.integers(0, 128))).map(
    lambda pair: ip_network(pair, strict=False)
)
tables = st.dictionaries(networks, st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**31 - 1)), max_size=30)


def naive(table: dict[Network, tuple[int, int]], address: Address) -> tuple[int, int]:
    found = [network for network in table if network.version == address.version and address in network]
    return table[max(found, key=lambda network: network.prefixlen)] if found else (0, 0)


@given(tables, st.lists(addresses, min_size=1, max_size=20))
def test_lookup_finds_the_longest_prefix(table: dict[Network, tuple[int, int]], wanted: list[Address]) -> None:
    identities = IdentityMap.build(entry(network, *value) for network, value in table.items())
    assert len(identities) == len(table)
    for address in [*wanted, *(network.network_address for network in table)]:
        assert identities.lookup(address) == naive(table, address)
        assert identities.lookup(address_bytes(address)) == naive(table, address)


@given(tables, tables, st.data())
def test_update_changes_the_new_map_and_not_the_old(
    old: dict[Network, tuple[int, int]], added: dict[Network, tuple[int, int]], data: st.DataObject
) -> None:
    removed = data.draw(st.lists(st.sampled_from(sorted(old, key=str)), unique=True)) if old else []
    new = {network: value for network, value in old.items() if network not in removed} | added
    before = IdentityMap.build(entry(network, *value) for network, value in old.items())
    after = before.update(
        set=[entry(network, *value) for network, value in added.items()],
        remove=[entry(network, 0)[:2] for network in removed],
    )
    assert (len(before), len(after)) == (len(old), len(new))
    for network in {*old, *new}:
        for address in (network.network_address, network.broadcast_address):
            assert before.lookup(address) == naive(old, address)
            assert after.lookup(address) == naive(new, address)


@given(addresses)
def test_address_survives_its_bytes(address: Address) -> None:
    assert address_from_bytes(address_bytes(address)) == address


def test_map_is_built_from_packed_entries() -> None:
    packed = b"".join(PREFIX_ENTRY.pack(*entry(ip_network(f"10.{i}.0.0/16"), i + 1)) for i in range(256))
    identities = IdentityMap.build(packed)
    assert len(identities) == 256 and identities.memory > 0
    assert identities.lookup(ip_address("10.7.1.2")) == (8, 0)


def test_what_is_no_prefix_is_refused() -> None:
    with pytest.raises(FastpathError):
        IdentityMap.build([(bytes(16), 129, 1, 0)])
    with pytest.raises(ValueError, match="multiple"):
        IdentityMap.build(b"short")
    with pytest.raises(ValueError, match="16 bytes"):
        IdentityMap.build(b"").lookup(b"abc")
