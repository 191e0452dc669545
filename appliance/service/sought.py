# SPDX-License-Identifier: Apache-2.0
"""What feeds have inspectors look for, and in which flows it could be found. Pure.

    listed                     seen in                        asked unless
    names                      DNS, SNI, Host                 direction = "source"
    http:// URLs               HTTP requests                  direction = "source"
    hashes of files            nowhere
    SHA-1, SHA-256             server certificates            direction = "source"
    JA3, JA4, MD5 (as JA3)     ClientHello                    direction = "destination"

A name, a URL, a certificate is where a flow goes; JA3 and JA4 are who began it. Allowed names are listed, too: they win
where they are found, and are counted there.
"""

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from appliance.config import Config
from appliance.inspection.messages import FeedEntries, FeedNames, IndicatorKind
from rules.urls import parse_url
from threatfeeds.allowlist import Allowlist
from threatfeeds.config import FeedConfig
from threatfeeds.content import FILES
from threatfeeds.merge import Feed

Ports = tuple[tuple[str, int, int], ...]

DNS_PORTS: Ports = (("udp", 53, 53), ("tcp", 53, 53))
NAME_PORTS: Ports = (*DNS_PORTS, ("tcp", 80, 80), ("tcp", 443, 443))
MOST_RANGES = 64  # of ports of URLs; with more, those nearest to each other are taken together
_ASKED_AS: Mapping[str, IndicatorKind] = {"ja3": "ja3", "md5": "ja3", "ja4": "ja4", "sha1": "sha1", "sha256": "sha256"}
_CLIENTS = ("ja3", "ja4")


@dataclass(frozen=True)
class Sought:
    """`warnings`: what is listed and cannot be found, a line each."""

    names: tuple[FeedNames, ...] = ()
    entries: tuple[FeedEntries, ...] = ()
    allowed: tuple[str, ...] = ()
    url_ports: frozenset[int] = frozenset()
    warnings: tuple[str, ...] = ()
    only_allowed: bool = False
    """Every name is one that the allowlist would save."""

    @property
    def fingerprints(self) -> bool:
        return any(found.kind != "url" for found in self.entries)


def sought(feeds: Iterable[Feed], allowlist: Allowlist) -> Sought:
    names: list[FeedNames] = []
    entries: list[FeedEntries] = []
    ports: set[int] = set()
    warnings: list[str] = []
    only_allowed = True
    for feed in feeds:
        config, content = feed.config, feed.content
        to_destination, of_source = config.direction != "source", config.direction != "destination"
        found = _names(feed)
        clients = [entry for entry in content.fingerprints if _ASKED_AS.get(entry[0]) in _CLIENTS]
        servers = [entry for entry in content.fingerprints if _ASKED_AS.get(entry[0]) not in (*_CLIENTS, None)]
        if to_destination:
            names += found
            only_allowed = only_allowed and all(allowlist.name_reason(name) for part in found for name in part.names)
            urls = tuple(url for url in content.web.urls if not _allowed_address(url, allowlist))
            if urls:
                entries.append(FeedEntries(config.name, config.action, "url", urls))
                ports |= content.web.ports
            entries += _fingerprints(config, servers)
            if content.web.hidden_urls and not config.https_hosts:
                warnings.append(
                    f"feed {config.name}: {content.web.hidden_urls} https URLs cannot be seen and are not enforced"
                    " (https_hosts = true takes their hosts)"
                )
        elif found or content.urls or servers:
            warnings.append(f'feed {config.name}: names, URLs and certificates are no source: direction = "source"')
        files = sum(kind in FILES.values() for kind, _ in content.fingerprints)
        if files:
            warnings.append(
                f'feed {config.name}: {files} hashes of files are not looked for (hashes = "tls" if they are of'
                " certificates, or JA3)"
            )
        if of_source:
            entries += _fingerprints(config, clients)
        elif clients:
            warnings.append(f'feed {config.name}: JA3 and JA4 are of the source: direction = "destination"')
    allowed = tuple(sorted(allowlist.names))
    return Sought(tuple(names), tuple(entries), allowed, frozenset(ports), tuple(warnings), only_allowed)


def inspect_ports(config: Config, found: Sought, signatures: bool) -> Ports:
    """Ports whose allowed flows are inspected: those configured, and those where what is sought could be.

    In mode observe the operator is looking around: applications are shown though nothing is searched for.
    """
    wanted = list(config.policy.inspect_terms())
    if not config.inspection.inspectors:
        return ()
    if signatures or config.mode == "observe" or (found.names and not found.only_allowed):
        wanted += NAME_PORTS
    wanted += [("tcp", first, last) for first, last in ranges(found.url_ports)]
    if found.fingerprints:
        wanted += config.inspection.tls_terms()
    return tuple(dict.fromkeys(wanted))


def ranges(ports: Iterable[int], most: int = MOST_RANGES) -> list[tuple[int, int]]:
    """At most `most` ranges that cover the ports, and as few others as possible."""
    ordered = sorted(ports)
    if not ordered:
        return []
    gaps = sorted(range(1, len(ordered)), key=lambda at: ordered[at - 1] - ordered[at])
    cuts = sorted(at for at in gaps[: most - 1] if ordered[at] - ordered[at - 1] > 1)
    return [(ordered[first], ordered[last - 1]) for first, last in pairwise([0, *cuts, len(ordered)])]


def _names(feed: Feed) -> list[FeedNames]:
    """Those with and those without subdomains apart."""
    config, content = feed.config, feed.content
    groups: dict[bool, set[str]] = {}
    for domain in content.domains:
        subdomains = config.subdomains if domain.subdomains is None else domain.subdomains
        groups.setdefault(subdomains, set()).add(domain.name)
    if config.https_hosts and content.web.hidden:
        groups.setdefault(False, set()).update(content.web.hidden)
    return [
        FeedNames(config.name, config.action, tuple(sorted(names)), subdomains)
        for subdomains, names in sorted(groups.items())
    ]


def _fingerprints(config: FeedConfig, listed: Sequence[tuple[str, str]]) -> list[FeedEntries]:
    kinds: dict[IndicatorKind, list[str]] = {}
    for kind, value in listed:
        kinds.setdefault(_ASKED_AS[kind], []).append(value)
    return [FeedEntries(config.name, config.action, kind, tuple(values)) for kind, values in sorted(kinds.items())]


def _allowed_address(text: str, allowlist: Allowlist) -> bool:
    """Whether the URL's host is an address that nobody blocks."""
    authority = text.split("/", 3)[2]
    if not (authority[-1:].isdigit() or authority.endswith("]")):
        return False
    url = parse_url(text)
    try:
        address = ipaddress.ip_address(url.host if url is not None else "")
    except ValueError:
        return False
    return allowlist.address_reason(address) is not None
