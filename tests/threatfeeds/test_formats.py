# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from threatfeeds import Domain, FeedConfig, FeedContent, guess_format, prefix, read_feed, summary
from threatfeeds.content import Collector
from threatfeeds.formats import FORMATS
from threatfeeds.formats.options import FormatOptions
from threatfeeds.read import decode


def read(name: str, text: str, **options: str) -> FeedContent:
    config = msgspec.structs.replace(FeedConfig(file="f", name="t", format=name, min_entries=0), **options)
    return read_feed(config, text.encode())


def addresses(content: FeedContent) -> list[str]:
    return [prefix.text(entry) for entry in content.prefixes]


def names(content: FeedContent) -> list[str]:
    return [domain.name for domain in content.domains]


def whys(content: FeedContent) -> list[tuple[int, str]]:
    return [(line.line, line.why) for line in content.rejected]


def test_hosts_take_the_names_and_never_the_address() -> None:
    content = read("hosts", "# x\n127.0.0.1 localhost\n0.0.0.0 evil.example www.evil.example # y\nbad line.example\n")
    assert names(content) == ["evil.example", "www.evil.example"]
    assert content.prefixes == ()
    assert [line for line, _ in whys(content)] == [2, 4]


def test_dnsmasq_names_stand_for_subdomains() -> None:
    content = read("dnsmasq", "address=/evil.example/0.0.0.0\nserver=/a.example/b.example/\nlog-queries\n")
    assert content.domains == (Domain("a.example", True), Domain("b.example", True), Domain("evil.example", True))
    assert [line for line, _ in whys(content)] == [3]


def test_adblock_takes_whole_names_only() -> None:
    content = read(
        "adblock",
        "[Adblock Plus 2.0]\n! x\n||evil.example^\n||b.example^$third-party\n||c.example/path\n"
        "||d.example^$domain=x.example\n"
        "@@||ok.example^\nexample.com##.ad\n0.0.0.0 e.example\nf.example\n",
    )
    assert names(content) == ["b.example", "e.example", "evil.example", "f.example"]
    assert [line for line, _ in whys(content)] == [5, 6, 7, 8]
    assert content.comments == 2


def test_rpz_triggers_and_exceptions() -> None:
    content = read(
        "rpz",
        "$TTL 60\n@ IN SOA a. b. (\n 1 ; serial\n 2 3 4 5 )\n  IN NS localhost.\n"
        "evil.example.rpz. CNAME .\n*.evil.example.rpz. 60 IN CNAME .\nfine.example.rpz. CNAME rpz-passthru.\n"
        "24.0.2.0.192.rpz-ip.rpz. CNAME .\n48.zz.1.db8.2001.rpz-ip.rpz. CNAME .\n"
        "32.1.2.0.192.rpz-client-ip.rpz. CNAME .\n"
        'b.example.rpz. A 192.0.2.1\n"unfinished\n',
    )
    assert content.domains == (Domain("b.example", False), Domain("evil.example", True))
    assert addresses(content) == ["192.0.2.0/24", "2001:db8:1::/48"]
    assert [line for line, _ in whys(content)] == [8, 11, 13]


def test_csv_by_name_by_number_and_by_looking() -> None:
    text = (
        '"first_seen","dst_ip","port"\r\n"2024-01-01 00:00:00","192.0.2.1","443"\r\n"2024-01-01","192.0.2.2","80"\r\n'
    )
    for column in ("", "dst_ip", "DST_IP", "2"):
        content = read("csv", text, column=column)
        assert addresses(content) == ["192.0.2.1", "192.0.2.2"]
        assert content.comments == 1
    assert "no column" in whys(read("csv", text, column="src_ip"))[0][1]


def test_csv_with_commented_header_ja3_and_another_delimiter() -> None:
    content = read("csv", "# ja3_md5;Firstseen\n" + "a" * 32 + ";2020\n", delimiter=";")
    assert content.fingerprints == (("ja3", "a" * 32),)
    assert addresses(read("csv", "1 | AS name, with comma | 192.0.2.7\n")) == ["192.0.2.7"]


