# SPDX-License-Identifier: Apache-2.0
"""Fates in the connection marks of conntrack: count them, take them back. Entries themselves are never deleted.

Formats: linux/netfilter/nfnetlink_conntrack.h. Dumps are filtered by mark in the kernel.
"""

import socket
import struct
from collections.abc import Iterator
from itertools import islice

from appliance.netfilter.marks import GENERATION, GENERATION_SHIFT, MarkLayout
from appliance.netfilter.nfnetlink import NESTED, SUBSYS_CTNETLINK, NfNetlink, attribute, attributes

CT_NEW, CT_GET = SUBSYS_CTNETLINK << 8 | 0, SUBSYS_CTNETLINK << 8 | 1
CTA_TUPLE_ORIG, CTA_MARK, CTA_ZONE, CTA_MARK_MASK = 1, 8, 18, 21
BATCH = 256  # messages in one send


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
