# SPDX-License-Identifier: Apache-2.0
"""What a DNS answer says about the name that was asked for."""

from dataclasses import dataclass

from appliance.inspection.protocols.dns import DnsMessage
from rules.hostnames import as_name

A = 1
CNAME = 5
AAAA = 28
MAX_CHAIN = 16  # names; resolvers give up at about as many
MAX_ADDRESSES = 256  # of one answer
_WIDTH = {A: 4, AAAA: 16}


@dataclass(frozen=True, slots=True)
class Resolution:
    """`names`: the name asked for and those that it is an alias of, in order. `addresses`: (packed, TTL in seconds);
    the TTL is the smallest of the records on the way."""

    names: tuple[str, ...]
    addresses: tuple[tuple[bytes, int], ...]


def resolution(message: DnsMessage) -> Resolution | None:
    """Follows the CNAME chain from the question (RFC 1034 section 3.6.2). Records that do not lie on it do not count.
    None: the answer gives no address."""
    if len(message.questions) != 1 or message.rcode != 0:
        return None
    aliases = {record.name: record for record in reversed(message.answers) if record.type == CNAME}
    name = message.questions[0].name
    names = [name]
    ttl = 0x7FFFFFFF
    while name in aliases and len(names) < MAX_CHAIN:
        record = aliases[name]
        ttl = min(ttl, _ttl(record.ttl))
        name = record.target
        if name in names:
            return None
        names.append(name)
    found: dict[bytes, int] = {}
    for record in message.answers:
        if record.name == name and _WIDTH.get(record.type) == len(record.data):
            found[record.data] = min(ttl, _ttl(record.ttl))
    if not found:
        return None
    return Resolution(tuple(map(as_name, names)), tuple(found.items())[:MAX_ADDRESSES])


def _ttl(value: int) -> int:
    """A TTL with the highest bit set is none (RFC 2181 section 8)."""
    return 0 if value & 0x80000000 else value