def test_zeek_intel_types() -> None:
    content = read(
        "zeek-intel",
        "#fields\tindicator\tindicator_type\n192.0.2.1\tIntel::ADDR\n192.0.2.0/24\tIntel::SUBNET\nevil.example\tIntel::DOMAIN\n"
        "evil.example/a\tIntel::URL\nx@y.example\tIntel::EMAIL\n" + "b" * 32 + "\tIntel::JA3\nnothing\tIntel::ADDR\n",
    )
    assert {kind: number for kind, number in content.counts.items() if number} == {
        "ipv4": 1,
        "ipv4_prefix": 1,
        "domain": 1,
        "url": 1,
        "ja3": 1,
    }
    assert [line for line, _ in whys(content)] == [6, 8]


def test_json_lines_lists_and_paths() -> None:
    assert addresses(read("json", '{"cidr":"192.0.2.0/24","x":1}\n{"type":"metadata"}\nnonsense\n')) == ["192.0.2.0/24"]
    assert whys(read("json", '{"cidr":"192.0.2.0/24"}\nnonsense\n'))[0][0] == 2
    assert addresses(read("json", '{"name": "x", "list": ["192.0.2.1", "192.0.2.2"], "matching": ["ip-src"]}')) == [
        "192.0.2.1",
        "192.0.2.2",
    ]
    threatfox = '{"7": [{"ioc_value": "192.0.2.3:443", "ioc_type": "ip:port"}]}'
    assert addresses(read("json", threatfox)) == ["192.0.2.3"]
    nested = '{"data": {"hosts": [{"addr": "192.0.2.4"}, {"addr": 5}]}}'
    content = read("json", nested, path="data.hosts[].addr")
    assert addresses(content) == ["192.0.2.4"]
    assert whys(content) == [(2, "not text")]
    assert "nothing at" in whys(read("json", nested, path="data.none"))[0][1]


def stix(*patterns: str, **fields: object) -> FeedContent:
    indicators = [{"type": "indicator", "pattern": pattern, **fields} for pattern in patterns]
    return read("stix", msgspec.json.encode({"type": "bundle", "objects": [{"type": "malware"}, *indicators]}).decode())


def test_stix_alternatives_are_taken_and_conjunctions_are_not() -> None:
    content = stix(
        "[ipv4-addr:value = '192.0.2.0/24' OR domain-name:value = 'evil.example']",
        "[network-traffic:dst_ref.type = 'ipv4-addr' AND network-traffic:dst_ref.value = '192.0.3.1']",
        "[file:name = 'a AND b' AND file:hashes.'SHA-256' = '" + "c" * 64 + "']",
        "[url:value IN ('http://a.example/x', 'http://b.example/')]",
        "[ipv4-addr:value = '192.0.4.1' AND network-traffic:dst_port = 25]",
        "[ipv4-addr:value != '192.0.5.1']",
        "[mutex:name = 'x']",
        "[domain-name:value = 'it\\'s']",
    )
    assert addresses(content) == ["192.0.2.0/24", "192.0.3.1"]
    assert names(content) == ["evil.example"]
    assert content.urls == ("http://a.example/x", "http://b.example/")
    assert content.counts["sha256"] == 1
    assert [line for line, _ in whys(content)] == [6, 7, 8, 9]
    assert content.comments == 1


def test_stix_revoked_indicators_and_foreign_pattern_languages_are_rejected() -> None:
    assert whys(stix("[ipv4-addr:value = '192.0.2.1']", revoked=True)) == [(2, "revoked")]
    assert "snort" in whys(stix("alert tcp", pattern_type="snort"))[0][1]


def test_misp_attributes_for_detection() -> None:
    attributes = [
        {"type": "ip-dst|port", "value": "192.0.2.1|443", "to_ids": True},
        {"type": "domain|ip", "value": "evil.example|192.0.2.2", "to_ids": True},
        {"type": "filename|sha1", "value": "a|b.exe|" + "d" * 40, "to_ids": True},
        {"type": "ja3-fingerprint-md5", "value": "e" * 32, "to_ids": True},
        {"type": "url", "value": "http://context.example/", "to_ids": False},
        {"type": "mutex", "value": "m", "to_ids": True},
        {"type": "domain", "value": "192.0.2.9", "to_ids": True},
    ]
    event = {"response": [{"Event": {"Attribute": attributes[:3], "Object": [{"Attribute": attributes[3:]}]}}]}
    content = read("misp", msgspec.json.encode(event).decode())
    assert addresses(content) == ["192.0.2.1", "192.0.2.2"]
    assert names(content) == ["evil.example"]
    assert content.fingerprints == (("ja3", "e" * 32), ("file_sha1", "d" * 40))
    assert len(content.rejected) == 2
    assert content.comments == 1


