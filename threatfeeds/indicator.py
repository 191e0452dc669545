# SPDX-License-Identifier: Apache-2.0
"""One token of a feed, read as what it is: address, prefix, range, name, URL or fingerprint."""

import re
from typing import Literal, NamedTuple

from rules.hostnames import ascii_name
from threatfeeds import prefix

Kind = Literal[
    "ipv4", "ipv6", "ipv4_prefix", "ipv6_prefix", "range", "domain", "url", "ja3", "ja4", "sha1", "sha256", "md5"
]
# A fingerprint as it is kept: hashes that are known to be of files apart, for nobody looks for them.
Fingerprint = Literal["ja3", "ja4", "sha1", "sha256", "md5", "file_sha1", "file_sha256", "file_md5"]

# A range wider than this is taken for a mistake: as many addresses as an IPv4 /8 or an IPv6 /16.
_WIDEST = {True: 1 << 24, False: 1 << 112}

# A dot in brackets of any kind, or in half of one. Blanks before it are entered at the first one only: to try from each
# of a long row would be quadratic.
_DOT = re.compile(
    r"(?:(?<!\s)\s+)?(?:\[(?:\.|dot)\]|\((?:\.|dot)\)|\{(?:\.|dot)\}|<\.>)\s*|(?<=\w)\[\.(?=\w)|\\\.",
    re.IGNORECASE,
)
_COLON = re.compile(r"\[(:/{0,2}|/{1,2}|@)\]|\((:|@)\)|\{(:|@)\}")
_SCHEME = re.compile(r"^(?:h(?:xx|\*\*|tx|xt|__)p|meow|xxxx)(s?)(?=:|\[)", re.IGNORECASE)
_URL = re.compile(r"^[a-z][a-z0-9+.-]*://[^\s/]+(?:/\S*)?\Z", re.IGNORECASE)
_PATH = re.compile(r"^(?P<host>[^\s/:]+)(?::\d{1,5})?/\S*\Z")
_PORT = re.compile(r"^(?P<host>\[[0-9a-fA-F:.]+\]|[^\s:/\[\]]+):(?P<port>\d{1,5})\Z")
_RANGE = re.compile(r"^([0-9a-fA-F:.]+)\s*[-–]\s*([0-9a-fA-F:.]+)\Z")
_NUMERIC = re.compile(r"^[0-9./-]+\Z")
_BRACKETED = re.compile(r"^\[([0-9a-fA-F:.]+)\](/\d{1,3})?\Z")
_JA4 = re.compile(r"^[tqd](?:[0-9]{2}|s[23]|d[123])[di][0-9]{4}[0-9A-Za-z]{2}_[0-9a-f]{12}_[0-9a-f]{12}\Z")
_NAME = re.compile(r"(?:[a-z0-9_-]{1,63}\.)+[a-z][a-z0-9_-]{0,62}\Z")
_LONGEST_NAME = 253  # characters
_HASH = re.compile(r"^[0-9a-f]+\Z", re.IGNORECASE)
_WILDCARD = re.compile(r"^((?:\d{1,3}\.){1,3})\*(?:\.\*)*\Z")
_PADDED = re.compile(r"^(?:\d{3}\.){3}\d{3}(?=[/:]|\Z)")
_MASKED = re.compile(r"(?<![\w.])(\d{1,3}(?:\.\d{1,3}){3})\s{1,8}((?:255|0)(?:\.\d{1,3}){3})(?![\w.])")
_ZEROS = re.compile(r"\b0+(?=\d)")
_MAIL = re.compile(r"^[^\s@/:]+@[^\s@/:]+\Z")
_AS_NUMBER = re.compile(r"^AS\d{1,10}\Z", re.IGNORECASE)
# "SHA256:…", and the bytes of a fingerprint between colons, as certificates' are written.
_NAMED_HASH = re.compile(
    r"^(?:(?:md5|sha-?1|sha-?256)[:=])?((?:[0-9a-f]{2}:){15}(?:(?:[0-9a-f]{2}:){4}|(?:[0-9a-f]{2}:){16})?[0-9a-f]{2}|"
    r"(?<=[:=])[0-9a-f]{32,64})\Z",
    re.IGNORECASE,
)
_HASHES: dict[int, Kind] = {32: "md5", 40: "sha1", 64: "sha256"}
_UNASKED = {56: "SHA-224", 62: "JARM", 96: "SHA-384", 128: "SHA-512"}  # by hex digits
# Endings of files that are no top-level domain: such a "name" is none that anybody can ask for.
_FILES = re.compile(
    r"(?:7z|apk|asp|aspx|bat|bin|bmp|bz2|cfg|chm|class|cmd|conf|cpl|csv|dat|dex|dll|dmg|doc|docm|docx|drv|elf|"
    r"eml|exe|gif|gz|hta|htm|html|ico|img|inf|ini|ipa|iso|jar|jpeg|jpg|js|jse|json|jsp|jspx|lnk|log|msi|ocx|"
    r"pcap|pdf|php|pif|png|ppt|pptm|pptx|ps1|psm1|rar|reg|rpm|rtf|scr|sql|svg|swf|sys|tar|tgz|tmp|ttf|txt|vbe|"
    r"vbs|vhd|vhdx|war|wsf|xls|xlsb|xlsm|xlsx|xml|xz|yaml|yml"
    r")\Z"
)


