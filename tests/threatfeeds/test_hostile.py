# SPDX-License-Identifier: Apache-2.0
"""Parsers of what strangers publish: whatever comes, they answer or refuse, and never anything else."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from threatfeeds import FeedConfig, FeedError, guess_format, load_feed_config, read_feed
from threatfeeds.calico import load_threat_feeds
from threatfeeds.content import Collector
from threatfeeds.fetch.verify import check_sha256, check_signature
from threatfeeds.formats import FORMATS
from threatfeeds.formats.options import FormatOptions
from threatfeeds.packed import unpack

WORDS = st.sampled_from(
    ["192.0.2.1", "2001:db8::/32", "bad.example", "||", "^", "AS1", "add", "zone", '"', "<stix:STIX_Package>", "</",
     "local-zone:", "ExitAddress", "001.002.003.004", "-", ",", ";", "|", "{", "}", "[", "]", ":", "type", "indicator",
     "pattern", "[ipv4-addr:value = '", "'", "#", "# ip,url", "\n", "\r\n", "\t", " ", "0.0.0.0/0", "hxxp://", "[.]"]
)  # fmt: skip
TEXTS = st.one_of(st.text(max_size=200), st.lists(WORDS, max_size=40).map("".join))


@pytest.mark.parametrize("name", sorted(FORMATS))
@given(text=TEXTS)
def test_every_reader_answers(name: str, text: str) -> None:
    out = Collector()
    FORMATS[name](text, out, FormatOptions(now=1.0))
    content = out.finish()
    assert all(line.line >= 1 and line.why for line in content.rejected)


@given(TEXTS)
def test_a_format_is_always_guessed(text: str) -> None:
    assert guess_format(text) in FORMATS


@given(st.binary(max_size=300))
def test_bytes_become_content_or_a_feed_error(data: bytes) -> None:
    try:
        read_feed(FeedConfig(file="x", name="x", format="auto", min_entries=0), data)
    except FeedError:
        return


@given(st.one_of(st.text(max_size=200), st.text(string.printable, max_size=100).map("apiVersion: {}\n".format)))
def test_threat_feed_resources_never_raise(text: str) -> None:
    configs, errors = load_threat_feeds(text, "x.yaml")
    assert all(isinstance(error, FeedError) for error in errors)
    assert configs == ()


@given(st.text(max_size=200))
def test_configuration_is_read_or_refused(text: str) -> None:
    with pytest.raises(FeedError):
        load_feed_config(text, "x.toml")


@given(st.binary(max_size=200), st.sampled_from([b"", b"\x1f\x8b", b"PK\x03\x04"]))
def test_archives_are_unpacked_or_refused(data: bytes, start: bytes) -> None:
    try:
        assert len(unpack(start + data, 1000)) <= 1000
    except FeedError:
        return


@given(st.binary(max_size=200), st.text(max_size=80))
def test_no_signature_is_valid_by_chance(published: bytes, key: str) -> None:
    with pytest.raises(FeedError):
        check_sha256(b"list", published)
    with pytest.raises(FeedError):
        check_signature(b"list", published, key)
