# SPDX-License-Identifier: Apache-2.0
"""One feed of feeds.d/*.toml."""

import re
from pathlib import PurePath
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from fastpath.errors import PortcullisError
from threatfeeds.content import ContentKind
from threatfeeds.formats import FORMATS
from threatfeeds.settings import Section, SettingsReader

FeedAction = Literal["alert", "drop", "reject"]
HashKind = Literal["auto", "tls", "files"]
FeedDirection = Literal["source", "destination", "both"]
SourceKind = Literal["file", "url", "taxii", "misp", "maxmind"]

SOURCES: tuple[SourceKind, ...] = ("file", "url", "taxii", "misp", "maxmind")
SHORTEST_PERIOD = 60  # seconds: more often is abuse of a public list
AUTO = "auto"
_PREPARED_REJECTED = 10.0  # percent of lines
_LOCAL_REJECTED = 50.0  # somebody here made a mistake in some lines, and the others shall hold
_COUNTRY = "two capital letters, such as DE"
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?\Z")
_PATH = re.compile(r"(?:[^.\[\]]+|\[\])(?:\.[^.\[\]]+|\[\])*\Z")
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")  # RFC 9110, section 5.6.2
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e]*\Z")
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?[smhdw])+\Z")
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


class FeedError(PortcullisError):
    """A feed, or its configuration, that cannot be used."""


class FeedConfig(Section, frozen=True):
    """Made by load_feed_config. Paths are relative to the folder of the configuration until a source resolves them.

    Exactly one of file, url, taxii, misp and maxmind is set. Durations are texts such as "90s", "1h30m", "7d".
    """

    file: str = ""
    url: str = ""
    taxii: str = ""  # TAXII 2.1 collection: ".../collections/ID/"
    misp: str = ""  # event, restSearch, or the folder of a MISP feed (ends in "/")
    maxmind: str = ""  # path of a .mmdb file
    name: str = ""  # "" becomes the name of the configuration file without its ending
    format: str = "plain"
    content: ContentKind = "any"  # what is in the list; other entries are rejected
    column: str = ""  # csv: header name, or number from 1; "": found by looking
    delimiter: Annotated[str, Meta(max_length=1)] = ""  # csv; "": found by looking
    comment: Annotated[str, Meta(max_length=1)] = ""  # csv: what comments begin with; "": "#" and "//"
    hashes: HashKind = "auto"  # what MD5, SHA-1 and SHA-256 are of
    path: str = ""  # json: such as "data[].ip"; "": found by looking
    countries: tuple[Annotated[str, Meta(pattern="^[A-Z]{2}$", description=_COUNTRY)], ...] = ()  # maxmind: ISO 3166-1
    asns: tuple[Annotated[int, Meta(ge=1, le=(1 << 32) - 1)], ...] = ()  # maxmind
    enabled: bool = True
    action: FeedAction = "alert"
    direction: FeedDirection = "both"
    subdomains: bool = True  # a name stands for its subdomains, too
    https_hosts: bool = False  # an https URL, which nobody can see, stands for its whole host
    kernel: bool = False  # addresses of a dropped source go into a kernel set in front of the queue
    labels: dict[str, str] = {}  # noqa: RUF012 - msgspec copies it
    confidence: Annotated[int, Meta(ge=0, le=100)] = 50  # percent
    period: str = "1h"
    expires: str = ""  # age of the last good copy at which it is given up; "": never
    timeout: str = "60s"  # one request, from connecting to the last byte
    min_entries: Annotated[int, Meta(ge=0)] = 1  # fewer: the last good copy stays
    max_entries: Annotated[int, Meta(ge=1)] = 5_000_000
    max_rejected: Annotated[float, Meta(ge=0, le=100)] | None = None  # percent of lines; None: 50 for a file, else 10
    max_size: Annotated[int, Meta(ge=1, le=4 << 30)] = 256 << 20  # bytes, also after decompression
    max_shrink: Annotated[int, Meta(ge=0, le=100)] = 80  # percent of the last good copy; 100: no limit
    max_growth: Annotated[int, Meta(ge=0)] = 900  # percent; 0: no limit
    max_share: Annotated[float, Meta(ge=0, le=100)] = 5  # percent of recent traffic that new entries may hit; 100: all
    insecure: bool = False  # http:// is allowed
    ca: str = ""  # PEM file of the authorities to trust; "": those of the system
    headers: dict[str, str] = {}  # noqa: RUF012 - msgspec copies it; sent with requests, none of them a secret
    auth_header: str = ""  # header that carries the secret; "": Authorization
    auth_user: str = ""  # basic authentication, the secret is the password
    secret_file: str = ""
    secret_credential: str = ""  # name below $CREDENTIALS_DIRECTORY
    sha256_url: str = ""  # of a file that begins with the list's SHA-256 in hex
    signature_url: str = ""  # of the list's Ed25519 signature: 64 bytes, Base64, or minisign
    public_key: str = ""  # Base64 of the 32 bytes, or minisign's

    @property
    def kind(self) -> SourceKind:
        return next(kind for kind in SOURCES if getattr(self, kind))

    @property
    def prepared(self) -> bool:
        """Fetched, read and checked by portcullis-feeds rather than read by whoever wants it."""
        return self.kind != "file"

    @property
    def source(self) -> str:
        """Where the list is: what was fetched, told apart from what another source said."""
        asked = ",".join((*self.countries, *map(str, self.asns)))
        place: str = getattr(self, self.kind)
        return f"{place}#{asked}" if asked else place

    @property
    def rejected_limit(self) -> float:
        """Percent of lines that may be no indicator."""
        if self.max_rejected is not None:
            return self.max_rejected
        return _PREPARED_REJECTED if self.prepared else _LOCAL_REJECTED

    @property
    def period_seconds(self) -> float:
        return parse_duration(self.period)

    @property
    def expires_seconds(self) -> float | None:
        return parse_duration(self.expires) if self.expires else None


