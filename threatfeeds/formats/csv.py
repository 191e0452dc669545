# SPDX-License-Identifier: Apache-2.0
"""Columns: CSV with any delimiter, with or without header; Zeek's intel files."""

import csv
import io
import itertools
import re
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence

from threatfeeds.content import FILES, Collector
from threatfeeds.formats.lines import LONGEST, RULER, raw_lines
from threatfeeds.formats.options import FormatOptions
from threatfeeds.hashes import HASH_TYPE, hash_of_file
from threatfeeds.indicator import Indicator, Kind, classify

DELIMITERS = ",;\t|"
_SAMPLE = 200  # rows that are looked at to find the column
_COLUMNS = 256  # that are looked at to find the one
_CONTINUED = 64  # lines that a cell in quotes goes on for, at most
_RANK: dict[Kind, int] = {
    "ipv4": 5,
    "ipv6": 5,
    "ipv4_prefix": 5,
    "ipv6_prefix": 5,
    "range": 5,
    "domain": 4,
    "url": 3,
    "sha256": 2,
    "sha1": 2,
    "md5": 2,
    "ja3": 2,
    "ja4": 2,
}
_ZEEK: dict[str, tuple[Kind, ...]] = {
    "Intel::ADDR": ("ipv4", "ipv6"),
    "Intel::SUBNET": ("ipv4_prefix", "ipv6_prefix", "ipv4", "ipv6"),
    "Intel::DOMAIN": ("domain",),
    "Intel::URL": ("url", "domain", "ipv4", "ipv6"),
    "Intel::FILE_HASH": ("md5", "sha1", "sha256"),
    "Intel::CERT_HASH": ("sha1", "sha256", "md5"),
    "Intel::JA3": ("ja3", "md5"),
}


# Names of columns that hold the indicator, as title_key() has them, by rank; of one rank the first column counts. Other
# columns have addresses and URLs, too: victims, what a name resolved to, reports.
_RANKS = (
    "ioc iocvalue indicator indicatorvalue observable observablevalue c2 c2ip",
    "dstip destip destinationip destinationaddress targetip attackerip",
    """srcip sourceip sourceaddress ipaddress ipaddr ipstr ip ipv4 ipv6 cidr netblock network subnet prefix iprange
    address url fullurl phishingurl maliciousurl uri domain domainname hostname host fqdn""",
    "ja3 ja3md5 ja3hash ja4 sha256 sha256hash sha1 sha1hash md5 md5hash hash filehash",
    "value",
)
TITLES: Mapping[str, int] = {title: rank for rank, titles in enumerate(_RANKS) for title in titles.split()}
# Two columns that are one range.
_SPANS = (
    ("start", "end"), ("startip", "endip"), ("ipstart", "ipend"), ("startaddress", "endaddress"), ("first", "last"),
    ("firstip", "lastip"), ("from", "to"), ("ipfrom", "ipto"), ("rangestart", "rangeend"),
)  # fmt: skip
_KEY = re.compile(r"[^a-z0-9]+")
COMMENTS = ("#", "//")


def title_key(title: str) -> str:
    """ "Destination IP", "dst_ip" → "destinationip", "dstip"."""
    return _KEY.sub("", title.lower())


def read(text: str, out: Collector, options: FormatOptions) -> None:
    """One indicator in each row. Lines that begin with # are comments; the last of as many cells may be the header."""
    comment = (options.comment,) if options.comment else COMMENTS
    delimiter = options.delimiter or delimiter_of(text, comment)
    sample = list(itertools.islice(_rows(text, delimiter, comment), _SAMPLE))
    out.comments += sum(line.lstrip().startswith(comment) for _, line in raw_lines(text))
    if not sample:
        return
    header = titles_above(text, delimiter, len(sample[0][1]), comment)
    column, titled = _column(sample, header, options.column)
    title = ""
    if column is not None:
        cells = sample[0][1] if titled else header
        title = cells[column] if column < len(cells) else ""
    ja3 = "ja3" in title.lower()
    last = _last(sample[0][1] if titled else header, title) if not options.column else None
    out.comments += titled
    for number, row, shown in itertools.islice(_rows(text, delimiter, comment), int(titled), None):
        if RULER.match(shown):
            out.comments += 1
        elif column is None:
            why = f'no column "{options.column}"' if options.column else "no column with indicators was found"
            out.reject(number, shown, why)
        elif column >= len(row):
            out.reject(number, shown, f"no column {column + 1}")
        elif isinstance(found := classify(_span(row, column, last)), str):
            out.reject(number, shown, found)
        else:
            known = Indicator("ja3", found.value) if ja3 and found.kind == "md5" else found
            out.put(known, number, shown, _of_file(title, row, found))


def _last(titles: list[str], first: str) -> int | None:
    """The column where a range ends whose first address is under the title `first`."""
    keys = [title_key(title) for title in titles]
    end = next((last for start, last in _SPANS if start == title_key(first)), None)
    return keys.index(end) if end in keys else None


def _span(row: list[str], column: int, last: int | None) -> str:
    if last is None or last >= len(row) or isinstance(classify(row[last]), str):
        return row[column]
    return f"{row[column]}-{row[last]}"


def _of_file(title: str, row: list[str], found: Indicator) -> bool | None:
    """A type beside the hash says what it is of, or the column's title."""
    if found.kind not in FILES:
        return None
    types = [cell for cell in row if HASH_TYPE.match(cell)]
    return hash_of_file(types, title)


def delimiter_of(text: str, comment: tuple[str, ...] = COMMENTS) -> str:
    """That of DELIMITERS that is in most lines."""
    sample = [line for _, line in itertools.islice(_content(text, comment), _SAMPLE)]

    def score(mark: str) -> tuple[int, int]:
        counts = [line.count(mark) for line in sample if mark in line]
        return len(counts), min(counts, default=0)

    return max(DELIMITERS, key=score)


