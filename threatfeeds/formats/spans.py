# SPDX-License-Identifier: Apache-2.0
"""Lists of ranges in columns: PeerGuardian P2P ("name:first-last") and DShield's block list ("first last length")."""

from threatfeeds.content import Collector
from threatfeeds.formats.options import FormatOptions


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
