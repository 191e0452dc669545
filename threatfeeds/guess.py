# SPDX-License-Identifier: Apache-2.0
"""Which format a list is in, from its beginning."""

import re
from collections import Counter

from threatfeeds.content import Collector, FeedContent
from threatfeeds.formats import FORMATS
from threatfeeds.formats.csv import DELIMITERS, TITLES, delimiter_of, title_key, titles_above
from threatfeeds.formats.options import FormatOptions

_SAMPLE = 200  # lines that are not comments
_HEAD = 2000  # lines
_SINK = re.compile(r"0\.0\.0\.0\Z|127\.|::1?\Z")
_JSON = re.compile(r"\{\s*[\"}]|\[\s*(?:[\[{\"\]]|-?\d+\s*[,\]])")
_HOSTS = re.compile(r"^[0-9a-f]*[.:][0-9a-f.:]+\s+(?=[^\s#]*[^\W\d_])[^\s#;|,()]+(?:\s|#|\Z)", re.IGNORECASE)
_TITLE = re.compile(r"[\w\"' -]+\Z")
_RPZ = re.compile(r"^\S*\s+(?:\d+\s+)?(?:IN\s+)?(?:SOA|NS|CNAME|A|AAAA|TXT)\s+\S", re.IGNORECASE)
_P2P = re.compile(r"^[^\t]*:\d+\.\d+\.\d+\.\d+\s*-\s*\d+\.\d+\.\d+\.\d+\s*\Z")
_DSHIELD = re.compile(r"^\d+\.\d+\.\d+\.\d+\s+\d+\.\d+\.\d+\.\d+\s+\d{1,2}(?:\s|\Z)")
_DNSMASQ = re.compile(r"^(?:address|server|local|ipset|nftset)=/")
_HTML = re.compile(r"<(?:!doctype\s+html|html|head|body|table)\b", re.IGNORECASE)
_STIX1 = re.compile(
    r"<\w+:STIX_Package\b|http://stix\.mitre\.org/|<\w+:Observables\b|<(?:ioc|OpenIOC)\s[^>]*openioc|/2010/ioc\b",
    re.IGNORECASE,
)
_BASE64 = re.compile(r"^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?(?:,\d+)?\Z")
_DAT = re.compile(r"^\d+\.\d+\.\d+\.\d+\s*-\s*\d+\.\d+\.\d+\.\d+\s*,\s*\d{1,3}\s*,")
_TOR = re.compile(r"^(?:ExitNode [0-9A-F]{40}|Published \d|LastStatus \d|ExitAddress \S)")
_IPSET = re.compile(
    r"^(?:sudo\s+)?(?:\S*/)?(?:ipset\s+)?(?:(?:-exist|-!|-q)\s+)*(?:(?:create|-N)\s+\S+\s+(?:hash|bitmap|list):|(?:flush|destroy|-F|-X)\s+\S+\Z"
    r"|(?:add|-A)\s+\S+\s+[0-9a-fA-F]*[.:]|COMMIT\Z)"
)
_ZONES = re.compile(r"""^(?:local-(?:zone|data):\s|zone\s+["']|server:\Z)""")
_SHAPES = (
    *(("dnsmasq", _DNSMASQ), ("zones", _ZONES), ("tor", _TOR), ("ipset", _IPSET), ("dat", _DAT), ("p2p", _P2P)),
    *(("dshield", _DSHIELD), ("rpz", _RPZ)),
)


def guess_format(text: str) -> str:
    """A name of FORMATS. "plain" when nothing else fits better."""
    stripped = text.lstrip()
    if _JSON.match(stripped):
        return _json_kind(stripped)
    if stripped.startswith("<") and _STIX1.search(stripped[: 1 << 16]):
        return "stix1"
    if _HTML.match(stripped):
        return "report"
    if stripped.startswith("#fields\t") or "\n#fields\t" in text[:4096]:
        return "zeek-intel"
    lines = [line.strip() for line in text[: 1 << 20].split("\n")]
    if any(line.lower().startswith("[adblock") or line.startswith("||") for line in lines[:_SAMPLE]):
        return "adblock"
    if any(line.upper().startswith(("$TTL", "$ORIGIN")) or " SOA " in line.upper() for line in lines[:_SAMPLE]):
        return "rpz"
    content = [line for line in lines if line and not line.startswith(("#", ";", "//", "!"))][:_SAMPLE]
    if not content:
        return "plain"
    for name, shape in _SHAPES:
        # One line more may be anything: the names of the columns.
        matching = sum(shape.match(line) is not None for line in content)
        if matching and (matching >= len(content) - 1 or matching > len(content) * 0.8):
            return name
    if _is_hosts(content):
        return "hosts"
    if _titled("\n".join(lines[:_HEAD]), content[0]):
        return "csv"
    return _by_yield("\n".join(content))


def _is_hosts(content: list[str]) -> bool:
    """Names behind an address that is always the same, or nobody's: a list of addresses has names behind them, too."""
    addresses = Counter(line.split(None, 1)[0] for line in content if _HOSTS.match(line))
    found = addresses.total()
    sinks = sum(count for address, count in addresses.items() if _SINK.match(address))
    common = max(addresses.values(), default=0)
    return found > 0 and 2 * found > len(content) and (2 * sinks >= found or (found > 1 and 2 * common > found))


def _titled(text: str, first: str) -> bool:
    """Whether the first row, or the comment before it, names columns, one of them the indicator's."""
    if _TITLE.match(first) and title_key(first) in TITLES:
        return _share("csv", text) >= 0.5
    delimiter = delimiter_of(text)
    cells = len(first.split(delimiter))
    titles = [title_key(title) for title in titles_above(text, delimiter, cells)]
    return len(titles) > 1 and len(titles) == cells and any(title in TITLES for title in titles)


def _json_kind(text: str) -> str:
    head = text[: 1 << 16]
    if '"to_ids"' in text[: 1 << 20] or (
        '"Attribute"' in text[: 1 << 20] and ('"Event"' in head or '"response"' in head)
    ):
        return "misp"
    if re.search(r'"type"\s*:\s*"(?:bundle|indicator)"', head) or '"spec_version"' in head:
        return "stix"
    return "json"


def _by_yield(sample: str) -> str:
    """The reader that understands most and rejects least; in a tie the simplest."""
    lines = sample.split("\n")
    if all(_BASE64.match(line) for line in lines) and _share("suricata-string", sample) > 0.9:
        return "suricata-string"
    divided = any(2 * sum(mark in line for line in lines) > len(lines) for mark in DELIMITERS)
    plain, columns = _share("plain", sample), _share("csv", sample) if divided else 0.0
    if columns > plain + 0.05 or (plain < columns == 1.0):
        return "csv"
    # Sentences and headings, not lines with something wrong in them.
    headings = sum(len(line.text.split()) > 1 for line in _read("plain", sample).rejected)
    prose = headings >= 3 or sum(len(line.split()) > 2 for line in lines) >= 3
    if prose and plain < 0.8 and _share("report", sample) > plain:
        return "report"
    return "report" if plain < 0.5 and _found("report", sample) > _found("plain", sample) else "plain"


def _read(name: str, sample: str) -> FeedContent:
    out = Collector()
    FORMATS[name](sample, out, FormatOptions())
    return out.finish()


def _found(name: str, sample: str) -> int:
    return len(_read(name, sample))


def _share(name: str, sample: str) -> float:
    """Indicators among all lines that are not comments, 0..1."""
    content = _read(name, sample)
    good = len(content) + content.duplicates
    return good / (good + len(content.rejected)) if good else 0.0
