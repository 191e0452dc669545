# SPDX-License-Identifier: Apache-2.0
"""Formats by name. A new format is one module and one row here."""

from collections.abc import Callable, Mapping

from threatfeeds.content import Collector
from threatfeeds.formats import csv, dataset, json, misp, names, plain, report, rpz, spans, stix, stix1
from threatfeeds.formats.options import FormatOptions

# Text of the whole feed (line ends as they came, BOM taken off) → indicators.
Reader = Callable[[str, Collector, FormatOptions], None]

FORMATS: Mapping[str, Reader] = {
    "plain": plain.read,  # also FireHOL netset and ipset, Spamhaus DROP as text, Maltrail trails
    "adblock": names.read_adblock,
    "csv": csv.read,
    "dat": spans.read_dat,
    "dnsmasq": names.read_dnsmasq,
    "dshield": spans.read_dshield,
    "ipset": spans.read_ipset,
    "hosts": names.read_hosts,
    "json": json.read,  # also JSON lines (Spamhaus DROP) and MISP warning lists
    "misp": misp.read,
    "p2p": spans.read_p2p,
    "report": report.read,
    "rpz": rpz.read,
    "stix": stix.read,
    "stix1": stix1.read,
    "tor": spans.read_tor,
    "suricata-hash": dataset.read_hash,
    "suricata-ip": dataset.read_ip,
    "suricata-string": dataset.read_string,
    "zones": names.read_zones,
    "zeek-intel": csv.read_zeek,
}
