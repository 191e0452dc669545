# SPDX-License-Identifier: Apache-2.0
"""Lists of prefixes, as threat feeds have them: sorted, packed, a million in 17 MB, with the work on them done in C."""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, overload

from fastpath._binding import check, ffi, lib
from fastpath.layout import PREFIX_ENTRY

RECORD = 17  # bytes: 16 of address (IPv4 as ::ffff:a.b.c.d), 1 of length 0..128
_LINES = 1 << 16  # that are no prefix, named at a time
_PART = 1 << 16  # records read at a time
_STATES = 1 << 12


class PrefixList(Sequence[int]):
    """Immutable. An item is address << 8 | length; in order, each once, host bits 0. Equal to a tuple of these."""

    __slots__ = ("packed",)

    def __init__(self, packed: bytes = b"") -> None:
        """`packed`: records in order. Not checked: see :meth:`checked`."""
        self.packed = packed

    @classmethod
    def of(cls, entries: Iterable[int]) -> "PrefixList":
        """From items in any order."""
        return cls.sorted(bytearray().join([entry.to_bytes(RECORD) for entry in entries]))

    @classmethod
    def sorted(cls, records: bytearray) -> "PrefixList":
        """From records in any order; the array is used up. Raises FastpathError without memory."""
        if not records:
            return cls()
        array_, count = _records(records)
        kept = check(lib.fp_list_sort(array_, count), "cannot sort a list")
        ffi.release(array_)
        return cls(bytes(memoryview(records)[: kept * RECORD]))

    @classmethod
    def checked(cls, packed: bytes) -> "PrefixList":
        """From records that somebody else made. Raises ValueError when these are no list."""
        if len(packed) % RECORD or (packed and lib.fp_list_check(*_records(packed)) < 0):
            raise ValueError("prefixes that are none, or in disorder")
        return cls(packed)

    def __len__(self) -> int:
        return len(self.packed) // RECORD

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> "PrefixList": ...
    def __getitem__(self, index: int | slice) -> "int | PrefixList":
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step != 1:
                raise ValueError("a part of a list has no gaps")
            return PrefixList(self.packed[start * RECORD : stop * RECORD])
        at = range(len(self))[index] * RECORD
        return int.from_bytes(self.packed[at : at + RECORD])

    def __iter__(self) -> Iterator[int]:
        packed = self.packed
        return (int.from_bytes(packed[at : at + RECORD]) for at in range(0, len(packed), RECORD))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, PrefixList):
            return self.packed == other.packed
        return isinstance(other, tuple | list) and len(self) == len(other) and tuple(self) == tuple(other)

    def __hash__(self) -> int:
        return hash(self.packed)

    def __repr__(self) -> str:
        return f"PrefixList({len(self)} prefixes)"

    def find(self, entry: int) -> int:
        """Where the item is, or would be."""
        if not self.packed or entry >> 8 * RECORD:
            return len(self)
        wanted = ffi.from_buffer("struct fp_list_record *", entry.to_bytes(RECORD))
        return int(lib.fp_list_find(*_records(self.packed), wanted))

    def __contains__(self, entry: object) -> bool:
        if not isinstance(entry, int):
            return False
        at = self.find(entry)
        return at < len(self) and self[at] == entry

    def disjoint(self) -> "PrefixList":
        """Without the prefixes that another one contains."""
        if not self.packed:
            return self
        out = bytearray(len(self.packed))
        kept = lib.fp_list_disjoint(*_records(self.packed), _records(out)[0])
        return self if kept == len(self) else PrefixList(bytes(memoryview(out)[: kept * RECORD]))

    def changes(self, later: "PrefixList") -> "tuple[PrefixList, PrefixList]":
        """(what is only in `later`, what is no more)."""
        added, removed = bytearray(len(later.packed)), bytearray(len(self.packed))
        counts = ffi.new("size_t[2]")
        lib.fp_list_difference(
            *_records(self.packed), *_records(later.packed),
            _records(added)[0], counts, _records(removed)[0], counts + 1,
        )  # fmt: skip
        found = (bytes(memoryview(added)[: counts[0] * RECORD]), bytes(memoryview(removed)[: counts[1] * RECORD]))
        return PrefixList(found[0]), PrefixList(found[1])

    def carry(self, values: "array[int]", later: "PrefixList", default: int) -> "array[int]":
        """`values` of the items here, for the items of `later`; `default` for those that are new."""
        found = array("I", [default]) * len(later)
        if self.packed and later.packed:
            lib.fp_list_carry(
                _records(self.packed)[0], ffi.from_buffer("uint32_t[]", values), len(self), _records(later.packed)[0],
                ffi.from_buffer("uint32_t[]", found), len(later),
            )  # fmt: skip
        return found

    def kinds(self) -> tuple[int, int, int, int]:
        """How many IPv4 addresses, IPv6 addresses, IPv4 networks, IPv6 networks."""
        out = ffi.new("uint64_t[4]")
        lib.fp_list_count(*_records(self.packed), out)
        return int(out[0]), int(out[1]), int(out[2]), int(out[3])


