# SPDX-License-Identifier: Apache-2.0
"""Parsers of what strangers publish: whatever comes, they answer or refuse, and never anything else."""

import string
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from threatfeeds import FeedConfig, FeedError, guess_format, load_feed_config, read_feed
from threatfeeds.calico import load_threat_feeds
from threatfeeds.content import Collector, NotAList
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


# What stands in a line by itself: no quotes and brackets, in which a record of CSV or RPZ goes on in the next line.
LINES = st.lists(
    st.lists(
        st.sampled_from(
            ["192.0.2.1", "::1", "bad.example", "other.example", "x", "payload.exe", "http://a.example/b", "#",
             ";", "//", "!", "@@", "||", "^", "-", "*", "*.", ",", "|", "\t", " ", "  ", "=", "/", ":",
             "add s ", "local-zone: ", "address=/", "ExitAddress ", "CNAME .", "Intel::ADDR",
             "d41d8cd98f00b204e9800998ecf8427e", "001.002.003.004", "255.255.255.0", "ZXZpbC5leGFtcGxl",
             "a@b.example", "\u00e9", "\u0085", "\x0b", "\x1c", "[.]", "<td>", "<a "]
        ), max_size=6,
    ).map("".join), max_size=6,
)  # fmt: skip
# Formats whose texts are no lines but one value.
VALUES = ("json", "misp", "stix", "stix1")


@pytest.mark.parametrize("name", sorted(FORMATS.keys() - set(VALUES)))
@given(given_lines=LINES)
def test_no_line_is_dropped_in_silence(name: str, given_lines: list[str]) -> None:
    out = Collector()
    FORMATS[name]("\n".join(given_lines), out, FormatOptions())
    content = out.finish()
    told = len(content) + content.duplicates + content.comments + len({line.line for line in content.rejected})
    blank = " \t,;|\x85\x0b\x1c" if name == "csv" else ""  # a row of empty cells is an empty line
    assert told >= sum(bool(line.strip().strip(blank)) for line in given_lines)


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_what_is_no_list_at_all_ends_early(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("threatfeeds.content.MOST_REJECTED", 10)
    text = "\n".join(f"no list {number}" for number in range(100))
    out = Collector()
    try:
        FORMATS[name](text, out, FormatOptions())
    except NotAList as error:
        assert "more than 10 lines are no indicator, the first" in str(error)
    config = FeedConfig(file="x", name="x", format="hosts", max_entries=3)
    with pytest.raises(FeedError, match="x:1: more than 10 lines"):
        read_feed(config, text.encode())
    with pytest.raises(FeedError, match="more than max_entries = 3"):
        read_feed(config, "\n".join(f"0.0.0.0 a{number}.example" for number in range(9)).encode())


@pytest.mark.parametrize("name", sorted(FORMATS))
@pytest.mark.parametrize(
    "piece",
    [" ", "\t", " #", "a ", "a.", "1.", "-", "[", " [.] ", "|", "<a ", "<td", '"', '",', "::", "\\", "{", "[[",
     '{"a":', "NOT (", "a:b = ", "( ", "*.", "=", "https://", "||a^$", "255.0.0.0 "],
)  # fmt: skip
def test_a_long_line_costs_no_more_than_its_length(name: str, piece: str) -> None:
    """What grew with the square would take minutes here."""
    text = piece * (80_000 // len(piece))
    for given_text in (text, "192.0.2.1" + text + "x", "# a,b\n" + text):
        began = time.process_time()
        FORMATS[name](given_text, Collector(), FormatOptions(now=1.0))
        assert time.process_time() - began < 8


MANY = {
    "unclosed parentheses": ("rpz", "a CNAME (\n" * 30_000),
    "unclosed quotes": ("csv", 'a,"b\n' * 60_000),
    "negations": ("stix", '{"type":"indicator","pattern":"' + "[a:b = 'x'] AND NOT " * 30_000 + '"}'),
    "open lists": ("json", "[" * 500_000),
    "open elements": ("stix1", "<a>" * 200_000),
    "names in a line": ("hosts", "0.0.0.0 " + "a.example " * 1_500),
    "addresses in a line": ("report", "192.0.2.1 255.255.255.0 " * 8_000),
    "cells": ("report", "<td>evil.com</td>" * 10_000),
    "digits": ("plain", "192.0.2.0/" + "9" * 100_000 + "\n1.2.3.4:" + "9" * 100_000),
    "numbers": ("json", '[{"ip": ' + "9" * 100_000 + "}]"),
    "level": ("dat", "1.2.3.4 - 1.2.3.5 , " + "9" * 10_000 + " , x"),
}  # fmt: skip


@pytest.mark.parametrize("case", MANY)
def test_many_of_a_kind_cost_no_more_than_their_number(case: str) -> None:
    name, text = MANY[case]
    began = time.process_time()
    FORMATS[name](text, Collector(), FormatOptions(now=1.0))
    assert time.process_time() - began < 8


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
