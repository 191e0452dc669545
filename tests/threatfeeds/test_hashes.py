# SPDX-License-Identifier: Apache-2.0
"""Hashes of certificates and of clients are looked for, hashes of files are not."""

import json

import pytest

from appliance.config import Config
from appliance.service.sought import NAME_PORTS, inspect_ports, sought
from threatfeeds import Allowlist, Feed, FeedConfig, read_feed
from threatfeeds.binary import SetFeed, decode, encode

SHA1, SHA256, MD5 = "d" * 40, "e" * 64, "f" * 32
STIX = {"type": "indicator", "pattern_type": "stix", "valid_from": "2024-01-01T00:00:00Z"}
ZEEK = "#fields\tindicator\tindicator_type\n"
SSLBL = "# abuse.ch SSLBL SSL Certificate Blacklist (SHA1 Fingerprints)\n#\n# Listingdate,SHA1,Listingreason\n"
BAZAAR = '# "first_seen_utc","sha256_hash","md5_hash","file_name"\n'
THREATFOX = '# "first_seen_utc","ioc_value","ioc_type","threat_type"\n'
CASES: dict[str, tuple[str, dict[str, str], str, bool]] = {
    # name: (list, settings, kind in counts, looked for)
    "sslbl": (f"{SSLBL}2024-01-01 00:00:00,{SHA1},Dridex C&C\n", {"format": "csv"}, "sha1", True),
    "bazaar": (f'{BAZAAR}"2024","{SHA256}","{MD5}","a.exe"\n', {"format": "csv"}, "sha256", False),
    "threatfox": (f'{THREATFOX}"2024","{MD5}","md5_hash","payload"\n', {"format": "csv"}, "md5", False),
    "otx": (f"Indicator type,Indicator\nFileHash-SHA256,{SHA256}\n", {"format": "csv"}, "sha256", False),
    "json type": (json.dumps([{"ioc": SHA256, "ioc_type": "sha256_hash"}]), {"format": "json"}, "sha256", False),
    "json key": (json.dumps([{"tls_cert_sha1": SHA1}]), {"format": "json"}, "sha1", True),
    "zeek file": (f"{ZEEK}{SHA1}\tIntel::FILE_HASH\n", {"format": "zeek-intel"}, "sha1", False),
    "zeek certificate": (f"{ZEEK}{SHA1}\tIntel::CERT_HASH\n", {"format": "zeek-intel"}, "sha1", True),
    "stix file": (
        json.dumps(STIX | {"pattern": f"[file:hashes.'SHA-256' = '{SHA256}']"}), {"format": "stix"}, "sha256", False
    ),
    "stix certificate": (
        json.dumps(STIX | {"pattern": f"[x509-certificate:hashes.'SHA-1' = '{SHA1}']"}), {"format": "stix"}, "sha1",
        True,
    ),
    "dataset": (f"{SHA256}\n", {"format": "suricata-hash"}, "sha256", False),
    "comment": (f"# recent malware samples\n\n{SHA256}\n", {}, "sha256", False),
    "report": (f"The dropper C:\\\\a.exe ({SHA1}) wrote a file.\n", {"format": "report"}, "sha1", False),
    "report of a certificate": (f"It shows the certificate {SHA1}.\n", {"format": "report"}, "sha1", True),
    "name": (f"{SHA1}\n", {"name": "malware-files"}, "sha1", False),
    "nobody says": (f"{SHA1}\n", {}, "sha1", True),
    "configured files": (f"{SHA1}\n", {"hashes": "files"}, "sha1", False),
    "configured tls": (f"{ZEEK}{SHA1}\tIntel::FILE_HASH\n", {"format": "zeek-intel", "hashes": "tls"}, "sha1", True),
}  # fmt: skip


def misp(kind: str, value: str) -> str:
    return json.dumps({"Event": {"Attribute": [{"type": kind, "value": value, "to_ids": True}]}})


for kind, value in {"x509-fingerprint-sha1": SHA1, "ja3-fingerprint-md5": MD5}.items():
    CASES[f"misp {kind}"] = misp(kind, value), {"format": "misp"}, "ja3" if value == MD5 else "sha1", True
for kind, value in {"sha1": SHA1, "filename|sha256": f"a.exe|{SHA256}", "md5": MD5}.items():
    CASES[f"misp {kind}"] = misp(kind, value), {"format": "misp"}, kind.rpartition("|")[2], False


@pytest.mark.parametrize("case", CASES)
def test_what_a_hash_is_of_decides_whether_it_is_looked_for(case: str) -> None:
    text, settings, kind, seen = CASES[case]
    config = FeedConfig(file="list", **({"name": "f"} | settings))
    content = read_feed(config, text.encode())
    assert content.counts[kind] == 1 and len(content) == 1
    (kept,) = decode(encode([SetFeed("f", "list", content)]))
    assert kept.content.fingerprints == content.fingerprints
    found = sought([Feed(config, kept.content)], Allowlist())
    assert found.fingerprints == seen
    ports = inspect_ports(Config(node="n1", mode="enforce"), found, signatures=False)
    assert (ports != ()) == seen and ports != NAME_PORTS
    assert any("1 hashes of files are not looked for" in text for text in found.warnings) != seen


def test_one_that_is_of_a_file_and_of_a_certificate_is_looked_for_and_counted_once() -> None:
    text = f"{ZEEK}{SHA1}\tIntel::FILE_HASH\n{SHA1}\tIntel::CERT_HASH\n{SHA1}\tIntel::FILE_HASH\n"
    content = read_feed(FeedConfig(file="list", name="f", format="zeek-intel"), text.encode())
    assert content.fingerprints == (("sha1", SHA1),)
    assert (content.counts["sha1"], content.duplicates) == (1, 2)
