# SPDX-License-Identifier: Apache-2.0
"""Reports for people: indicators somewhere in prose, in tables, in lists, under headings.

A report also names the victim, its author and the vendor. So a name counts when it is defanged, part of a URL, or alone
in its line or cell; and where the report defangs what is dangerous, a URL in a sentence that is not is a reference.
"""

import re
from collections.abc import Iterator

from threatfeeds.content import Collector
from threatfeeds.formats.lines import LONGEST, raw_lines
from threatfeeds.formats.options import FormatOptions
from threatfeeds.hashes import of_file
from threatfeeds.indicator import Indicator, classify, join_masks

_CELL = re.compile(r"[|\t]|</?t[dhr]\b[^<>]{0,200}>", re.IGNORECASE)
_CDATA = re.compile(r"<!\[CDATA\[|\]\]>")
_TAG = re.compile(r"</?[a-z!][^<>]{0,2000}>|<!--|-->|&nbsp;", re.IGNORECASE)
# Elements whose text is text; what another element of XML says may be the name of a server that the victim has.
_TEXTUAL = re.compile(
    r"</?(?:a|b|code|div|domain|em|font|fqdn|host|hostname|i|li|p|pre|span|strong|tt|url|br|ol|ul|t[dhr])\b",
    re.IGNORECASE,
)
_BULLET = re.compile(r"[\s*•‣◦>+-]*(?:\d{1,3}[.)]\s)?")
_WORD = re.compile(
    r"[(\[{*]*(?:h(?:tt|xx|\*\*|tx|xt|__)ps?|ftp|meow)(?:\[?:\]?//|\[://\])[^\s\"'<>`]+|[^\s,;\"'<>`]+", re.IGNORECASE
)
_MARK = re.compile(r"\[(?:[.:@]|dot|:?//)\]|\((?:[.:@]|dot)\)|\{(?:[.:]|dot)\}|\w\[\.\w|hxxp|h\*\*p", re.IGNORECASE)
_MAYBE = re.compile(r"[.:/\[({]")
_SHORTEST_HASH = 32
_KEY = re.compile(r"[A-Za-z_][\w-]{0,40}=")
_REFERENCES = re.compile(
    r"[\s#=*.]*(?:references?|sources?|(?:further|more) (?:reading|information)|links|see also|credits?)\W*\Z",
    re.IGNORECASE,
)
_JA3 = re.compile(r"\bja3\b", re.IGNORECASE)
_EDGE = "*•-–()`\"'“”‘’«»_"
_LOWER = re.compile(r"[^A-Z]+\Z")
# Endings that are files more often than names, in a report; and those that names of attackers have: without one of
# these a word with dots alone in its line is code.
_MORE_FILES = frozenset(("zip", "mov", "py", "sh", "pl", "ps", "md", "cab", "so", "rs"))
_TOP = re.compile(
    r"(?:[a-z]{2}"
    r"|onion|com|net|org|info|biz|xyz|top|online|site|club|shop|store|live|life|world|tech|icu|buzz|cyou|cfd|"
    r"sbs|monster|space|website|fun|press|host|link|click|work|rest|bar|vip|win|bid|loan|men|date|download|"
    r"stream|party|review|trade|science|racing|faith|accountant|cricket|app|dev|page|cloud|blog|email|news|"
    r"media|agency|digital|network|systems|solutions|services|support|center|company|group|global|today|zone|"
    r"one|pro|mobi|name|asia|cat|jobs|tel|travel|coop|aero|edu|gov|mil|int|example|test|quest|beauty|hair|"
    r"makeup|skin|lol|pics|bond|boats|yachts|homes|autos|motorcycles|wiki|design|art|ink|pub|mom|uno|ltd|run|"
    r"best|fit|games|game|team|care|money|finance|capital|cash|fund|market|bank|insure"
    r")\Z"
)


def read(text: str, out: Collector, options: FormatOptions) -> None:
    """Lines without an indicator are comments; a defanged word that is no indicator is rejected."""
    defangs = _MARK.search(text) is not None
    heading = ""
    for number, raw in raw_lines(text):
        line = raw.strip()
        if not line:
            continue
        found, wrong = _line(line, heading, defangs)
        said = of_file(line[:LONGEST]) if found else None
        is_file = (of_file(heading) if found and said is None else said) is not False
        for indicator in found:
            out.put(indicator, number, line, is_file)
        if wrong:
            out.reject(number, line, wrong)
        elif not found:
            out.comments += 1
            heading = line[:200]


def _line(line: str, heading: str, defangs: bool) -> tuple[list[Indicator], str]:
    """(indicators of the line, why a defanged word of it is none)."""
    found: list[Indicator] = []
    wrong = ""
    ja3 = _JA3.search(heading) or _JA3.search(line[:200])
    skips_urls = line.startswith("#") or _REFERENCES.match(heading) is not None
    markup = any(not _TEXTUAL.match(tag) for tag in _TAG.findall(line)) if "<" in line else False
    for words, is_text in _cells(join_masks(line)):
        read = [(word, _MARK.search(word) is not None, _classify(word)) for word in words]
        alone = not markup and all(not isinstance(entry, str) for _, _, entry in read)
        for word, defanged, entry in read:
            if isinstance(entry, str):
                wrong = entry if defanged else wrong
            elif defanged or _counts(
                word, entry, alone=alone, urls=is_text and not skips_urls and (alone or not defangs)
            ):
                found.append(Indicator("ja3", entry.value) if ja3 and entry.kind == "md5" else entry)
    return found, wrong


def _cells(line: str) -> Iterator[tuple[list[str], bool]]:
    """(words, whether they are text) of each cell of a table, or of the whole line. What is inside of its tags is no
    text: URLs there are where a page gets its pictures from and where it leads to."""
    for cell in _CELL.split(_CDATA.sub(" ", line)):
        bare = _TAG.sub(" ", cell)
        tags = " ".join(_TAG.findall(cell)) if bare != cell else ""
        for part, is_text in ((_BULLET.sub("", bare, count=1), True), (tags, False)):
            words = [word for word in _WORD.findall(part) if len(word) <= LONGEST]
            if words:
                yield words, is_text


def _classify(word: str) -> Indicator | str:
    if len(word) < _SHORTEST_HASH and not _MAYBE.search(word):  # nearly every word of a report
        return "a word"
    word = word.strip(_EDGE).rstrip(".,:;")
    if "[" not in word or "]" not in word:
        word = word.strip("[]")
    if _KEY.match(word):
        word = _KEY.sub("", word, count=1)
    return classify(word)


def _counts(word: str, entry: Indicator, *, alone: bool, urls: bool) -> bool:
    """Whether what is not defanged is meant. urls: whether a URL in this place would be."""
    if entry.kind not in ("url", "domain"):
        return True
    value = str(entry.value)
    if entry.kind == "url" and "://" in value:
        return urls
    host = value if entry.kind == "domain" else value.partition("/")[0]
    written = word.strip(_EDGE)[: len(host)]
    end = host.rpartition(".")[2].partition(":")[0]
    known = end.isdecimal() or (end not in _MORE_FILES and _TOP.match(end) is not None)
    return alone and known and _LOWER.match(written) is not None
