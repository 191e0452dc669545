# SPDX-License-Identifier: Apache-2.0
"""Addresses at a fixed place in the line: PeerGuardian P2P ("name:first-last"), eMule's ipfilter.dat, DShield's block
list ("first last length"), the Tor project's exit addresses, ipset's own."""

import re

from threatfeeds.content import Collector
from threatfeeds.formats.options import FormatOptions
from threatfeeds.indicator import Kind

_ZEROS = re.compile(r"\b0+(?=\d)")
_ADDRESSES: tuple[Kind, ...] = ("ipv4", "ipv6", "ipv4_prefix", "ipv6_prefix", "range")


def read_p2p(text: str, out: Collector, options: FormatOptions) -> None:
    """The name may contain colons: the range stands behind the last one."""
    for number, raw in enumerate(text.split("\n"), 1):
        line = raw.strip()
        if not line:
            continue
        if line.startswith(("#", "//", ";")):
            out.comments += 1
        else:
            out.add(line.rpartition(":")[2], number, only=("range", "ipv4"), shown=line)


def read_dshield(text: str, out: Collector, options: FormatOptions) -> None:
    """Columns separated by tabs or blanks: first address, last address, prefix length, and more that is not read."""
    for number, raw in enumerate(text.split("\n"), 1):
        line = raw.strip()
        if not line:
            continue
        columns = line.split()
        if line.startswith("#") or columns[0].lower() == "start":
            out.comments += 1
        elif len(columns) < 3:
            out.reject(number, line, "fewer than the three columns first, last, length")
        else:
            out.add(f"{columns[0]}/{columns[2]}", number, only=("ipv4", "ipv4_prefix"), shown=line)


def read_dat(text: str, out: Collector, options: FormatOptions) -> None:
    """eMule's ipfilter.dat: "001.002.003.000 - 001.002.003.255 , 000 , name". A level above 127 is not blocked."""
    for number, raw in enumerate(text.split("\n"), 1):
        line = raw.strip()
        if not line:
            continue
        if line.startswith(("#", "//", ";")):
            out.comments += 1
            continue
        span, _, rest = line.partition(",")
        level = rest.partition(",")[0].strip()
        if level.isdigit() and int(level) > 127:
            out.reject(number, line, "a level above 127 is allowed, not blocked")
        else:
            # Leading zeros mean octal to some readers; here they only fill up.
            out.add(_ZEROS.sub("", span), number, only=("range", "ipv4"), shown=line)


def read_tor(text: str, out: Collector, options: FormatOptions) -> None:
    """The Tor project's exit-addresses: records of ExitNode, Published, LastStatus and one or more ExitAddress."""
    for number, raw in enumerate(text.split("\n"), 1):
        words = raw.split()
        if len(words) > 1 and words[0] == "ExitAddress":
            out.add(words[1], number, only=("ipv4", "ipv6"), shown=raw.strip())
        else:
            out.comments += bool(words)


def read_ipset(text: str, out: Collector, options: FormatOptions) -> None:
    """What `ipset save` writes: "create NAME …", "add NAME ENTRY [options]"; of one with port the address counts."""
    for number, raw in enumerate(text.split("\n"), 1):
        words = raw.split()
        if len(words) > 2 and words[0] in ("add", "-A"):
            if "nomatch" in words:
                out.reject(number, raw.strip(), "an exception: exceptions belong into the allowlist")
            else:
                out.add(words[2].partition(",")[0], number, only=_ADDRESSES, shown=raw.strip())
        else:
            out.comments += bool(words)
