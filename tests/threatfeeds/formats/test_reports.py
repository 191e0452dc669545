# SPDX-License-Identifier: Apache-2.0
"""Reports, tables and configuration of other software: indicators between words."""

import pytest

from tests.threatfeeds.formats.seen import Case, check

CASES: dict[str, Case] = {
    "md table": Case(
        "# IOCs\n\n| Type | Indicator | Note |\n|---|---|---|\n| IP | 192[.]0[.]2[.]1 | C2 |\n"
        "| Domain | bad[.]example | C2 |\n"
        "| SHA256 | e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 | payload.exe |\n"
        "| URL | hxxps://bad[.]example/x | |\n",
        "csv", {"ipv4": 1, "domain": 1, "url": 1, "sha256": 1}, 0, 3, [],
    ),
    "md bare": Case(
        "## Network\n\n- `192.0.2.1`\n- `bad-domain.example`\n- evil.example\n\n## Files\n\n- payload.exe\n"
        "- `x.dll`\n- d41d8cd98f00b204e9800998ecf8427e\n\n"
        "Some prose here talks about www.vendor.example and others.\n",
        "report", {"ipv4": 1, "domain": 2, "md5": 1}, 0, 5, [],
    ),
    "prose": Case(
        "Attackers used hxxp://evil[.]example/a and evil[.]example, evil(.)other, evil{.}third, evil[dot]fo"
        "urth, evil(dot)fifth plus\n192[.]0[.]2[.]1 and mail a[@]b[.]example, fine. The file is x.exe.\n"
        "hXXps[://]deep[.]example/x and hxxp[:]//two[.]example\nevil\\.sixth . done and more words\n",
        "report", {"ipv4": 1, "domain": 5, "url": 3}, 0, 1, [2],
    ),
    "sha512 txt": Case(
        "cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc"
        "cccccccccccccccccccccccccccccc\ne3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\n",
        "plain", {"sha256": 1}, 0, 0, [1],
    ),
    "ja4 list": Case(
        "t13d1516h2_8daaf6152771_b186095e22b6\nt13d190900_9dc949149365_97f8aa674fd9\n"
        "ge11nn05enus_9ed1ff1f7b03_cd8dafe26982\n",
        "plain", {"ja4": 2}, 0, 0, [3],
    ),
    "email list": Case(
        "a@b.example\nc@d.example\n",
        "plain", {}, 0, 0, [1, 2],
    ),
    "filenames": Case(
        "payload.exe\nscript.js\ninvoice.pdf\nx.zip\nok.example\n",
        "plain", {"domain": 2}, 0, 0, [1, 2, 3],
    ),
    "html table": Case(
        "<html><body><table>\n<tr><th>IP</th><th>Date</th></tr>\n<tr><td>192.0.2.1</td><td>2024</td></tr>\n"
        "<tr><td>192.0.2.2</td><td>2024</td></tr>\n</table></body></html>\n",
        "report", {"ipv4": 2}, 0, 3, [],
    ),
    "vxvault": Case(
        "<pre>\nVX Vault last 100 Links\nMon, 01 Jan 2024\n\nhttp://192.0.2.1/a.exe\nhttp://bad.example/b.exe\n",
        "plain", {"url": 2}, 0, 0, [1, 2, 3],
    ),
    "nixspam": Case(
        "2024-01-01T00:00+0100 192.0.2.1\n2024-01-01T00:00+0100 192.0.2.2\n",
        "report", {"ipv4": 2}, 0, 0, [],
    ),
    "nginx deny": Case(
        "deny 192.0.2.1;\ndeny 192.0.2.0/24;\n",
        "report", {"ipv4": 1, "ipv4_prefix": 1}, 0, 0, [],
    ),
    "iptables": Case(
        "-A INPUT -s 192.0.2.1 -j DROP\n-A INPUT -s 192.0.2.0/24 -j DROP\n",
        "report", {"ipv4": 1, "ipv4_prefix": 1}, 0, 0, [],
    ),
    "apache": Case(
        "Require not ip 192.0.2.1\nRequire not ip 192.0.2.2\nDeny from 192.0.2.3\n",
        "report", {"ipv4": 3}, 0, 0, [],
    ),
    "nft set": Case(
        "table inet x {\n set bl {\n  type ipv4_addr\n  flags interval\n  elements = { 192.0.2.1, 192.0.2.0/24,\n"
        "   198.51.100.1 }\n }\n}\n",
        "report", {"ipv4": 2, "ipv4_prefix": 1}, 0, 6, [],
    ),
    "mikrotik": Case(
        "/ip firewall address-list\nadd list=bl address=192.0.2.1 comment=x\nadd list=bl address=192.0.2.0/24\n",
        "report", {"ipv4": 1, "ipv4_prefix": 1}, 0, 1, [],
    ),
    "cisco": Case(
        "ip route 192.0.2.1 255.255.255.255 Null0\nip route 192.0.3.0 255.255.255.0 Null0\n",
        "report", {"ipv4": 1, "ipv4_prefix": 1}, 0, 0, [],
    ),
    "angle": Case(
        "<192.0.2.1>\n",
        "report", {"ipv4": 1}, 0, 0, [],
    ),
    "eset like": Case(
        "== Network\n\n=== Domains\n\n* `bad[.]example`\n* `worse[.]example`\n\n=== IPs\n\n|===\n|IP |Note\n"
        "|`192.0.2[.]1` |C2\n|===\n\n=== Hashes\n\n* `da39a3ee5e6b4b0d3255bfef95601890afd80709` - dropper\n",
        "report", {"ipv4": 1, "domain": 2, "sha1": 1}, 0, 7, [],
    ),
    "exec like": Case(
        "THREAT IDENTIFICATION: X\n\nSUBJECTS OBSERVED\nInvoice 5\n\nSENDERS OBSERVED\na@b.example\n\nURLS\n"
        "http://bad.example/x.zip\n\nC2 DOMAINS\nbad-one.com\nbad-two.net\n\nFILE HASH\nx.zip\n"
        "d41d8cd98f00b204e9800998ecf8427e\n\nC2 TRAFFIC\n192.0.2.1:443\n\nREFERENCES\nhttps://vendor.example/post\n",
        "report", {"ipv4": 1, "domain": 2, "url": 1, "md5": 1}, 0, 12, [],
    ),
    "prose fanged": Case(
        "The group uses bad.example and 192.0.2.1 as servers, says www.vendor.com.\n"
        "Its sample is e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 as of today.\n"
        "More at https://www.vendor.com/blog/x and elsewhere in the text.\n",
        "report", {"ipv4": 1, "url": 1, "sha256": 1}, 0, 0, [],
    ),
    "md backticks table": Case(
        "| IOC | Type |\n| --- | --- |\n| `192.0.2.1` | ip |\n| `bad.example` | domain |\n"
        "| `e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855` | sha256 |\n",
        "report", {"ipv4": 1, "domain": 1, "sha256": 1}, 0, 2, [],
    ),
    "unit42 tab desc": Case(
        "192.0.2[.]1\tC2 server\nbad[.]example\tC2 server\nhxxps://worse[.]example/x\tloader\n",
        "plain", {"ipv4": 1, "domain": 1, "url": 1}, 0, 0, [],
    ),
    "ioc types prefix": Case(
        "IP: 192.0.2.1\nDomain: bad[.]example\n"
        "SHA256: e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\nURL: hxxp://bad[.]example/x\n",
        "report", {"ipv4": 1, "domain": 1, "url": 1, "sha256": 1}, 0, 0, [],
    ),
    "html error": Case(
        "<!DOCTYPE html>\n<html><head><title>503</title></head><body>Service Unavailable</body></html>\n",
        "report", {}, 0, 2, [],
    ),
    "html 2": Case(
        "<html><body><h1>403 Forbidden</h1></body></html>",
        "report", {}, 0, 1, [],
    ),
    "xml s3 error": Case(
        '<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>AccessDenied</Code></Error>\n',
        "plain", {}, 0, 0, [1, 2],
    ),
    "text error": Case(
        "Too many requests. Please slow down.\n",
        "plain", {}, 0, 0, [1],
    ),
    "number": Case(
        "0\n",
        "plain", {}, 0, 0, [1],
    ),
    "null json": Case(
        "null",
        "plain", {}, 0, 0, [1],
    ),
    "keyvalue": Case(
        "2016-01-01T00:00:00 srcip=192.0.2.1 dstip=198.51.100.1 action=deny\n"
        "2016-01-01T00:00:01 srcip=192.0.2.2 dstip=198.51.100.1 action=deny\n",
        "report", {"ipv4": 3}, 1, 0, [],
    ),
    "taichung html": Case(
        "<html><body><table><tr><td>1</td><td>192.0.2.1</td><td>x</td></tr><tr><td>2</td><td>192.0.2.2</td>"
        "<td>y</td></tr></table></body></html>",
        "report", {"ipv4": 2}, 0, 0, [],
    ),
    "simplewall xml": Case(
        '<root><item rule="192.0.2.1; 198.51.100.0/24" name="x"/></root>\n',
        "report", {"ipv4": 1, "ipv4_prefix": 1}, 0, 0, [],
    ),
    "wsb proxifier": Case(
        "[Proxifier]\n192.0.2.1;\nbad.example;\n",
        "csv", {"ipv4": 1, "domain": 1}, 0, 1, [],
    ),
    "wsb openwrt": Case(
        "config rule\n\toption name x\n\toption dest_ip 192.0.2.1\n",
        "report", {"ipv4": 1}, 0, 2, [],
    ),
    "unit42 heads": Case(
        "SHA256\ne3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\n"
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\n\nDomains\nbad[.]example\n"
        "worse[.]example\n\nIPs\n192.0.2[.]1\n",
        "csv", {"ipv4": 1, "domain": 2, "sha256": 2}, 0, 1, [5, 9],
    ),
    "unit42 url paths": Case(
        "hxxp://bad[.]example/a b.exe\nhxxps[:]//worse[.]example/x\n",
        "plain", {"url": 2}, 0, 0, [],
    ),
    "hash name": Case(
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855  payload.exe\n"
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa *other.bin\n",
        "plain", {"sha256": 2}, 0, 0, [],
    ),
    "hash colon": Case(
        "SHA256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\n"
        "MD5:d41d8cd98f00b204e9800998ecf8427e\n",
        "plain", {"sha256": 1, "md5": 1}, 0, 0, [],
    ),
    "adoc table": Case(
        "|===\n|SHA-1 |Filename |Detection\n|`da39a3ee5e6b4b0d3255bfef95601890afd80709`\n|`x.exe`\n|Win32/X\n|===\n",
        "report", {"sha1": 1}, 0, 5, [],
    ),
    "adoc domains prose": Case(
        "- `bad[.]example` (C&C)\n- `192.0.2[.]1`\n- `hxxp://worse[.]example[/]x`\n",
        "plain", {"ipv4": 1, "domain": 1, "url": 1}, 0, 0, [],
    ),
    "email defang": Case(
        "a[at]b[.]example\nbad[.]example\n",
        "plain", {"domain": 1}, 0, 0, [1],
    ),
    "cert colon list": Case(
        "da:39:a3:ee:5e:6b:4b:0d:32:55:bf:ef:95:60:18:90:af:d8:07:09\n",
        "plain", {"sha1": 1}, 0, 0, [],
    ),
    "md5 list upper": Case(
        "D41D8CD98F00B204E9800998ECF8427E\nd41d8cd98f00b204e9800998ecf8427e\n",
        "plain", {"md5": 1}, 1, 0, [],
    ),
    "numbers first col rank": Case(
        "1\t192.0.2.1\n2\t192.0.2.2\n",
        "csv", {"ipv4": 2}, 0, 0, [],
    ),
    "html comment": Case(
        "<!-- x -->\n192.0.2.1\n192.0.2.2\n192.0.2.3\n",
        "plain", {"ipv4": 3}, 0, 0, [1],
    ),
    "xml entry list": Case(
        '<?xml version="1.0"?>\n<list>\n<ip>192.0.2.1</ip>\n<ip>192.0.2.2</ip>\n</list>\n',
        "report", {"ipv4": 2}, 0, 3, [],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_reports(name: str) -> None:
    check(CASES[name])
