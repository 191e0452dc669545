# SPDX-License-Identifier: Apache-2.0
"""STIX 2 bundles (OASIS STIX 2.1, section 9: patterns). Indicators only: observed data says nothing of malice."""

import datetime
import re
from collections.abc import Iterator
from typing import Any

from threatfeeds.content import Collector
from threatfeeds.formats.json import documents
from threatfeeds.formats.options import FormatOptions
from threatfeeds.indicator import Kind

_STRING = r"'(?:\\.|[^'\\])*'"
_COMPARISON = re.compile(
    rf"(?P<path>[a-z0-9-]+:(?:[\w.\[\]*-]|{_STRING})+)\s*(?P<not>NOT\s+)?"
    rf"(?P<operator>=|!=|<=|>=|<|>|IN\b|LIKE\b|MATCHES\b|ISSUBSET\b|ISSUPERSET\b)\s*"
    rf"(?P<value>{_STRING}|\((?:{_STRING}|[^()'])*\)|\S+)"
)
_NEAR = 64  # characters before a comparison in which it may be negated: all of them would be quadratic
_NEGATED = re.compile(r"\bNOT\s*\(?\s*\Z", re.IGNORECASE)
_QUOTED = re.compile(_STRING)
_ADDRESSES: tuple[Kind, ...] = ("ipv4", "ipv6", "ipv4_prefix", "ipv6_prefix")
_JOIN = re.compile(r"\b(AND|FOLLOWEDBY)\b", re.IGNORECASE)  # some write them small
_PATHS: tuple[tuple[re.Pattern[str], tuple[Kind, ...]], ...] = (
    (re.compile(r"ipv[46]-addr:value\Z"), _ADDRESSES),
    (re.compile(r"network-traffic:(src|dst)_ref(\[\d+\])?\.value\Z"), (*_ADDRESSES, "domain")),
    (re.compile(r"domain-name:value\Z"), ("domain",)),
    (re.compile(r"url:value\Z"), ("url", "domain", *_ADDRESSES)),
    (
        re.compile(
            r"(file|x509-certificate|artifact):(?:[\w.]{1,80}\.)?hashes\.'?(md5|sha-?1|sha-?256)'?\Z", re.IGNORECASE
        ),
        ("md5", "sha1", "sha256"),
    ),
    (re.compile(r"network-traffic:extensions\..*ja3.*\Z", re.IGNORECASE), ("ja3", "md5")),
)
_DEEPEST = 32
_IMPLIED = re.compile(r"network-traffic:(src|dst)_ref(\[\d+\])?\.type\Z|file:|x509-certificate:|artifact:")


def read(text: str, out: Collector, options: FormatOptions) -> None:
    """Numbers count the objects of the bundle."""
    found = (item for _, document in documents(text, out) for item in objects(document))
    for number, item in enumerate(found, 1):
        if item.get("type") != "indicator":
            out.comments += 1
            continue
        pattern = item.get("pattern")
        shown = str(pattern)
        if item.get("revoked") is True:
            out.reject(number, shown, "revoked")
        elif over(item.get("valid_until"), options.now):
            out.expired += 1
        elif not isinstance(pattern, str) or item.get("pattern_type", "stix") != "stix":
            out.reject(number, shown, f"a pattern of type {item.get('pattern_type')} is not STIX's")
        else:
            _pattern(pattern, number, out)


def over(until: Any, now: float) -> bool:
    """Whether the time in a STIX or MISP timestamp (RFC 3339) has come; what is no time never comes."""
    if not isinstance(until, str) or not now:
        return False
    try:
        moment = datetime.datetime.fromisoformat(until)
    except ValueError:
        return False
    return moment.replace(tzinfo=moment.tzinfo or datetime.UTC).timestamp() <= now


def objects(document: Any, depth: int = 0) -> Iterator[dict[str, Any]]:
    """Objects of a bundle, of a TAXII envelope, of a bare list, or the one object that the document is."""
    if isinstance(document, dict):
        inner = document.get("objects")
        if isinstance(inner, list):
            candidates = inner
        elif isinstance(document.get("type"), str) or depth >= _DEEPEST:
            candidates = [document]
        else:  # a server's database, or whatever else wraps bundles
            for value in document.values():
                yield from objects(value, depth + 1)
            return
    else:
        candidates = document if isinstance(document, list) else []
    for item in candidates:
        if isinstance(item, dict):
            wrapped = item is not document and (item.get("type") == "bundle" or "type" not in item)
            if wrapped and depth < _DEEPEST:
                yield from objects(item, depth + 1)
            else:
                yield item


def _pattern(pattern: str, number: int, out: Collector) -> None:
    """Alternatives are taken one by one. Conditions that must hold together are only taken when what would be ignored
    is implied by the rest (the type of an address, properties of a hashed file): anything else would block too much."""
    usable: list[tuple[str, tuple[Kind, ...]]] = []
    of_file = "x509-certificate:" not in pattern
    ignored: list[str] = []
    for found in _COMPARISON.finditer(pattern):
        kinds = next((kinds for path, kinds in _PATHS if path.match(found["path"])), None)
        negated = found["not"] or _NEGATED.search(pattern[max(0, found.start() - _NEAR) : found.start()])
        if kinds is not None and not negated and found["operator"] in ("=", "IN", "ISSUBSET"):
            usable += [(_unquote(value), kinds) for value in _QUOTED.findall(found["value"])]
        else:
            ignored.append(found["path"])
    outside = _QUOTED.sub("''", pattern)
    joined = _JOIN.search(outside) is not None
    if not usable:
        out.reject(number, pattern, "the pattern names nothing that this appliance asks for")
    elif joined and (not all(_IMPLIED.match(path) for path in ignored) or not _together(usable)):
        out.reject(number, pattern, "the pattern needs several conditions at once")
    else:
        for value, kinds in usable:
            out.add(value, number, only=kinds, shown=pattern, of_file=of_file)


def _together(usable: list[tuple[str, tuple[Kind, ...]]]) -> bool:
    """One value, or several hashes of one file."""
    return len(usable) == 1 or all("sha1" in kinds for _, kinds in usable)


def _unquote(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text[1:-1])
