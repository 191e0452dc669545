# SPDX-License-Identifier: Apache-2.0
"""Elements of nft sets and maps, exchanged in one transaction by netlink alone.

libnftables reads the tables before it changes one, and takes milliseconds for it; what revokes the fates of all open
flows, or of one address's, changes nothing but a few elements whose encoding is known. A change is a list of
operations: as text it is part of a script that makes the tables (`text`), by itself it is sent (`Exchange`).

Formats: linux/netfilter/nf_tables.h, linux/netfilter/nfnetlink.h.
"""

import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Literal

from appliance.netfilter.nfnetlink import NESTED, NFGEN, NLMSG, NfNetlink, attribute
from appliance.netfilter.nft import NftError

NFPROTO_INET = 1
SUBSYS_NFTABLES = 10
BATCH_BEGIN, BATCH_END = 0x10, 0x11
NEWSETELEM, DELSETELEM = (SUBSYS_NFTABLES << 8 | message for message in (12, 14))
TABLE, SET, ELEMENTS = 1, 2, 3  # NFTA_SET_ELEM_LIST_
KEY, DATA, FLAGS = 1, 2, 3  # NFTA_SET_ELEM_
INTERVAL_END = 1  # NFT_SET_ELEM_
VALUE, VERDICT = 1, 2  # NFTA_DATA_
CODE, CHAIN = 1, 2  # NFTA_VERDICT_
JUMP = -3 & 0xFFFFFFFF
CREATE = 0x400
BATCH = 1024  # keys


class Interface(int):
    """The index of one: nft wants it in decimal."""


Key = int | IPv4Address | IPv6Address


@dataclass(frozen=True)
class Flush:
    """Takes all elements out."""

    kind: Literal["set", "map"]
    name: str


@dataclass(frozen=True)
class Add:
    """A mark, an Interface or an address into a set, or into a verdict map: then `chain` is jumped to."""

    name: str
    key: Key
    chain: str = ""


@dataclass(frozen=True)
class Range:
    """Addresses from `first` to `last`, into a set of intervals or (drop) out of it, as it was put in."""

    name: str
    version: int
    first: int
    last: int
    drop: bool = False

    @property
    def ends(self) -> tuple[IPv4Address | IPv6Address, IPv4Address | IPv6Address]:
        kind = IPv4Address if self.version == 4 else IPv6Address
        return kind(self.first), kind(self.last)


Operation = Flush | Add | Range


def text(table: str, operations: Sequence[Operation]) -> list[str]:
    """Lines of an nft script. table: "inet portcullis"."""
    lines = []
    for one in operations:
        if isinstance(one, Flush):
            lines.append(f"flush {one.kind} {table} {one.name}")
        elif isinstance(one, Range):
            first, last = one.ends
            which = f"{first}" if first == last else f"{first}-{last}"
            lines.append(f"{'delete' if one.drop else 'add'} element {table} {one.name} {{ {which} }}")
        else:
            mark = isinstance(one.key, int) and not isinstance(one.key, Interface)
            key = f"{one.key:#010x}" if mark else str(one.key)
            verdict = f" : jump {one.chain}" if one.chain else ""
            lines.append(f"add element {table} {one.name} {{ {key}{verdict} }}")
    return lines


class Exchange:
    """One socket, of the namespace of the thread that makes the first change, kept open: the kernel frees what a
    transaction took away when its readers are done, and closing the socket waits for that, some 10 ms."""

    def __init__(self) -> None:
        self._netlink: NfNetlink | None = None

    def commit(self, table: str, operations: Sequence[Operation]) -> None:
        """All of it, or nothing. Blocking, by one thread at a time; raises NftError."""
        self._send(table, messages(table, operations))

    def change(self, table: str, name: str, keys: Sequence[bytes], *, remove: bool = False) -> None:
        """Puts keys, all of one length, into a set, or takes them out: BATCH at a time, so that nobody waits long for
        the kernel's lock. As commit(), but for the batches before the one that raises."""
        for at in range(0, len(keys), BATCH):
            self._send(table, batch(table, name, keys[at : at + BATCH], remove=remove))

    def _send(self, table: str, wanted: Iterable[bytes]) -> None:
        try:
            if self._netlink is None:
                self._netlink = NfNetlink()
            self._netlink.transaction(wanted)
        except OSError as error:
            self.close()  # answers may be on their way
            raise NftError(f"table {table}: elements: {os.strerror(error.errno or 0)}") from error

    def close(self) -> None:
        if self._netlink is not None:
            self._netlink.close()
            self._netlink = None


