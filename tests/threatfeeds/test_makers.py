# SPDX-License-Identifier: Apache-2.0
"""Lists in the shapes that their makers publish, format guessed."""

import pytest

from threatfeeds import guess_format
from threatfeeds.content import Collector
from threatfeeds.formats import FORMATS
from threatfeeds.formats.options import FormatOptions

MD5 = "d41d8cd98f00b204e9800998ecf8427e"
CASES: dict[str, tuple[str, str, dict[str, int], int]] = {
    # name: (list, format, indicators, rejected)
    "urlhaus csv": (
        '# URLhaus\n# id,dateadded,url,url_status,urlhaus_link\n"1","2024","http://192.0.2.1/a","on","https://u.example/1"'
        '\n"2","2024","http://bad.example/b","on","https://u.example/2"\n',
        "csv", {"url": 2}, 0,
    ),
    "threatfox csv": (
        f'# "first_seen_utc","ioc_value","ioc_type","reference"\n"2024", "{MD5}", "md5_hash", "https://t.example/1"\n'
        '"2024", "192.0.2.1:443", "ip:port", "https://t.example/2"\n',
        "csv", {"md5": 1, "ipv4": 1}, 0,
    ),
    "sslbl certificates": (
        f"# Listingdate,SHA1,Listingreason\n2024-01-01 00:00:00,{MD5}00000000,Dridex C&C\n", "csv", {"sha1": 1}, 0,
    ),
    "sslbl ja3": (f"# ja3_md5,Firstseen,Lastseen,Listingreason\n{MD5},2017,2019,Dridex\n", "csv", {"ja3": 1}, 0),
    "spamhaus drop": ("; Spamhaus\n192.0.2.0/24 ; SBL256894\n", "plain", {"ipv4_prefix": 1}, 0),
    "spamhaus asndrop": ('{"asn":245,"domain":"x.example","asname":"X"}\n{"type":"metadata"}\n', "json", {}, 1),
    "tor exit addresses": (
        "ExitNode 0011BD2485AD45D984EC4159C88FC066E5E3300E\nPublished 2024-01-01 00:00:00\n"
        "LastStatus 2024-01-01 01:00:00\nExitAddress 192.0.2.1 2024-01-01 01:01:01\n",
        "tor", {"ipv4": 1}, 0,
    ),
    "unbound": (
        'server:\n local-zone: "bad.example" always_nxdomain\n local-zone: "worse.example." redirect\n'
        ' local-data: "worse.example A 0.0.0.0"\n',
        "zones", {"domain": 2}, 0,
    ),
    "bind": ('zone "bad.example" { type master; file "null"; };\n', "zones", {"domain": 1}, 0),
    "ipset save": (
        "create x hash:net family inet\nadd x 192.0.2.0/24\nadd x 198.51.100.1 timeout 10\nadd x 192.0.2.7 nomatch\n",
        "ipset", {"ipv4_prefix": 1, "ipv4": 1}, 1,
    ),
    "emule": (
        "001.002.004.000 - 001.002.004.255 , 000 , Org\n001.009.000.000 - 001.009.000.255 , 200 , fine\n",
        "dat", {"range": 1}, 1,
    ),
    "alienvault reputation": ("192.0.2.1#4#2#Malicious Host#KR##37.5,126.9\n", "plain", {"ipv4": 1}, 0),
    "ipsum": ("# IPsum\n192.0.2.1\t10\n192.0.2.2\t9\n", "plain", {"ipv4": 2}, 0),
    "phishtank": (
        "phish_id,url,phish_detail_url,verified\n1,http://a.example/x,http://p.example/1,yes\n"
        "2,http://b.example/x,http://p.example/2,yes\n",
        "csv", {"url": 2}, 0,
    ),
    "abuseipdb": ('{"data":[{"ipAddress":"192.0.2.1","countryCode":"RU"}]}', "json", {"ipv4": 1}, 0),
    "cloud ranges": (
        '{"prefixes":[{"ip_prefix":"192.0.2.0/24"}],"ipv6_prefixes":[{"ipv6_prefix":"2001:db8::/35"}]}',
        "json", {"ipv4_prefix": 1, "ipv6_prefix": 1}, 0,
    ),
    "feodo json": ('[{"ip_address":"192.0.2.1","hostname":"x.example"}]', "json", {"ipv4": 1}, 0),
    "threatfox json": (
        '{"1":[{"ioc_value":"192.0.2.1:80","reference":"https://x.example"}],"2":[{"ioc_value":"bad.example"}]}',
        "json", {"ipv4": 1, "domain": 1}, 0,
    ),
    "mixed column": (
        "indicator,type,date\n192.0.2.1,ip,2024\nbad.example,domain,2024\nhttp://x.example/y,url,2024\n",
        "csv", {"ipv4": 1, "domain": 1, "url": 1}, 0,
    ),
    "defanged": ("hxxps://b[.]example/y\n192[.]0[.]2[.]1\n", "plain", {"url": 1, "ipv4": 1}, 0),
    "idna both ways": ("münchen.example\nxn--mnchen-3ya.example\n", "plain", {"domain": 1}, 0),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_list_is_read_as_its_maker_meant_it(name: str) -> None:
    text, form, indicators, rejected = CASES[name]
    assert guess_format(text) == form
    out = Collector()
    FORMATS[form](text, out, FormatOptions())
    content = out.finish()
    assert {kind: number for kind, number in content.counts.items() if number} == indicators
    assert len(content.rejected) == rejected


def test_stix_1_package() -> None:
    text = (
        '<stix:STIX_Package xmlns:stix="http://stix.mitre.org/stix-1" xmlns:AddressObj="http://cybox.mitre.org/objects'
        '#AddressObject-2" xmlns:URIObj="http://cybox.mitre.org/objects#URIObject-2">'
        '<AddressObj:Address_Value condition="Equals">192.0.2.1##comma##192.0.2.2</AddressObj:Address_Value>'
        '<AddressObj:Address_Value condition="DoesNotEqual">192.0.2.3</AddressObj:Address_Value>'
        "<URIObj:Value>http://bad.example/x</URIObj:Value></stix:STIX_Package>"
    )
    assert guess_format(text) == "stix1"
    out = Collector()
    FORMATS["stix1"](text, out, FormatOptions())
    content = out.finish()
    assert (content.counts["ipv4"], content.counts["url"], content.rejected) == (2, 1, ())
    out = Collector()
    FORMATS["stix1"]('<!DOCTYPE x [<!ENTITY a "aaaa">]>' + text, out, FormatOptions())
    assert "document type" in out.finish().rejected[0].why
