# SPDX-License-Identifier: Apache-2.0
"""What every part of the binding needs: the extension, status to exception, addresses to bytes."""

import struct
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from fastpath._fastpath import ffi as ffi
from fastpath._fastpath import lib as lib
from fastpath.errors import FastpathError

Address = IPv4Address | IPv6Address
#: As ffi.new, for what is written before it is read: large arrays are not cleared with the interpreter locked.
new_raw = ffi.new_allocator(should_clear_after_alloc=False)
_MAPPED = bytes(10) + b"\xff\xff"


def check(status: int, what: str) -> int:
    """Returns a count or 0 as it is; raises :class:`FastpathError` for a negative errno."""
    if status < 0:
        raise FastpathError(-status, what)
    return status


def address_bytes(address: Address | bytes) -> bytes:
    """16 bytes in network order; IPv4 as ::ffff:a.b.c.d. Bytes must be 16 already."""
    if isinstance(address, IPv4Address):
        return _MAPPED + address.packed
    packed = address.packed if isinstance(address, IPv6Address) else bytes(address)
    if len(packed) != 16:
        raise ValueError(f"an address has 16 bytes, not {len(packed)}")
    return packed


def address_from_bytes(packed: bytes) -> Address:
    """The inverse of :func:`address_bytes`."""
    if packed.startswith(_MAPPED):
        return IPv4Address(packed[12:])
    return IPv6Address(packed)


def table(ctype: str, layout: struct.Struct, data: bytes | memoryview, what: str) -> tuple[Any, int]:
    """A C array over ``data`` without copying, and its length in elements. ``data`` must outlive its use."""
    count, rest = divmod(len(data), layout.size)
    if rest:
        raise ValueError(f"{what}: {len(data)} bytes is no multiple of {layout.size}")
    return (ffi.from_buffer(f"{ctype}[]", data) if count else ffi.NULL), count
