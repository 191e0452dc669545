# SPDX-License-Identifier: Apache-2.0
"""Columns and JSON of many makers."""

import pytest

from appliance.commands.feeds_parse import parse
from tests.threatfeeds.formats.seen import Case, check
from threatfeeds.formats.options import FormatOptions

CASES: dict[str, Case] = {
    "csv semi": Case(
        "ip;country;date\n192.0.2.1;US;2024\n192.0.2.2;DE;2024\n",
        "csv", {"ipv4": 2}, 0, 1, [],
    ),
    "csv tab": Case(
        "IP Address\tCountry\n192.0.2.1\tUS\n192.0.2.2\tDE\n",
        "csv", {"ipv4": 2}, 0, 1, [],
    ),
    "csv pipe": Case(
        "id|url|date\n1|http://a.example/x|2024\n2|http://b.example/|2024\n",
        "csv", {"url": 2}, 0, 1, [],
    ),
    "csv quoted newline": Case(
        'ip,comment\n192.0.2.1,"a\nb"\n192.0.2.2,"c"\n',
        "csv", {"ipv4": 2}, 0, 1, [],
    ),
    "csv quotes that do not close": Case(
        'ip,x\n192.0.2.1,"abc\n192.0.2.2,"def\n192.0.2.3,"g\nh",1\n',
        "csv", {"ipv4": 3}, 0, 1, [],
    ),
    "csv titles": Case(
        '"Source IP","Destination IP","Threat"\n"10.0.0.1","192.0.2.1","x"\n"10.0.0.1","192.0.2.2","x"\n',
        "csv", {"ipv4": 2}, 0, 1, [],
    ),
    "csv header single": Case(
        "ip\n192.0.2.1\n192.0.2.2\n",
        "csv", {"ipv4": 2}, 0, 1, [],
    ),
    "csv domain header": Case(
        "domain\na.example\nb.example\n",
        "csv", {"domain": 2}, 0, 1, [],
    ),
    "csv tranco": Case(
        "1,a.example\n2,b.example\n3,c.example\n",
        "csv", {"domain": 3}, 0, 0, [],
    ),
    "maltrail": Case(
        "# Copyright\n# Reference: https://x.example/a\n\n192.0.2.1:443\nbad.example\nbad.example/path\n/gate.php\n"
        "http://192.0.2.2\n",
        "plain", {"ipv4": 1, "domain": 1, "url": 2}, 0, 2, [7],
    ),
    "ipsum levels": Case(
        "# IPsum\n#\n192.0.2.1\t10\n192.0.2.2\t9\n",
        "plain", {"ipv4": 2}, 0, 2, [],
    ),
    "binarydefense": Case(
        "#\n# Binary Defense Systems Artillery Threat Intelligence Feed\n#\n192.0.2.1\n192.0.2.1\n",
        "plain", {"ipv4": 1}, 1, 3, [],
    ),
    "abuseipdb plain": Case(
        "192.0.2.1\n2001:db8::1\n",
        "plain", {"ipv4": 1, "ipv6": 1}, 0, 0, [],
    ),
    "talos": Case(
        "192.0.2.1\r\n192.0.2.2",
        "plain", {"ipv4": 2}, 0, 0, [],
    ),
    "botvrij domainlist": Case(
        "#\n# botvrij.eu\nbad.example\t # domain - Hits for a campaign (2021)\nworse.example\t # x\n",
        "plain", {"domain": 2}, 0, 2, [],
    ),
    "botvrij hash": Case(
        "# x\ne3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\t # sha256 - x\n"
        "d41d8cd98f00b204e9800998ecf8427e # md5\n",
        "plain", {"sha256": 1, "md5": 1}, 0, 1, [],
    ),
    "botvrij filename": Case(
        "# x\npayload.exe\t # filename - x\n",
        "plain", {}, 0, 1, [2],
    ),
    "cybercrime tracker": Case(
        "192.0.2.1/panel/\nbad.example/x/login.php\n",
        "plain", {"url": 2}, 0, 0, [],
    ),
    "malc0de": Case(
        "// This file will be automatically updated daily and populated with the last 30 days of malicious "
        "IP addresses.\n// Last updated 2020-01-01\n\n192.0.2.1\n192.0.2.2\n",
        "plain", {"ipv4": 2}, 0, 2, [],
    ),
    "malwaredomains": Case(
        "#nextvalidation\tdomain\ttype\toriginal_reference-why_it_was_listed\tdateverified\n"
        "\t\tbad.example\tphishing\topenphish.com\t20170404\n\t\tworse.example\tphishing\topenphish.com\t20170404\n",
        "plain", {"domain": 2}, 0, 1, [],
    ),
    "rbldnsd": Case(
        "$SOA 3000 a b 0 600 300 86400 300\n$NS 3600 ns.example\n:127.0.0.2:http://x.example/$\n192.0.2.1\n"
        "192.0.2.2\n",
        "plain", {"ipv4": 2}, 0, 0, [1, 2, 3],
    ),
    "json list": Case(
        '["192.0.2.1", "bad.example"]',
        "json", {"ipv4": 1, "domain": 1}, 0, 0, [],
    ),
    "json numbers": Case(
        '[1, 2, null, "192.0.2.1"]',
        "json", {"ipv4": 1}, 0, 0, [1, 2, 3],
    ),
    "jsonl urls": Case(
        '{"url":"http://a.example/"}\n{"url":"http://b.example/"}\n',
        "json", {"url": 2}, 0, 0, [],
    ),
    "aws ranges": Case(
        '{"syncToken": "1", "createDate": "x", "prefixes": [{"ip_prefix": "192.0.2.0/24", "region": "r", "s'
        'ervice": "S"}], "ipv6_prefixes": [{"ipv6_prefix": "2001:db8::/32"}]}',
        "json", {"ipv4_prefix": 1, "ipv6_prefix": 1}, 0, 0, [],
    ),
    "google ranges": Case(
        '{"syncToken": "1", "creationTime": "x", "prefixes": [{"ipv4Prefix": "192.0.2.0/24"}, {"ipv6Prefix"'
        ': "2001:db8::/32"}]}',
        "json", {"ipv4_prefix": 1, "ipv6_prefix": 1}, 0, 0, [],
    ),
    "github meta": Case(
        '{"verifiable_password_authentication": false, "ssh_key_fingerprints": {"RSA": "uNiVztksCsDhcc0u9e8'
        'BgrAXVGcXHZZ"}, "hooks": ["192.0.2.0/24", "2001:db8::/32"], "web": ["192.0.2.0/24"]}',
        "json", {"ipv4_prefix": 1, "ipv6_prefix": 1}, 1, 1, [],
    ),
    "o365": Case(
        '[{"id": 1, "serviceArea": "x", "urls": ["outlook.office.com"], "ips": ["192.0.2.0/24", "2001:db8::'
        '/32"], "tcpPorts": "80,443"}]',
        "json", {"ipv4_prefix": 1, "ipv6_prefix": 1, "domain": 1}, 0, 0, [],
    ),
    "certpl hosts": Case(
        "0.0.0.0 a.example\n0.0.0.0 b.example\n",
        "hosts", {"domain": 2}, 0, 0, [],
    ),
    "tif onlydomains": Case(
        "a.example\nb.example\n",
        "plain", {"domain": 2}, 0, 0, [],
    ),
    "squid acl": Case(
        ".a.example\n.b.example\n",
        "plain", {"domain": 2}, 0, 0, [],
    ),
    "privoxy": Case(
        "{ +block{x} }\n.a.example\n.b.example\n",
        "plain", {"domain": 2}, 0, 0, [1],
    ),
    "empty": Case(
        "",
        "plain", {}, 0, 0, [],
    ),
    "blank": Case(
        "\n\n \n",
        "plain", {}, 0, 0, [],
    ),
    "only comments": Case(
        "# a\n# b\n",
        "plain", {}, 0, 2, [],
    ),
    "botscout csv": Case(
        "name,email,ip\nfoo,a@b.example,192.0.2.1\nbar,c@d.example,192.0.2.2\n",
        "csv", {"ipv4": 2}, 0, 1, [],
    ),
    "geo csv ranges": Case(
        '"16777216","16777471","AU","Australia"\n"16777472","16778239","CN","China"\n',
        "plain", {}, 0, 0, [1, 2],
    ),
    "ip2location cidr csv": Case(
        "network,country\n192.0.2.0/24,US\n198.51.100.0/24,DE\n",
        "csv", {"ipv4_prefix": 2}, 0, 1, [],
    ),
    "csv range columns": Case(
        "start,end,name\n192.0.2.0,192.0.2.255,x\n198.51.100.0,198.51.100.255,y\n",
        "csv", {"range": 2}, 0, 1, [],
    ),
    "csv utf8 bom quoted header": Case(
        '\ufeff"ip","port"\r\n"192.0.2.1","80"\r\n',
        "csv", {"ipv4": 1}, 0, 1, [],
    ),
    "csv single quotes": Case(
        "ip;ref\n'192.0.2.1';'x'\n'192.0.2.2';'y'\n",
        "csv", {"ipv4": 2}, 0, 1, [],
    ),
    "csv comment tail": Case(
        "ip,x\n192.0.2.1,a\n# trailing\n192.0.2.2,b\n",
        "csv", {"ipv4": 2}, 0, 2, [],
    ),
    "csv blank rows": Case(
        "ip,x\n192.0.2.1,a\n,\n,,\n192.0.2.2,b\n",
        "csv", {"ipv4": 2}, 0, 1, [],
    ),
    "csv empty ip cell": Case(
        "ip,x\n192.0.2.1,a\n,b\n192.0.2.2,c\n",
        "csv", {"ipv4": 2}, 0, 1, [3],
    ),
    "csv short row": Case(
        "id,ip,x\n1,192.0.2.1,a\n2\n3,192.0.2.2,b\n",
        "csv", {"ipv4": 2}, 0, 1, [3],
    ),
    "csv title domain": Case(
        "Domain Name,Registrar\nbad.example,x.example\nworse.example,x.example\n",
        "csv", {"domain": 2}, 0, 1, [],
    ),
    "csv defanged": Case(
        "Indicator,Type\nhxxp://bad[.]example/x,URL\n192.0.2[.]1,IP\nbad[.]example,Domain\n"
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855,SHA256\n",
        "csv", {"ipv4": 1, "domain": 1, "url": 1, "sha256": 1}, 0, 1, [],
    ),
    "csv value first": Case(
        "IOC Value,IOC Type\n192.0.2.1:443,ip:port\nbad.example:8080,domain\n",
        "csv", {"ipv4": 1, "domain": 1}, 0, 1, [],
    ),
    "csv cisa": Case(
        "TYPE,VALUE,ROLE\nIPV4ADDR,192[.]0[.]2[.]1,C2\nFQDN,bad[.]example,C2\n"
        "MD5,d41d8cd98f00b204e9800998ecf8427e,\n",
        "csv", {"ipv4": 1, "domain": 1, "md5": 1}, 0, 1, [],
    ),
    "tweetfeed csv": Case(
        "2024-01-01 00:00:00,user,url,https://bad.example/x,#phishing,https://twitter.com/user/status/1\n"
        "2024-01-01 00:00:00,user,ip,192.0.2.1,#c2,https://twitter.com/user/status/2\n"
        "2024-01-01 00:00:00,user,domain,worse.example,#c2,https://twitter.com/user/status/3\n"
        "2024-01-01 00:00:00,user,sha256,e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855,#"
        "x,https://twitter.com/user/status/4\n",
        "csv", {"ipv4": 1, "domain": 1, "url": 1, "sha256": 1}, 0, 0, [],
    ),
    "c2intel": Case(
        "#ip,ioc\n192.0.2.1,Possible Cobaltstrike C2 IP\n192.0.2.2,Possible Metasploit C2 IP\n",
        "csv", {"ipv4": 2}, 0, 1, [],
    ),
    "c2intel domain": Case(
        "#domain,ioc,path,ip\nbad.example,Possible Cobaltstrike C2 Domain,/x,192.0.2.1\n"
        "worse.example,Possible C2,/y,192.0.2.2\n",
        "csv", {"domain": 2}, 0, 1, [],
    ),
    "certpl json": Case(
        '[{"RegisterPositionId": 1, "DomainAddress": "bad.example", "InsertDate": "2024", "DeleteDate": null}]',
        "json", {"domain": 1}, 0, 0, [],
    ),
    "phishstats csv": Case(
        '# PhishStats\n# Date,Score,URL,IP\n"2024-01-01 00:00:00","5.00","http://bad.example/x","192.0.2.1"\n'
        '"2024-01-01 00:00:00","5.00","http://worse.example/x","192.0.2.1"\n',
        "csv", {"url": 2}, 0, 2, [],
    ),
    "vxvault/urlquery json": Case(
        '{"urls": [{"url": "http://a.example/x", "ip": {"addr": "192.0.2.1"}}]}',
        "json", {"url": 1}, 0, 0, [],
    ),
    "shodan-like jsonl": Case(
        '{"ip_str":"192.0.2.1","port":22}\n{"ip_str":"192.0.2.2","port":22}\n',
        "json", {"ipv4": 2}, 0, 0, [],
    ),
    "crowdsec": Case(
        '[{"value": "192.0.2.1", "scope": "Ip", "type": "ban", "duration": "4h"}, {"value": "192.0.2.0/24",'
        ' "scope": "Range", "type": "ban"}]',
        "json", {"ipv4": 1, "ipv4_prefix": 1}, 0, 0, [],
    ),
    "openphish jsonl": Case(
        '{"url":"https://a.example/x","brand":"x","ip":"192.0.2.1"}\n'
        '{"url":"https://b.example/x","brand":"y","ip":"192.0.2.2"}\n',
        "json", {"url": 2}, 0, 0, [],
    ),
    "json-ish array lines": Case(
        '"192.0.2.1",\n"192.0.2.2"\n',
        "plain", {"ipv4": 2}, 0, 0, [],
    ),
    "asn inline": Case(
        "AS64496 | 192.0.2.0/24 | X\nAS64497 | 198.51.100.0/24 | Y\n",
        "csv", {"ipv4_prefix": 2}, 0, 0, [],
    ),
    "talos json blog": Case(
        '{"iocs": {"domains": ["bad.example"], "ips": ["192.0.2.1"], "hashes": ["e3b0c44298fc1c149afbf4c899'
        '6fb92427ae41e4649b934ca495991b7852b855"]}}',
        "json", {"ipv4": 1, "domain": 1, "sha256": 1}, 0, 0, [],
    ),
    "csv hash triple": Case(
        "sha256,sha1,md5,filename\n"
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855,da39a3ee5e6b4b0d3255bfef95601890a"
        "fd80709,d41d8cd98f00b204e9800998ecf8427e,x.exe\n",
        "csv", {"sha256": 1}, 0, 1, [],
    ),
    "ja3 csv fp": Case(
        "ja3_fingerprint,desc\nd41d8cd98f00b204e9800998ecf8427e,x\naaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa,y\n",
        "csv", {"ja3": 2}, 0, 1, [],
    ),
    "ja4 csv": Case(
        "ja4_fingerprint,app\nt13d1516h2_8daaf6152771_b186095e22b6,chrome\n",
        "csv", {"ja4": 1}, 0, 1, [],
    ),
    "sslbl sha1 no header": Case(
        "2024-01-01 00:00:00,da39a3ee5e6b4b0d3255bfef95601890afd80709,Dridex\n"
        "2024-01-02 00:00:00,aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa,Dridex\n",
        "csv", {"sha1": 2}, 0, 0, [],
    ),
    "json error": Case(
        '{"error":"rate limited"}\n',
        "json", {}, 0, 0, [1],
    ),
    "json scalar": Case(
        "123",
        "plain", {}, 0, 0, [1],
    ),
    "netlab dga": Case(
        "# DGA\n# author\nlocky\tbad.example\t2016-11-12 08:30:55\t2016-11-15 23:59:59\n"
        "locky\tworse.example\t2016-11-12 08:30:55\t2016-11-15 23:59:59\n",
        "csv", {"domain": 2}, 0, 2, [],
    ),
    "fraunhofer": Case(
        '{"locky_dga": ["bad.example", "worse.example"], "x_dga": ["more.example"]}',
        "json", {"domain": 3}, 0, 0, [],
    ),
    "blueliv": Case(
        '[{"_id": "1", "url": "http://bad.example/x", "countryCode": "UA", "status": "ONLINE", "type": "PHI'
        'SHING", "firstSeenAt": "2016", "lastSeenAt": "2016"}, {"_id": "2", "url": "http://b.example/", "ip'
        '": "192.0.2.1", "type": "C_AND_C"}]',
        "json", {"url": 2}, 0, 0, [],
    ),
    "spamhaus cert": Case(
        "; Bots filtered by last 1 hours, prepared for CERTBUND on UTC = ...\n; Copyright\n"
        "; Format: ip, asn, country, lastseen, botname, domain, remote_ip, remote_port, protocol\n"
        "192.0.2.1, AS12635, AT, 1441008970, asprox, ?, ?, 25, tcp\n"
        "192.0.2.2, AS12635, AT, 1441008970, cutwail, ?, 198.51.100.1, 80, tcp\n",
        "plain", {"ipv4": 2}, 0, 3, [],
    ),
    "shadowserver": Case(
        '"timestamp","ip","port","asn","geo","region","city","hostname","type","infection","url","agent","c'
        'c","cc_port"\n'
        '"2024-01-01 00:00:00","192.0.2.1",80,64496,"US","x","y","h.example","tcp","sality","/x","","198.51'
        '.100.1",80\n'
        '"2024-01-01 00:00:00","192.0.2.2",80,64496,"US","x","y","h.example","tcp","sality","/x","","198.51'
        '.100.1",80\n',
        "csv", {"ipv4": 2}, 0, 1, [],
    ),
    "n6": Case(
        '[{"category": "bots", "address": [{"ip": "192.0.2.1", "cc": "PL", "asn": 64496}], "time": "2024", '
        '"id": "x"}]',
        "json", {"ipv4": 1}, 0, 0, [],
    ),
    "zoneh": Case(
        '"add_date","attacker","domain","ip_address","country_code"\n'
        '"2024-01-01","x","http://bad.example/x.php","192.0.2.1","US"\n'
        '"2024-01-01","x","http://worse.example/","192.0.2.2","US"\n',
        "csv", {"url": 2}, 0, 1, [],
    ),
    "turris": Case(
        '# Turris Greylist\nAddress,Country,Tags,ASN\n192.0.2.1,CN,"ssh,telnet",64496\n192.0.2.2,CN,telnet,64496\n',
        "csv", {"ipv4": 2}, 0, 2, [],
    ),
    "ransomwaretracker": Case(
        "# RW\n# Firstseen (UTC),Threat,Malware,Host,URL,Status,Registrar,IP address(es),ASN(s),Country\n"
        '"2017-01-01 00:00:00","Distribution Site","Locky","bad.example","http://bad.example/x","offline","'
        '","192.0.2.1|192.0.2.2","64496","US"\n',
        "csv", {"domain": 1}, 0, 2, [],
    ),
    "unit42 csv": Case(
        "SHA256,Filename,FirstSeen\ne3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855,x.exe,2020\n"
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa,y.exe,2020\n",
        "csv", {"sha256": 2}, 0, 1, [],
    ),
    "tor detail": Case(
        '{"version":"8.0","relays":[{"nickname":"x","exit_addresses":["192.0.2.1"],"or_addresses":["192.0.2'
        '.2:9001","[2001:db8::1]:9001"]}]}',
        "json", {"ipv4": 2, "ipv6": 1}, 0, 0, [],
    ),
    "warninglist hostnames": Case(
        '{"name": "x", "type": "hostname", "list": [".bad.example", "worse.example"], "version": 1, "matchi'
        'ng_attributes": ["hostname"]}',
        "json", {"domain": 2}, 0, 0, [],
    ),
    "warninglist substring": Case(
        '{"name": "x", "type": "substring", "list": ["http://bad.example/", "bad"], "version": 1}',
        "json", {"url": 1}, 0, 0, [2],
    ),
    "drop_v6 json": Case(
        '{"cidr":"2001:db8::/32","sblid":"SBL1","rir":"apnic"}\n'
        '{"type":"metadata","timestamp":1,"size":2,"records":1}\n',
        "json", {"ipv6_prefix": 1}, 0, 1, [],
    ),
    "csv date first no header": Case(
        "2024-01-01,192.0.2.1\n2024-01-02,192.0.2.2\n",
        "csv", {"ipv4": 2}, 0, 0, [],
    ),
    "csv url commas": Case(
        'id,url\n1,"http://a.example/x,y"\n2,http://b.example/z\n',
        "csv", {"url": 2}, 0, 1, [],
    ),
    "csv mixed invalid": Case(
        "ip\n192.0.2.1\nnot-an-ip\n192.0.2.300\n\n192.0.2.2\n",
        "csv", {"ipv4": 2}, 0, 1, [3, 4],
    ),
    "json concat": Case(
        '{"ip":"192.0.2.1"}{"ip":"192.0.2.2"}',
        "json", {}, 0, 0, [1],
    ),
    "json trailing comma": Case(
        '["192.0.2.1",\n"192.0.2.2",]',
        "json", {}, 0, 0, [1, 2],
    ),
    "json bom": Case(
        '\ufeff["192.0.2.1"]',
        "json", {"ipv4": 1}, 0, 0, [],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_tables(name: str) -> None:
    check(CASES[name])


def test_a_title_may_look_like_a_name() -> None:
    text = b"destination.ip,first seen,host.name\n192.0.2.1,2024,x\n192.0.2.2,2025,y\n"
    found = parse(text, "csv", FormatOptions())
    assert (found["indicators"]["ipv4"], found["indicators"]["domain"], found["comments"]) == (2, 0, 1)
