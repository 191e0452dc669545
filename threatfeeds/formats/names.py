# SPDX-License-Identifier: Apache-2.0
"""Lists of names: hosts(5) files, dnsmasq configuration, Adblock-style rules."""

import re

from threatfeeds.content import Collector
from threatfeeds.formats.lines import lines
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
_DNSMASQ = re.compile(r"^(?P<kind>address|server|local)=/(?P<names>[^=]+)/(?P<target>[^/]*)\Z")
_UNBOUND = re.compile(r"""^(?P<kind>local-zone|local-data):\s*["']?(?P<name>[^\s"']+)["']?\s*(?P<type>\w*)""")
# Types of Unbound's zones that have the name asked for all the same.
_ANSWERED = frozenset({"transparent", "typetransparent", "inform", "nodefault"})
_BIND = re.compile(r"""^zone\s+["'](?P<name>[^"']+)["']""")
_RULE = re.compile(r"^\|\|(?P<name>(?:\*\.)?[^/^$|*]+)\^?\|?(?:\$(?P<options>.*))?\Z")
_WHOLE = re.compile(
    r"(?:all|important|document|doc|third-party|3p|popup|dnsrewrite=(?:NXDOMAIN|REFUSED|0\.0\.0\.0|127\.0\.0\.1|::)(?:;.*)?)?\Z"
)
_PART = re.compile(r"[*^$?=&/]|^-|-\Z")
_BEHIND = re.compile(r"(?<!\s)\s*#.*\Z|(?<!\s)\s+(?:;|//).*\Z")
_COSMETIC = re.compile(r"#[@?$%]*#")


def read_hosts(text: str, out: Collector, options: FormatOptions) -> None:
    """Address, then names. The address is where the list sends them, never an indicator."""
    for number, line in lines(text, out):
        hosts_line(line, number, out)


def hosts_line(line: str, number: int, out: Collector) -> None:
    words = _BEHIND.sub("", line).split()
    if not words:
        out.comments += 1
        return
    address = classify(words[0].partition("%")[0])
    if isinstance(address, str) or address.kind not in ("ipv4", "ipv6"):
        out.reject(number, line, "the line does not begin with an address")
        return
    names = [name for name in words[1:] if name.lower() not in _LOCAL]
    if not names:
        out.reject(number, line, "no name behind the address, or only names of the local machine")
    elif len(names) == 1:
        out.add(names[0], number, only=("domain",), shown=line)
    else:
        found = [classify(name) for name in names]
        wrong = [
            why if isinstance(why, str) else f"{why.kind} where a name was expected"
            for why in found
            if isinstance(why, str) or why.kind != "domain"
        ]
        for name in found:
            if not isinstance(name, str) and name.kind == "domain":
                out.put(name, number, line)
        if wrong:
            out.reject(number, line, wrong[0])


def read_dnsmasq(text: str, out: Collector, options: FormatOptions) -> None:
    """address=/NAME/…/ADDRESS, server=/NAME/, local=/NAME/: the name and everything below it."""
    for number, line in lines(text, out):
        rule = _DNSMASQ.match(line)
        if rule is None:
            out.reject(number, line, "neither address=/NAME/, server=/NAME/ nor local=/NAME/")
        elif rule["kind"] != "address" and rule["target"]:
            out.reject(number, line, "names that another server is asked for are not blocked")
        else:
            _with_subdomains(rule["names"].split("/"), number, line, out)


def read_zones(text: str, out: Collector, options: FormatOptions) -> None:
    """Configuration of a resolver that answers for a name itself: Unbound's local-zone and local-data, BIND's zone."""
    for number, line in lines(text, out, ("#", "//", ";", "/*", "*")):
        rule = _UNBOUND.match(line) or _BIND.match(line)
        if line in ("server:", "}", "};"):
            out.comments += 1
        elif rule is None:
            out.reject(number, line, "neither local-zone, local-data nor zone")
        elif rule.re is _UNBOUND and rule["kind"] == "local-data":
            out.add(rule["name"].removesuffix("."), number, only=("domain",), shown=line)
        elif rule.re is _UNBOUND and rule["type"] in _ANSWERED:
            out.reject(number, line, f"a zone of type {rule['type']} is not blocked")
        else:
            _with_subdomains([rule["name"].removesuffix(".")], number, line, out)


def read_adblock(text: str, out: Collector, options: FormatOptions) -> None:
    """||NAME^ rules that concern a whole name. Rules about paths, elements or single sites are rejected."""
    for number, line in lines(text, out, ("!", "# ", "[Adblock", "[adblock")):
        if line.strip("#-=* ") == "":
            out.comments += 1
        elif line.startswith("@@"):
            out.reject(number, line, "an exception: exceptions belong into the allowlist")
        elif _COSMETIC.search(line):
            out.reject(number, line, "a rule about elements of a page")
        elif (rule := _RULE.match(line)) is not None:
            unknown = {option for option in (rule["options"] or "").split(",") if not _WHOLE.match(option)}
            if unknown:
                out.reject(number, line, f"the option {min(unknown)} limits the rule to less than a name")
            else:
                _with_subdomains([rule["name"]], number, line, out)
        elif line.startswith("|") or _PART.search(line):
            out.reject(number, line, "a rule about parts of a URL")
        elif len(line.split()) > 1:
            hosts_line(line, number, out)
        else:
            out.add(line, number, only=("domain",), shown=line)


def _with_subdomains(names: list[str], number: int, shown: str, out: Collector) -> None:
    """Each of the names, with what is below it; the line is rejected once."""
    found = [classify(name) for name in names]
    for name in found:
        if not isinstance(name, str):
            known = Indicator("domain", name.value, True) if name.kind == "domain" else name
            out.put(known, number, shown)
    wrong = [why for why in found if isinstance(why, str)]
    if wrong:
        out.reject(number, shown, wrong[0])
