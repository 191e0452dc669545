# SPDX-License-Identifier: Apache-2.0
"""Lists of names: hosts files, resolvers, response policy zones, Adblock rules."""

import pytest

from tests.threatfeeds.formats.seen import Case, check

CASES: dict[str, Case] = {
    "hosts several": Case(
        "# c\n127.0.0.1 localhost\n127.0.0.1 localhost.localdomain\n::1 localhost\n::1 ip6-localhost ip6-loopback\n"
        "ff02::1 ip6-allnodes\n255.255.255.255 broadcasthost\nfe80::1%lo0 localhost\n0.0.0.0 0.0.0.0\n"
        "0.0.0.0 a.example b.example # t\n0.0.0.0 c.example\n:: d.example\n0.0.0.0\te.example\n",
        "hosts", {"domain": 5}, 0, 1, [2, 3, 4, 5, 6, 7, 8, 9],
    ),
    "hosts stevenblack": Case(
        "# Title: StevenBlack/hosts\n127.0.0.1 localhost\n::1 localhost\n\n# Start\n0.0.0.0 a.example\n"
        "0.0.0.0 a.example\n0.0.0.0 b.example #x\n",
        "hosts", {"domain": 2}, 1, 2, [2, 3],
    ),
    "hosts under": Case(
        "0.0.0.0 _dmarc.a.example\n0.0.0.0 a_b.example\n0.0.0.0 -x.example\n0.0.0.0 single\n0.0.0.0 1.2.3.4\n"
        "0.0.0.0 ok.example\n",
        "hosts", {"domain": 4}, 0, 0, [4, 5],
    ),
    "hosts no address comments": Case(
        "# only\n0.0.0.0 a.example\n#0.0.0.0 b.example\n",
        "hosts", {"domain": 1}, 0, 2, [],
    ),
    "hosts bang": Case(
        "! hosts\n0.0.0.0 a.example\n0.0.0.0 b.example ; x\n",
        "hosts", {"domain": 2}, 0, 1, [],
    ),
    "dnsmasq kinds": Case(
        "# c\naddress=/a.example/0.0.0.0\naddress=/a.example/::\naddress=/b.example/\nserver=/c.example/\n"
        "local=/d.example/\naddress=/.e.example/127.0.0.1\naddress=/f.example/#\nserver=/g.example/#\n"
        "address=/*.h.example/\nconf-dir=/etc\n",
        "dnsmasq", {"domain": 7}, 1, 1, [9, 11],
    ),
    "dnsmasq ipset": Case(
        "ipset=/a.example/vpn\nnftset=/b.example/4#inet#fw4#x\nserver=/c.example/8.8.8.8\n"
        "address=/d.example/0.0.0.0\n",
        "dnsmasq", {"domain": 1}, 0, 0, [1, 2, 3],
    ),
    "unbound": Case(
        '# c\nserver:\nlocal-zone: "a.example" always_nxdomain\nlocal-zone: "b.example" static\n'
        'local-zone: "c.example" always_null\nlocal-data: "c.example A 0.0.0.0"\n'
        'local-zone: "ok.example" transparent\n',
        "zones", {"domain": 3}, 1, 2, [7],
    ),
    "unbound ws": Case(
        'server:\n    local-zone: "a.example" redirect\n    local-data: "a.example A 0.0.0.0"\n'
        '    local-data: "a.example AAAA ::"\n',
        "zones", {"domain": 1}, 2, 1, [],
    ),
    "bind": Case(
        'zone "a.example" { type master; file "/etc/null"; };\n'
        'zone "b.example" IN { type master; file "x"; notify no; };\n',
        "zones", {"domain": 2}, 0, 0, [],
    ),
    "rpz full": Case(
        "$ORIGIN rpz.local.\n$TTL 2h\n@ SOA ns.rpz.local. h.rpz.local. (1 2 3 4 5)\n  NS localhost.\n; c\n"
        "a.example CNAME .\n*.a.example CNAME .\nb.example CNAME *.\nc.example A 127.0.0.1\n"
        "d.example 300 IN CNAME walled.example.net.\nok.example CNAME rpz-passthru.\ndr.example CNAME rpz-drop.\n"
        "32.4.3.2.1.rpz-ip CNAME .\n24.0.3.2.1.rpz-ip CNAME .\n128.1.zz.db8.2001.rpz-ip CNAME .\n"
        "ns.evil.example.rpz-nsdname CNAME .\n32.4.3.2.1.rpz-nsip CNAME .\n32.4.3.2.1.rpz-client-ip CNAME .\n",
        "rpz", {"ipv4": 1, "ipv6": 1, "ipv4_prefix": 1, "domain": 5}, 1, 5, [11, 16, 17, 18],
    ),
    "rpz no soa": Case(
        "a.example CNAME .\n*.a.example CNAME .\nb.example CNAME .\n",
        "rpz", {"domain": 2}, 1, 0, [],
    ),
    "rpz abuse": Case(
        "$TTL 30\n@ SOA rpz.urlhaus.abuse.ch. hostmaster.urlhaus.abuse.ch. 2401 300 1800 604800 30\n"
        " NS localhost.\n;\n; abuse.ch URLhaus RPZ\n"
        "bad.example CNAME . ; Malware download (2024-01-01), see https://urlhaus.abuse.ch/host/bad.example/\n"
        "worse.example CNAME . ; x\n",
        "rpz", {"domain": 2}, 0, 5, [],
    ),
    "domains": Case(
        "# c\na.example\n*.b.example\n.c.example\nd.example.\nE.Example\nhttp://f.example/x\n_g.example\ncom\n"
        "localhost\nxn--mnchen-3ya.example\nmünchen.example\nа.example\n",
        "plain", {"domain": 8, "url": 1}, 1, 1, [9, 10],
    ),
    "domains comment inline": Case(
        "a.example # x\nb.example;y\nc.example\t2024\n",
        "plain", {"domain": 3}, 0, 0, [],
    ),
    "domains bad": Case(
        "a..example\n-a.example\na-.example\n"
        "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx.example\na b.example\nexa$mple.com\n"
        "ok.example\n",
        "plain", {"domain": 3}, 0, 0, [1, 4, 5, 6],
    ),
    "adblock": Case(
        "[Adblock Plus 2.0]\n! Title: x\n!\n||a.example^\n||b.example^$third-party\n||c.example^$important\n"
        "||d.example/path/x.js\n@@||ok.example^\nsite.example##.ad\nsite.example#@#.ad\n##.banner\n/ads/*\n"
        "||*.e.example^\n||f.example\n||g.example^$dnsrewrite=0.0.0.0\n||1.2.3.4^\n|https://h.example/x\n"
        "-ad-banner.\n",
        "adblock", {"ipv4": 1, "domain": 6}, 0, 3, [7, 8, 9, 10, 11, 12, 17, 18],
    ),
    "adguard home": Case(
        "! Title: AdGuard DNS filter\n! Homepage: x\n||a.example^\n||b.example^$denyallow=x.example\n# c\n"
        "@@||ok.example^|\n/regex/\n||c.example^$badfilter\n||d.example^$ctag=x\n",
        "adblock", {"domain": 1}, 0, 3, [4, 6, 7, 8, 9],
    ),
    "hagezi wildcard": Case(
        "# Title\n*.a.example\n*.b.example\n",
        "plain", {"domain": 2}, 0, 1, [],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_name_lists(name: str) -> None:
    check(CASES[name])