def test_suricata_datasets() -> None:
    content = read("suricata-string", "ZXZpbC5leGFtcGxl\nZXZpbC5vdGhlcg==,10\n%%%\n")
    assert names(content) == ["evil.example", "evil.other"]
    assert whys(content) == [(3, "not Base64 of text")]
    assert addresses(read("suricata-ip", "192.0.2.1\n2001:db8::1,5\n")) == ["192.0.2.1", "2001:db8::1"]
    assert read("suricata-hash", "f" * 64 + "\n" + "f" * 40).counts["sha256"] == 1


def test_spans() -> None:
    content = read("p2p", "# x\nName: with colon:192.0.2.0-192.0.2.255\nbroken\n")
    assert addresses(content) == ["192.0.2.0/24"]
    assert [line for line, _ in whys(content)] == [3]
    content = read("dshield", "Start\tEnd\tNetmask\n192.0.2.0\t192.0.2.255\t24\t100\tNAME\n192.0.3.0\n")
    assert addresses(content) == ["192.0.2.0/24"]
    assert [line for line, _ in whys(content)] == [3]


def test_report_takes_names_only_when_they_are_defanged() -> None:
    content = read(
        "report",
        "Visit www.vendor.example, mail a@victim.example.\nC2: evil[.]example and 192.0.2.1:443\n* hxxp://x[.]example/a\n",
    )
    assert names(content) == ["evil.example"]
    assert addresses(content) == ["192.0.2.1"]
    assert content.urls == ("http://x.example/a",)
    assert content.comments == 1


def test_summary_has_every_kind() -> None:
    told = summary("plain", read("plain", "192.0.2.1\n192.0.2.1\n#\nnonsense\n"))
    assert told["duplicates"] == told["comments"] == 1
    assert told["rejected"] == [{"line": 4, "text": "nonsense", "why": "neither an address nor a name"}]
    assert isinstance(told["indicators"], dict)
    assert list(told["indicators"]) == [
        "ipv4",
        "ipv6",
        "ipv4_prefix",
        "ipv6_prefix",
        "range",
        "domain",
        "url",
        "ja3",
        "ja4",
        "sha1",
        "sha256",
        "md5",
    ]


# Indicators that each sample holds: its lines in INDEX.md without headers, metadata, zone heads and rejected lines.
SAMPLES = [
    ("abusech/feodo-ipblocklist.csv", "csv", 28, 0),
    ("abusech/sslipblacklist-2015.csv", "plain", 83, 0),
    ("abusech/sslipblacklist-2020.csv", "csv", 114, 0),
    ("defanged/unit42-Skimmer_BOM.txt", "plain", 108, 0),
    ("defanged/unit42-keybase_panels.txt", "plain", 2621, 0),
    ("dnsmasq/blp-drugs-dnsmasq.txt", "dnsmasq", 26029, 0),
    ("hosts/blp-drugs.txt", "hosts", 26029, 0),
    ("hosts/wsb-spy.txt", "hosts", 347, 0),
    ("intelmq/dshield_block.txt", "dshield", 2, 0),
    ("intelmq/cymru_certname_20190327.txt", "csv", 35, 0),
    ("maltrail/apt_lazarus.txt", "plain", 5474, 99),
    ("maltrail/suspicious_web_shells.txt", "plain", 10, 962),
    ("misp-warninglists/bank-website.json", "json", 2225, 1),
    ("misp-warninglists/vpn-ipv4.json", "json", 42426, 0),
    ("misp/eset-cloudmensis.json", "misp", 9, 2),
    ("p2p/wsb-p2p-extra.txt", "p2p", 965, 0),
    ("rpz/dnsbunker-rpz.txt", "rpz", 12250, 0),
    ("rpz/ubuntu-rpz-db.rpz", "rpz", 332, 0),
    ("spamhaus/drop_v4.json", "json", 1670, 0),
    ("spamhaus/edrop-2024-stripped.txt", "plain", 322, 0),
    ("stix/apt1.json", "stix", 10, 2),
    ("stix/indicator-for-c2-ip-address.json", "stix", 1, 0),
    ("zeek-intel/alienvault.intel", "zeek-intel", 609, 0),
    ("zeek-intel/openphish.intel", "zeek-intel", 300, 0),
    ("defanged/eset-stantinko.adoc", "report", 468, 1),
    ("defanged/eset-kryptocibule.adoc", "report", 102, 51),
    ("misp-warninglists/cisco_top10k.json", "json", 10000, 0),
    ("firehol/firehol_level4.netset", "plain", 131420, 0),
    ("domains/unit42-silverterrier_domains19_CRLF.csv", "csv", 23309, 0),
]


