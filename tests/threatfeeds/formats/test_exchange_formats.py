# SPDX-License-Identifier: Apache-2.0
"""STIX, TAXII, MISP, Suricata, Zeek, OTX, OpenIOC."""

import pytest

from tests.threatfeeds.formats.seen import Case, check

CASES: dict[str, Case] = {
    "stix21": Case(
        '{"type":"bundle","id":"bundle--1","objects":[{"type": "indicator", "spec_version": "2.1", "id": "i'
        'ndicator--1", "pattern": "[ipv4-addr:value = \'192.0.2.1\']", "pattern_type": "stix", "valid_from": '
        '"2020-01-01T00:00:00Z"},{"type": "indicator", "spec_version": "2.1", "id": "indicator--1", "patter'
        'n": "[ipv6-addr:value = \'2001:db8::1\']", "pattern_type": "stix", "valid_from": "2020-01-01T00:00:0'
        '0Z"},{"type": "indicator", "spec_version": "2.1", "id": "indicator--1", "pattern": "[domain-name:v'
        'alue = \'a.example\']", "pattern_type": "stix", "valid_from": "2020-01-01T00:00:00Z"},{"type": "indi'
        'cator", "spec_version": "2.1", "id": "indicator--1", "pattern": "[url:value = \'http://a.example/x\''
        ']", "pattern_type": "stix", "valid_from": "2020-01-01T00:00:00Z"},{"type": "indicator", "spec_vers'
        'ion": "2.1", "id": "indicator--1", "pattern": "[file:hashes.MD5 = \'d41d8cd98f00b204e9800998ecf8427'
        'e\']", "pattern_type": "stix", "valid_from": "2020-01-01T00:00:00Z"},{"type": "indicator", "spec_ve'
        'rsion": "2.1", "id": "indicator--1", "pattern": "[file:hashes.\'SHA-256\' = \'e3b0c44298fc1c149afbf4c'
        '8996fb92427ae41e4649b934ca495991b7852b855\']", "pattern_type": "stix", "valid_from": "2020-01-01T00'
        ':00:00Z"},{"type": "indicator", "spec_version": "2.1", "id": "indicator--1", "pattern": "[file:has'
        'hes.\'SHA-1\' = \'da39a3ee5e6b4b0d3255bfef95601890afd80709\']", "pattern_type": "stix", "valid_from": '
        '"2020-01-01T00:00:00Z"},{"type":"identity","id":"identity--1","name":"x"}]}',
        "stix", {"ipv4": 1, "ipv6": 1, "domain": 1, "url": 1, "sha1": 1, "sha256": 1, "md5": 1}, 0, 1, [],
    ),
    "stix or": Case(
        '{"type": "bundle", "id": "bundle--1", "objects": [{"type": "indicator", "spec_version": "2.1", "id'
        '": "indicator--1", "pattern": "[ipv4-addr:value = \'192.0.2.1\' OR ipv4-addr:value = \'192.0.2.2\']", '
        '"pattern_type": "stix", "valid_from": "2020-01-01T00:00:00Z"}, {"type": "indicator", "spec_version'
        '": "2.1", "id": "indicator--1", "pattern": "[ipv4-addr:value = \'192.0.2.3\'] OR [domain-name:value '
        '= \'b.example\']", "pattern_type": "stix", "valid_from": "2020-01-01T00:00:00Z"}, {"type": "indicato'
        'r", "spec_version": "2.1", "id": "indicator--1", "pattern": "[ipv4-addr:value IN (\'192.0.2.4\',\'192'
        '.0.2.5\')]", "pattern_type": "stix", "valid_from": "2020-01-01T00:00:00Z"}, {"type": "indicator", "'
        'spec_version": "2.1", "id": "indicator--1", "pattern": "[ipv4-addr:value ISSUBSET \'192.0.3.0/24\']"'
        ', "pattern_type": "stix", "valid_from": "2020-01-01T00:00:00Z"}]}',
        "stix", {"ipv4": 5, "ipv4_prefix": 1, "domain": 1}, 0, 0, [],
    ),
    "stix and": Case(
        '{"type": "bundle", "id": "bundle--1", "objects": [{"type": "indicator", "spec_version": "2.1", "id'
        '": "indicator--1", "pattern": "[domain-name:value = \'b.example\' AND ipv4-addr:value = \'192.0.2.1\']'
        '", "pattern_type": "stix", "valid_from": "2020-01-01T00:00:00Z"}, {"type": "indicator", "spec_vers'
        'ion": "2.1", "id": "indicator--1", "pattern": "[ipv4-addr:value=\'192.0.2.1\'] FOLLOWEDBY [ipv4-addr'
        ':value=\'192.0.2.2\']", "pattern_type": "stix", "valid_from": "2020-01-01T00:00:00Z"}, {"type": "ind'
        'icator", "spec_version": "2.1", "id": "indicator--1", "pattern": "[file:hashes.MD5 = \'d41d8cd98f00'
        'b204e9800998ecf8427e\' AND file:hashes.\'SHA-1\' = \'da39a3ee5e6b4b0d3255bfef95601890afd80709\']", "pat'
        'tern_type": "stix", "valid_from": "2020-01-01T00:00:00Z"}, {"type": "indicator", "spec_version": "'
        '2.1", "id": "indicator--1", "pattern": "[domain-name:value LIKE \'%.bad.example\']", "pattern_type":'
        ' "stix", "valid_from": "2020-01-01T00:00:00Z"}, {"type": "indicator", "spec_version": "2.1", "id":'
        ' "indicator--1", "pattern": "[domain-name:value MATCHES \'^x\']", "pattern_type": "stix", "valid_fro'
        'm": "2020-01-01T00:00:00Z"}, {"type": "indicator", "spec_version": "2.1", "id": "indicator--1", "p'
        'attern": "[file:name = \'x.exe\']", "pattern_type": "stix", "valid_from": "2020-01-01T00:00:00Z"}]}',
        "stix", {"sha1": 1, "md5": 1}, 0, 0, [1, 2, 4, 5, 6],
    ),
    "stix small words": Case(
        '{"type": "bundle", "id": "bundle--1", "objects": [{"type": "indicator", "id": "indicator--1", "pattern": '
        '"[domain-name:value = \'b.example\' and ipv4-addr:value = \'192.0.2.1\']", "pattern_type": "stix"}, '
        '{"type": "indicator", "id": "indicator--2", "pattern": "[domain-name:value = \'c.example\' or '
        'ipv4-addr:value = \'192.0.2.2\']", "pattern_type": "stix"}]}',
        "stix", {"ipv4": 1, "domain": 1}, 0, 0, [1],
    ),
    "released again": Case(
        '{"new": [{"value": "192.0.2.1", "type": "ban"}], "deleted": [{"value": "192.0.2.2", "type": "ban"}]}',
        "json", {"ipv4": 1}, 0, 0, [],
    ),
    "stix port and": Case(
        '{"type": "bundle", "id": "bundle--1", "objects": [{"type": "indicator", "spec_version": "2.1", "id'
        '": "indicator--1", "pattern": "[network-traffic:dst_ref.type = \'ipv4-addr\' AND network-traffic:dst'
        '_ref.value = \'192.0.2.1\' AND network-traffic:dst_port = 443]", "pattern_type": "stix", "valid_from'
        '": "2020-01-01T00:00:00Z"}]}',
        "stix", {}, 0, 0, [1],
    ),
    "stix within": Case(
        '{"type": "bundle", "id": "bundle--1", "objects": [{"type": "indicator", "spec_version": "2.1", "id'
        '": "indicator--1", "pattern": "[ipv4-addr:value = \'192.0.2.1\'] REPEATS 5 TIMES WITHIN 1800 SECONDS'
        '", "pattern_type": "stix", "valid_from": "2020-01-01T00:00:00Z"}, {"type": "indicator", "spec_vers'
        'ion": "2.1", "id": "indicator--1", "pattern": "([ipv4-addr:value = \'192.0.2.2\']) START t\'2020-01-0'
        '1T00:00:00Z\' STOP t\'2021-01-01T00:00:00Z\'", "pattern_type": "stix", "valid_from": "2020-01-01T00:0'
        '0:00Z"}]}',
        "stix", {"ipv4": 2}, 0, 0, [],
    ),
    "stix x509": Case(
        '{"type": "bundle", "id": "bundle--1", "objects": [{"type": "indicator", "spec_version": "2.1", "id'
        '": "indicator--1", "pattern": "[x509-certificate:hashes.\'SHA-1\' = \'da39a3ee5e6b4b0d3255bfef9560189'
        '0afd80709\']", "pattern_type": "stix", "valid_from": "2020-01-01T00:00:00Z"}, {"type": "indicator",'
        ' "spec_version": "2.1", "id": "indicator--1", "pattern": "[x509-certificate:serial_number = \'1\']",'
        ' "pattern_type": "stix", "valid_from": "2020-01-01T00:00:00Z"}, {"type": "indicator", "spec_versio'
        'n": "2.1", "id": "indicator--1", "pattern": "[email-addr:value = \'a@b.example\']", "pattern_type": '
        '"stix", "valid_from": "2020-01-01T00:00:00Z"}]}',
        "stix", {"sha1": 1}, 0, 0, [2, 3],
    ),
    "stix2.0 no pattern_type": Case(
        '{"type": "bundle", "id": "bundle--1", "objects": [{"type": "indicator", "id": "i", "labels": ["mal'
        'icious-activity"], "pattern": "[ipv4-addr:value = \'192.0.2.1\']"}, {"type": "observed-data", "objec'
        'ts": {"0": {"type": "ipv4-addr", "value": "192.0.2.9"}}}]}',
        "stix", {"ipv4": 1}, 0, 1, [],
    ),
    "stix multiline": Case(
        '{"type": "bundle", "id": "bundle--1", "objects": [{"type": "indicator", "spec_version": "2.1", "id'
        '": "indicator--1", "pattern": "[\\n  ipv4-addr:value = \'192.0.2.1\'\\n OR\\n ipv4-addr:value = \'192.0.'
        '2.2\' ]", "pattern_type": "stix", "valid_from": "2020-01-01T00:00:00Z"}]}',
        "stix", {"ipv4": 2}, 0, 0, [],
    ),
    "stix sha512": Case(
        '{"type": "bundle", "id": "bundle--1", "objects": [{"type": "indicator", "spec_version": "2.1", "id'
        '": "indicator--1", "pattern": "[file:hashes.\'SHA-512\' = \'ccccccccccccccccccccccccccccccccccccccccc'
        'ccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc\']", "patte'
        'rn_type": "stix", "valid_from": "2020-01-01T00:00:00Z"}, {"type": "indicator", "spec_version": "2.'
        '1", "id": "indicator--1", "pattern": "[file:hashes.\'SHA256\' = \'e3b0c44298fc1c149afbf4c8996fb92427a'
        'e41e4649b934ca495991b7852b855\']", "pattern_type": "stix", "valid_from": "2020-01-01T00:00:00Z"}, {'
        '"type": "indicator", "spec_version": "2.1", "id": "indicator--1", "pattern": "[file:hashes.SHA256 '
        '= \'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\']", "pattern_type": "stix", "v'
        'alid_from": "2020-01-01T00:00:00Z"}]}',
        "stix", {"sha256": 1}, 1, 0, [1],
    ),
    "stix revoked expired": Case(
        '{"type": "bundle", "id": "bundle--1", "objects": [{"type": "indicator", "spec_version": "2.1", "id'
        '": "indicator--1", "pattern": "[ipv4-addr:value = \'192.0.2.1\']", "pattern_type": "stix", "valid_fr'
        'om": "2020-01-01T00:00:00Z", "revoked": true}, {"type": "indicator", "spec_version": "2.1", "id": '
        '"indicator--1", "pattern": "[ipv4-addr:value = \'192.0.2.2\']", "pattern_type": "stix", "valid_from"'
        ': "2020-01-01T00:00:00Z", "valid_until": "2021-01-01T00:00:00Z"}]}',
        "stix", {"ipv4": 1}, 0, 0, [1],
    ),
    "taxii": Case(
        '{"more": true, "next": "abc", "objects": [{"type": "indicator", "spec_version": "2.1", "id": "indi'
        'cator--1", "pattern": "[ipv4-addr:value = \'192.0.2.1\']", "pattern_type": "stix", "valid_from": "20'
        '20-01-01T00:00:00Z"}, {"type": "malware", "name": "x"}]}',
        "stix", {"ipv4": 1}, 0, 1, [],
    ),
    "taxii empty": Case(
        '{"more":false}',
        "json", {}, 0, 0, [1],
    ),
    "stix jsonl": Case(
        '{"type": "indicator", "spec_version": "2.1", "id": "indicator--1", "pattern": "[ipv4-addr:value = '
        '\'192.0.2.1\']", "pattern_type": "stix", "valid_from": "2020-01-01T00:00:00Z"}\n'
        '{"type": "indicator", "spec_version": "2.1", "id": "indicator--1", "pattern": "[ipv4-addr:value = '
        '\'192.0.2.2\']", "pattern_type": "stix", "valid_from": "2020-01-01T00:00:00Z"}\n'
        '{"type": "indicator", "spec_version": "2.1", "id": "indicator--1", "pattern": "[ipv4-addr:value = '
        '\'192.0.2.3\']", "pattern_type": "stix", "valid_from": "2020-01-01T00:00:00Z"}',
        "stix", {"ipv4": 3}, 0, 0, [],
    ),
    "misp event": Case(
        '{"Event": {"info": "x", "Attribute": [{"type": "ip-dst", "value": "192.0.2.1", "to_ids": true}, {"'
        'type": "ip-dst|port", "value": "192.0.2.2|443", "to_ids": true}, {"type": "domain|ip", "value": "a'
        '.example|192.0.2.3", "to_ids": true}, {"type": "filename|sha256", "value": "a.exe|e3b0c44298fc1c14'
        '9afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "to_ids": true}, {"type": "url", "value": "http'
        '://b.example/x", "to_ids": true}, {"type": "hostname", "value": "c.example", "to_ids": false}, {"t'
        'ype": "domain", "value": "d.example", "to_ids": true, "deleted": true}, {"type": "email-src", "val'
        'ue": "a@b.example", "to_ids": true}, {"type": "ja3-fingerprint-md5", "value": "d41d8cd98f00b204e98'
        '00998ecf8427e", "to_ids": true}, {"type": "sha512", "value": "cccccccccccccccccccccccccccccccccccc'
        'cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc", "to'
        '_ids": true}, {"type": "ip-src", "value": "192.0.2.1", "to_ids": true}, {"type": "x509-fingerprint'
        '-sha1", "value": "da39a3ee5e6b4b0d3255bfef95601890afd80709", "to_ids": true}, {"type": "malware-sa'
        'mple", "value": "x|d41d8cd98f00b204e9800998ecf8427e", "to_ids": true}, {"type": "uri", "value": "/'
        'a", "to_ids": true}, {"type": "hostname|port", "value": "e.example|80", "to_ids": true}], "Object"'
        ': [{"name": "file", "Attribute": [{"type": "md5", "value": "d41d8cd98f00b204e9800998ecf8427e", "to'
        '_ids": true}, {"type": "filename", "value": "x.exe", "to_ids": false}]}]}}',
        "misp", {"ipv4": 3, "domain": 2, "url": 1, "ja3": 1, "sha1": 1, "sha256": 1, "md5": 1}, 2, 3, [10, 12, 16],
    ),
    "misp restsearch attr": Case(
        '{"response": {"Attribute": [{"type": "ip-dst", "value": "192.0.2.1", "to_ids": true}, {"type": "do'
        'main", "value": "a.example", "to_ids": true}]}}',
        "misp", {"ipv4": 1, "domain": 1}, 0, 0, [],
    ),
    "misp bare attrs": Case(
        '[{"type": "ip-dst", "value": "192.0.2.1", "to_ids": true, "category": "Network activity", "uuid": '
        '"x"}, {"type": "domain", "value": "a.example", "to_ids": false, "category": "Network activity"}]',
        "misp", {"ipv4": 1}, 0, 1, [],
    ),
    "misp manifest": Case(
        '{"5a1b": {"Orgc": {"name": "CIRCL"}, "info": "x", "date": "2024", "analysis": 2, "timestamp": "1",'
        ' "threat_level_id": "3"}, "5a1c": {"info": "y", "date": "2024"}}',
        "json", {}, 0, 2, [],
    ),
    "misp hashes.csv": Case(
        "d41d8cd98f00b204e9800998ecf8427e,5a1b0000-0000-0000-0000-000000000000\n"
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa,5a1b0000-0000-0000-0000-000000000001\n",
        "plain", {"md5": 2}, 0, 0, [],
    ),
    "misp csv export": Case(
        "uuid,event_id,category,type,value,comment,to_ids,date\n"
        '"5a","1","Network activity","ip-dst","192.0.2.1","x",1,"20240101"\n'
        '"5b","1","Network activity","domain","a.example","x",1,"20240101"\n'
        '"5c","1","Payload","sha256","e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","ht'
        'tp://ref.example/x",1,"20240101"\n',
        "csv", {"ipv4": 1, "domain": 1, "sha256": 1}, 0, 1, [],
    ),
    "warninglist": Case(
        '{"name": "x", "type": "cidr", "version": 1, "description": "d", "list": ["192.0.2.0/24", "2001:db8'
        '::/32"], "matching_attributes": ["ip-src", "ip-dst"]}',
        "json", {"ipv4_prefix": 1, "ipv6_prefix": 1}, 0, 0, [],
    ),
    "warninglist regex": Case(
        '{"name": "x", "type": "regex", "version": 1, "description": "d", "list": ["/.*\\\\.example$/i"]}',
        "json", {}, 0, 0, [1],
    ),
    "ds string": Case(
        "ZXZpbC5leGFtcGxl\naHR0cDovL2EuZXhhbXBsZS94\n",
        "suricata-string", {"domain": 1, "url": 1}, 0, 0, [],
    ),
    "ds ip": Case(
        "192.0.2.1\n2001:db8::1\n::ffff:192.0.2.2\n",
        "plain", {"ipv4": 2, "ipv6": 1}, 0, 0, [],
    ),
    "ds rep": Case(
        "192.0.2.1,1,127\n192.0.2.2,1,127\n",
        "plain", {"ipv4": 2}, 0, 0, [],
    ),
    "ds sha": Case(
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\n"
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\n",
        "plain", {"sha256": 2}, 0, 0, [],
    ),
    "ds datarep string": Case(
        "ZXZpbC5leGFtcGxl,5\nd29yc2UuZXhhbXBsZQ==,6\n",
        "suricata-string", {"domain": 2}, 0, 0, [],
    ),
    "zeek": Case(
        "#fields\tindicator\tindicator_type\tmeta.source\tmeta.desc\n192.0.2.1\tIntel::ADDR\tx\ty\n"
        "2001:db8::1\tIntel::ADDR\tx\ty\n192.0.2.0/24\tIntel::SUBNET\tx\ty\nevil.example\tIntel::DOMAIN\tx\ty\n"
        "evil.example/x/y\tIntel::URL\tx\ty\n"
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\tIntel::FILE_HASH\tx\ty\n"
        "da39a3ee5e6b4b0d3255bfef95601890afd80709\tIntel::CERT_HASH\tx\ty\n"
        "d41d8cd98f00b204e9800998ecf8427e\tIntel::JA3\tx\ty\nx@y.example\tIntel::EMAIL\tx\ty\n"
        "foo.exe\tIntel::FILE_NAME\tx\ty\nMozilla\tIntel::SOFTWARE\tx\ty\nssh\tIntel::PUBKEY_HASH\tx\ty\n",
        "zeek-intel",
        {"ipv4": 1, "ipv6": 1, "ipv4_prefix": 1, "domain": 1, "url": 1, "ja3": 1, "sha1": 1, "sha256": 1},
        0, 1, [10, 11, 12, 13],
    ),
    "zeek sep": Case(
        "#separator \\x09\n#set_separator\t,\n#fields\tindicator\tindicator_type\n192.0.2.1\tIntel::ADDR\n",
        "zeek-intel", {"ipv4": 1}, 0, 3, [],
    ),
    "zeek no header": Case(
        "192.0.2.1\tIntel::ADDR\tx\n192.0.2.2\tIntel::ADDR\tx\n",
        "plain", {"ipv4": 2}, 0, 0, [],
    ),
    "suricata rules": Case(
        "# c\n"
        'alert ip [192.0.2.1,192.0.2.2] any -> $HOME_NET any (msg:"ET CINS Active Threat Intelligence Poor '
        'Reputation IP group 1"; reference:url,www.cinsscore.com; sid:2403300; rev:1;)\n'
        'alert ip [192.0.2.3,192.0.2.0/24] any -> $HOME_NET any (msg:"ET DROP"; sid:2403301; rev:1;)\n',
        "report", {"ipv4": 3, "ipv4_prefix": 1}, 0, 1, [],
    ),
    "et iprep": Case(
        "192.0.2.1,1,127\n192.0.2.2,2,50\n",
        "plain", {"ipv4": 2}, 0, 0, [],
    ),
    "snort rep": Case(
        "# c\n192.0.2.1 # x\n192.0.2.0/24\n",
        "plain", {"ipv4": 1, "ipv4_prefix": 1}, 0, 1, [],
    ),
    "otx pulse": Case(
        '{"id": "5f", "name": "P", "description": "see http://blog.example/x", "references": ["http://blog.'
        'example/x"], "indicators": [{"id": 1, "indicator": "192.0.2.1", "type": "IPv4", "content": "", "ti'
        'tle": ""}, {"id": 2, "indicator": "bad.example", "type": "domain"}, {"id": 3, "indicator": "h.bad.'
        'example", "type": "hostname"}, {"id": 4, "indicator": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649'
        'b934ca495991b7852b855", "type": "FileHash-SHA256"}, {"id": 5, "indicator": "http://bad.example/x",'
        ' "type": "URL"}, {"id": 6, "indicator": "CVE-2021-1", "type": "CVE"}, {"id": 7, "indicator": "a@b.'
        'example", "type": "email"}, {"id": 8, "indicator": "192.0.2.0/24", "type": "CIDR"}, {"id": 9, "ind'
        'icator": "d41d8cd98f00b204e9800998ecf8427e", "type": "FileHash-MD5"}, {"id": 10, "indicator": "\\\\S'
        'essions\\\\x", "type": "Mutex"}]}',
        "json", {"ipv4": 1, "ipv4_prefix": 1, "domain": 2, "url": 1, "sha256": 1, "md5": 1}, 0, 0, [6, 7, 10],
    ),
    "otx page": Case(
        '{"results": [{"name": "P", "indicators": [{"indicator": "192.0.2.1", "type": "IPv4"}]}, {"name": "'
        'Q", "indicators": [{"indicator": "192.0.2.2", "type": "IPv4"}]}], "count": 2, "next": null, "previ'
        'ous": null}',
        "json", {"ipv4": 2}, 0, 0, [],
    ),
    "otx csv": Case(
        "Indicator type,Indicator,Description\nIPv4,192.0.2.1,x\ndomain,bad.example,\n"
        "FileHash-SHA256,e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855,\n",
        "csv", {"ipv4": 1, "domain": 1, "sha256": 1}, 0, 1, [],
    ),
    "openioc": Case(
        '<?xml version="1.0" encoding="us-ascii"?>\n<ioc xmlns="http://schemas.mandiant.com/2010/ioc" id="x">\n'
        '<definition><Indicator operator="OR" id="y">\n'
        '<IndicatorItem id="1" condition="is"><Context document="Network" search="Network/DNS" type="mir"/>'
        '<Content type="string">bad.example</Content></IndicatorItem>\n'
        '<IndicatorItem id="2" condition="is"><Context document="PortItem" search="PortItem/remoteIP" type='
        '"mir"/><Content type="IP">192.0.2.1</Content></IndicatorItem>\n'
        '<IndicatorItem id="3" condition="is"><Context document="FileItem" search="FileItem/Md5sum" type="m'
        'ir"/><Content type="md5">d41d8cd98f00b204e9800998ecf8427e</Content></IndicatorItem>\n'
        '<IndicatorItem id="4" condition="contains"><Context document="FileItem" search="FileItem/FileName"'
        ' type="mir"/><Content type="string">x.exe</Content></IndicatorItem>\n</Indicator></definition></ioc>\n',
        "stix1", {"ipv4": 1, "domain": 1, "md5": 1}, 0, 0, [11],
    ),
    "suricata eve iprep": Case(
        "192.0.2.1\n",
        "plain", {"ipv4": 1}, 0, 0, [],
    ),
    "stix cidr": Case(
        '{"type": "bundle", "id": "b", "objects": [{"type": "indicator", "pattern": "[ipv4-addr:value = \'19'
        '2.0.2.0/24\']", "pattern_type": "stix"}, {"type": "indicator", "pattern": "[ipv6-addr:value = \'2001'
        ':db8::/32\']", "pattern_type": "stix"}, {"type": "ipv4-addr", "value": "192.0.2.9"}, {"type": "indi'
        'cator", "pattern_type": "yara", "pattern": "rule x {}"}, {"type": "indicator", "pattern_type": "si'
        'gma", "pattern": "x"}]}',
        "stix", {"ipv4_prefix": 1, "ipv6_prefix": 1}, 0, 1, [4, 5],
    ),
    "stix backslash": Case(
        '{"type": "bundle", "objects": [{"type": "indicator", "pattern": "[url:value = \'http://bad.example/'
        'it\\\\\'s\']", "pattern_type": "stix"}]}',
        "stix", {"url": 1}, 0, 0, [],
    ),
    "stix two dup": Case(
        '{"type": "bundle", "objects": [{"type": "indicator", "pattern": "[domain-name:value = \'a.example\']'
        '", "pattern_type": "stix"}, {"type": "indicator", "pattern": "[domain-name:value = \'A.example.\']",'
        ' "pattern_type": "stix"}]}',
        "stix", {"domain": 1}, 1, 0, [],
    ),
    "misp list of events": Case(
        '[{"Event": {"Attribute": [{"type": "ip-dst", "value": "192.0.2.1", "to_ids": true}]}}, {"Event": {'
        '"Attribute": [{"type": "ip-dst", "value": "192.0.2.1", "to_ids": true}]}}]',
        "misp", {"ipv4": 1}, 1, 0, [],
    ),
    "misp defanged": Case(
        '{"Event": {"Attribute": [{"type": "url", "value": "hxxp://bad[.]example/x", "to_ids": true}, {"typ'
        'e": "domain", "value": "bad[.]example", "to_ids": "1"}]}}',
        "misp", {"domain": 1, "url": 1}, 0, 0, [],
    ),
    "misp feed csv hashes": Case(
        "value,uuid\nd41d8cd98f00b204e9800998ecf8427e,5a1b\n",
        "csv", {"md5": 1}, 0, 1, [],
    ),
    "medallion": Case(
        '{"/discovery": {"title": "x"}, "trustgroup1": {"collections": [{"id": "1", "objects": [{"type": "i'
        'ndicator", "pattern": "[ipv4-addr:value = \'192.0.2.1\']", "pattern_type": "stix"}]}]}}',
        "stix", {"ipv4": 1}, 0, 0, [],
    ),
    "suricata ja3 rules": Case(
        'alert tls any any -> any any (msg:"SSLBL: Malicious JA3 SSL-Client Fingerprint detected (Adwind)";'
        ' ja3_hash; content:"d41d8cd98f00b204e9800998ecf8427e"; reference:url, sslbl.abuse.ch/ja3-fingerpri'
        "nts/d41d8cd98f00b204e9800998ecf8427e/; sid:906200000; rev:1;)\n",
        "report", {"ja3": 1}, 0, 0, [],
    ),
    "suricata cert rules": Case(
        'alert tls $EXTERNAL_NET any -> $HOME_NET any (msg:"SSLBL: Malicious SSL certificate detected (Drid'
        'ex C&C)"; tls.fingerprint:"da:39:a3:ee:5e:6b:4b:0d:32:55:bf:ef:95:60:18:90:af:d8:07:09"; reference'
        ":url, sslbl.abuse.ch/ssl-certificates/sha1/da39a3ee5e6b4b0d3255bfef95601890afd80709/; sid:90220000"
        "0; rev:1;)\n",
        "report", {"sha1": 1}, 0, 0, [],
    ),
    "stix pretty crlf": Case(
        '{\r\n "type": "bundle",\r\n "objects": [\r\n  {\r\n   "type": "indicator",\r\n'
        '   "pattern": "[ipv4-addr:value=\'192.0.2.1\']"\r\n  }\r\n ]\r\n}',
        "stix", {"ipv4": 1}, 0, 0, [],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_exchange_formats(name: str) -> None:
    check(CASES[name])
