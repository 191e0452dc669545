# SPDX-License-Identifier: Apache-2.0
"""A prefix as one integer: a million of them cost a million small objects, sort in C and compare in C.

    prefix = address << 8 | length      address: 128 bits, IPv4 as ::ffff:a.b.c.d; length: 0..128 (IPv4: 96 and more)

Host bits are always zero. In sorted order a prefix stands before all that it contains, with nothing foreign between.
"""

import ipaddress
import socket
from collections.abc import Iterator
from typing import Literal

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

MAPPED = 0xFFFF << 32  # ::ffff:0.0.0.0
_ALL = (1 << 128) - 1


def make(address: int, length: int) -> int:
    """Prefix from a 128-bit address, host bits ignored, and a length of 0..128."""
    return (address >> (128 - length) << (128 - length)) << 8 | length


def of_ipv4(packed: bytes, length: int = 32) -> int:
    return make(MAPPED | int.from_bytes(packed), 96 + length)


def of_network(network: Network) -> int:
    if network.version == 4:
        return make(MAPPED | int(network.network_address), 96 + network.prefixlen)
    return make(int(network.network_address), network.prefixlen)


def of_address(address: Address) -> int:
    return make(MAPPED | int(address) if address.version == 4 else int(address), 128)


def parse(text: str) -> int:
    """ "192.0.2.1", "192.0.2.0/24", "192.0.2.0/255.255.255.0", "2001:db8::/32". Host bits are dropped. ValueError."""
    address, slash, length = text.partition("/")
    if not slash:
        return _packed(address) << 8 | 128
    if length.isascii() and length.isdigit() and len(length) <= 3:
        value = _packed(address)
        whole = int(length) if ":" in address else 96 + int(length)
        if whole <= 128:
            return make(value, whole)
    return of_network(ipaddress.ip_network(text, strict=False))


def _packed(text: str) -> int:
    """128-bit value of an address. Raises ValueError. inet_pton is ten times as fast as ipaddress."""
    try:
        if ":" in text:
            return int.from_bytes(socket.inet_pton(socket.AF_INET6, text))
        return MAPPED | int.from_bytes(socket.inet_pton(socket.AF_INET, text))
    except OSError:
        raise ValueError(f"{text!r} is not an address") from None


def length(prefix: int) -> int:
    """0..128; IPv4 prefixes have 96 and their own length."""
    return prefix & 0xFF


def first(prefix: int) -> int:
    return prefix >> 8


def last(prefix: int) -> int:
    return prefix >> 8 | _ALL >> (prefix & 0xFF)


def is_ipv4(prefix: int) -> bool:
    return prefix & 0xFF >= 96 and prefix >> 40 == 0xFFFF


def kind(prefix: int) -> Literal["ipv4", "ipv6", "ipv4_prefix", "ipv6_prefix"]:
    if is_ipv4(prefix):
        return "ipv4" if prefix & 0xFF == 128 else "ipv4_prefix"
    return "ipv6" if prefix & 0xFF == 128 else "ipv6_prefix"


def network(prefix: int) -> Network:
    if is_ipv4(prefix):
        return ipaddress.IPv4Network((prefix >> 8 & 0xFFFFFFFF, (prefix & 0xFF) - 96))
    return ipaddress.IPv6Network((prefix >> 8, prefix & 0xFF))


def packed(prefix: int) -> tuple[bytes, int]:
    """(16 bytes in network order, length 0..128): the form of the identity map."""
    return (prefix >> 8).to_bytes(16), prefix & 0xFF


def text(prefix: int) -> str:
    """ "192.0.2.1" for a whole address, "192.0.2.0/24" otherwise."""
    found = network(prefix)
    return str(found.network_address) if prefix & 0xFF == 128 else str(found)


def contains(outer: int, inner: int) -> bool:
    return outer & 0xFF <= inner & 0xFF and make(inner >> 8, outer & 0xFF) == outer


def between(start: int, end: int) -> Iterator[int]:
    """The fewest prefixes that cover the 128-bit addresses start..end (RFC 4632 aggregation in reverse)."""
    while start <= end:
        size = (start & -start).bit_length() - 1 if start else 128
        size = min(size, (end - start + 1).bit_length() - 1)
        yield start << 8 | 128 - size
        start += 1 << size


def without(prefix: int, hole: int) -> list[int]:
    """The prefixes that remain of `prefix` when `hole`, which it contains, is taken out."""
    remaining = []
    for size in range((prefix & 0xFF) + 1, (hole & 0xFF) + 1):
        sibling = hole >> 8 ^ 1 << (128 - size)
        remaining.append(make(sibling, size))
    return remaining
