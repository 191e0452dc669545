# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from threatfeeds import Domain, FeedConfig, FeedContent, FeedError, load_feed_config, prefix, read_feed
from threatfeeds.indicator import classify


def read(data: str | bytes) -> FeedContent:
    config = FeedConfig(file="list.txt", name="t", min_entries=0)
    return read_feed(config, data.encode() if isinstance(data, str) else data)


def texts(content: FeedContent) -> list[str]:
    return [prefix.text(entry) for entry in content.prefixes]


def test_addresses_prefixes_ranges_and_names() -> None:
    content = read(
        "192.0.2.1\n198.51.100.77/24\n203.0.113.0/255.255.255.0\n2001:DB8::1\n2001:db8:1::/48\n"
        "10.0.0.1-10.0.0.2\n10.0.1.0 - 10.0.1.255\nEvil.Example.\n*.worse.example\n"
        "münchen.example\nxn--mnchen-3ya.example\n"
    )
    assert texts(content) == [
        "10.0.0.1",
        "10.0.0.2",
        "10.0.1.0/24",
        "192.0.2.1",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "2001:db8::1",
        "2001:db8:1::/48",
    ]
    assert content.domains == (
        Domain("evil.example"),
        Domain("worse.example", True),
        Domain("xn--mnchen-3ya.example"),
    )
    assert content.counts == {
        "ipv4": 1,
        "ipv6": 1,
        "ipv4_prefix": 2,
        "ipv6_prefix": 1,
        "range": 2,
        "domain": 3,
        "url": 0,
        "ja3": 0,
        "ja4": 0,
        "sha1": 0,
        "sha256": 0,
        "md5": 0,
    }
    assert (content.duplicates, content.rejected) == (1, ())


def test_comments_line_ends_and_byte_order_marks() -> None:
    data = (
        "\ufeff# one\r\n; two\r\n// three\r\n192.0.2.1\r\n192.0.2.2 # four\r\n"
        "192.0.2.3;x\r\n192.0.2.4 // y\r\n\r\n192.0.2.5#z"
    )
    content = read(data)
    assert texts(content) == [f"192.0.2.{n}" for n in range(1, 6)]
    assert (content.comments, content.rejected) == (3, ())
    assert texts(read(data.encode("utf-16"))) == texts(content)


def test_text_behind_the_indicator_is_ignored() -> None:
    content = read(
        "192.0.2.1 SBL1 bad guys\n192.0.2.2,botnet\n192.0.2.3|x\n192.0.2.0/24\t2024-01-01\nevil.example malware\n"
    )
    assert len(content.prefixes) == 4
    assert content.domains == (Domain("evil.example"),)


def test_defanged_forms() -> None:
    content = read(
        "192[.]0[.]2[.]1\nevil[.]example\nevil (dot) other\nhxxps://evil[.]example/a\nhxxp[:]//b[.]example\n192.0.2.2:443\n"
    )
    assert texts(content) == ["192.0.2.1", "192.0.2.2"]
    assert [domain.name for domain in content.domains] == ["evil.example", "evil.other"]
    assert content.urls == ("http://b.example", "https://evil.example/a")


def test_rejected_lines_say_where_and_why() -> None:
    content = read(
        "192.0.2.1\n192.0.2.256\nhello world\n010.1.1.1\n1.2.3.4/40\n9.0.0.9-9.0.0.1\n0.0.0.0-255.255.255.255\nhttp://\n"
    )
    assert [(line.line, line.why) for line in content.rejected] == [
        (2, "not a valid address, prefix or range"),
        (3, "neither an address nor a name"),
        (4, "not a valid address, prefix or range"),
        (5, "not a valid address, prefix or range"),
        (6, "the range ends before it begins"),
        (7, "the range is wider than an IPv4 /8 or an IPv6 /16"),
        (8, "not a valid URL"),
    ]
    assert content.rejected[1].text == "hello world"