@pytest.mark.parametrize(("sample", "name", "entries", "rejected"), SAMPLES)
def test_samples_are_recognized_and_read(corpora: Path, sample: str, name: str, entries: int, rejected: int) -> None:
    data = (corpora / "feeds" / sample).read_bytes()
    assert guess_format(decode(data)) == name
    content = read_feed(FeedConfig(file=sample, name="t", format=name), data)
    assert (len(content) + content.duplicates, len(content.rejected)) == (entries, rejected)


fragments = st.lists(
    st.sampled_from(
        [
            "192.0.2.1",
            "a.example",
            "||",
            "^",
            "$",
            "{",
            "}",
            "[",
            "]",
            '"',
            "'",
            ":",
            ",",
            "\n",
            "\t",
            " ",
            "(",
            ")",
            "=",
            "/",
            "CNAME",
            "SOA",
            "ipv4-addr:value",
            "Event",
            "Attribute",
            "cidr",
            "@@",
            "#fields\t",
            ";",
            "*.",
            ".rpz-ip",
            "zz",
            "\0",
            "\\",
        ]
    ),
    max_size=40,
)


@given(st.sampled_from(sorted(FORMATS)), fragments.map("".join) | st.text(max_size=80))
def test_no_text_breaks_a_reader(name: str, text: str) -> None:
    out = read_any(name, text)
    assert all(line.why and line.line >= 1 for line in out.rejected)
    assert guess_format(text) in FORMATS


def read_any(name: str, text: str) -> FeedContent:
    out = Collector()
    FORMATS[name](text, out, FormatOptions())
    return out.finish()


@pytest.mark.parametrize(
    ("text", "name", "counts", "rejected"),
    [
        ("192.0.2.1 a.example.org\n198.51.100.7 b.example.org\n", "plain", {"ipv4": 2}, 0),
        ("10.0.0.5 a.example.org\n10.0.0.5 b.example.org\n", "hosts", {"domain": 2}, 0),
        ("192.0.2.1\r198.51.100.7\r", "plain", {"ipv4": 2}, 0),
        ("192.0.2.1\n\ufeff198.51.100.7\n", "plain", {"ipv4": 2}, 0),
        ("[2001:db8::5]\n[2001:db8::6]:443\n", "plain", {"ipv6": 2}, 0),
        ("fe80::1%eth0\n2001:db8::1\n", "plain", {"ipv6": 1}, 1),
        ("192.0.2.1-10\n192.0.2.4/-1\n192.0.2.9\n", "plain", {"ipv4": 1}, 2),
        ("010.1.1.1\n192.168.001.1\n192.0.2.9\n", "plain", {"ipv4": 1}, 2),
        ("::ffff:192.0.2.1\n192.0.2.1\n192.0.2.77/24\n192.0.2.0/24\n", "plain", {"ipv4": 1, "ipv4_prefix": 1}, 0),
        (
            "$ORIGIN rpz.example.net.\n$TTL 60\n@ SOA a. b. 1 2 3 4 5\n$ORIGIN org.rpz.example.net.\n"
            "bar CNAME .\nbar.org.rpz.example.net. CNAME .\n*.www CNAME .\n",
            "rpz", {"domain": 2}, 0,
        ),
        (
            '{"type": "bundle", "objects": [{"type": "indicator", "pattern_type": "stix",'
            ' "pattern": "[NOT domain-name:value = \'good.example\']"}]}',
            "stix", {}, 1,
        ),
    ],
)  # fmt: skip
def test_what_looks_like_something_else(text: str, name: str, counts: dict[str, int], rejected: int) -> None:
    found = decode(text.encode())
    assert guess_format(found) == name
    out = Collector()
    FORMATS[name](found, out, FormatOptions())
    content = out.finish()
    assert {kind: number for kind, number in content.counts.items() if number} == counts
    assert len(content.rejected) == rejected