def load_feed_config(text: str, file: str) -> FeedConfig:
    """Raises FeedError with file, line and field."""
    reader = SettingsReader(text, file, FeedError)
    config = reader.read(FeedConfig)
    if not config.name:
        config = msgspec.structs.replace(config, name=PurePath(file).stem)
    problem = feed_problem(config)
    if problem is not None:
        raise reader.error((problem[0],), problem[1])
    return config


def feed_problem(config: FeedConfig) -> tuple[str, str] | None:
    """(setting, what is wrong with it) of a configuration, however it was written."""
    if not _NAME.match(config.name):
        return "name", f"expected lower-case letters, digits, dots and dashes, got {config.name!r}"
    given = [kind for kind in SOURCES if getattr(config, kind)]
    if not given:
        return "file", f"one of {', '.join(SOURCES)} is required: where the list is"
    if len(given) > 1:
        return given[1], f"a feed has one source, this one also has {given[0]}"
    if config.format != AUTO and config.format not in FORMATS:
        return "format", f"expected one of {AUTO}, {', '.join(sorted(FORMATS))}, got {config.format!r}"
    if config.kind == "maxmind" and bool(config.countries) == bool(config.asns):
        return "countries", "a maxmind feed names countries or asns, one of both"
    for setting in ("url", "taxii", "misp", "sha256_url", "signature_url"):
        if getattr(config, setting) and (why := _url_problem(getattr(config, setting), config.insecure)):
            return setting, why
    for setting in ("period", "expires", "timeout"):
        text = getattr(config, setting)
        if not (_DURATION.match(text) or (setting == "expires" and not text)):
            return setting, f'expected a duration such as "90s", "1h30m" or "7d", got {text!r}'
    if config.period_seconds < SHORTEST_PERIOD:
        return "period", f"expected at least {SHORTEST_PERIOD}s, got {config.period!r}"
    if config.secret_file and config.secret_credential:
        return "secret_credential", "the secret is already named by secret_file"
    if ":" in config.auth_user:
        return "auth_user", "a user's name has no colon (RFC 7617)"
    for setting in ("auth_user", "auth_header"):
        if getattr(config, setting) and not (config.secret_file or config.secret_credential):
            return setting, "there is no secret to send: secret_file or secret_credential is required"
    if config.path and not _PATH.match(config.path):
        return "path", f'expected names and lists such as "data[].ip", got {config.path!r}'
    if config.column.isdecimal() and int(config.column[:9]) == 0:
        return "column", "columns count from 1"
    for name, value in (*config.headers.items(), *([(config.auth_header, "")] if config.auth_header else [])):
        if not _HEADER.match(name) or not _HEADER_VALUE.match(value):
            setting = "headers" if name in config.headers else "auth_header"
            return setting, f"expected a header of printable ASCII, got {name!r}: {value!r}"
    if bool(config.signature_url) != bool(config.public_key):
        return "public_key", "signature_url and public_key belong together"
    return None


def parse_duration(text: str) -> float:
    """ "1h30m" → 5400.0 seconds. Raises ValueError."""
    if not _DURATION.match(text):
        raise ValueError(f"expected a duration, got {text!r}")
    return sum(float(number) * _SECONDS[unit] for number, unit in _DURATION_PART.findall(text))


def _url_problem(url: str, insecure: bool) -> str | None:
    try:
        parts = urlsplit(url)
        host = parts.hostname
        parts.port  # noqa: B018 - raises ValueError when it is no number
    except ValueError as error:
        return f"not a URL: {error}"
    if parts.scheme not in ("https", "http") or not host:
        return f"expected an https URL, got {url!r}"
    if parts.username is not None:
        return "the secret does not belong into the URL: use auth_user and secret_file"
    if any(character <= " " or character == "\x7f" for character in url):
        return "a URL has no blanks or control characters"
    if parts.scheme == "http" and not insecure:
        return "http can be changed by anyone on the way: use https, or set insecure = true"
    return None
