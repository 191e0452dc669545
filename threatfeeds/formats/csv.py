# SPDX-License-Identifier: Apache-2.0
"""Columns: CSV with any delimiter, with or without header; Zeek's intel files."""

import csv
from collections import Counter
from collections.abc import Sequence

from threatfeeds.content import FILES, Collector
from threatfeeds.formats.options import FormatOptions
from threatfeeds.hashes import HASH_TYPE, hash_of_file
from threatfeeds.indicator import Indicator, Kind, classify

DELIMITERS = ",;\t|"
_SAMPLE = 200  # rows that are looked at to find the column
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


# Names of columns that hold the indicator, best first; other columns have addresses and URLs, too: victims, reports.
TITLES = (
    *("ioc_value", "ioc", "indicator", "indicator_value", "dst_ip", "dstip", "dest_ip", "destination_ip", "src_ip"),
    *("ip_address", "ipaddress", "ip", "cidr", "network", "ip_range", "address", "domain", "hostname", "host", "fqdn"),
    *("url", "ja3_md5", "ja3", "ja4", "sha256", "sha256_hash", "sha1", "sha1_hash", "md5", "md5_hash", "value"),
)


def read(text: str, out: Collector, options: FormatOptions) -> None:
    """One indicator in each row. Lines that begin with # are comments; the last of them may be the header."""
    rows, header = _rows(text, out, options.delimiter)
    if not rows:
        return
    column, has_header = _column(rows, header, options.column)
    if column is None:
        name = f'no column "{options.column}"' if options.column else "no column with indicators was found"
        for number, row in rows:
            out.reject(number, ",".join(row), name)
        return
    if has_header:
        header = rows.pop(0)[1]
        out.comments += 1
    title = header[column] if column < len(header) else ""
    ja3 = "ja3" in title.lower()
    for number, row in rows:
        shown = ",".join(row)
        if column >= len(row):
            out.reject(number, shown, f"no column {column + 1}")
            continue
        found = classify(row[column])
        if isinstance(found, str):
            out.reject(number, shown, found)
        else:
            known = Indicator("ja3", found.value) if ja3 and found.kind == "md5" else found
            out.put(known, _of_file(title, row, found))


def _of_file(title: str, row: list[str], found: Indicator) -> bool | None:
    """A type beside the hash says what it is of, or the column's title."""
    if found.kind not in FILES:
        return None
    types = [cell for cell in row if HASH_TYPE.match(cell)]
    return hash_of_file(types, title)


def _rows(text: str, out: Collector, delimiter: str) -> tuple[list[tuple[int, list[str]]], list[str]]:
    """Rows with their line numbers, and the cells of the last comment before them."""
    lines: list[tuple[int, str]] = []
    comment = ""
    for number, line in enumerate(text.replace("\0", "").split("\n"), 1):
        if line.lstrip().startswith("#"):
            out.comments += 1
            comment = comment if lines else line.lstrip("# \t")
        elif line.strip():
            lines.append((number, line.rstrip("\r")))
    sample = [line for _, line in lines[:_SAMPLE]]
    chosen = delimiter or max(DELIMITERS, key=lambda mark: min((line.count(mark) for line in sample), default=0))
    rows = [(number, _cells(line, chosen)) for number, line in lines]
    rows = [(number, row) for number, row in rows if any(row)]  # spreadsheets end in empty rows, thousands of them
    return rows, _cells(comment, chosen)


def _cells(line: str, delimiter: str) -> list[str]:
    try:
        return [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter, skipinitialspace=True), [])]
    except csv.Error:
        return [cell.strip() for cell in line.split(delimiter)]


def _column(rows: Sequence[tuple[int, list[str]]], header: list[str], wanted: str) -> tuple[int | None, bool]:
    """(index of the column, whether the first row is a header)."""
    first = rows[0][1]
    titled = len(first) > 1 and all(isinstance(classify(cell), str) and cell for cell in first)
    if wanted.isdigit():
        return int(wanted) - 1, titled
    if wanted:
        for cells, is_row in ((first, True), (header, False)):
            lowered = [cell.lower() for cell in cells]
            if wanted.lower() in lowered:
                return lowered.index(wanted.lower()), is_row
        return None, False
    scores: dict[int, int] = {}
    hits: Counter[int] = Counter()
    for _, row in rows[:_SAMPLE]:
        for index, cell in enumerate(row):
            found = classify(cell)
            if not isinstance(found, str):
                scores[index] = scores.get(index, 0) + _RANK[found.kind]
                hits[index] += 1
    if not scores:
        return None, False
    best = max(scores, key=lambda index: (scores[index], -index))
    titles = first if titled else header
    known = [index for index in scores if index < len(titles) and titles[index].lower() in TITLES]
    # Where half of a column with a known name can be read, the name says more than what can be read elsewhere.
    known = [index for index in known if 2 * hits[index] >= min(len(rows), _SAMPLE) - 1]
    if known:
        best = min(known, key=lambda index: TITLES.index(titles[index].lower()))
    return best, isinstance(classify(first[best] if best < len(first) else ""), str)


def read_zeek(text: str, out: Collector, options: FormatOptions) -> None:
    """Zeek's intelligence framework: tab-separated, #fields names the columns."""
    fields = ["indicator", "indicator_type"]
    for number, raw in enumerate(text.split("\n"), 1):
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
            out.put(Indicator("url", row["indicator"].strip()))
        else:
            known = Indicator("ja3", found.value) if kinds[0] == "ja3" and found.kind == "md5" else found
            out.put(known, row["indicator_type"] == "Intel::FILE_HASH")
