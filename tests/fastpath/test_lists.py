# SPDX-License-Identifier: Apache-2.0
"""Lists of prefixes against Python's own sorted sets."""

import ipaddress
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastpath.layout import PREFIX_ENTRY
from fastpath.lists import PrefixList, entry_changes, merge_layers, name_entries, read_lines

MAPPED = 0xFFFF << 32
ENTRIES = st.builds(
    lambda base, bits, length: (base | bits) >> (128 - length) << (128 - length) << 8 | length,
    st.sampled_from([MAPPED, 0, 0x2001 << 112]),
    st.integers(0, 255),
    st.integers(96, 128),
)
LISTS = st.lists(ENTRIES, max_size=30)


@given(LISTS, LISTS)
def test_a_list_is_a_sorted_set(first: list[int], second: list[int]) -> None:
    a, b = PrefixList.of(first), PrefixList.of(second)
    assert list(a) == sorted(set(first)) and a == tuple(sorted(set(first)))
    assert PrefixList.checked(a.packed) == a
    added, removed = a.changes(b)
    assert set(added) == set(second) - set(first)
    assert set(removed) == set(first) - set(second)
    assert all(entry in a for entry in first) and all((entry in a) == (entry in set(first)) for entry in second)
    carried = a.carry(array("I", range(1, len(a) + 1)), b, 0)
    assert list(carried) == [list(a).index(entry) + 1 if entry in a else 0 for entry in b]
    assert sum(a.kinds()) == len(a)
    assert list(a[1:3]) == list(a)[1:3]


@given(LISTS)
def test_disjoint_covers_the_same(entries: list[int]) -> None:
    found = PrefixList.of(entries).disjoint()
    for entry in set(entries):
        holders = [o for o in found if (o & 255) <= (entry & 255) and (entry ^ o) >> 8 >> (128 - (o & 255)) == 0]
        assert len(holders) == 1


@pytest.mark.parametrize("packed", [b"x", bytes(16) + b"\x81", bytes(15) + b"\x01\x10", bytes(34)])
def test_what_is_no_list_is_refused(packed: bytes) -> None:
    with pytest.raises(ValueError, match="disorder"):
        PrefixList.checked(packed)


def whole(text: bytes) -> tuple[bytearray, list[tuple[int, int, int]]]:
    """Every part of what is read."""
    parts = list(read_lines(text))
    return bytearray(b"".join(records for records, _ in parts)), [line for _, lines in parts for line in lines]


def test_a_long_text_is_read_in_parts() -> None:
    text = b"192.0.2.1\nx\n" * 70_000
    parts = list(read_lines(text))
    assert len(parts) == 2
    records, others = whole(text)
    assert len(records) == 17 * 70_000
    assert others[-1] == (len(text) - 2, 1, 140_000)


LINES = st.sampled_from(["192.0.2.1", " 2001:db8::1/32\r", "", "# x", "192.0.2.300", "1.2.3.4/24 x"])


@given(st.lists(LINES, max_size=9))
def test_every_line_is_read_or_named(lines: list[str]) -> None:
    text = "\n".join(lines).encode()
    records, others = whole(text)
    good = [line for line in lines if line.startswith((" 2001", "192.0.2.1"))]
    bad = [number for number, line in enumerate(lines, 1) if line and line not in good]
    assert len(records) == 17 * len(good)
    assert [number for _, _, number in others] == bad
    assert [text[at : at + length].decode() for at, length, _ in others] == [lines[number - 1] for number in bad]


@given(st.text(alphabet="0123456789./:abcdef", max_size=20))
def test_only_what_ipaddress_reads_is_an_address(text: str) -> None:
    records, _ = whole(text.encode())
    if records:
        network = ipaddress.ip_network(text, strict=False)
        assert records[16] == network.prefixlen + (96 if network.version == 4 else 0)
        assert records[:16].endswith(network.network_address.packed)


def test_merged_layers_know_the_base_and_every_list() -> None:
    def entry(address: str, length: int, identity: int, ifindex: int = 0) -> bytes:
        packed = ipaddress.ip_address(address).packed
        return PREFIX_ENTRY.pack(bytes(10) + b"\xff\xff" + packed, 96 + length, identity, ifindex)

    def listed(*nets: str) -> PrefixList:
        return PrefixList.sorted(whole("\n".join(nets).encode())[0])

    base = entry("10.0.0.0", 8, 3) + entry("10.0.0.1", 32, 4, 7)
    entries, states = merge_layers(base, [listed("10.0.0.0/24"), listed("10.0.0.1", "192.0.2.0/24")])
    assert set(states) == {(0, ()), (3, ()), (3, (0,)), (4, (0, 1)), (0, (1,))}
    name_entries(entries, [100 + at for at in range(len(states))])
    read = [PREFIX_ENTRY.unpack_from(entries, at) for at in range(0, len(entries), PREFIX_ENTRY.size)]
    assert [(states[identity - 100], ifindex) for _, _, identity, ifindex in read] == [
        ((3, ()), 0), ((3, (0,)), 0), ((4, (0, 1)), 7), ((0, (1,)), 0),
    ]  # fmt: skip
    put, gone = entry_changes(base, entries)
    assert (len(put) // PREFIX_ENTRY.size, len(gone)) == (4, 0)
