# SPDX-License-Identifier: Apache-2.0
import ipaddress
import itertools

from hypothesis import given
from hypothesis import strategies as st

from threatfeeds import Allowlist, Feed, FeedConfig, Merged, merge, prefix, read_feed


def feed(name: str, *lines: str, subdomains: bool = True) -> Feed:
    config = FeedConfig(file=name, name=name, subdomains=subdomains, min_entries=0)
    return Feed(config, read_feed(config, "\n".join(lines).encode()))


def listed(merged: Merged, address: str) -> list[str]:
    return [name for name, _ in merged.find_address(ipaddress.ip_address(address))]


def test_provenance_over_several_feeds() -> None:
    merged = merge([feed("a", "192.0.2.0/24", "evil.example"), feed("b", "192.0.2.7", "evil.example")], Allowlist())
    assert merged.find_address(ipaddress.ip_address("192.0.2.7")) == [
        ("a", ipaddress.ip_network("192.0.2.0/24")),
        ("b", ipaddress.ip_network("192.0.2.7/32")),
    ]
    assert listed(merged, "192.0.2.8") == ["a"]
    assert listed(merged, "192.0.3.0") == []
    assert merged.find_name("www.evil.example.") == [("a", "evil.example"), ("b", "evil.example")]


def test_contained_entries_cost_nothing() -> None:
    merged = merge([feed("a", "10.0.0.0/8", "10.1.0.0/16", "10.1.2.3", "11.0.0.0/8")], Allowlist())
    assert [str(network) for network in merged.feeds[0].networks()] == ["10.0.0.0/8", "11.0.0.0/8"]


def test_names_without_subdomains_match_themselves_only() -> None:
    merged = merge([feed("a", "evil.example", "*.worse.example", subdomains=False)], Allowlist())
    assert merged.find_name("evil.example") == [("a", "evil.example")]
    assert merged.find_name("www.evil.example") == []
    assert merged.find_name("www.worse.example") == [("a", "worse.example")]
    assert merged.find_name("notevil.example") == []


def test_allowlist_wins_and_says_what_it_saved() -> None:
    allow = Allowlist.build(own=["198.51.100.7"], resolvers=["fe80::1%eth0", "9.9.9.9"], configured=["good.example"])
    merged = merge([feed("a", "198.51.100.0/24", "9.9.9.9", "127.0.0.5", "www.good.example", "bad.example")], allow)
    for spared in ("198.51.100.7", "9.9.9.9", "127.0.0.5"):
        assert listed(merged, spared) == []
    assert listed(merged, "198.51.100.6") == listed(merged, "198.51.100.8") == ["a"]
    assert merged.find_name("www.good.example") == []
    assert merged.find_name("bad.example")
    assert {(entry.entry, entry.why, entry.part) for entry in merged.saved} == {
        ("198.51.100.0/24", "own address 198.51.100.7", True),
        ("9.9.9.9", "resolver 9.9.9.9", False),
        ("127.0.0.5", "reserved 127.0.0.0/8", False),
        ("www.good.example", "configured", False),
    }


def test_allowed_name_below_a_listed_one_is_not_found() -> None:
    merged = merge([feed("a", "evil.example")], Allowlist.build(configured=["good.evil.example"]))
    assert merged.find_name("www.good.evil.example") == []
    assert merged.find_name("bad.evil.example") == [("a", "evil.example")]


def test_prefixes_too_wide_to_be_meant_are_refused() -> None:
    merged = merge(
        [feed("a", "0.0.0.0/0", "64.0.0.0/7", "8.0.0.0/8", "::/0", "::/64", "2000::/3", "2001::/16")], Allowlist()
    )
    assert [str(network) for network in merged.feeds[0].networks()] == ["8.0.0.0/8", "2001::/16"]
    assert {entry.entry for entry in merged.refused} == {"0.0.0.0/0", "64.0.0.0/7", "::/0", "::/64", "2000::/3"}


nets = st.builds(
    lambda bits, length: str(ipaddress.ip_network((0x0A000000 | bits, length), strict=False)),
    st.integers(0, 0xFF),
    st.integers(24, 32),
)


@given(st.lists(nets, max_size=12), st.lists(nets, max_size=6))
def test_listed_is_what_a_feed_contains_and_the_allowlist_does_not(entries: list[str], allowed: list[str]) -> None:
    merged = merge([feed("a", *entries)], Allowlist.build(configured=allowed))
    networks = [ipaddress.IPv4Network(entry) for entry in entries]
    spared = [ipaddress.IPv4Network(entry) for entry in allowed]
    for address in ipaddress.IPv4Network("10.0.0.0/24"):
        expected = any(address in net for net in networks) and not any(address in net for net in spared)
        assert bool(merged.find_address(address)) == expected
    covered = sorted(merged.feeds[0].prefixes)
    assert all(prefix.last(a) < prefix.first(b) for a, b in itertools.pairwise(covered))