class Indicator(NamedTuple):
    """value: prefix integer, (first, last) of a range, name, URL, or lower-case hex."""

    kind: Kind
    value: int | str | tuple[int, int]
    subdomains: bool | None = None


def refang(text: str) -> str:
    """ "hxxps://evil[.]example" → "https://evil.example". Text that is not defanged stays as it is."""
    if any(mark in text for mark in "[({<\\"):
        text = _COLON.sub(r"\1\2\3", _DOT.sub(".", text))
    return _SCHEME.sub(r"http\1", text)


def join_masks(text: str) -> str:
    """ "192.0.2.0 255.255.255.0", or a router's "192.0.2.0 0.0.0.255" → "192.0.2.0/24", wherever it stands."""
    return _MASKED.sub(_joined, text)


def _joined(found: re.Match[str]) -> str:
    try:
        return prefix.text(prefix.parse(f"{found[1]}/{found[2]}"))
    except ValueError:
        return found[0]


def classify(text: str) -> Indicator | str:
    """The indicator, or why the token is none."""
    if _NAME.match(text) and len(text) <= _LONGEST_NAME:  # what most lists of names hold, already in its one form
        return "the name of a file" if _FILES.match(text.rpartition(".")[2]) else Indicator("domain", text)
    text = refang(text.strip().strip("\"'\u200b"))
    if not text:
        return "empty"
    if (bracketed := _BRACKETED.match(text)) is not None:
        text = bracketed[1] + (bracketed[2] or "")
    if _PADDED.match(text) is not None:  # each part of three digits: filled up, and not octal
        text = _ZEROS.sub("", text)
    address = _address(text)
    if address is not None:
        return address
    if "://" in text:
        return Indicator("url", text) if _URL.match(text) else "not a valid URL"
    if (said := _NAMED_HASH.match(text)) is not None:
        text = said[1].replace(":", "")
    if _HASH.match(text) and len(text) in _HASHES:
        return Indicator(_HASHES[len(text)], text.lower())
    if _JA4.match(text):
        return Indicator("ja4", text)
    ported = _PORT.match(text)
    if ported is not None and 0 < int(ported["port"]) <= 65535:
        return _address(ported["host"].strip("[]")) or _domain(ported["host"])
    pathed = _PATH.match(text)
    if pathed is not None and not _NUMERIC.match(text):
        host = _address(pathed["host"]) or _domain(pathed["host"])
        return host if isinstance(host, str) else Indicator("url", text)
    if _AS_NUMBER.match(text):
        return "an AS number: name it under `asns` of a maxmind feed"
    if text.startswith("/"):
        return "a path without a host"
    if _MAIL.match(text):
        return "a mail address"
    if _HASH.match(text) and len(text) in _UNASKED:
        return f"a {_UNASKED[len(text)]}, which is not asked for by this appliance"
    if "%" in text and _address(text.partition("%")[0]) is not None:
        return "an address with a zone: it means something on one machine only"
    if _NUMERIC.match(text) or ":" in text:
        return "not a valid address, prefix or range"
    return _domain(text)


def _address(text: str) -> Indicator | str | None:
    """None: this does not even look like an address."""
    if not text or text[0] not in "0123456789abcdefABCDEF:":
        return None
    try:
        entry = prefix.parse(text)
    except ValueError:
        if (wildcard := _WILDCARD.match(text)) is not None and text.count(".") == 3:
            known = wildcard[1].count(".")
            return _address(f"{wildcard[1]}{'0.' * (4 - known)}".rstrip(".") + f"/{8 * known}")
        pair = _RANGE.match(text)
        return _range(pair[1], pair[2]) if pair else None
    return Indicator(prefix.kind(entry), entry)


def _range(low: str, high: str) -> Indicator | str | None:
    try:
        start, end = prefix.parse(low), prefix.parse(high)
    except ValueError:
        return None
    if prefix.is_ipv4(start) != prefix.is_ipv4(end):
        return "the range begins with one address family and ends with the other"
    if start > end:
        return "the range ends before it begins"
    if prefix.first(end) - prefix.first(start) >= _WIDEST[prefix.is_ipv4(start)]:
        return "the range is wider than an IPv4 /8 or an IPv6 /16"
    return Indicator("range", (prefix.first(start), prefix.first(end)))


def _domain(text: str) -> Indicator | str:
    subdomains = text.startswith(("*.", "."))
    name = ascii_name(text.lstrip("*").lstrip(".") if subdomains else text)
    if name is not None and "." not in name and subdomains:
        return "a whole top-level domain"
    if name is None or "." not in name or not name.rpartition(".")[2][0].isalpha():
        return "neither an address nor a name"
    if _FILES.match(name.rpartition(".")[2]):
        return "the name of a file"
    return Indicator("domain", name, True if subdomains else None)
