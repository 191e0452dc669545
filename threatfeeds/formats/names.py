# SPDX-License-Identifier: Apache-2.0
"""Lists of names: hosts(5) files, dnsmasq configuration, Adblock-style rules."""

import re

from threatfeeds.content import Collector
from threatfeeds.formats.options import FormatOptions
from threatfeeds.indicator import Indicator, classify

# Names that every hosts file defines for the machine itself.
_LOCAL = frozenset(
    {
        "localhost",
        "localhost.localdomain",
        "local",
        "broadcasthost",
        "ip6-localhost",
        "ip6-loopback",
        "ip6-localnet",
        "ip6-mcastprefix",
        "ip6-allnodes",
        "ip6-allrouters",
        "ip6-allhosts",
        "0.0.0.0",
    }
)
_DNSMASQ = re.compile(r"^(?:address|server|local)=/(?P<names>[^=]+)/[^/]*\Z")
_UNBOUND = re.compile(r"""^(?P<kind>local-zone|local-data):\s*["']?(?P<name>[^\s"']+)""")
_BIND = re.compile(r"""^zone\s+["'](?P<name>[^"']+)["']""")
_RULE = re.compile(r"^\|\|(?P<name>[^/^$|*]+)\^?\|?(?:\$(?P<options>.*))?\Z")
_WHOLE = frozenset({"", "all", "important", "document", "doc", "third-party", "3p", "popup"})
_COSMETIC = re.compile(r"#[@?$%]*#")


def read_hosts(text: str, out: Collector, options: FormatOptions) -> None:
    """Address, then names. The address is where the list sends them, never an indicator."""
    for number, raw in enumerate(text.split("\n"), 1):
        line = raw.partition("#")[0].split()
        if not line:
            out.comments += bool(raw.strip())
            continue
        hosts_line(line, number, raw.strip(), out)


def hosts_line(words: list[str], number: int, shown: str, out: Collector) -> None:
    address = classify(words[0])
    if isinstance(address, str) or address.kind not in ("ipv4", "ipv6"):
        out.reject(number, shown, "the line does not begin with an address")
        return
    names = [name for name in words[1:] if name.lower() not in _LOCAL]
    if not names:
        out.reject(number, shown, "no name behind the address, or only names of the local machine")
    for name in names:
        out.add(name, number, only=("domain",), shown=shown)


def read_dnsmasq(text: str, out: Collector, options: FormatOptions) -> None:
    """address=/NAME/…/ADDRESS, server=/NAME/, local=/NAME/: the name and everything below it."""
    for number, raw in enumerate(text.split("\n"), 1):
        line = raw.strip()
        if not line:
            continue
        if line.startswith("#"):
            out.comments += 1
            continue
        rule = _DNSMASQ.match(line)
        if rule is None:
            out.reject(number, line, "neither address=/NAME/, server=/NAME/ nor local=/NAME/")
            continue
        for name in rule["names"].split("/"):
            _with_subdomains(name, number, line, out)


def read_zones(text: str, out: Collector, options: FormatOptions) -> None:
    """Configuration of a resolver that answers for a name itself: Unbound's local-zone and local-data, BIND's zone."""
    for number, raw in enumerate(text.split("\n"), 1):
        line = raw.strip()
        if not line:
            continue
        rule = _UNBOUND.match(line) or _BIND.match(line)
        if line.startswith(("#", "//", ";", "/*", "*")) or line in ("server:", "}", "};"):
            out.comments += 1
        elif rule is None:
            out.reject(number, line, "neither local-zone, local-data nor zone")
        elif rule.re is _UNBOUND and rule["kind"] == "local-data":
            out.add(rule["name"].removesuffix("."), number, only=("domain",), shown=line)
        else:
            _with_subdomains(rule["name"].removesuffix("."), number, line, out)


def read_adblock(text: str, out: Collector, options: FormatOptions) -> None:
    """||NAME^ rules that concern a whole name. Rules about paths, elements or single sites are rejected."""
    for number, raw in enumerate(text.split("\n"), 1):
        line = raw.strip()
        if not line:
            continue
        if line.startswith(("!", "# ", "[Adblock", "[adblock")) or line == "#":
            out.comments += 1
            continue
        rule = _RULE.match(line)
        if line.startswith("@@"):
            out.reject(number, line, "an exception: exceptions belong into the allowlist")
        elif _COSMETIC.search(line):
            out.reject(number, line, "a rule about elements of a page")
        elif rule is not None:
            unknown = set((rule["options"] or "").split(",")) - _WHOLE
            if unknown:
                out.reject(number, line, f"the option {min(unknown)} limits the rule to less than a name")
            else:
                _with_subdomains(rule["name"], number, line, out)
        elif len(words := line.split()) > 1:
            hosts_line(words, number, line, out)
        else:
            out.add(line, number, only=("domain",), shown=line)


def _with_subdomains(name: str, number: int, shown: str, out: Collector) -> None:
    found = classify(name)
    if isinstance(found, str):
        out.reject(number, shown, found)
    elif found.kind != "domain":
        out.put(found)
    else:
        out.put(Indicator("domain", found.value, True))
