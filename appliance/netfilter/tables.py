# SPDX-License-Identifier: Apache-2.0
"""A table of ours in the kernel: what it looks like, told in digests (has another program changed it?), and what its
named counters say. Blocking.

Asked by netlink alone (linux/netfilter/nf_tables.h): nft would read each element of each set into objects first.
"""

import errno
import hashlib
import struct
from collections.abc import Iterable, Iterator, Mapping

from appliance.netfilter.nfnetlink import NfNetlink, attribute, attributes
from appliance.netfilter.nft import NftError

# NFNL_SUBSYS_NFTABLES
GETCHAIN, GETRULE, GETSET, GETSETELEM, GETOBJ = (10 << 8 | message for message in (4, 7, 10, 13, 19))
_FAMILIES = {"inet": 1, "ip": 2, "ip6": 10}
_TABLE = 1  # the first attribute of each of these
_CHAIN_NAME, _CHAIN_HOOK, _CHAIN_POLICY = 3, 4, 5
_RULE_CHAIN, _RULE_EXPRESSIONS = 2, 4
_SET_NAME = 2
_ELEMENTS_SET, _ELEMENTS = 2, 3
_ELEMENT_KEY, _DATA_VALUE = 1, 1
_OBJ_NAME, _OBJ_TYPE, _OBJ_DATA = 2, 3, 4
_COUNTER = struct.pack("!I", 1)  # NFT_OBJECT_COUNTER
_COUNTER_PACKETS = 2
_ANONYMOUS = b"__"  # so their names begin; nobody can change their elements
MOST = 1 << 22  # bytes of elements of one set that are looked at

State = Mapping[str, bytes]  # "chain NAME" and "set NAME" → digest; a set's elements are not looked at: b""


def state(table: str, *, elements: bool) -> State:
    """table: as "inet name"; {} where there is none. elements: those of sets, too. Counters and limits among rules must
    be named ones, or each packet would change the state. Raises NftError."""
    family, name = table.split()
    try:
        with NfNetlink() as netlink:
            return _state(netlink, _FAMILIES[family], name.encode() + b"\0", elements)
    except OSError as error:
        if error.errno == errno.ENOENT:  # it went meanwhile
            return {}
        raise NftError(f"netlink: {error}") from error


def counters(table: str) -> dict[str, int]:
    """Packets by the name of the counter. Raises NftError."""
    family, name = table.split()
    wanted = attribute(_TABLE, name.encode() + b"\0") + attribute(_OBJ_TYPE, _COUNTER)
    packets = {}
    try:
        with NfNetlink() as netlink:
            for _, body in netlink.dump(GETOBJ, _FAMILIES[family], wanted):
                found = dict(attributes(body))
                value = dict(attributes(found.get(_OBJ_DATA, b""))).get(_COUNTER_PACKETS, b"")
                if len(value) == 8:
                    packets[_text(found.get(_OBJ_NAME, b""))] = int.from_bytes(value)
    except OSError as error:
        raise NftError(f"netlink: {error}") from error
    return packets


def fingerprints(table: str) -> dict[str, tuple[int, int]]:
    """fingerprint() of the keys of each set, in whatever order the kernel has them. Raises NftError."""
    family, name = table.split()
    packed = name.encode() + b"\0"
    try:
        with NfNetlink() as netlink:
            sets = _dump(netlink, GETSET, _FAMILIES[family], packed, attribute(_TABLE, packed))
            names = [body.get(_SET_NAME, b"") for body in sets]
            return {
                _text(one): fingerprint(_keys(netlink, _FAMILIES[family], packed, one))
                for one in names if not one.startswith(_ANONYMOUS)
            }  # fmt: skip
    except OSError as error:
        if error.errno == errno.ENOENT:
            return {}
        raise NftError(f"netlink: {error}") from error


def fingerprint(keys: Iterable[bytes]) -> tuple[int, int]:
    """How many, and a sum over them; it means something in this process only."""
    number = total = 0
    for key in keys:
        number += 1
        total += hash(key)
    return number, total


def _keys(netlink: NfNetlink, family: int, table: bytes, name: bytes) -> Iterator[bytes]:
    for _, body in netlink.dump(GETSETELEM, family, attribute(_TABLE, table) + attribute(_ELEMENTS_SET, name)):
        for _, element in attributes(dict(attributes(body)).get(_ELEMENTS, b"")):
            key = dict(attributes(element)).get(_ELEMENT_KEY, b"")
            yield dict(attributes(key)).get(_DATA_VALUE, b"")


def elements(table: str, names: Iterable[str]) -> State:
    """Of these sets alone. Raises NftError."""
    family, name = table.split()
    try:
        with NfNetlink() as netlink:
            return {
                f"set {one}": _elements(netlink, _FAMILIES[family], name.encode() + b"\0", one.encode() + b"\0")
                for one in names
            }
    except OSError as error:
        raise NftError(f"netlink: {error}") from error


def differences(before: State, now: State) -> list[str]:
    """Names of chains and sets that are gone, new or different."""
    return [key for key in sorted({*before, *now}) if key not in before or key not in now or _differ(key, before, now)]


def _differ(key: str, before: State, now: State) -> bool:
    return before[key] != now[key] and bool(before[key] and now[key])


def _state(netlink: NfNetlink, family: int, table: bytes, elements: bool) -> dict[str, bytes]:
    wanted = attribute(_TABLE, table)
    found = {}
    rules: dict[bytes, list[bytes]] = {}
    for body in _dump(netlink, GETRULE, family, table, wanted):
        rules.setdefault(body.get(_RULE_CHAIN, b""), []).append(body.get(_RULE_EXPRESSIONS, b""))
    for body in _dump(netlink, GETCHAIN, family, table, wanted):
        chain = body.get(_CHAIN_NAME, b"")
        digest = hashlib.blake2b(body.get(_CHAIN_HOOK, b"") + body.get(_CHAIN_POLICY, b""), digest_size=16)
        for expressions in rules.get(chain, ()):
            digest.update(len(expressions).to_bytes(4, "big") + expressions)
        found[f"chain {_text(chain)}"] = digest.digest()
    names = [body.get(_SET_NAME, b"") for body in _dump(netlink, GETSET, family, table, wanted)]
    for name in names:
        if not name.startswith(_ANONYMOUS):
            found[f"set {_text(name)}"] = _elements(netlink, family, table, name) if elements else b""
    return found


def _dump(netlink: NfNetlink, kind: int, family: int, table: bytes, wanted: bytes) -> list[dict[int, bytes]]:
    bodies = (dict(attributes(body)) for of, body in netlink.dump(kind, family, wanted) if of == family)
    return [body for body in bodies if body.get(_TABLE) == table]


def _elements(netlink: NfNetlink, family: int, table: bytes, name: bytes) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    seen = 0
    for _, body in netlink.dump(GETSETELEM, family, attribute(_TABLE, table) + attribute(_ELEMENTS_SET, name)):
        part = dict(attributes(body)).get(_ELEMENTS, b"")
        seen += len(part)
        if seen <= MOST:
            digest.update(part)
    return digest.digest() + seen.to_bytes(8, "big")


def _text(name: bytes) -> str:
    return name.rstrip(b"\0").decode(errors="replace")
