# SPDX-License-Identifier: Apache-2.0
"""Identity maps: longest-prefix match from address to identity."""

from collections.abc import Iterable
from typing import Any

from fastpath._binding import Address, address_bytes, check, ffi, lib, new_raw, table
from fastpath.layout import PREFIX_ENTRY

#: (16 bytes of address, prefix length 0..128 (IPv4: 96 + its own), identity, ifindex or 0)
Entry = tuple[bytes, int, int, int]


def _pack(entries: Iterable[Entry] | bytes | memoryview) -> bytes | memoryview:
    if isinstance(entries, bytes | memoryview):
        return entries
    pack = PREFIX_ENTRY.pack
    return b"".join([pack(*entry) for entry in entries])


class IdentityMap:
    """An immutable map. An update makes a new one that shares what did not change with the old."""

    def __init__(self, pointer: Any) -> None:
        self._pointer = ffi.gc(pointer, lib.fp_prefix_map_release)

    @classmethod
    def build(cls, entries: Iterable[Entry] | bytes | memoryview) -> "IdentityMap":
        """From entries, or from the same packed as :data:`fastpath.layout.PREFIX_ENTRY`.

        Raises :class:`FastpathError` for a prefix length over 128 or lack of memory.
        """
        packed = _pack(entries)
        array, count = table("struct fp_prefix_entry", PREFIX_ENTRY, packed, "entries")
        out = ffi.new("struct fp_prefix_map **")
        check(lib.fp_prefix_map_build(array, count, out), "cannot build the identity map")
        return cls(out[0])

    def update(
        self, set: Iterable[Entry] | bytes = (), remove: Iterable[tuple[bytes, int]] | bytes = ()
    ) -> "IdentityMap":
        """A new map without the prefixes ``remove`` (address, length), and with ``set`` added or replaced."""
        packed_set = _pack(set)
        packed_remove = remove if isinstance(remove, bytes) else _pack((e[0], e[1], 0, 0) for e in remove)
        set_array, n_set = table("struct fp_prefix_entry", PREFIX_ENTRY, packed_set, "set")
        remove_array, n_remove = table("struct fp_prefix_entry", PREFIX_ENTRY, packed_remove, "remove")
        out = ffi.new("struct fp_prefix_map **")
        check(
            lib.fp_prefix_map_update(self._pointer, set_array, n_set, remove_array, n_remove, out),
            "cannot update the identity map",
        )
        return type(self)(out[0])

    def lookup(self, address: Address | bytes) -> tuple[int, int]:
        """(identity, ifindex) of the longest prefix that contains the address; (0, 0) where none does."""
        value = lib.fp_prefix_map_lookup(self._pointer, address_bytes(address))
        return int(value.identity), int(value.ifindex)

    def export(self, idle: int = 0) -> memoryview:
        """Every prefix, packed for :meth:`build`, which is fastest with this order. idle: it rests so many times as
        long as it works."""
        count = len(self)
        entries = new_raw("struct fp_prefix_entry[]", count)
        check(lib.fp_prefix_map_export(self._pointer, entries, count, idle), "cannot export the identity map")
        return memoryview(ffi.buffer(entries))

    def __len__(self) -> int:
        return int(lib.fp_prefix_map_count(self._pointer))

    @property
    def memory(self) -> int:
        """Bytes, parts shared with other maps included."""
        return int(lib.fp_prefix_map_memory(self._pointer))
