# SPDX-License-Identifier: Apache-2.0
"""Suricata datasets (docs.suricata.io, "Datasets"): one value in each line, strings in Base64; with ",REPUTATION" a
datarep file."""

import base64
import binascii
from collections.abc import Iterator

from threatfeeds.content import Collector
from threatfeeds.formats.lines import lines
from threatfeeds.formats.options import FormatOptions
from threatfeeds.indicator import Kind

_SHA256 = 64  # hex digits
_ADDRESS: tuple[Kind, ...] = ("ipv4", "ipv6", "ipv4_prefix", "ipv6_prefix")


def read_string(text: str, out: Collector, options: FormatOptions) -> None:
    for number, line in _lines(text, out):
        try:
            value = base64.b64decode(line, validate=True).decode("utf-8")
        except (binascii.Error, UnicodeDecodeError, ValueError):
            out.reject(number, line, "not Base64 of text")
        else:
            out.add(value, number, shown=line)


def read_ip(text: str, out: Collector, options: FormatOptions) -> None:
    for number, line in _lines(text, out):
        out.add(line, number, only=_ADDRESS)


def read_hash(text: str, out: Collector, options: FormatOptions) -> None:
    """Types sha256, which Suricata asks of files, and md5, which it asks of JA3, too."""
    for number, line in _lines(text, out):
        out.add(line, number, only=("sha256", "md5"), of_file=True if len(line) == _SHA256 else None)


def _lines(text: str, out: Collector) -> Iterator[tuple[int, str]]:
    for number, line in lines(text, out, ("#",)):
        yield number, line.partition(",")[0].strip()
