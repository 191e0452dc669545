# SPDX-License-Identifier: Apache-2.0
"""Community ID flow hashing, version 1 (github.com/corelight/community-id-spec)."""

import base64
import hashlib
import ipaddress
import struct

_ICMP, _TCP, _UDP, _ICMPV6, _SCTP = 1, 6, 17, 58, 132
_PORTED = (_TCP, _UDP, _SCTP)

# Types that ask and answer: either becomes the other's "port", so that both directions hash alike.
_ICMP_PAIRS = {8: 0, 0: 8, 13: 14, 14: 13, 15: 16, 16: 15, 17: 18, 18: 17, 10: 9, 9: 10}
_ICMPV6_PAIRS = {
    128: 129,
    129: 128,
    133: 134,
    134: 133,
    135: 136,
    136: 135,
    130: 131,
    131: 130,
    144: 145,
    145: 144,
    139: 140,
    140: 139,
}


def community_id(
    src: ipaddress.IPv4Address | ipaddress.IPv6Address,
    dst: ipaddress.IPv4Address | ipaddress.IPv6Address,
    proto: int,
    sport: int = 0,
    dport: int = 0,
    seed: int = 0,
) -> str:
    """sport, dport: ports in host order; ICMP and ICMPv6: type and code."""
    one_way = False
    if proto in (_ICMP, _ICMPV6):
        partner = (_ICMP_PAIRS if proto == _ICMP else _ICMPV6_PAIRS).get(sport)
        one_way = partner is None
        dport = dport if partner is None else partner
    low, high = (src.packed, sport), (dst.packed, dport)
    if high < low and not one_way:
        low, high = high, low
    data = struct.pack("!H", seed) + low[0] + high[0] + struct.pack("!BB", proto, 0)
    if proto in (_ICMP, _ICMPV6, *_PORTED):
        data += struct.pack("!HH", low[1], high[1])
    return "1:" + base64.b64encode(hashlib.sha1(data, usedforsecurity=False).digest()).decode()