def titles_above(text: str, delimiter: str, cells: int, comment: tuple[str, ...] = COMMENTS) -> list[str]:
    """Cells of the last comment before the first row that has as many; else of the last one that says something."""
    last: list[str] = []
    best: list[str] = []
    for _, line in raw_lines(text):
        line = line.strip()
        if line and not line.startswith(comment):
            break
        if not RULER.match(line):
            last = _cells(line.lstrip("".join(comment) + " \t"), delimiter)
            best = last if len(last) == cells and cells > 1 else best
    return best or last


def _content(text: str, comment: tuple[str, ...]) -> Iterator[tuple[int, str]]:
    for number, line in raw_lines(text):
        if line.strip("\0 \t\r") and not line.lstrip().startswith(comment):
            yield number, line.replace("\0", "").strip(" \r")


def _rows(text: str, delimiter: str, comment: tuple[str, ...]) -> Iterator[tuple[int, list[str], str]]:
    """(number of the first line, cells, text). A cell in quotes may go on in the next lines."""
    ahead: deque[tuple[int, str]] = deque()
    content = _content(text, comment)
    opened = re.compile(rf'(?:^|{re.escape(delimiter)})\s?"(?:[^"]|"")*\Z')
    closes = re.compile(rf'(?:[^"]|"")*+"\s*(?:{re.escape(delimiter)}|\Z)')
    while True:
        if not ahead:
            ahead.extend(itertools.islice(content, 1))
        if not ahead:
            return
        number, line = ahead.popleft()
        if len(line) <= LONGEST and line.count('"') % 2 and opened.search(line):
            ahead.extend(itertools.islice(content, max(0, _CONTINUED - len(ahead))))
            end = next((at for at, (_, more) in enumerate(ahead) if more.count('"') % 2), None)
            if end is not None and closes.match(ahead[end][1]):
                line = "\n".join([line, *(ahead.popleft()[1] for _ in range(end + 1))])
        row = _cells(line, delimiter)
        if any(row):  # spreadsheets end in empty rows, thousands of them
            yield number, row, line


def _cells(line: str, delimiter: str) -> list[str]:
    try:
        read = csv.reader(io.StringIO(line, newline=""), delimiter=delimiter, skipinitialspace=True)
        return [cell.strip() for cell in next(read, [])]
    except csv.Error:
        return [cell.strip() for cell in line.split(delimiter)]


def _column(
    rows: Sequence[tuple[int, list[str], str]], header: list[str], wanted: str
) -> tuple[int | None, bool]:  # fmt: skip
    """(index of the column, whether the first row is a header)."""
    first = rows[0][1]
    titled = all(map(_says_nothing, first[:_COLUMNS])) and (
        (len(first) > 1 and all(first)) or any(title_key(cell) in TITLES for cell in first)
    )
    if wanted.isdecimal() and len(wanted) < 5 and int(wanted) > 0:
        return int(wanted) - 1, titled
    if wanted:
        for cells, is_row in ((first, True), (header, False)):
            lowered = [cell.lower() for cell in cells]
            if wanted.lower() in lowered:
                return lowered.index(wanted.lower()), is_row
        return None, False
    scores: dict[int, int] = {}
    hits: Counter[int] = Counter()
    for _, row, _ in rows:
        for index, cell in enumerate(row[:_COLUMNS]):
            found = classify(cell)
            if not isinstance(found, str):
                scores[index] = scores.get(index, 0) + _RANK[found.kind]
                hits[index] += 1
    if not scores:
        return None, False
    best = max(scores, key=lambda index: (scores[index], -index))
    titles = [title_key(title) for title in (first if titled else header)]
    # Where half of a column with a known name can be read, the name says more than what can be read elsewhere.
    known = [
        index for index in scores
        if index < len(titles) and titles[index] in TITLES and 2 * hits[index] >= len(rows) - 1
    ]  # fmt: skip
    if known:
        best = min(known, key=lambda index: (TITLES[titles[index]], index))
    return best, titled or isinstance(classify(first[best] if best < len(first) else ""), str)


def _says_nothing(cell: str) -> bool:
    """A known title may look like a name: destination.ip."""
    return title_key(cell) in TITLES or isinstance(classify(cell), str)


def read_zeek(text: str, out: Collector, options: FormatOptions) -> None:
    """Zeek's intelligence framework: tab-separated, #fields names the columns."""
    fields = ["indicator", "indicator_type"]
    for number, raw in raw_lines(text):
        line = raw.rstrip("\r")
        if line.startswith("#fields"):
            fields = line.split("\t")[1:]
        if line.startswith("#") or not line.strip():
            out.comments += bool(line.strip())
            continue
        row = dict(zip(fields, line.split("\t"), strict=False))
        kinds = _ZEEK.get(row.get("indicator_type", ""))
        found = classify(row.get("indicator", ""))
        if kinds is None:
            out.reject(
                number, line, f"the type {row.get('indicator_type', '(none)')} is not asked for by this appliance"
            )
        elif isinstance(found, str):
            out.reject(number, line, found)
        elif found.kind not in kinds:
            out.reject(number, line, f"{found.kind} under the type {row['indicator_type']}")
        elif kinds[0] == "url" and found.kind != "url":
            out.put(Indicator("url", row["indicator"].strip()), number, line)
        else:
            known = Indicator("ja3", found.value) if kinds[0] == "ja3" and found.kind == "md5" else found
            out.put(known, number, line, row["indicator_type"] == "Intel::FILE_HASH")
