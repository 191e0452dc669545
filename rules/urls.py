# SPDX-License-Identifier: Apache-2.0
"""URLs in the one form in which they are compared (RFC 3986 section 6): `http://host[:port]/path?query`.

Scheme and host in lower case, the host's A-labels; no user, no default port, no fragment; escapes of unreserved
characters undone, other escapes in upper case, whatever a URL may not hold escaped; dot segments resolved.
"""

import ipaddress
import re
from typing import NamedTuple

from rules.hostnames import ascii_name

DEFAULT_PORTS = {"http": 80, "https": 443}
LONGEST = 8192  # characters that are compared

_URL = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<authority>[^/?#]*)(?P<rest>[^#]*)", re.IGNORECASE | re.DOTALL)
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")
_UNSAFE = re.compile(r"[^!$&'()*+,/:;=?@A-Za-z0-9._~%\[\]-]|%(?![0-9A-Fa-f]{2})")
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


class Url(NamedTuple):
    """`target`: path and query."""

    scheme: str
    host: str
    port: int
    target: str

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if DEFAULT_PORTS.get(self.scheme) == self.port else f":{self.port}"
        return f"{self.scheme}://{host}{port}{self.target}"


def parse_url(text: str) -> Url | None:
    """A URL of http or https, of http where no scheme is given; None for anything else."""
    match = _URL.match(text) or _URL.match(f"http://{text}")
    if match is None or match["scheme"].lower() not in DEFAULT_PORTS:
        return None
    scheme = match["scheme"].lower()
    host, port = split_port(match["authority"].rpartition("@")[2])
    known = normal_host(host)
    if known is None or port == 0:
        return None
    return Url(scheme, known, port or DEFAULT_PORTS[scheme], normal_target(match["rest"]))


def split_port(authority: str) -> tuple[str, int | None]:
    """("host", port), ("host", None) without a port, ("host", 0) with one that is none."""
    if authority.startswith("["):
        host, _, rest = authority[1:].partition("]")
        colon, port = rest[:1], rest[1:]
    else:
        host, colon, port = authority.partition(":")
    if not colon or not port:
        return host, None
    return host, int(port) if port.isascii() and port.isdigit() and len(port) < 6 and 0 < int(port) < 65536 else 0


def normal_host(host: str) -> str | None:
    """An address in its shortest form, or a name as hostnames.ascii_name has it."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return ascii_name(host)


def normal_target(target: str) -> str:
    """Path and query; an empty path is `/`. At most LONGEST characters are looked at."""
    path, question, query = target[:LONGEST].partition("?")
    path = _normal_escapes(path)
    if not path.startswith("/"):
        path = "/" + path
    if "/." in path:
        path = _without_dots(path)
    return path + question + _normal_escapes(query)


def _normal_escapes(text: str) -> str:
    text = _UNSAFE.sub(lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode("utf-8", "replace")), text)
    return _ESCAPE.sub(_normal_escape, text) if "%" in text else text


def _normal_escape(found: re.Match[str]) -> str:
    char = chr(int(found[1], 16))
    return char if char in _UNRESERVED else found[0].upper()


def _without_dots(path: str) -> str:
    """RFC 3986 section 5.2.4."""
    kept: list[str] = []
    segments = path.split("/")[1:]
    for segment in segments:
        if segment == "..":
            if kept:
                kept.pop()
        elif segment != ".":
            kept.append(segment)
    if segments[-1] in (".", ".."):
        kept.append("")
    return "/" + "/".join(kept)
