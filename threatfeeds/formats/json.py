# SPDX-License-Identifier: Apache-2.0
"""JSON and JSON lines: strings in a list, or records with the indicator under a known key or a configured path."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from threatfeeds.content import Collector
from threatfeeds.formats.csv import TITLES, title_key
from threatfeeds.formats.lines import raw_lines
from threatfeeds.formats.options import FormatOptions
from threatfeeds.hashes import HASH_TYPE, hash_of_file
from threatfeeds.indicator import Indicator, classify

# The end of a key that is not known: SourceIp, remote_host, "phishing-url". Best first.
_ENDS = (
    *("cidr", "ipaddress", "addr", "ip", "ipv4", "ipv6", "address", "network", "prefix", "domain", "hostname"),
    *("host", "fqdn", "indicator", "url", "uri", "sha256", "sha1", "md5", "ja3"),
)
# Lists of a record that are its entries, and keys of what only explains it.
_LISTS = ("list", "indicators", "iocs")
_CONTEXT = frozenset({"reference", "references", "externalreferences", "tags", "links", "description", "deleted"})
_DEEPEST = 64
_HASHES = (32, 40, 64)  # digits
_LINES = re.compile(r"\s*[\[{][^\n]*[\]},]\s*(?:\n|\Z)")  # whether the first line may be a value by itself
_STEP = re.compile(r"([^.\[\]]+)|(\[\])")


def read(text: str, out: Collector, options: FormatOptions) -> None:
    """Line numbers are those of JSON lines; in one JSON document they count records."""
    for number, document in documents(text, out):
        if options.path:
            found = list(_follow(document, _STEP.findall(options.path)))
            if not found:
                out.reject(number, _show(document), f"nothing at {options.path}")
            for position, value in enumerate(found, number):
                _take(value, position, out)
        else:
            for position, (record, named) in enumerate(_flat(document), number):
                _record(record, position, out, named=named)


def documents(text: str, out: Collector) -> Iterator[tuple[int, Any]]:
    """(line from 1, value): of the text as a whole, else of each of its lines."""
    try:
        yield 1, msgspec.json.decode(text.strip() or "[]")
        return
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
        whole = f"not JSON: {error}"
    if _LINES.match(text) is None:
        out.reject(1, text.lstrip(), whole)
        return
    for number, line in raw_lines(text):
        if not line.strip():
            continue
        try:
            yield number, msgspec.json.decode(line)
        except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
            out.reject(number, line, f"not JSON: {error}")


def _flat(value: Any, depth: int = 0, *, named: bool = False) -> Iterator[tuple[Any, bool]]:
    """(record or text, whether it is a named part of another one): lists are opened, and objects without an indicator
    of their own."""
    if isinstance(value, list) and depth < _DEEPEST:
        for item in value:
            yield from _flat(item, depth + 1)
        return
    inner = _inner(value) if isinstance(value, dict) and not _found(value) and depth < _DEEPEST else []
    for item in inner:
        yield from _flat(item, depth + 1, named=True)
    if not inner:
        yield value, named


def _inner(record: dict[str, Any]) -> list[Any]:
    known = next((record[key] for key in _LISTS if isinstance(record.get(key), list)), None)
    if known is not None:
        return [known]
    return [
        item for key, item in record.items() if isinstance(item, list | dict) and title_key(key) not in _CONTEXT
    ]  # fmt: skip


def _found(record: dict[str, Any]) -> str | None:
    """The indicator of a record: under a known key, else under one that ends like it and holds what it says."""
    texts = {title_key(key): value for key, value in record.items() if isinstance(value, str)}
    named = sorted((key for key in texts if key in TITLES), key=lambda key: TITLES[key])
    for key in named:
        if isinstance(classify(texts[key]), Indicator):
            return texts[key]
    if named:
        return texts[named[0]]
    for end in _ENDS:
        for key, value in texts.items():
            if key.endswith(end) and isinstance(classify(value), Indicator):
                return value
    return None


def _record(record: Any, number: int, out: Collector, *, named: bool) -> None:
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
        elif named or record.get("type") == "metadata":
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
