# SPDX-License-Identifier: Apache-2.0
"""The checked set: what portcullis-feeds hands to the appliance. One file, all numbers big-endian.

    magic 8 | version u32 | length of the header u32 | length of what follows u64 | SHA-256 of what follows
    header: JSON, one record for each feed
    for each feed: prefixes 17 bytes each (16 address, 1 length; sorted) | first seen u32 each (seconds since 1970;
                   prefixes, names, URLs, fingerprints) | JSON of names, URLs and fingerprints

The writer parses hostile lists, so the reader trusts nothing: every length, order and value is checked. Pure.
"""

import hashlib
import re
import struct
import sys
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import msgspec
from msgspec import Meta

from fastpath.lists import RECORD, PrefixList
from threatfeeds.config import FeedError
from threatfeeds.content import FINGERPRINTS, KINDS, Domain, FeedContent
from threatfeeds.indicator import Fingerprint

MAGIC = b"PCFEEDS\0"
VERSION = 1
LARGEST = 1 << 30  # bytes
_HEAD = struct.Struct(">8sIIQ32s")
_NAME = re.compile(r"[a-z0-9_](?:[a-z0-9_.-]{0,251}[a-z0-9_])?\Z")

_Count = Annotated[int, Meta(ge=0, le=1 << 40)]
_Text = Annotated[str, Meta(max_length=2000)]


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A feed in the header."""

    name: Annotated[str, Meta(max_length=253)]
    source: _Text
    updated: float
    prefixes: _Count
    domains: _Count
    text: _Count  # bytes
    counts: dict[str, _Count]
    duplicates: _Count
    comments: _Count
    expired: _Count
    rejected: _Count
    warnings: Annotated[tuple[_Text, ...], Meta(max_length=16)] = ()
    others: _Count = 0  # URLs and fingerprints with a time


class _Words(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    domains: tuple[tuple[Annotated[str, Meta(max_length=253)], bool | None], ...]
    urls: tuple[str, ...]
    fingerprints: tuple[tuple[Fingerprint, Annotated[str, Meta(max_length=128)]], ...]


@dataclass(frozen=True)
class SetFeed:
    """A feed as it was fetched and read. Times in seconds since 1970.

    source: FeedConfig.source that the content came from. updated: when the content
    last changed. rejected: how many lines were no indicator. seen: when each prefix, then each name, URL and
    fingerprint was listed first; without those of prefixes when they were not read.
    """

    name: str
    source: str
    content: FeedContent = field(default_factory=FeedContent)
    updated: float = 0.0
    rejected: int = 0
    warnings: tuple[str, ...] = ()
    seen: Sequence[int] = ()


def encode(feeds: Sequence[SetFeed]) -> bytes:
    records: list[_Record] = []
    parts: list[bytes] = []
    for feed in feeds:
        content = feed.content
        words = msgspec.json.encode(
            _Words(
                tuple((domain.name, domain.subdomains) for domain in content.domains),
                content.urls,
                content.fingerprints,
            )
        )
        others = len(content.urls) + len(content.fingerprints)
        entries = len(content.prefixes) + len(content.domains) + others
        seen = array("I", feed.seen) if feed.seen else array("I", [int(feed.updated)]) * entries
        if len(seen) != entries:
            raise ValueError("a time for each entry")
        if sys.byteorder == "little":
            seen.byteswap()
        parts += [content.prefixes.packed, seen.tobytes(), words]
        records.append(
            _Record(
                feed.name, feed.source[:2000], feed.updated,
                len(content.prefixes), len(content.domains), len(words), content.counts, content.duplicates,
                content.comments, content.expired, feed.rejected, tuple(text[:2000] for text in feed.warnings[:16]),
                others,
            )
        )  # fmt: skip
    header = msgspec.json.encode(records)
    body = b"".join((header, *parts))
    return _HEAD.pack(MAGIC, VERSION, len(header), len(body), hashlib.sha256(body).digest()) + body


def decode(data: bytes, *, with_times: bool = False) -> tuple[SetFeed, ...]:
    """Raises FeedError for anything that encode would not have written."""
    if len(data) < _HEAD.size:
        raise FeedError("the set is cut off")
    magic, version, header_length, length, digest = _HEAD.unpack_from(data)
    if magic != MAGIC:
        raise FeedError("this is not a feed set")
    if version != VERSION:
        raise FeedError(f"a feed set of version {version}, expected {VERSION}")
    body = memoryview(data)[_HEAD.size :]
    if len(body) != length or header_length > length:
        raise FeedError("the set is cut off")
    if hashlib.sha256(body).digest() != digest:
        raise FeedError("the set is damaged: its checksum is wrong")
    try:
        records = msgspec.json.decode(body[:header_length], type=tuple[_Record, ...])
        return tuple(_feeds(records, body[header_length:], with_times))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FeedError(f"the set is not valid: {error}") from error


def _feeds(records: tuple[_Record, ...], body: memoryview, with_times: bool) -> list[SetFeed]:
    sizes = [
        (RECORD * record.prefixes, 4 * (record.prefixes + record.domains + record.others), record.text)
        for record in records
    ]
    if sum(map(sum, sizes)) != len(body):
        raise FeedError("the set is not as long as its feeds")
    if len({record.name for record in records}) != len(records):
        raise FeedError("a feed is twice in the set")
    found: list[SetFeed] = []
    offset = 0
    for record, (prefix_bytes, seen_bytes, text_bytes) in zip(records, sizes, strict=True):
        prefixes = _prefixes(body[offset : offset + prefix_bytes])
        offset += prefix_bytes
        seen = array("I")
        unread = 0 if with_times else 4 * record.prefixes
        seen.frombytes(body[offset + unread : offset + seen_bytes])
        if sys.byteorder == "little":
            seen.byteswap()
        offset += seen_bytes
        words = msgspec.json.decode(body[offset : offset + text_bytes], type=_Words)
        offset += text_bytes
        content = FeedContent(
            prefixes, _domains(words, record), words.urls, _fingerprints(words), (), _counts(record),
            record.duplicates, record.comments, record.expired,
        )  # fmt: skip
        found.append(
            SetFeed(
                record.name, record.source, content, record.updated, record.rejected, record.warnings, seen
            )
        )  # fmt: skip
    return found


def _prefixes(data: memoryview) -> PrefixList:
    try:
        return PrefixList.checked(bytes(data))
    except ValueError as error:
        raise FeedError(f"the set holds {error}") from error


def _domains(words: _Words, record: _Record) -> tuple[Domain, ...]:
    if len(words.domains) != record.domains:
        raise FeedError("the set holds another number of names than it says")
    if not all(_NAME.match(name) for name, _ in words.domains):
        raise FeedError("the set holds names that are none")
    return tuple(Domain(name, subdomains) for name, subdomains in words.domains)


def _fingerprints(words: _Words) -> tuple[tuple[Fingerprint, str], ...]:
    if any(kind not in FINGERPRINTS for kind, _ in words.fingerprints):
        raise FeedError("the set holds fingerprints that are none")
    return words.fingerprints


def _counts(record: _Record) -> dict[str, int]:
    if not record.counts.keys() <= set(KINDS):
        raise FeedError("the set counts kinds that there are not")
    return dict(record.counts)
