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
    "hosts v6 only": Case(
        "::1 localhost\n:: a.example\n:: b.example\n",
        "hosts", {"domain": 2}, 0, 0, [1],
    ),
    "hosts tabs many": Case(
        "0.0.0.0\ta.example\tb.example\tc.example\n0.0.0.0 d.example\n",
        "hosts", {"domain": 4}, 0, 0, [],
    ),
    "hosts crlf bom": Case(
        "\ufeff# x\r\n0.0.0.0 a.example\r\n0.0.0.0 b.example\r\n",
        "hosts", {"domain": 2}, 0, 1, [],
    ),
    "hosts upper dot": Case(
        "127.0.0.1 A.Example.\n127.0.0.1 a.example\n",
        "hosts", {"domain": 1}, 1, 0, [],
    ),
    "hosts idn": Case(
        "0.0.0.0 münchen.example\n0.0.0.0 xn--mnchen-3ya.example\n",
        "hosts", {"domain": 1}, 1, 0, [],
    ),
    "hosts url": Case(
        "0.0.0.0 a.example/path\n0.0.0.0 http://b.example\n0.0.0.0 c.example\n",
        "hosts", {"domain": 1}, 0, 0, [1, 2],
    ),
    "adblock pure": Case(
        "||a.example^\n||b.example^\n",
        "adblock", {"domain": 2}, 0, 0, [],
    ),
    "adblock ubo": Case(
        "! Title: x\n! Expires: 1 day\n||a.example^$all\n||b.example^$doc\n||c.example^$document,popup\n"
        "||d.example^$image\n||e.example^$removeparam=x\n*$script,3p,domain=x.example\nx.example##+js(aopr)\n",
        "adblock", {"domain": 3}, 0, 2, [6, 7, 8, 9],
    ),
    "rpz comments tail": Case(
        "$TTL 60\n@ IN SOA localhost. root.localhost. 1 2 3 4 5\n@ IN NS localhost.\nbad.example IN CNAME . ; c\n"
        '*.bad.example IN CNAME .\nbad.example IN A 0.0.0.0\nbad2.example IN TXT "x"\n',
        "rpz", {"domain": 2}, 2, 3, [],
    ),
    "rpz cname sink": Case(
        "$ORIGIN rpz.example.\n@ 3600 IN SOA a. b. 1 2 3 4 5\n@ 3600 IN NS a.\n"
        "bad.example 60 IN CNAME sinkhole.example.net.\n*.bad.example 60 IN CNAME sinkhole.example.net.\n",
        "rpz", {"domain": 1}, 1, 3, [],
    ),
    "rpz exceptions as they were written before": Case(
        "$TTL 60\n@ SOA a. b. 1 2 3 4 5\nbad.example CNAME .\nok.example CNAME OK.example.\n"
        "*.ok.example CNAME *.ok.example.\n",
        "rpz", {"domain": 1}, 0, 2, [4, 5],
    ),
    "rpz nodata": Case(
        "$TTL 60\n@ SOA a. b. 1 2 3 4 5\nbad.example CNAME *.\nmore.example CNAME rpz-drop.\n"
        "t.example CNAME rpz-tcp-only.\np.example CNAME rpz-passthru.\n",
        "rpz", {"domain": 2}, 0, 2, [5, 6],
    ),
    "dnsmasq newline crlf": Case(
        "address=/a.example/0.0.0.0\r\naddress=/a.example/::\r\n",
        "dnsmasq", {"domain": 1}, 1, 0, [],
    ),
    "unbound include": Case(
        "local-zone: a.example. refuse\nlocal-zone: b.example. always_refuse\n",
        "zones", {"domain": 2}, 0, 0, [],
    ),
    "bind rpz zonefile": Case(
        'zone "bad.example" {type master; file "/etc/bind/db.blocked";};\n'
        'zone "worse.example" {type master; file "/etc/bind/db.blocked";};\n',
        "zones", {"domain": 2}, 0, 0, [],
    ),
    "domain wild": Case(
        "*.a.example\n.a.example\na.example\nwww.a.example\n",
        "plain", {"domain": 2}, 2, 0, [],
    ),
    "domain url mix": Case(
        "a.example\na.example/\na.example/x\nhttp://a.example\n",
        "plain", {"domain": 1, "url": 3}, 0, 0, [],
    ),
    "domain port": Case(
        "a.example:443\na.example:80\n",
        "plain", {"domain": 1}, 1, 0, [],
    ),
    "domain odd": Case(
        "a_b.example\n_x._tcp.example\nxn--80ak6aa92e.com\nEXAMPLE.ORG\nfoo.bar.\n",
        "plain", {"domain": 5}, 0, 0, [],
    ),
    "tld lines": Case(
        "com\n.com\n*.com\nlocalhost\nok.example\n",
        "plain", {"domain": 1}, 0, 0, [1, 2, 3, 4],
    ),
    "zeus": Case(
        "################\n# ZeuS domain blocklist\n################\n\nbad.example\nworse.example\n",
        "plain", {"domain": 2}, 0, 3, [],
    ),
    "hphosts": Case(
        "# hpHosts\n127.0.0.1\tlocalhost\n127.0.0.1\tbad.example\n",
        "hosts", {"domain": 1}, 0, 1, [2],
    ),
    "hagezi adblock": Case(
        "[Adblock Plus]\n! Title: HaGeZi\n!\n||a.example^\n||b.example^\n",
        "adblock", {"domain": 2}, 0, 3, [],
    ),
    "oisd abp": Case(
        "[Adblock Plus]\n! Version: 1\n||a.example^\n",
        "adblock", {"domain": 1}, 0, 2, [],
    ),
    "hagezi dnsmasq": Case(
        "# Title\nlocal=/a.example/\nlocal=/b.example/\n",
        "dnsmasq", {"domain": 2}, 0, 1, [],
    ),
    "hagezi rpz": Case(
        "$TTL 2h\n@ IN SOA localhost. root.localhost. (2024 6h 1h 1w 2h)\n  IN NS  localhost.\n; Title\n"
        "a.example CNAME .\n*.a.example CNAME .\nb.example CNAME .\n*.b.example CNAME .\n",
        "rpz", {"domain": 2}, 2, 4, [],
    ),
    "hagezi unbound": Case(
        '# t\nserver:\nlocal-zone: "a.example." always_null\n',
        "zones", {"domain": 1}, 0, 2, [],
    ),
    "domains with desc": Case(
        "bad.example phishing site\nworse.example malware drop\nmore.example C2 of X\n"
        "last.example yet another one\n",
        "plain", {"domain": 4}, 0, 0, [],
    ),
    "hosts sink 127.0.0.2": Case(
        "127.0.0.2 a.example\n127.0.0.2 b.example\n",
        "hosts", {"domain": 2}, 0, 0, [],
    ),
    "domain one": Case(
        "bad.example",
        "plain", {"domain": 1}, 0, 0, [],
    ),
    "dnsmasq servers mixed": Case(
        "server=/bad.example/0.0.0.0\naddress=/worse.example/0.0.0.0\naddress=/more.example/\n",
        "dnsmasq", {"domain": 2}, 0, 0, [1],
    ),
    "dnsmasq hash server": Case(
        "server=/bad.example/#\nserver=/x.example/\n",
        "dnsmasq", {"domain": 1}, 0, 0, [1],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_name_lists(name: str) -> None:
    check(CASES[name])
