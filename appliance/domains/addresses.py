# SPDX-License-Identifier: Apache-2.0
"""Which addresses a public name may have: its owner could otherwise open the inside of the network with it."""

from collections.abc import Container
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

Address = IPv4Address | IPv6Address

# This host, private (RFC 1918), shared (RFC 6598), loopback, link-local, multicast, reserved and broadcast.
_NOT_PUBLIC_V4 = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
        "192.168.0.0/16", "224.0.0.0/4", "240.0.0.0/4",
    )
)  # fmt: skip
# Unspecified, loopback and the old IPv4-compatible form; unique local (RFC 4193), link-local, site-local, multicast.
_NOT_PUBLIC_V6 = tuple(
    IPv6Network(text) for text in ("::/96", "64:ff9b:1::/48", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8")
)
_NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052
_6TO4 = IPv6Network("2002::/16")  # RFC 3056


REASONS = ("local", "private", "own", "malformed")  # why an address does not enter a name


def address_of(packed: bytes) -> Address | None:
    """From the data of an A or AAAA record; an IPv4-mapped address is IPv4. None: it has another length."""
    if len(packed) == 4:
        return IPv4Address(packed)
    if len(packed) == 16:
        address = IPv6Address(packed)
        return address.ipv4_mapped or address
    return None


def is_public(address: Address) -> bool:
    """False too for IPv6 that translates or tunnels to IPv4 which is not public."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _NOT_PUBLIC_V4)
    if address in _NAT64:
        return is_public(IPv4Address(address.packed[12:]))
    if address in _6TO4:
        return is_public(IPv4Address(address.packed[2:6]))
    return not any(address in network for network in _NOT_PUBLIC_V6)


def why_not(address: Address, own: Container[Address], *, private: bool) -> str:
    """Why the address may not enter a name (one of REASONS); empty: it may. `own`: addresses of this node; `private`:
    the name is configured to have addresses of the inside. Loopback, link-local and multicast addresses never enter."""
    if address.is_loopback or address.is_link_local or address.is_multicast or address.is_unspecified:
        return "local"
    if private:
        return ""
    if address in own:
        return "own"
    return "" if is_public(address) else "private"


def acceptable(address: Address, own: Container[Address], *, private: bool) -> bool:
    return not why_not(address, own, private=private)
