# SPDX-License-Identifier: Apache-2.0
"""nft scripts of the table of feeds, and which set a prefix is in. Pure.

    set fN_4_24       first addresses of the /24 of feed N: a packet is looked for by the first 24 bits of its address

A set for each length of prefix, not one of intervals: elements come and go one by one, in any order and in constant
time, whatever lies beside them or around them, and a lookup takes no lock.
"""

import ipaddress
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from fastpath.lists import RECORD, PrefixList

TABLE = "portcullis_feeds"
PRIORITY_OFFSET = -2  # from the queue's priority; classify is at -1
ENDS = ("source", "destination")
_MAPPED = bytes(10) + b"\xff\xff"


@dataclass(frozen=True)
class OffloadSettings:
    hooks: tuple[str, ...] = ("forward", "input", "output")
    priority: int = 150  # of the queue
    failsafe_in: tuple[tuple[str, int], ...] = ()
    failsafe_out: tuple[tuple[str, int], ...] = ()


class Kind(NamedTuple):
    """Of a set: what it holds."""

    family: int  # 4 or 6
    length: int  # of its prefixes


@dataclass(frozen=True)
class Listed:
    """A feed in the rules. kinds: of its sets."""

    number: int
    source: bool
    destination: bool
    kinds: tuple[Kind, ...]

    def set_name(self, kind: Kind) -> str:
        return f"f{self.number}_{kind.family}_{kind.length}"

    def counter(self, end: str) -> str:
        return f"f{self.number}_{end}"


def keys(prefixes: PrefixList) -> dict[Kind, list[bytes]]:
    """First addresses by kind."""
    packed = prefixes.packed
    found: dict[Kind, list[bytes]] = {}
    for at in range(0, len(packed), RECORD):
        length = packed[at + 16]
        if length >= 96 and packed.startswith(_MAPPED, at):
            found.setdefault(Kind(4, length - 96), []).append(packed[at + 12 : at + 16])
        else:
            found.setdefault(Kind(6, length), []).append(packed[at : at + 16])
    return found


def base_script(settings: OffloadSettings) -> str:
    """The table anew, with chains that let everything go on."""
    priority = settings.priority + PRIORITY_OFFSET
    lines = [f"table inet {TABLE}", f"delete table inet {TABLE}", f"table inet {TABLE} {{"]
    for hook in settings.hooks:
        lines.append(f"chain {hook} {{ type filter hook {hook} priority {priority}; policy accept; }}")
    return "\n".join([*lines, "}"])


def counters(listed: Listed, verb: str) -> list[str]:
    """verb: "add" or "delete"."""
    return [f"{verb} counter inet {TABLE} {listed.counter(end)}" for end in ENDS]


def sets(listed: Listed, kinds: Iterable[Kind], verb: str) -> list[str]:
    types = {4: "ipv4_addr", 6: "ipv6_addr"}
    return [
        f"{verb} set inet {TABLE} {listed.set_name(kind)}"
        + (f" {{ type {types[kind.family]}; }}" if verb == "add" else "")
        for kind in kinds
    ]


def rules(settings: OffloadSettings, feeds: Sequence[Listed]) -> Iterator[str]:
    """Chains are emptied and filled again."""
    for hook in settings.hooks:
        yield f"flush chain inet {TABLE} {hook}"
        rule = f"add rule inet {TABLE} {hook}"
        for exempt in _exempt(settings, hook):
            yield f"{rule} {exempt} accept"
        yield f"{rule} ct state {{ invalid, untracked }} accept"
        yield f"{rule} ct direction reply accept"
        for listed in feeds:
            for end, wanted, side in (("source", listed.source, "saddr"), ("destination", listed.destination, "daddr")):
                for kind in listed.kinds if wanted else ():
                    yield (
                        f"{rule} {_start(kind, side)} @{listed.set_name(kind)} counter name {listed.counter(end)} drop"
                    )


def _start(kind: Kind, side: str) -> str:
    """What of a packet is looked for."""
    if kind.family == 4:
        whole, name, network = 32, "ip", str(ipaddress.ip_network(f"0.0.0.0/{kind.length}").netmask)
    else:
        whole, name, network = 128, "ip6", str(ipaddress.ip_network(f"::/{kind.length}").netmask)
    return f"{name} {side}" if kind.length == whole else f"{name} {side} & {network}"


def _exempt(settings: OffloadSettings, hook: str) -> Iterator[str]:
    """Matches of what no feed blocks: failsafes in both directions, exactly where classify has them."""
    if hook == "forward":
        return
    yield "iif lo" if hook == "input" else "oif lo"
    asked, answered = settings.failsafe_in, settings.failsafe_out
    if hook == "output":
        asked, answered = answered, asked
    for ports, side in ((asked, "dport"), (answered, "sport")):
        for protocol in ("tcp", "udp"):
            numbers = sorted({port for name, port in ports if name == protocol})
            if numbers:
                yield f"{protocol} {side} {{ {', '.join(map(str, numbers))} }}"