def messages(table: str, operations: Sequence[Operation]) -> Iterator[bytes]:
    """Netlink messages, begin and end of the batch included; numbered from 1 on."""
    family, name = table.split()
    if family != "inet":
        raise ValueError(f"table {table}: expected one of family inet")
    sequence = 1
    yield _message(BATCH_BEGIN, 0, sequence, 0, SUBSYS_NFTABLES, b"")
    for sequence, one in enumerate(operations, 2):
        where = attribute(TABLE, name.encode() + b"\0") + attribute(SET, one.name.encode() + b"\0")
        if isinstance(one, Flush):
            yield _message(DELSETELEM, 0, sequence, NFPROTO_INET, 0, where)
        elif isinstance(one, Range):
            found = attribute(ELEMENTS | NESTED, b"".join(_ends(one)))
            kind, flags = (DELSETELEM, 0) if one.drop else (NEWSETELEM, CREATE)
            yield _message(kind, flags, sequence, NFPROTO_INET, 0, where + found)
        else:
            element = attribute(1 | NESTED, _element(one))  # NFTA_LIST_ELEM
            yield _message(NEWSETELEM, CREATE, sequence, NFPROTO_INET, 0, where + attribute(ELEMENTS | NESTED, element))
    yield _message(BATCH_END, 0, sequence + 1, 0, SUBSYS_NFTABLES, b"")


def batch(table: str, name: str, keys: Sequence[bytes], *, remove: bool = False) -> Iterator[bytes]:
    """Netlink messages of one transaction: some thousand keys of one length, 4 or 16 bytes, in one set."""
    where = attribute(TABLE, table.split()[1].encode() + b"\0") + attribute(SET, name.encode() + b"\0")
    head = attribute(1 | NESTED, attribute(KEY | NESTED, attribute(VALUE, keys[0])))[: -len(keys[0])]
    elements = attribute(ELEMENTS | NESTED, head + head.join(keys))
    kind, flags = (DELSETELEM, 0) if remove else (NEWSETELEM, CREATE)
    yield _message(BATCH_BEGIN, 0, 1, 0, SUBSYS_NFTABLES, b"")
    yield _message(kind, flags, 2, NFPROTO_INET, 0, where + elements)
    yield _message(BATCH_END, 0, 3, 0, SUBSYS_NFTABLES, b"")


def _ends(one: Range) -> Iterator[bytes]:
    """The first address, and the one behind the last, which there may not be."""
    size = 4 if one.version == 4 else 16
    for number, flags in ((one.first, 0), (one.last + 1, INTERVAL_END)):
        if number < 1 << 8 * size:
            found = attribute(KEY | NESTED, attribute(VALUE, number.to_bytes(size)))
            yield attribute(1 | NESTED, found + (attribute(FLAGS, struct.pack("!I", flags)) if flags else b""))


def _element(one: Add) -> bytes:
    # A mark and an interface's index are in the host's order, an address is in the network's.
    key = struct.pack("=I", one.key) if isinstance(one.key, int) else one.key.packed
    found = attribute(KEY | NESTED, attribute(VALUE, key))
    if one.chain:
        verdict = attribute(CODE, struct.pack("!I", JUMP)) + attribute(CHAIN, one.chain.encode() + b"\0")
        found += attribute(DATA | NESTED, attribute(VERDICT | NESTED, verdict))
    return found


def _message(kind: int, flags: int, sequence: int, family: int, resource: int, payload: bytes) -> bytes:
    body = NFGEN.pack(family, 0, resource) + payload
    # Every message is acknowledged, so that an error has one answer to be told apart from.
    acknowledged = 0 if kind in (BATCH_BEGIN, BATCH_END) else 4
    return NLMSG.pack(NLMSG.size + len(body), kind, flags | 1 | acknowledged, sequence, 0) + body
