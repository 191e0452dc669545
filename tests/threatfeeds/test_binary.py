# SPDX-License-Identifier: Apache-2.0
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastpath.lists import PrefixList
from threatfeeds import Domain, FeedContent, FeedError, prefix
from threatfeeds.binary import _HEAD, MAGIC, VERSION, SetFeed, decode, encode

PREFIXES = st.lists(
    st.builds(prefix.make, st.integers(0, (1 << 128) - 1), st.integers(0, 128)), unique=True, max_size=20
).map(lambda found: tuple(sorted(found)))
NAMES = st.lists(
    st.builds(Domain, st.sampled_from(["a.example", "b.example", "x-y.example"]), st.sampled_from([None, True, False])),
    unique_by=lambda domain: domain.name,
    max_size=3,
).map(tuple)
CONTENTS = st.builds(
    FeedContent,
    prefixes=PREFIXES.map(PrefixList.of),
    domains=NAMES,
    urls=st.lists(st.text(max_size=20), max_size=3).map(tuple),
    fingerprints=st.lists(st.tuples(st.just("sha1"), st.just("00" * 20)), max_size=1).map(tuple),
    counts=st.dictionaries(st.sampled_from(["ipv4", "domain"]), st.integers(0, 1 << 32)),
)


def made(*contents: FeedContent) -> bytes:
    return encode([SetFeed(f"feed{n}", "https://x/", content, 5.0) for n, content in enumerate(contents)])


def sealed(data: bytes) -> bytes:
    """With a checksum that is right again: what a hostile writer can do."""
    body = data[_HEAD.size :]
    _, version, header, _, _ = _HEAD.unpack_from(data)
    return _HEAD.pack(MAGIC, version, header, len(body), hashlib.sha256(body).digest()) + body


@given(st.lists(CONTENTS, max_size=3))
def test_what_is_written_is_read(contents: list[FeedContent]) -> None:
    found = decode(made(*contents), with_times=True)
    assert [feed.content for feed in found] == contents
    for feed in found:
        words = (feed.content.domains, feed.content.urls, feed.content.fingerprints)
        assert list(feed.seen) == [5] * (len(feed.content.prefixes) + sum(map(len, words)))


@given(CONTENTS, st.data())
def test_any_changed_byte_is_found(content: FeedContent, data: st.DataObject) -> None:
    whole = made(content)
    at = data.draw(st.integers(0, len(whole) - 1))
    damaged = whole[:at] + bytes((whole[at] ^ data.draw(st.integers(1, 255)),)) + whole[at + 1 :]
    with pytest.raises(FeedError):
        decode(damaged)
    with pytest.raises(FeedError):
        decode(whole[:at])


@given(CONTENTS, st.data())
def test_hostile_set_with_a_right_checksum_is_refused_or_sound(content: FeedContent, data: st.DataObject) -> None:
    whole = bytearray(made(content))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(_HEAD.size, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = decode(sealed(bytes(whole)))
    except FeedError:
        return
    for feed in found:
        prefixes = feed.content.prefixes
        assert list(prefixes) == sorted(set(prefixes))
        assert all(prefix.make(prefix.first(entry), prefix.length(entry)) == entry for entry in prefixes)


@given(st.binary(max_size=300))
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(FeedError):
        decode(MAGIC + data)
    with pytest.raises(FeedError):
        decode(data)


def test_prefixes_in_disorder_are_refused() -> None:
    entries = (prefix.parse("192.0.2.1"), prefix.parse("192.0.2.2"))
    whole = made(FeedContent(prefixes=PrefixList.of(entries)))
    first, second = (entry.to_bytes(17) for entry in entries)
    swapped = whole.replace(first, b"!").replace(second, first).replace(b"!", second)
    with pytest.raises(FeedError, match="disorder"):
        decode(sealed(swapped))


def test_another_version_is_refused() -> None:
    whole = bytearray(made())
    whole[11] = VERSION + 1
    with pytest.raises(FeedError, match="version"):
        decode(bytes(whole))
