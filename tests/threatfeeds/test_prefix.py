# SPDX-License-Identifier: Apache-2.0
import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from threatfeeds import prefix

networks = st.one_of(
    st.builds(lambda a, n: ipaddress.ip_network((a, n), strict=False), st.integers(0, 2**32 - 1), st.integers(0, 32)),
    st.builds(
        lambda a, n: ipaddress.IPv6Network((a, n), strict=False), st.integers(2**64, 2**128 - 1), st.integers(0, 128)
    ),
)


@given(networks)
def test_text_and_networks_survive_the_integer(network: prefix.Network) -> None:
    entry = prefix.of_network(network)
    assert prefix.network(entry) == network
    assert prefix.parse(str(network)) == prefix.parse(prefix.text(entry)) == entry
    assert prefix.length(entry) == network.prefixlen + (96 if network.version == 4 else 0)


@given(networks, networks)
def test_containment_is_that_of_the_networks(a: prefix.Network, b: prefix.Network) -> None:
    expected = a.version == b.version and b.subnet_of(a)  # type: ignore[arg-type]
    if a.version == b.version:
        assert prefix.contains(prefix.of_network(a), prefix.of_network(b)) == expected


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_ranges_are_covered_exactly_as_the_standard_library_does(a: int, b: int) -> None:
    low, high = ipaddress.IPv4Address(min(a, b)), ipaddress.IPv4Address(max(a, b))
    covered = list(prefix.between(prefix.first(prefix.of_address(low)), prefix.first(prefix.of_address(high))))
    assert [prefix.network(entry) for entry in covered] == list(ipaddress.summarize_address_range(low, high))


@given(networks, st.integers(0, 2**128 - 1), st.integers(0, 128))
def test_a_hole_leaves_exactly_the_rest(outer: prefix.Network, bits: int, longer: int) -> None:
    length = min(outer.prefixlen + longer, outer.max_prefixlen)
    address = int(outer.network_address) | bits & int(outer.hostmask)
    hole = type(outer)((address, length), strict=False)
    rest = [prefix.network(entry) for entry in prefix.without(prefix.of_network(outer), prefix.of_network(hole))]
    assert sorted(rest) == sorted(outer.address_exclude(hole))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text", ["", "1.2.3", "1.2.3.4.5", "1.2.3.4/33", "01.2.3.4", "1.2.3.4/", "::/129", "g::", "1.2.3.4/a"]
)
def test_what_is_no_prefix_raises_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        prefix.parse(text)


def test_mapped_addresses_are_ipv4() -> None:
    assert prefix.parse("::ffff:192.0.2.1") == prefix.parse("192.0.2.1")
    assert prefix.packed(prefix.parse("192.0.2.0/24")) == (bytes(10) + b"\xff\xff\xc0\x00\x02\x00", 120)
