# SPDX-License-Identifier: Apache-2.0
"""Addresses at a fixed place in the line: PeerGuardian P2P ("name:first-last"), eMule's ipfilter.dat, DShield's block
list ("first last length"), the Tor project's exit addresses, ipset's own."""

import re

from threatfeeds.content import Collector
from threatfeeds.formats.lines import lines
from threatfeeds.formats.options import FormatOptions
from threatfeeds.indicator import Kind, classify

_ZEROS = re.compile(r"\b0+(?=\d)")
_NO_WORDS = frozenset({"ipset", "sudo", "-exist", "-!", "-q", "-quiet"})
_ADDRESSES: tuple[Kind, ...] = ("ipv4", "ipv6", "ipv4_prefix", "ipv6_prefix", "range")


def read_p2p(text: str, out: Collector, options: FormatOptions) -> None:
    """The name may contain colons: the range stands behind the last one, or one of IPv6 behind the first."""
    for number, line in lines(text, out):
        candidates = (line.rpartition(":")[2], line.partition(":")[2])
        found = next((span for span in candidates if not isinstance(classify(span), str)), candidates[0])
        out.add(found, number, only=_ADDRESSES, shown=line)


def read_dshield(text: str, out: Collector, options: FormatOptions) -> None:
    """Columns separated by tabs or blanks: first address, last address, prefix length, and more that is not read."""
    for number, line in lines(text, out):
        columns = line.split()
        if columns[0].lower() == "start":
            out.comments += 1
        elif len(columns) < 3:
            out.reject(number, line, "fewer than the three columns first, last, length")
        else:
            out.add(f"{columns[0]}/{columns[2]}", number, only=("ipv4", "ipv4_prefix"), shown=line)


def read_dat(text: str, out: Collector, options: FormatOptions) -> None:
    """eMule's ipfilter.dat: "001.002.003.000 - 001.002.003.255 , 000 , name". A level above 127 is not blocked."""
    for number, line in lines(text, out):
        span, _, rest = line.partition(",")
        level = rest.partition(",")[0].strip()
        if level.isdecimal() and (len(level) > 3 or int(level) > 127):
            out.reject(number, line, "a level above 127 is allowed, not blocked")
        else:
            # Leading zeros mean octal to some readers; here they only fill up.
            out.add(_ZEROS.sub("", span), number, only=("range", "ipv4"), shown=line)


def read_tor(text: str, out: Collector, options: FormatOptions) -> None:
    """The Tor project's exit-addresses: records of ExitNode, Published, LastStatus and one or more ExitAddress."""
    for number, line in lines(text, out):
        words = line.split()
        if words[0] != "ExitAddress":
            out.comments += 1
        elif len(words) > 1:
            out.add(words[1], number, only=("ipv4", "ipv6"), shown=line)
        else:
            out.reject(number, line, "no address behind ExitAddress")


def read_ipset(text: str, out: Collector, options: FormatOptions) -> None:
    """What `ipset save` writes: "create NAME …", "add NAME ENTRY [options]"; of one with port the address counts. The
    same as commands, too: "ipset add NAME ENTRY"."""
    for number, line in lines(text, out):
        words = [word for word in line.split() if word.rpartition("/")[2] not in _NO_WORDS]
        if not words or words[0] not in ("add", "-A"):
            out.comments += 1
        elif "nomatch" in words:
            out.reject(number, line, "an exception: exceptions belong into the allowlist")
        elif len(words) < 3:
            out.reject(number, line, "expected: add NAME ENTRY")
        else:
            out.add(words[2].partition(",")[0], number, only=_ADDRESSES, shown=line)
