# SPDX-License-Identifier: Apache-2.0
"""HTTP/1 requests that two readers can take for different ones (RFC 9112 sections 2.2, 3.2, 5.1 and 6.3).

What decides about a request must see the same request as the server behind it. Ordinary clients send nothing of this.
"""

import re

from appliance.inspection.protocols.http import HttpRequest, HttpResponse

_FIELD = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[^\0-\x08\x0a-\x1f\x7f]*")
_TARGET = re.compile(rb"[!\"$-~\x80-\xff]+")  # no blank, no control character, no #


def why_unclear(request: HttpRequest) -> str:
    """Empty: the request can be read in one way only."""
    if not _TARGET.fullmatch(request.uri):
        return "request target with a blank, a control character or a fragment"
    for line in request.raw_headers.split(b"\r\n") if request.raw_headers else ():
        if not _FIELD.fullmatch(line):
            return "header line that is no field"
    names = [name.lower() for name, _ in request.headers]
    codings = [value.lower() for name, value in request.headers if name.lower() == b"transfer-encoding"]
    if codings and (codings != [b"chunked"] or b"content-length" in names):
        return "Transfer-Encoding beside Content-Length, or other than chunked"
    if names.count(b"content-length") > 1 or names.count(b"host") > 1:
        return "Content-Length or Host more than once"
    return ""


def path_of(target: bytes) -> str:
    """The path and query of a request target; of the absolute form (RFC 9112 section 3.2.2) what follows the host."""
    text = target.decode("utf-8", "surrogateescape")
    scheme, separator, rest = text.partition("://")
    if not separator or "/" in scheme or "?" in scheme:
        return text
    start = min((at for at in (rest.find("/"), rest.find("?")) if at >= 0), default=len(rest))
    path = rest[start:]
    return path if path.startswith("/") else "/" + path


def starts_http2(response: HttpResponse) -> bool:
    """The server goes over to HTTP/2 without encryption (RFC 7540 section 3.2)."""
    return response.status == 101 and any(
        name.lower() == b"upgrade" and b"h2c" in value.lower() for name, value in response.headers
    )
