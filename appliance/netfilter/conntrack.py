# SPDX-License-Identifier: Apache-2.0
"""Fates in the connection marks of conntrack: count them, take them back. Entries themselves are never deleted.

Formats: linux/netfilter/nfnetlink_conntrack.h. The kernel filters dumps by mark, and since Linux 5.8 by address.
"""

import socket
import struct
from collections.abc import Callable, Collection, Iterable, Iterator
from ipaddress import IPv4Address, IPv6Address
from itertools import islice

from appliance.netfilter.marks import GENERATION, GENERATION_SHIFT, MarkLayout
from appliance.netfilter.nfnetlink import NESTED, SUBSYS_CTNETLINK, NfNetlink, attribute, attributes

CT_NEW, CT_GET = SUBSYS_CTNETLINK << 8 | 0, SUBSYS_CTNETLINK << 8 | 1
CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, CTA_MARK, CTA_ID, CTA_ZONE, CTA_MARK_MASK, CTA_FILTER = 1, 2, 8, 12, 18, 21, 25
CTA_TUPLE_IP = 1
CTA_IP_SRC = {4: 1, 6: 3}  # CTA_IP_V4_SRC, CTA_IP_V6_SRC; each + 1: DST
FILTER_SRC, FILTER_DST = 1, 2  # bits of CTA_FILTER_ORIG_FLAGS, CTA_FILTER_REPLY_FLAGS
BATCH = 256  # messages in one send
PIECE = 4096  # entries looked at together
FEW = 8  # addresses that the kernel looks for; more are found here, in one walk over everything
# Policy sees an entry's original source and its reply source, behind everybody's NAT; source NAT on input: reply's end.
_ENDS = ((CTA_TUPLE_ORIG, FILTER_SRC), (CTA_TUPLE_REPLY, FILTER_SRC), (CTA_TUPLE_REPLY, FILTER_DST))


def _number(value: int) -> bytes:
    return struct.pack("!I", value)


def _marked(netlink: NfNetlink, marks: MarkLayout, generation: int | None) -> Iterator[tuple[int, dict[int, bytes]]]:
    """(family, attributes) of the entries that carry a generation; None: any bit of ours."""
    if generation is None:
        value, mask, wanted = 0, marks.mask, b""
    else:
        value, mask = marks.at(generation << GENERATION_SHIFT), marks.at(GENERATION)
        wanted = attribute(CTA_MARK, _number(value)) + attribute(CTA_MARK_MASK, _number(mask))
    for family, data in netlink.dump(CT_GET, socket.AF_UNSPEC, wanted):
        entry = dict(attributes(data))
        found = struct.unpack("!I", entry.get(CTA_MARK, b"\0\0\0\0"))[0] & mask
        if CTA_TUPLE_ORIG in entry and (found == value) is (generation is not None):
            yield family, entry


def count(marks: MarkLayout, generation: int | None) -> int:
    """Entries decided under this generation (None: under any). OSError when the kernel refuses."""
    with NfNetlink() as netlink:
        return sum(1 for _ in _marked(netlink, marks, generation))


def sweep(marks: MarkLayout, generation: int | None) -> int:
    """Clear our byte where it carries this generation (None: any), and nothing else; returns how many had it.

    A flow decided anew between the walk and the update loses that fate, too: it comes up once more.
    """
    with NfNetlink() as reader, NfNetlink() as writer:
        found = ((CT_NEW, family, _cleared(entry, marks.mask)) for family, entry in _marked(reader, marks, generation))
        swept = 0
        while batch := list(islice(found, BATCH)):
            swept += len(batch) - writer.batch(batch)
        return swept


def _cleared(entry: dict[int, bytes], mask: int) -> bytes:
    update = attribute(CTA_TUPLE_ORIG | NESTED, entry[CTA_TUPLE_ORIG])
    if CTA_ZONE in entry:
        update += attribute(CTA_ZONE, entry[CTA_ZONE])
    return update + attribute(CTA_MARK, _number(0)) + attribute(CTA_MARK_MASK, _number(mask))


def void(
    marks: MarkLayout, addresses: Collection[IPv4Address | IPv6Address], spared: Callable[[], Collection[int]]
) -> int:
    """Take the generation, not the fate, from the mark of each flow of these addresses: it is decided anew and comes up
    with that fate as its previous one. Returns how many.

    spared(): ids of entries that need no more; asked once for each PIECE of entries. An entry that is decided after
    that and before the update comes up once more. OSError when the kernel refuses.
    """
    packed = frozenset(address.packed for address in addresses)
    bits = marks.at(GENERATION)
    with NfNetlink() as reader, NfNetlink() as writer:
        found = (
            (number, family, entry)
            for family, entry in _walk(reader, addresses)
            if _mark(entry) & bits and _is_of(entry, packed)
            for number in (int.from_bytes(entry.get(CTA_ID, b"")),)
        )
        voided = 0
        while piece := list(islice(found, PIECE)):
            done = spared()
            updates = ((CT_NEW, family, _cleared(entry, bits)) for number, family, entry in piece if number not in done)
            while batch := list(islice(updates, BATCH)):
                voided += len(batch) - writer.batch(batch)
        return voided


def _walk(
    netlink: NfNetlink, addresses: Collection[IPv4Address | IPv6Address]
) -> Iterator[tuple[int, dict[int, bytes]]]:
    """Entries that may be of these addresses, some more than once."""
    if len(addresses) > FEW:
        requests: Iterable[tuple[int, bytes]] = ((socket.AF_UNSPEC, b""),)
    else:
        requests = (_with_end(address, tuple_, flag) for address in addresses for tuple_, flag in _ENDS)
    for version, wanted in requests:
        for family, data in netlink.dump(CT_GET, version, wanted):
            yield family, dict(attributes(data))


def _with_end(address: IPv4Address | IPv6Address, tuple_: int, flag: int) -> tuple[int, bytes]:
    """(family, attributes) of a dump of the entries whose tuple has this address as source or destination."""
    kind = CTA_IP_SRC[address.version] + (flag == FILTER_DST)
    inner = attribute(CTA_TUPLE_IP | NESTED, attribute(kind, address.packed))
    # Both flags must be told; they are in the machine's byte order. CTA_FILTER_ORIG_FLAGS is 1, the reply's 2.
    flags = b"".join(
        attribute(which, struct.pack("=I", flag if which == tuple_ else 0))
        for which in (CTA_TUPLE_ORIG, CTA_TUPLE_REPLY)
    )
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    return family, attribute(tuple_ | NESTED, inner) + attribute(CTA_FILTER | NESTED, flags)


def _mark(entry: dict[int, bytes]) -> int:
    return int.from_bytes(entry.get(CTA_MARK, b""))


def _is_of(entry: dict[int, bytes], packed: Collection[bytes]) -> bool:
    """Kernels before 5.8 do not filter by address, and nobody filters for many."""
    for tuple_, flag in _ENDS:
        addresses = dict(attributes(dict(attributes(entry.get(tuple_, b""))).get(CTA_TUPLE_IP, b"")))
        if any(addresses.get(kind + (flag == FILTER_DST)) in packed for kind in CTA_IP_SRC.values()):
            return True
    return False