def test_fingerprints_are_told_apart() -> None:
    content = read("A" * 40 + "\n" + "b" * 64 + "\n" + "c" * 32 + "\nt13d1516h2_8daaf6152771_b186095e22b6\n" + "d" * 41)
    assert [kind for kind, _ in content.fingerprints] == ["ja4", "sha1", "sha256", "md5"]
    assert len(content.rejected) == 1


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "fewer than min_entries"),
        (b"  <!DOCTYPE html><html>", "HTML page"),
        (b"\x7fELF\0\0", "binary"),
        (b"192.0.2.1\n192.0.2.2\n192.0.2.3\n", "more than max_entries = 2"),
        (b"# " + b"x" * 2000, "more than max_size"),
        (b"what is this", "1 lines were rejected"),
    ],
)
def test_implausible_feeds_are_refused_as_a_whole(data: bytes, says: str) -> None:
    config = FeedConfig(file="list.txt", name="t", max_entries=2, max_size=1000)
    with pytest.raises(FeedError, match=says) as caught:
        read_feed(config, data)
    assert caught.value.file == "list.txt"


@pytest.mark.parametrize(
    ("text", "line", "field", "says"),
    [
        ('fil = "x"', 1, "fil", 'did you mean "file"'),
        ('name = "x"', None, "file", "required"),
        ('file = "x"\naction = "block"', 2, "action", '"alert", "drop", "reject"'),
        ('file = "x"\nname = "A b"', 2, "name", "lower-case"),
        ('file = "x"\nformat = "plian"', 2, "format", "plain"),
        ('file = "x"\n\nconfidence = 101', 3, "confidence", "<= 100"),
        ('file = "x"\n[labels]\na = "b"\nc = 1', 4, "labels.c", "expected str, got int (the value is 1)"),
        ('file = "x"\nlabels = {a = 1}', 2, "labels.a", "expected str"),
        ('maxmind = "x"\ncountries = ["AT", "us"]', 2, "countries", "capital letters, such as DE; entry 2 is 'us'"),
        ('url = "https://x.example/"\nheaders = {"A B" = "x"}', 2, "headers", "printable"),
        ('file = "x"\npath = "$.data[0]"', 2, "path", '"data[].ip"'),
        ('file = "x"\ncolumn = "0"', 2, "column", "from 1"),
        ('file = "x"\ncomment = "--"', 2, "comment", "length"),
    ],
)
def test_feed_configuration_errors(text: str, line: int | None, field: str, says: str) -> None:
    with pytest.raises(FeedError) as caught:
        load_feed_config(text, "bad.toml")
    assert (caught.value.line, caught.value.field) == (line, field)
    assert says in str(caught.value)


def test_feed_name_comes_from_the_file_name() -> None:
    assert load_feed_config('file = "x"', "/etc/portcullis/feeds.d/drop-v4.toml").name == "drop-v4"


@given(st.text(max_size=200) | st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: str | bytes) -> None:
    raw = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
    config = FeedConfig(file="f", name="t", min_entries=0)
    try:
        content = read_feed(config, raw)
    except FeedError:
        return
    lines = raw.count(b"\n") + raw.count(b"\r") + 1
    assert len(content) + content.duplicates + content.comments + len(content.rejected) <= max(lines, 1)


@given(st.text(alphabet="0123456789abcdefx.:/-*[]() ", max_size=60))
def test_every_line_is_counted_once(text: str) -> None:
    content = read(text)
    assert len(content) + content.duplicates + content.comments + len(content.rejected) == bool(text.strip())


@pytest.mark.parametrize(
    ("name", "entries"),
    [
        ("bitwire/inbound-ipv6.txt", 1117),
        ("bitwire/inbound-networks.txt", 213288),
        ("cins/cinsscore-aa.txt", 131072),
        ("firehol/firehol_level1.netset", 4631),
        ("firehol-2019/voipbl.netset", 83164),
        ("tor/tor-nodes.lst", 8054),
        ("firehol-2019/sslbl.ipset", 0),
        ("spamhaus/edrop-2024-stripped.txt", 322),
        ("domains/dnsbunker-domains.txt", 6125),
        ("blocklistproject/malware.ip", 20907),
        ("firehol/firehol_level4.netset", 131420),
    ],
)
def test_real_lists_have_the_number_of_entries_of_the_index(corpora: Path, name: str, entries: int) -> None:
    content = read((corpora / "feeds" / name).read_bytes())
    assert len(content) + content.duplicates == entries
    assert content.rejected == ()


@given(st.lists(st.text("abcdef019-_", max_size=8), min_size=1, max_size=4).map(".".join))
def test_a_name_is_the_same_however_it_is_written(text: str) -> None:
    """Names in their one form are read on a short way."""
    assert classify(text) == classify(text.upper()) == classify(f"'{text}'")
