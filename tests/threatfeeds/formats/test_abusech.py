# SPDX-License-Identifier: Apache-2.0
"""What abuse.ch publishes, and those who publish like it."""

import pytest

from tests.threatfeeds.formats.seen import Case, check

CASES: dict[str, Case] = {
    "feodo txt": Case(
        "################################################################\n"
        "# abuse.ch Feodo Tracker Botnet C2 IP Blocklist                #\n"
        "#                                                              #\n# DstIP\n1.2.3.4\r\n5.6.7.8\r\n"
        "# END 2 entries\n",
        "plain", {"ipv4": 2}, 0, 5, [],
    ),
    "feodo csv": Case(
        "################\n# abuse.ch Feodo\n#\n"
        '"first_seen_utc","dst_ip","dst_port","c2_status","last_online","malware"\n'
        '"2022-06-04 21:24:53","192.0.2.1","443","online","2024-04-04","Emotet"\n'
        '"2022-06-04 21:24:53","192.0.2.2","8080","offline","2024-04-04","Emotet"\n# END (2) entries\n',
        "csv", {"ipv4": 2}, 0, 5, [],
    ),
    "feodo aggressive": Case(
        '# abuse.ch\n"first_seen_utc","dst_ip","dst_port","last_online","malware"\n'
        '"2014-03-21 07:15:19","192.0.2.1","8080","2014","Geodo"\n'
        '"2014-03-21 07:15:19","192.0.2.1","443","2014","Geodo"\n',
        "csv", {"ipv4": 1}, 1, 2, [],
    ),
    "feodo json": Case(
        '[\n  {\n "ip_address": "192.0.2.1",\n "port": 443,\n "status": "online",\n "hostname": "h.example.net",\n'
        ' "as_number": 1,\n "as_name": "X",\n "country": "US",\n "first_seen": "2021-05-16 19:49:33",\n'
        ' "last_online": "2024-01-01",\n "malware": "Emotet"\n },\n'
        ' {"ip_address":"192.0.2.2","port":80,"hostname":null}\n]',
        "json", {"ipv4": 2}, 0, 0, [],
    ),
    "feodo old": Case(
        "# c\n# Firstseen,DstIP,DstPort,LastOnline,Malware\n2019-01-01 00:00:00,192.0.2.1,443,2019-02-01,Heodo\n"
        "2019-01-01 00:00:00,192.0.2.2,443,2019-02-01,Heodo\n",
        "csv", {"ipv4": 2}, 0, 2, [],
    ),
    "urlhaus csv": Case(
        "################\n# abuse.ch URLhaus Database Dump (CSV - recent URLs only) #\n#\n"
        "# id,dateadded,url,url_status,last_online,threat,tags,urlhaus_link,reporter\n"
        '"3000001","2024-01-01 00:00:00","http://192.0.2.1:4000/i","online","2024","malware_download","32-b'
        'it,elf,mips","https://urlhaus.abuse.ch/url/3000001/","geenensp"\n'
        '"3000002","2024-01-01 00:00:00","https://bad.example/x,y.exe","offline","","malware_download","Non'
        'e","https://urlhaus.abuse.ch/url/3000002/","x"\n',
        "csv", {"url": 2}, 0, 4, [],
    ),
    "urlhaus text": Case(
        "################\n# abuse.ch URLhaus Plain-Text URL List\n#\nhttp://192.0.2.1:4000/i\n"
        "https://bad.example/x\nhttp://bad.example/a;b?c=1#frag\n",
        "plain", {"url": 3}, 0, 3, [],
    ),
    "urlhaus hostfile": Case(
        "# abuse.ch\r\n#\r\n127.0.0.1\tbad.example\r\n127.0.0.1\tworse.example\r\n",
        "hosts", {"domain": 2}, 0, 2, [],
    ),
    "urlhaus json": Case(
        '{"3000001":[{"dateadded":"2024","url":"http://192.0.2.1/i","url_status":"online","last_online":"x"'
        ',"threat":"malware_download","tags":["elf"],"urlhaus_link":"https://urlhaus.abuse.ch/url/3000001/"'
        ',"reporter":"g"}],"3000002":[{"dateadded":"2024","url":"http://192.0.2.2/i","urlhaus_link":"https:'
        '//urlhaus.abuse.ch/url/2/"}]}',
        "json", {"url": 2}, 0, 0, [],
    ),
    "urlhaus api": Case(
        '{"query_status":"ok","urls":[{"id":"1","urlhaus_reference":"https://urlhaus.abuse.ch/url/1/","url"'
        ':"http://192.0.2.1/a","url_status":"online","host":"192.0.2.1","blacklists":{"spamhaus_dbl":"not l'
        'isted","surbl":"not listed"},"tags":["a"]}]}',
        "json", {"url": 1}, 0, 0, [],
    ),
    "threatfox csv": Case(
        "################\n# ThreatFox IOCs: recent - CSV format\n#\n"
        '# "first_seen_utc","ioc_id","ioc_value","ioc_type","threat_type","fk_malware","malware_alias","mal'
        'ware_printable","last_seen_utc","confidence_level","is_compromised","reference","tags","anonymous"'
        ',"reporter"\n'
        '"2024-01-01 00:00:00", "1", "192.0.2.1:443", "ip:port", "botnet_cc", "win.x", "None", "X", "", "10'
        '0", "False","https://x.example/1", "a,b", "0", "r"\n'
        '"2024-01-01 00:00:00", "2", "bad.example", "domain", "botnet_cc", "win.x", "None", "X", "", "100",'
        ' "False", "None", "a", "0", "r"\n'
        '"2024-01-01 00:00:00", "3", "http://bad.example/gate.php", "url", "botnet_cc", "win.x", "None", "X'
        '", "", "100", "False", "None", "a", "0", "r"\n'
        '"2024-01-01 00:00:00", "4", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "s'
        'ha256_hash", "payload", "win.x", "None", "X", "", "100", "False", "None", "a", "0", "r"\n'
        '"2024-01-01 00:00:00", "5", "d41d8cd98f00b204e9800998ecf8427e", "md5_hash", "payload", "win.x", "N'
        'one", "X", "", "100", "False", "None", "a", "0", "r"\n# Number of entries: 5\n',
        "csv", {"ipv4": 1, "domain": 1, "url": 1, "sha256": 1, "md5": 1}, 0, 5, [],
    ),
    "threatfox json": Case(
        '{"1":[{"ioc_value":"192.0.2.1:80","ioc_type":"ip:port","threat_type":"botnet_cc","malware":"win.x"'
        ',"reference":"https://x.example","tags":"a"}],"2":[{"ioc_value":"bad.example","ioc_type":"domain"}'
        '],"3":[{"ioc_value":"da39a3ee5e6b4b0d3255bfef95601890afd80709","ioc_type":"sha1_hash"}]}',
        "json", {"ipv4": 1, "domain": 1, "sha1": 1}, 0, 0, [],
    ),
    "threatfox api": Case(
        '{"query_status":"ok","data":[{"id":"1","ioc":"bad.example","threat_type":"botnet_cc","ioc_type":"d'
        'omain","malware":"win.x","malware_malpedia":"https://malpedia.example/x","reference":null,"tags":["x"]}]}',
        "json", {"domain": 1}, 0, 0, [],
    ),
    "threatfox hostfile": Case(
        "# ThreatFox\n127.0.0.1\tbad.example\n",
        "hosts", {"domain": 1}, 0, 1, [],
    ),
    "sslbl csv": Case(
        "################\n# abuse.ch SSLBL SSL Certificate Blacklist (SHA1 Fingerprints)  #\n#\n"
        "# Listingdate,SHA1,Listingreason\n"
        "2024-01-01 00:00:00,da39a3ee5e6b4b0d3255bfef95601890afd80709,Dridex C&C\n"
        "2024-01-01 00:00:00,aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa,AsyncRAT C&C\n# END\n",
        "csv", {"sha1": 2}, 0, 5, [],
    ),
    "sslbl ip": Case(
        "# abuse.ch\n# Firstseen,DstIP,DstPort\n2024-01-01 00:00:00,192.0.2.1,443\n"
        "2024-01-01 00:00:00,192.0.2.2,4444\n",
        "csv", {"ipv4": 2}, 0, 2, [],
    ),
    "sslbl aggressive": Case(
        "# DstIP,DstPort\n192.0.2.1,443\n192.0.2.2,8443\n",
        "csv", {"ipv4": 2}, 0, 1, [],
    ),
    "sslbl ja3": Case(
        "# abuse.ch SSLBL\n# ja3_md5,Firstseen,Lastseen,Listingreason\n"
        "d41d8cd98f00b204e9800998ecf8427e,2017-07-14 18:08:15,2019-07-27 20:42:54,Adware\n",
        "csv", {"ja3": 1}, 0, 2, [],
    ),
    "bazaar csv": Case(
        "################\n# MalwareBazaar recent malware samples (CSV)\n#\n"
        '# "first_seen_utc","sha256_hash","md5_hash","sha1_hash","reporter","file_name","file_type_guess","'
        'mime_type","signature","clamav","vtpercent","imphash","ssdeep","tlsh"\n#\n'
        '"2024-01-01 00:00:00", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "d41d8c'
        'd98f00b204e9800998ecf8427e", "da39a3ee5e6b4b0d3255bfef95601890afd80709", "abuse_ch", "a.exe", "exe'
        '", "application/x-dosexec", "AgentTesla", "n/a", "n/a", "f34d5f2d4577ed6d9ceec516c1f5a744", "3:xx", "T1"\n',
        "csv", {"sha256": 1}, 0, 5, [],
    ),
    "bazaar sha256 txt": Case(
        "################\n# MalwareBazaar recent\n# sha256_hash\n"
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\n"
        "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb\n",
        "plain", {"sha256": 2}, 0, 3, [],
    ),
    "yaraify json": Case(
        '{"query_status":"ok","data":[{"sha256_hash":"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca4959'
        '91b7852b855","md5_hash":"d41d8cd98f00b204e9800998ecf8427e","file_name":"x.exe","rule_name":"r"}]}',
        "json", {"sha256": 1}, 0, 0, [],
    ),
    "openphish": Case(
        "https://a.example/x\nhttp://b.example\n",
        "plain", {"url": 2}, 0, 0, [],
    ),
    "phishtank json": Case(
        '[{"phish_id":"1","url":"http://a.example/x","phish_detail_url":"http://www.phishtank.com/1","submi'
        'ssion_time":"x","verified":"yes","details":[{"ip_address":"192.0.2.1","cidr_block":"192.0.2.0/24",'
        '"announcing_network":"1","rir":"arin","country":"US","detail_time":"x"}],"target":"Other"}]',
        "json", {"url": 1}, 0, 0, [],
    ),
    "urls with commas": Case(
        "http://a.example/x,y\nhttp://a.example/x,z\nhttp://b.example/p;q=1\nhttp://b.example/a|b\n"
        "hxxp://c[.]example/d, note\n",
        "plain", {"url": 5}, 0, 0, [],
    ),
    "url csv-like plain": Case(
        "http://a.example/x,2024-01-01\nhttp://b.example/y,2024-01-02\n",
        "plain", {"url": 2}, 0, 0, [],
    ),
    "url trailing comment": Case(
        "http://a.example/x # c2\nhttp://b.example/y\t# c3\nhttp://c.example/#frag\n",
        "plain", {"url": 3}, 0, 0, [],
    ),
    "url with port and v6": Case(
        "http://[2001:db8::1]:8080/x\nhttps://a.example:8443\nftp://b.example/x\n",
        "plain", {"url": 3}, 0, 0, [],
    ),
    "url dup": Case(
        "http://a.example/x\nhttp://a.example/x\nHTTP://A.example/x\n",
        "plain", {"url": 2}, 1, 0, [],
    ),
    "urlvir": Case(
        "#URLVir\n#\nhttp://bad.example/x.exe\nhttp://worse.example/y.exe\n",
        "plain", {"url": 2}, 0, 2, [],
    ),
    "url one": Case(
        "http://bad.example/",
        "plain", {"url": 1}, 0, 0, [],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_abusech(name: str) -> None:
    check(CASES[name])
