# SPDX-License-Identifier: Apache-2.0
"""JSON and JSON lines: strings in a list, or records with the indicator under a known key or a configured path."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from threatfeeds.content import Collector
from threatfeeds.formats.options import FormatOptions
from threatfeeds.hashes import HASH_TYPE, hash_of_file
from threatfeeds.indicator import Indicator, classify

_KEYS = (
    "cidr",
    "ip_address",
    "ip",
    "dst_ip",
    "ioc_value",
    "ioc",
    "indicator",
    "ip_range",
    "network",
    "prefix",
    "domain",
    "hostname",
    "host",
    "url",
    "value",
    "sha256_hash",
    "sha1_hash",
    "md5_hash",
    "sha256",
    "sha1",
    "md5",
    "ja3_fingerprint",
)
# The end of a key that is not known: SourceIp, remote_host, "phishing-url". Best first.
_ENDS = (
    *("cidr", "ipaddress", "ipaddr", "ip", "ipv4", "ipv6", "address", "network", "prefix", "domain", "hostname"),
    *("host", "fqdn", "indicator", "url", "uri", "sha256", "sha1", "md5", "ja3"),
)
_DEEPEST = 64
_HASHES = (32, 40, 64)  # digits
_STEP = re.compile(r"([^.\[\]]+)|(\[\])")


def read(text: str, out: Collector, options: FormatOptions) -> None:
    """Line numbers are those of JSON lines; in one JSON document they count records."""
    for number, document in _documents(text, out):
        if options.path:
            found = list(_follow(document, _STEP.findall(options.path)))
            if not found:
                out.reject(number, _show(document), f"nothing at {options.path}")
            for position, value in enumerate(found, number):
                _take(value, position, out)
        else:
            for position, record in enumerate(_flat(document), number):
                _record(record, position, out)


def _documents(text: str, out: Collector) -> Iterator[tuple[int, Any]]:
    try:
        yield 1, msgspec.json.decode(text.strip() or "[]")
        return
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        pass
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            yield number, msgspec.json.decode(line)
        except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
            out.reject(number, line, f"not JSON: {error}")


def _flat(value: Any, depth: int = 0) -> Iterator[Any]:
    """Records and strings: lists are opened, and objects that hold lists instead of an indicator."""
    if isinstance(value, list) and depth < _DEEPEST:
        for item in value:
            yield from _flat(item, depth + 1)
    elif isinstance(value, dict) and not _found(value):
        inner = (
            [value["list"]]
            if isinstance(value.get("list"), list)
            else [item for item in value.values() if isinstance(item, list | dict)]
        )
        if inner and depth < _DEEPEST:
            for item in inner:
                yield from _flat(item, depth + 1)
        else:
            yield value
    else:
        yield value


def _found(record: dict[str, Any]) -> str | None:
    """The indicator of a record: under a known key, else under one that ends like it and holds what it says."""
    for key in _KEYS:
        value = record.get(key)
        if isinstance(value, str):
            return value
    rest = {key.lower().replace("_", "").replace("-", ""): value for key, value in record.items()}
    for end in _ENDS:
        for key, value in rest.items():
            if key.endswith(end) and isinstance(value, str) and isinstance(classify(value), Indicator):
                return value
    return None


def _record(record: Any, number: int, out: Collector) -> None:
    if isinstance(record, str):
        _take(record, number, out)
    elif isinstance(record, dict):
        found = _found(record)
        if "asn" in record and found == record.get("domain"):
            # A list of autonomous systems names their owners' domains, too.
            out.reject(number, _show(record), "an AS number: name it under `asns` of a maxmind feed")
            return
        if found is not None:
            _take(found, number, out, record)
        elif record.get("type") == "metadata":
            out.comments += 1
        else:
            out.reject(number, _show(record), "no key that is known to hold an indicator: set `path`")
    else:
        out.reject(number, _show(record), "neither text nor a record")


def _follow(value: Any, steps: list[tuple[str, str]]) -> Iterator[Any]:
    if not steps:
        yield from value if isinstance(value, list) else (value,)
        return
    (key, opened), rest = steps[0], steps[1:]
    if opened:
        for item in value if isinstance(value, list) else ():
            yield from _follow(item, rest)
    elif isinstance(value, dict) and key in value:
        yield from _follow(value[key], rest)


def _take(value: Any, number: int, out: Collector, record: Mapping[str, Any] | None = None) -> None:
    if isinstance(value, str):
        out.add(value, number, of_file=_of_file(value, record) if record and len(value) in _HASHES else None)
    else:
        out.reject(number, _show(value), "not text")


def _of_file(value: str, record: Mapping[str, Any]) -> bool | None:
    types = [text for text in record.values() if isinstance(text, str) and HASH_TYPE.match(text)]
    return hash_of_file(types, next((key for key, held in record.items() if held is value), ""))


def _show(value: Any) -> str:
    return msgspec.json.encode(value).decode("utf-8", "replace")[:200]