def read_lines(text: bytes) -> Iterator[tuple[bytes, list[tuple[int, int, int]]]]:
    """(records in the order of the text, (offset, length, number from 1) of each line that is neither empty nor one
    address or prefix), a part of the text at a time: what is no list may be nothing but such lines. Raises
    FastpathError for more than 4 GiB."""
    reader = ffi.new("struct fp_list_reader *")
    lines = ffi.new("struct fp_list_line[]", _LINES)
    records = bytearray(_PART * RECORD)
    out, most = _records(records)
    source = ffi.from_buffer(text)
    while reader.offset < len(text):
        check(lib.fp_list_read(source, len(text), reader, out, most, lines, _LINES), "cannot read a list")
        others = [(line.offset, line.length, line.number) for line in lines[0 : reader.lines]]
        yield bytes(memoryview(records)[: reader.records * RECORD]), others


def merge_layers(base: bytes, layers: Sequence[PrefixList]) -> tuple[bytearray, list[tuple[int, tuple[int, ...]]]]:
    """`base`: packed entries (layout.PREFIX_ENTRY) in order; `layers`: disjoint lists. Returns the entries of both
    together with an index in place of the identity, and for each index (the base's identity, the layers)."""
    total = len(base) // PREFIX_ENTRY.size + sum(map(len, layers))
    entries = bytearray(total * PREFIX_ENTRY.size)
    given = ffi.new("struct fp_list_layer[]", max(1, len(layers)))
    buffers = [_records(layer.packed) for layer in layers]
    for at, (records, count) in enumerate(buffers):
        given[at].records, given[at].n = records, count
    width = 1 + (len(layers) + 31) // 32
    most, n_states = _STATES, ffi.new("size_t *")
    while True:
        states = ffi.new("uint32_t[]", most * width)
        count = lib.fp_list_merge(*_entries(base), given, len(layers), _entries(entries)[0], states, most, n_states)
        if count != -28:  # ENOSPC
            break
        most *= 4
    count = check(count, "cannot merge lists")
    words = ffi.unpack(states, n_states[0] * width)
    found = []
    for at in range(0, len(words), width):
        bits = sum(word << 32 * place for place, word in enumerate(words[at + 1 : at + width]))
        found.append((words[at], tuple(layer for layer in range(len(layers)) if bits >> layer & 1)))
    del entries[count * PREFIX_ENTRY.size :]
    return entries, found


def name_entries(entries: bytearray, identities: Sequence[int]) -> None:
    """Puts identities in place of what merge_layers() wrote."""
    if entries:
        table = ffi.new("uint32_t[]", list(identities))
        check(lib.fp_list_name(*_entries(entries), table, len(identities)), "cannot name entries")


def entry_changes(before: bytes | bytearray, after: bytes | bytearray) -> tuple[bytes, bytes]:
    """(entries that are new or different, entries whose prefix is no more), both as IdentityMap.update() takes them."""
    put, gone = bytearray(len(after)), bytearray(len(before))
    counts = ffi.new("size_t[2]")
    lib.fp_list_changes(*_entries(before), *_entries(after), _entries(put)[0], counts, _entries(gone)[0], counts + 1)
    size = PREFIX_ENTRY.size
    return bytes(memoryview(put)[: counts[0] * size]), bytes(memoryview(gone)[: counts[1] * size])


def _records(data: bytes | bytearray) -> tuple[Any, int]:
    return _array("struct fp_list_record[]", data), len(data) // RECORD


def _entries(data: bytes | bytearray) -> tuple[Any, int]:
    return _array("struct fp_prefix_entry[]", data), len(data) // PREFIX_ENTRY.size


def _array(ctype: str, data: bytes | bytearray) -> Any:
    return ffi.from_buffer(ctype, data) if data else ffi.NULL
