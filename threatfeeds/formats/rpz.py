# SPDX-License-Identifier: Apache-2.0
"""DNS response policy zones (draft-vixie-dnsop-dns-rpz): names that a resolver is to answer differently.

Read record by record, not as a zone: one bad record must not cost the others.
"""

import itertools
from collections import deque
from collections.abc import Iterator

import dns.exception
import dns.tokenizer

from threatfeeds.content import Collector
from threatfeeds.formats.lines import LONGEST, raw_lines
from threatfeeds.formats.options import FormatOptions
from threatfeeds.indicator import Indicator, classify

_LONGEST_RECORD = 100  # lines
_DEEPEST = 8  # parentheses in each other
_CLASSES = frozenset({"IN", "CH", "HS"})
_UNITS = frozenset("smhdwSMHDW")
_HEAD = frozenset({"SOA", "NS"})
_TRIGGERS = ("rpz-ip", "rpz-client-ip", "rpz-nsdname", "rpz-nsip")


def read(text: str, out: Collector, options: FormatOptions) -> None:
    """QNAME triggers become names, rpz-ip triggers prefixes; a trigger for NAME and one for *.NAME are one entry."""
    records = list(_records(text, out))
    suffix = _zone_suffix([owner for _, owner, _, _, _ in records if owner.endswith(".")])
    for number, owner, kind, target, shown in records:
        if kind in _HEAD:
            out.comments += 1
            continue
        # A name that is answered with itself is how exceptions were written before.
        if target == "rpz-passthru." or (kind == "CNAME" and _bare(owner, suffix).lower() == target.removesuffix(".")):
            out.reject(number, shown, "an exception: exceptions belong into the allowlist")
            continue
        if kind == "CNAME" and target == "rpz-tcp-only.":
            out.reject(number, shown, "rpz-tcp-only blocks nothing")
            continue
        _trigger(_bare(owner, suffix), number, shown, out)


def _bare(owner: str, suffix: str) -> str:
    """The name without the zone's own."""
    name = owner.removesuffix(".")
    return name.removesuffix("." + suffix) if owner.endswith(".") and suffix else name


def _trigger(name: str, number: int, shown: str, out: Collector) -> None:
    head, _, kind = name.rpartition(".")
    if kind == "rpz-ip":
        out.add(_prefix(head), number, only=("ipv4", "ipv6", "ipv4_prefix", "ipv6_prefix"), shown=shown)
    elif kind in _TRIGGERS:
        out.reject(number, shown, f"the trigger {kind} is not about a name or an address that is asked for")
    else:
        found = classify(name)
        if isinstance(found, str) or found.kind != "domain":
            out.reject(number, shown, found if isinstance(found, str) else f"{found.kind} where a name was expected")
        else:
            out.put(Indicator("domain", found.value, found.subdomains or False), number, shown)


def _prefix(text: str) -> str:
    """ "24.0.2.0.192" → "192.0.2.0/24"; "48.zz.1.db8.2001" → "2001:db8:1::/48"."""
    length, *parts = text.split(".")
    parts.reverse()
    if len(parts) == 4 and "zz" not in parts:
        return ".".join(parts) + "/" + length
    groups = ":".join("" if part == "zz" else part for part in parts)
    return (":" * groups.startswith(":") + groups + ":" * groups.endswith(":")) + "/" + length


def _records(text: str, out: Collector) -> Iterator[tuple[int, str, str, str, str]]:
    """(line, owner as written, type, first word of the data, text) of every record."""
    owner = ""
    zone, below = "", ""
    for start, line in _logical(text):
        if not line.strip() or line.lstrip().startswith(";"):
            out.comments += bool(line.strip())
            continue
        shown = line.strip()
        if len(line) > LONGEST:
            out.reject(start, shown, f"{len(line)} characters: no record is as long")
            continue
        try:
            words = _words(line)
        except dns.exception.DNSException as error:
            out.reject(start, shown, f"not a record: {error}")
            continue
        if words and words[0].upper() in ("$TTL", "$ORIGIN"):
            out.comments += 1
            if words[0].upper() == "$ORIGIN" and len(words) > 1:
                zone, below = _origin(words[1], zone)
            continue
        if not line[0].isspace() and words:
            owner = words.pop(0)
            if zone and owner.lower().endswith(f".{zone}."):
                owner = owner[: -len(zone) - 2]
            elif below and not owner.endswith("."):
                owner = below if owner == "@" else f"{owner}.{below}"
        while words and (words[0].upper() in _CLASSES or _is_ttl(words[0])):
            words.pop(0)
        if len(words) < 2 or not owner:
            out.reject(start, shown, "not a record: expected NAME TYPE DATA")
            continue
        yield start, owner, words[0].upper(), words[1].lower(), shown


def _logical(text: str) -> Iterator[tuple[int, str]]:
    """(number of the first line, a record's lines together): one in parentheses goes on over line ends. Where they do
    not close the line stands for itself."""
    source = raw_lines(text)
    ahead: deque[tuple[int, str]] = deque()
    while ahead or (ahead := deque(itertools.islice(source, 1))):
        number, line = ahead.popleft()
        bare, depth = _depth(line, 0)
        parts = [bare]
        while 0 < depth <= _DEEPEST and len(parts) <= _LONGEST_RECORD:
            if len(parts) > len(ahead):
                ahead.extend(itertools.islice(source, 1))
            if len(parts) > len(ahead):
                break
            bare, depth = _depth(ahead[len(parts) - 1][1], depth)
            parts.append(bare)
        if len(parts) > 1 and depth <= 0:
            line = " ".join(parts)
            for _ in parts[1:]:
                ahead.popleft()
        yield number, line


def _depth(line: str, depth: int) -> tuple[str, int]:
    """(the line without its comment, parentheses open behind it)"""
    bare = line.partition(";")[0]
    return bare, depth + bare.count("(") - bare.count(")")


def _origin(name: str, zone: str) -> tuple[str, str]:
    """(the zone's own name, what relative owners stand below inside it). The first $ORIGIN is the zone."""
    name = name.lower().removesuffix(".")
    if not zone or name == zone:
        return zone or name, ""
    return zone, name.removesuffix("." + zone)


def _words(line: str) -> list[str]:
    tokenizer = dns.tokenizer.Tokenizer(line)
    words = []
    while not (token := tokenizer.get()).is_eol_or_eof():
        words.append(token.value)
    return words


def _is_ttl(word: str) -> bool:
    return word[:1].isdigit() and all(char.isdigit() or char in _UNITS for char in word)


def _zone_suffix(owners: list[str]) -> str:
    """The zone's own name behind absolute owners, when they share one that says "rpz"; else "" (the root)."""
    if len(owners) < 2:
        return ""
    reverse = [list(reversed(owner.rstrip(".").split("."))) for owner in owners]
    same = itertools.takewhile(lambda labels: len(set(labels)) == 1, zip(*reverse, strict=False))
    shared = [labels[0] for labels in same]
    suffix = ".".join(reversed(shared))
    return suffix if "rpz" in suffix else ""
