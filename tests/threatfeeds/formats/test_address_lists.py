# SPDX-License-Identifier: Apache-2.0
"""Lists of addresses: what their makers publish, and what a line may look like."""

import pytest

from tests.threatfeeds.formats.seen import Case, check

CASES: dict[str, Case] = {
    "plain trailing tab text": Case(
        "192.0.2.1\tFoo bar\n192.0.2.2  -- spam\n192.0.2.3, x\n192.0.2.4 ; SBL\n192.0.2.5 // y\n192.0.2.6 # z\n",
        "plain", {"ipv4": 6}, 0, 0, [],
    ),
    "leading ws": Case(
        "  192.0.2.1\n\t192.0.2.2\n\n   \n# c\n   # c2\n",
        "plain", {"ipv4": 2}, 0, 2, [],
    ),
    "cr only": Case(
        "# x\r192.0.2.1\r192.0.2.2\r",
        "plain", {"ipv4": 2}, 0, 1, [],
    ),
    "utf16": Case(
        "192.0.2.1\r\n192.0.2.2\r\n".encode("utf-16"),
        "plain", {"ipv4": 2}, 0, 0, [],
    ),
    "utf16be": Case(
        "192.0.2.1\r\n192.0.2.2\r\n".encode("utf-16-be"),
        "plain", {"ipv4": 2}, 0, 0, [],
    ),
    "utf16le": Case(
        "192.0.2.1\r\n192.0.2.2\r\n".encode("utf-16-le"),
        "plain", {"ipv4": 2}, 0, 0, [],
    ),
    "utf32": Case(
        "192.0.2.1\r\n192.0.2.2\r\n".encode("utf-32"),
        "plain", {"ipv4": 2}, 0, 0, [],
    ),
    "hostbits": Case(
        "192.0.2.77/24\n192.0.2.0/24\n",
        "plain", {"ipv4_prefix": 1}, 1, 0, [],
    ),
    "slash32": Case(
        "192.0.2.7/32\n2001:db8::1/128\n",
        "plain", {"ipv4": 1, "ipv6": 1}, 0, 0, [],
    ),
    "slash0": Case(
        "0.0.0.0/0\n::/0\n192.0.2.1\n",
        "plain", {"ipv4": 1, "ipv4_prefix": 1, "ipv6_prefix": 1}, 0, 0, [],
    ),
    "netmask space": Case(
        "1.2.3.0 255.255.255.0\n1.2.4.0 255.255.254.0\n",
        "plain", {"ipv4_prefix": 2}, 0, 0, [],
    ),
    "netmask slash": Case(
        "1.2.3.0/255.255.255.0\n",
        "plain", {"ipv4_prefix": 1}, 0, 0, [],
    ),
    "wildmask cisco": Case(
        "1.2.3.0 0.0.0.255\n1.2.4.0 0.0.0.255\n",
        "plain", {"ipv4_prefix": 2}, 0, 0, [],
    ),
    "wildcard": Case(
        "1.2.3.*\n1.2.*.*\n1.2.3.4\n",
        "plain", {"ipv4": 1, "ipv4_prefix": 2}, 0, 0, [],
    ),
    "short cidr": Case(
        "10.1.2/24\n1.2.3.4\n",
        "plain", {"ipv4": 1}, 0, 0, [1],
    ),
    "zone": Case(
        "fe80::1%eth0\n2001:db8::1\n",
        "plain", {"ipv6": 1}, 0, 0, [1],
    ),
    "ports": Case(
        "1.2.3.4:80\n[2001:db8::1]:443\n1.2.3.4:443\n",
        "plain", {"ipv4": 1, "ipv6": 1}, 1, 0, [],
    ),
    "ranges": Case(
        "1.2.3.0-1.2.3.255\n1.2.4.0 - 1.2.4.9\n1.2.5.1 – 1.2.5.9\n1.2.6.1-1.2.6.1\n2001:db8::1-2001:db8::ff\n",
        "plain", {"range": 5}, 0, 0, [],
    ),
    "range last octet": Case(
        "1.2.3.4-9\n1.2.3.1\n",
        "plain", {"ipv4": 1}, 0, 0, [1],
    ),
    "v4mapped": Case(
        "::ffff:1.2.3.4\n1.2.3.4\n",
        "plain", {"ipv4": 1}, 1, 0, [],
    ),
    "leading zeros": Case(
        "010.001.002.003\n010.1.2.3\n1.2.3.4\n",
        "plain", {"ipv4": 2}, 0, 0, [2],
    ),
    "spamhaus drop": Case(
        "; Spamhaus DROP List 2024/01/01 - (c) 2024 The Spamhaus Project SLU\n"
        "; https://www.spamhaus.org/drop/drop.txt\n; Last-Modified: Mon, 01 Jan 2024 00:00:00 GMT\n; Expires: x\n"
        "1.10.16.0/20 ; SBL256894\n1.19.0.0/16 ; SBL434604\n",
        "plain", {"ipv4_prefix": 2}, 0, 4, [],
    ),
    "dropv6": Case(
        "; Spamhaus DROPv6\n2001:678:254::/48 ; SBL503402\n2401:1dc0::/32 ; SBL2\n",
        "plain", {"ipv6_prefix": 2}, 0, 1, [],
    ),
    "asndrop txt": Case(
        "; Spamhaus ASN-DROP List\nAS245 ; US xx\nAS1 ; US y\n",
        "plain", {}, 0, 1, [2, 3],
    ),
    "drop json": Case(
        '{"cidr":"1.10.16.0/20","sblid":"SBL256894","rir":"apnic"}\n'
        '{"cidr":"1.19.0.0/16","sblid":"SBL434604","rir":"apnic"}\n'
        '{"type":"metadata","timestamp":1718000000,"size":1,"records":2,"copyright":"c","terms":"t"}\n',
        "json", {"ipv4_prefix": 2}, 0, 1, [],
    ),
    "asndrop json": Case(
        '{"asn":245,"rir":"ripencc","domain":"x.example","cc":"RU","asname":"A"}\n'
        '{"asn":246,"rir":"ripencc","domain":"y.example","cc":"RU","asname":"A"}\n'
        '{"type":"metadata","timestamp":1,"records":2}\n',
        "json", {}, 0, 1, [1, 2],
    ),
    "firehol ipset": Case(
        "#\n# et_tor\n#\n# ipv4 hash:ip ipset\n#\n1.2.3.4\n1.2.3.5\n",
        "plain", {"ipv4": 2}, 0, 5, [],
    ),
    "ipset restore": Case(
        "create drop hash:net family inet hashsize 1024 maxelem 65536 timeout 0\nadd drop 1.2.3.4 timeout 0\n"
        'add drop 1.2.3.0/24 timeout 0 comment "x y"\nadd drop 1.2.3.4-1.2.3.9\n',
        "ipset", {"ipv4": 1, "ipv4_prefix": 1, "range": 1}, 0, 1, [],
    ),
    "ipset -exist": Case(
        "-N bl hash:ip --hashsize 1024\n-A bl 1.2.3.4 -exist\n-A bl 1.2.3.5\nCOMMIT\n",
        "ipset", {"ipv4": 2}, 0, 2, [],
    ),
    "ipset cmd": Case(
        "ipset create bl hash:ip\nipset add bl 1.2.3.4\nipset -A bl 1.2.3.5\n",
        "ipset", {"ipv4": 2}, 0, 1, [],
    ),
    "ipset cmd flush": Case(
        "#!/bin/sh\nipset -exist create bl hash:net\nipset flush bl\nipset -exist add bl 1.2.3.4\n"
        "ipset add bl 1.2.3.5 -exist\n",
        "ipset", {"ipv4": 2}, 0, 3, [],
    ),
    "ipset list": Case(
        "Name: bl\nType: hash:ip\nRevision: 4\nHeader: family inet hashsize 1024 maxelem 65536\n"
        "Size in memory: 200\nReferences: 0\nNumber of entries: 2\nMembers:\n1.2.3.4\n1.2.3.5\n",
        "report", {"ipv4": 2}, 0, 8, [],
    ),
    "p2p": Case(
        "# List\nSome Org, Inc:1.2.4.0-1.2.4.255\nBogon:3.0.0.0-3.0.0.255\nAT&T: x:4.0.0.1-4.0.0.1\n",
        "p2p", {"range": 3}, 0, 1, [],
    ),
    "p2p v6": Case(
        "# l\nfoo:1.2.3.0-1.2.3.4\nbar:2001:db8::1-2001:db8::ff\n",
        "p2p", {"range": 2}, 0, 1, [],
    ),
    "dat": Case(
        "001.002.004.000 - 001.002.004.255 , 000 , Org\n003.000.000.000 - 003.000.000.255 , 127 , x, y\n# c\n",
        "dat", {"range": 2}, 0, 1, [],
    ),
    "dat zeroless": Case(
        "1.2.4.0 - 1.2.4.255 , 100 , Org\n3.0.0.0-3.0.0.255,100,x\n",
        "dat", {"range": 2}, 0, 0, [],
    ),
    "tor exit": Case(
        "ExitNode 0011BD2485AD45D984EC4159C88FC066E5E3300E\nPublished 2024-01-01 00:00:00\n"
        "LastStatus 2024-01-01 01:00:00\nExitAddress 1.2.3.4 2024-01-01 01:01:01\n"
        "ExitAddress 1.2.3.5 2024-01-01 01:01:01\n",
        "tor", {"ipv4": 2}, 0, 3, [],
    ),
    "tor torproject bulk": Case(
        "1.2.3.4\n1.2.3.5\n",
        "plain", {"ipv4": 2}, 0, 0, [],
    ),
    "dan tor nodelist": Case(
        "1.2.3.4|name|9001|0|EFRSDV|1000|Tor 0.4|contact <a@b.example>\n1.2.3.5|n2|443|0|X|100|Tor 0.4|x\n",
        "plain", {"ipv4": 2}, 0, 0, [],
    ),
    "dshield block": Case(
        "# x\nStart\tEnd\tNetmask\tAttacks\tName\tCountry\temail\n"
        "1.2.3.0\t1.2.3.255\t24\t100\tNAME\tUS\ta@b.example\n1.2.4.0\t1.2.4.255\t24\t100\tNAME\tUS\ta@b.example\n",
        "dshield", {"ipv4_prefix": 2}, 0, 2, [],
    ),
    "dshield top": Case(
        "1.2.3.4\thost.example\n5.6.7.8\tother.example\n",
        "plain", {"ipv4": 2}, 0, 0, [],
    ),
    "dshield ipsascii": Case(
        "# ipsascii\n# source IP <tab> Reports\n001.002.003.004\t100\t20\t2024-01-01\t2024-01-02\n"
        "005.006.007.008\t100\t20\t2024-01-01\t2024-01-02\n",
        "plain", {"ipv4": 2}, 0, 2, [],
    ),
    "cins": Case(
        "1.2.3.4\n1.2.3.5\n1.2.3.4\n",
        "plain", {"ipv4": 2}, 1, 0, [],
    ),
    "av generic": Case(
        "# Generic format\n1.2.3.4 # Malicious Host CN,,35.0,105.0\n1.2.3.5 # Scanning Host US,City,1.0,2.0\n",
        "plain", {"ipv4": 2}, 0, 1, [],
    ),
    "av data": Case(
        "1.2.3.4#4#2#Malicious Host#CN#Beijing#39.9,116.3#3\n1.2.3.5#2#3#Scanning Host#US##37.0,-97.0#11\n",
        "plain", {"ipv4": 2}, 0, 0, [],
    ),
    "bambenek": Case(
        "## x\n## y\n"
        "1.2.3.4,IP used by banjori C&C,2024-01-01 00:00,http://osint.bambenekconsulting.com/manual/banjori.txt\n"
        "1.2.3.5,IP used by banjori C&C,2024-01-01 00:00,http://osint.bambenekconsulting.com/manual/banjori.txt\n",
        "plain", {"ipv4": 2}, 0, 2, [],
    ),
    "bambenek dga": Case(
        "## x\nasd.example,Domain used by banjori,2024-01-01,http://osint.bambenekconsulting.com/manual/b.txt\n"
        "qwe.example,Domain used by banjori,2024-01-01,http://osint.bambenekconsulting.com/manual/b.txt\n",
        "plain", {"domain": 2}, 0, 1, [],
    ),
    "cymru bogons": Case(
        "# last updated 1700000000 (Tue Nov 14 2023)\n0.0.0.0/8\n10.0.0.0/8\n",
        "plain", {"ipv4_prefix": 2}, 0, 1, [],
    ),
    "cymru pipe": Case(
        "# AS | IP | AS Name\n23028 | 216.90.108.31 | TEAM-CYMRU\n23028 | 68.22.187.5 | X\n",
        "csv", {"ipv4": 2}, 0, 1, [],
    ),
    "et blockrules": Case(
        "1.2.3.4\n1.2.3.0/24\n\n#Tor\n",
        "plain", {"ipv4": 1, "ipv4_prefix": 1}, 0, 1, [],
    ),
    "blocklist.de": Case(
        "1.2.3.4\n2001:db8::1\n",
        "plain", {"ipv4": 1, "ipv6": 1}, 0, 0, [],
    ),
    "feodo recommended txt": Case(
        "################################################################\n"
        "# abuse.ch Feodo Tracker Botnet C2 IP Blocklist (recommended)  #\n"
        "################################################################\n#\n# DstIP\n192.0.2.1\n192.0.2.2\n"
        "# END 2 entries",
        "plain", {"ipv4": 2}, 0, 6, [],
    ),
    "tor dan txt": Case(
        "# comment\n<!-- __BEGIN_TOR_NODE_LIST__ //-->\n192.0.2.1|a|9001|0|FRSDV|100|Tor 0.4\n"
        "192.0.2.2|b|9001|0|FRSDV|100|Tor 0.4\n192.0.2.3|c|9001|0|FRSDV|100|Tor 0.4\n"
        "<!-- __END_TOR_NODE_LIST__ //-->\n",
        "csv", {"ipv4": 3}, 0, 2, [6],
    ),
    "emerging fwip": Case(
        "# Feodo\n192.0.2.1\n192.0.2.2\n\n#Spamhaus DROP\n192.0.2.0/24\n",
        "plain", {"ipv4": 2, "ipv4_prefix": 1}, 0, 2, [],
    ),
    "bds atif": Case(
        "#\n#\n# Binary Defense\n# x\n#\n#\n192.0.2.1\n",
        "plain", {"ipv4": 1}, 0, 6, [],
    ),
    "stopforumspam": Case(
        "192.0.2.1\n192.0.2.2\n",
        "plain", {"ipv4": 2}, 0, 0, [],
    ),
    "sfs toxic cidr": Case(
        "192.0.2.0/24\n2001:db8::/64\n",
        "plain", {"ipv4_prefix": 1, "ipv6_prefix": 1}, 0, 0, [],
    ),
    "proxy list": Case(
        "192.0.2.1:8080\n192.0.2.2:3128\nsocks5://192.0.2.3:1080\n",
        "plain", {"ipv4": 2, "url": 1}, 0, 0, [],
    ),
    "ipset hash net iface": Case(
        "create x hash:net,iface family inet\nadd x 192.0.2.0/24,eth0\nadd x 192.0.2.1,eth0\n",
        "ipset", {"ipv4": 1, "ipv4_prefix": 1}, 0, 1, [],
    ),
    "ipset v6": Case(
        "create x6 hash:net family inet6 hashsize 1024 maxelem 65536\nadd x6 2001:db8::/32\n"
        "add x6 2001:db8::1 timeout 30\n",
        "ipset", {"ipv6": 1, "ipv6_prefix": 1}, 0, 1, [],
    ),
    "ipset ip,port": Case(
        "create x hash:ip,port\nadd x 192.0.2.1,tcp:80\nadd x 192.0.2.1,tcp:443\n",
        "ipset", {"ipv4": 1}, 1, 1, [],
    ),
    "netset mixed host": Case(
        "# comment\n192.0.2.1\n192.0.2.0/31\n",
        "plain", {"ipv4": 1, "ipv4_prefix": 1}, 0, 1, [],
    ),
    "pg2 noname": Case(
        "192.0.2.0-192.0.2.255\n198.51.100.0-198.51.100.255\n",
        "plain", {"range": 2}, 0, 0, [],
    ),
    "p2p dup & empty name": Case(
        ":192.0.2.0-192.0.2.255\nx:192.0.2.0-192.0.2.255\n",
        "p2p", {"range": 1}, 1, 0, [],
    ),
    "range exact cidr": Case(
        "192.0.2.0-192.0.2.255\n192.0.2.0/24\n",
        "plain", {"ipv4_prefix": 1, "range": 1}, 0, 0, [],
    ),
    "range single": Case(
        "192.0.2.5-192.0.2.5\n",
        "plain", {"range": 1}, 0, 0, [],
    ),
    "range reversed wide": Case(
        "192.0.2.9-192.0.2.1\n1.0.0.0-9.0.0.0\n192.0.2.1\n",
        "plain", {"ipv4": 1}, 0, 0, [1, 2],
    ),
    "v6 forms": Case(
        "2001:DB8:0:0:0:0:0:1\n2001:db8::1\n2001:db8::/32\n::1\nfe80::/10\n2001:db8::1/128\n",
        "plain", {"ipv6": 2, "ipv6_prefix": 2}, 2, 0, [],
    ),
    "v6 brackets": Case(
        "[2001:db8::1]\n[2001:db8::]/32\n[2001:db8::2]:443\n",
        "plain", {"ipv6": 2, "ipv6_prefix": 1}, 0, 0, [],
    ),
    "quoted": Case(
        '"192.0.2.1"\n\'192.0.2.2\'\n"bad.example",\n',
        "plain", {"ipv4": 2, "domain": 1}, 0, 0, [],
    ),
    "garbage ips": Case(
        "999.1.1.1\n1.2.3\n1.2.3.4.5\n1.2.3.4/33\n2001:db8::/129\n1.2.3.4/\n1.2.3.-4\n192.0.2.1\n",
        "plain", {"ipv4": 1}, 0, 0, [1, 2, 3, 4, 5, 6, 7],
    ),
    "integer ips": Case(
        "3232235777\n192.0.2.1\n",
        "plain", {"ipv4": 1}, 0, 0, [1],
    ),
    "hex ip": Case(
        "0xC0000201\n192.0.2.1\n",
        "plain", {"ipv4": 1}, 0, 0, [1],
    ),
    "mixed comments": Case(
        "# a\n; b\n// c\n! d\n192.0.2.1\n",
        "plain", {"ipv4": 1}, 0, 4, [],
    ),
    "inline variants": Case(
        "192.0.2.1 #x\n192.0.2.2#x\n192.0.2.3 ;x\n192.0.2.4;x\n192.0.2.5 //x\n192.0.2.6 - x\n192.0.2.7 (x)\n",
        "plain", {"ipv4": 7}, 0, 0, [],
    ),
    "headings ruler": Case(
        "=====\nBad hosts\n-----\n192.0.2.1\n192.0.2.2\n192.0.2.3\n",
        "plain", {"ipv4": 3}, 0, 2, [2],
    ),
    "bruteforceblocker": Case(
        "# IP\t\t\t# Last Reported\t\t\tCount\tID\n192.0.2.1\t\t# 2016-04-05 02:29:13\t\t1\t  12345\n"
        "192.0.2.2\t\t# 2016-04-05 02:29:13\t\t10\t  12346\n",
        "plain", {"ipv4": 2}, 0, 1, [],
    ),
    "netlab mirai": Case(
        "2016-08-01 12:46:01\t192.0.2.1\tdport=23\n2016-08-01 12:46:02\t192.0.2.2\tdport=2323\n",
        "csv", {"ipv4": 2}, 0, 0, [],
    ),
    "malwarepatrol": Case(
        "# This is Malware Patrol DansGuardian\nbad.example/corp/x.exe # mbl_1\nworse.example # mbl_2\n",
        "plain", {"domain": 1, "url": 1}, 0, 1, [],
    ),
    "nothink": Case(
        "# 192.0.2.1 x\n192.0.2.2\n",
        "plain", {"ipv4": 1}, 0, 1, [],
    ),
    "sucuri-ish": Case(
        "bad.example\t\thttp://x\nworse.example\t\thttp://y\n",
        "plain", {"domain": 2}, 0, 0, [],
    ),
    "bambenek full": Case(
        "#############\n## Master Feed of known, active and non-sinkholed C&Cs IP\n## addresses and domain names\n"
        "#############\n"
        "bad.example,192.0.2.1,ns1.x.example,192.0.2.53,Domain used by x,http://osint.bambenekconsulting.co"
        "m/manual/x.txt\n"
        "worse.example,192.0.2.2,ns1.x.example,192.0.2.53,Domain used by x,http://osint.bambenekconsulting."
        "com/manual/x.txt\n",
        "plain", {"domain": 2}, 0, 4, [],
    ),
    "ip desc": Case(
        "192.0.2.1 seen scanning ssh hosts\n192.0.2.2 brute force from there\n192.0.2.3 bad bad bad\n",
        "plain", {"ipv4": 3}, 0, 0, [],
    ),
    "ip - desc": Case(
        "192.0.2.1 - Some ISP Inc\n192.0.2.2 - Other ISP\n",
        "plain", {"ipv4": 2}, 0, 0, [],
    ),
    "ip name per line distinct": Case(
        "192.0.2.1 a.example\n192.0.2.2 b.example\n192.0.2.3 c.example\n",
        "plain", {"ipv4": 3}, 0, 0, [],
    ),
    "ipv4 one": Case(
        "192.0.2.1",
        "plain", {"ipv4": 1}, 0, 0, [],
    ),
    "date ip ws": Case(
        "2024-01-01 192.0.2.1\n2024-01-02 192.0.2.2\n",
        "report", {"ipv4": 2}, 0, 0, [],
    ),
    "range en dash": Case(
        "192.0.2.1–192.0.2.9\n",
        "plain", {"range": 1}, 0, 0, [],
    ),
    "range to": Case(
        "192.0.2.1 to 192.0.2.9\n",
        "plain", {"ipv4": 1}, 0, 0, [],
    ),
    "cidr spaces": Case(
        "192.0.2.0 / 24\n198.51.100.0/24\n",
        "plain", {"ipv4": 1, "ipv4_prefix": 1}, 0, 0, [],
    ),
    "fw alias": Case(
        "192.0.2.1/32 # a\n192.0.2.2/32 # b\n",
        "plain", {"ipv4": 2}, 0, 0, [],
    ),
    "comment star": Case(
        "* comment\n192.0.2.1\n",
        "plain", {"ipv4": 1}, 0, 0, [1],
    ),
    "comment rem": Case(
        "REM x\n192.0.2.1\n",
        "plain", {"ipv4": 1}, 0, 0, [1],
    ),
    "percent comment": Case(
        "% whois\n192.0.2.1\n",
        "plain", {"ipv4": 1}, 0, 0, [1],
    ),
    "yaml list": Case(
        "---\n- 192.0.2.1\n- bad.example\n- 2001:db8::/32\n",
        "plain", {"ipv4": 1, "ipv6_prefix": 1, "domain": 1}, 0, 1, [],
    ),
    "yaml map": Case(
        "bad:\n  - 192.0.2.1\n  - 192.0.2.2\n",
        "plain", {"ipv4": 2}, 0, 0, [1],
    ),
    "toml-ish": Case(
        'ips = ["192.0.2.1", "192.0.2.2"]\n',
        "report", {"ipv4": 2}, 0, 0, [],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_address_lists(name: str) -> None:
    check(CASES[name])
