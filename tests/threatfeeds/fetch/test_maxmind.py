# SPDX-License-Identifier: Apache-2.0
"""Databases as MaxMind's format 2.0 describes them, written here: search tree, data section, metadata."""

import ipaddress
import os
from pathlib import Path
from typing import Any

import pytest

from threatfeeds import FeedConfig, FeedError
from threatfeeds.fetch.memory import Memory
from threatfeeds.fetch.sources import fetch_feed

UINT16 = ("record_size", "ip_version", "binary_format_major_version", "binary_format_minor_version")


def encoded(value: Any, key: str = "") -> bytes:
    """One value of the data section; what is small enough for one byte of length, which is all that is needed here."""
    if isinstance(value, str):
        text = value.encode()
        return (bytes((2 << 5 | len(text),)) if len(text) < 29 else bytes((2 << 5 | 29, len(text) - 29))) + text
    if isinstance(value, dict):
        return bytes((7 << 5 | len(value),)) + b"".join(encoded(k) + encoded(v, k) for k, v in value.items())
    if isinstance(value, list):
        return bytes((len(value), 11 - 7)) + b"".join(map(encoded, value))
    data = value.to_bytes((value.bit_length() + 7) // 8)
    if key == "build_epoch":
        return bytes((len(data), 9 - 7)) + data
    return bytes(((5 if key in UINT16 else 6) << 5 | len(data),)) + data


def database(records: dict[str, dict[str, Any]], kind: str) -> bytes:
    """A tree of 24-bit records over IPv6 addresses; IPv4 lies below ::/96."""
    tree: list[list[Any]] = [[None, None]]
    for text, record in records.items():
        network = ipaddress.ip_network(text)
        length = network.prefixlen + (96 if network.version == 4 else 0)
        bits = f"{int(network.network_address):0128b}"[:length]
        at = 0
        for bit in bits[:-1]:
            if tree[at][int(bit)] is None:
                tree.append([None, None])
                tree[at][int(bit)] = len(tree) - 1
            at = tree[at][int(bit)]
        tree[at][int(bits[-1])] = record
    nodes, data = b"", b""
    for sides in tree:
        for side in sides:
            if isinstance(side, dict):
                nodes += (len(tree) + 16 + len(data)).to_bytes(3)
                data += encoded(side)
            else:
                nodes += (len(tree) if side is None else side).to_bytes(3)
    metadata = {
        "node_count": len(tree), "record_size": 24, "ip_version": 6, "database_type": kind, "languages": ["en"],
        "binary_format_major_version": 2, "binary_format_minor_version": 0, "build_epoch": 1785542400,
        "description": {"en": "test"},
    }  # fmt: skip
    return nodes + bytes(16) + data + b"\xab\xcd\xefMaxMind.com" + encoded(metadata)


@pytest.fixture
def countries(tmp_path: Path) -> Path:
    path = tmp_path / "country.mmdb"
    path.write_bytes(database({
        "192.0.2.0/24": {"country": {"iso_code": "AQ"}},
        "198.51.100.0/25": {"country": {"iso_code": "BV"}},
        "2001:db8::/32": {"country": {"iso_code": "AQ"}},
    }, "GeoLite2-Country"))  # fmt: skip
    return path


def lines(config: FeedConfig) -> set[str]:
    data = fetch_feed(config, Memory(), None).data
    assert data is not None
    return set(data.decode().split())


def test_networks_of_countries(countries: Path) -> None:
    config = FeedConfig(name="aq", maxmind=str(countries), countries=("AQ",))
    assert lines(config) == {"192.0.2.0/24", "2001:db8::/32"}


def test_networks_of_autonomous_systems(tmp_path: Path) -> None:
    path = tmp_path / "asn.mmdb"
    path.write_bytes(database({
        "192.0.2.0/24": {"autonomous_system_number": 64496, "autonomous_system_organization": "x"},
        "198.51.100.0/25": {"autonomous_system_number": 64497, "autonomous_system_organization": "y"},
    }, "GeoLite2-ASN"))  # fmt: skip
    config = FeedConfig(name="as", maxmind=str(path), asns=(64497, 64511))
    assert lines(config) == {"198.51.100.0/25"}


def test_the_same_file_is_read_once_and_another_one_again(countries: Path) -> None:
    config = FeedConfig(name="aq", maxmind=str(countries), countries=("AQ",))
    first = fetch_feed(config, Memory(), None)
    assert fetch_feed(config, first.memory, first.data).data is None
    os.utime(countries, (1, 1))
    assert fetch_feed(config, first.memory, first.data).data == first.data
    other = FeedConfig(name="aq", maxmind=str(countries), countries=("BV",))
    assert fetch_feed(other, first.memory, first.data).data == b"198.51.100.0/25"


@pytest.mark.parametrize("data", [b"", b"nonsense", b"\xab\xcd\xefMaxMind.com" + b"\xff" * 50])
def test_what_is_no_database_is_an_error(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.mmdb"
    path.write_bytes(data)
    with pytest.raises(FeedError, match=r"no MaxMind database"):
        fetch_feed(FeedConfig(name="x", maxmind=str(path), countries=("AQ",)), Memory(), None)
    with pytest.raises(FeedError, match="cannot be read"):
        fetch_feed(FeedConfig(name="x", maxmind=str(tmp_path / "none"), countries=("AQ",)), Memory(), None)
