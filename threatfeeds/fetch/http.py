# SPDX-License-Identifier: Apache-2.0
"""One bounded request: in time, in bytes before and after decompression, in redirects. Blocking.

Plain http.client: what a feed needs is little, and every limit here is one that a general client leaves open.
"""

import http.client
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from urllib.parse import urljoin, urlsplit

from threatfeeds.config import FeedError
from threatfeeds.packed import Unpacker

CONNECT_TIMEOUT = 10.0  # seconds, each address of the server
REDIRECTS = 5
ATTEMPTS = 3
LONGEST_WAIT = 60.0  # seconds between two attempts, whatever the server asks for
_CHUNK = 1 << 16
_CONDITIONS = frozenset({"If-None-Match", "If-Modified-Since"})  # without them "not modified" is no answer
_USER_AGENT = "portcullis-feeds"


class FetchError(FeedError):
    """A request that failed. `again`: trying once more may help; `after`: seconds that the server asked to wait."""

    def __init__(self, message: str, *, url: str, again: bool = False, after: float | None = None) -> None:
        super().__init__(message, file=url)
        self.again = again
        self.after = after


@dataclass(frozen=True)
class Request:
    """timeout: seconds from connecting to the last byte. max_size: bytes, also after decompression.

    secret: headers that are only sent to the host of the first URL. ca: PEM file; "" trusts the system's authorities.
    """

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    secret: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    timeout: float = 60.0
    max_size: int = 256 << 20
    insecure: bool = False
    ca: str = ""


@dataclass(frozen=True)
class Response:
    """status: 200 or 304. headers: names in lower case."""

    status: int
    body: bytes
    headers: Mapping[str, str]


def fetch(request: Request, *, sleep: Callable[[float], None] = time.sleep) -> Response:
    """With retries where they may help: 1, 2 seconds and a random part, or as long as the server asks. FetchError."""
    for attempt in range(ATTEMPTS):
        try:
            return fetch_once(request)
        except FetchError as error:
            if not error.again or attempt == ATTEMPTS - 1:
                raise
            wait = 2.0**attempt * random.uniform(0.75, 1.25) if error.after is None else error.after
            sleep(min(wait, LONGEST_WAIT))
    raise AssertionError("the last attempt returns or raises")


def fetch_once(request: Request) -> Response:
    """Follows redirects: never from https to http, secrets only to the host they were meant for. FetchError."""
    deadline = time.monotonic() + request.timeout
    home = _origin(request.url)
    current = request
    for _ in range(REDIRECTS + 1):
        response, location = _exchange(current, deadline)
        if response is not None:
            return response
        target = urljoin(current.url, location)
        if urlsplit(target).scheme not in ("https", "http"):
            raise FetchError(f"redirected to {target!r}, which is neither https nor http", url=request.url)
        if urlsplit(target).scheme == "http" and (urlsplit(current.url).scheme == "https" or not request.insecure):
            raise FetchError(f"redirected from https to {target!r}", url=request.url)
        secret = request.secret if _origin(target) == home else {}
        current = replace(current, url=target, secret=secret, body=None)
    raise FetchError(f"more than {REDIRECTS} redirects", url=request.url)


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port


def _exchange(request: Request, deadline: float) -> tuple[Response | None, str]:
    """(response, "") or (None, where the server sends us)."""
    parts = urlsplit(request.url)
    context = _context(request)
    kind = http.client.HTTPConnection if context is None else http.client.HTTPSConnection
    connection = kind(parts.hostname or "", parts.port)
    # A read timeout counts each read anew; a server that drips bytes is ended by this.
    watch = threading.Timer(max(0.0, deadline - time.monotonic()), _cut, (connection,))
    watch.daemon = True
    watch.start()
    try:
        _connect(connection, context, deadline)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        headers = {"User-Agent": _USER_AGENT, "Accept": "*/*", **request.headers, **request.secret}
        headers |= {"Accept-Encoding": "gzip", "Connection": "close"}
        connection.request("POST" if request.body is not None else "GET", target, request.body, headers)
        answer = connection.getresponse()
        found = {name.lower(): value for name, value in answer.getheaders()}
        if answer.status in (301, 302, 303, 307, 308):
            if "location" not in found:
                raise FetchError("a redirect that says not where to", url=request.url)
            return None, found["location"]
        if answer.status == 304 and not _CONDITIONS.isdisjoint(request.headers):
            return Response(304, b"", found), ""
        if answer.status != 200:
            raise _refused(answer.status, answer.reason, found, request.url)
        response = Response(200, _read(answer, found, request, deadline), found)
        # A connection that was cut looks like the end of headers, or of a body of unknown length.
        if time.monotonic() >= deadline:
            raise TimeoutError
        return response, ""
    except FetchError:
        raise
    except ssl.SSLCertVerificationError as error:
        raise FetchError(f"the certificate is not trusted: {error.verify_message}", url=request.url) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        if time.monotonic() >= deadline:
            raise FetchError(f"not complete after {request.timeout:g} s", url=request.url, again=True) from error
        raise FetchError(f"the connection failed: {_why(error)}", url=request.url, again=True) from error
    finally:
        watch.cancel()
        connection.close()


def _context(request: Request) -> ssl.SSLContext | None:
    if urlsplit(request.url).scheme == "http":
        return None
    try:
        context = ssl.create_default_context(cafile=request.ca or None)
    except OSError as error:
        raise FetchError(f"ca = {request.ca!r} cannot be used: {_why(error)}", url=request.url) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _connect(connection: http.client.HTTPConnection, context: ssl.SSLContext | None, deadline: float) -> None:
    """The handshake comes after the connection knows its socket: a server that drips it is cut, too."""
    sock = _reach(connection.host, connection.port, deadline)
    connection.sock = sock
    if context is not None:
        wrapped = context.wrap_socket(sock, server_hostname=connection.host, do_handshake_on_connect=False)
        connection.sock = wrapped
        wrapped.do_handshake()


def _reach(host: str, port: int, deadline: float) -> socket.socket:
    """The first address that answers; however many there are, the time is that of the request. Raises OSError."""
    problem: OSError = TimeoutError()
    for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        left = deadline - time.monotonic()
        if left <= 0:
            break
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(min(CONNECT_TIMEOUT, left))
            sock.connect(address)
        except OSError as error:
            sock.close()
            problem = error
        else:
            return sock
    raise problem


def _cut(connection: http.client.HTTPConnection) -> None:
    sock = connection.sock
    if sock is not None:
        try:
            # Not SSLSocket.shutdown: that takes the TLS layer away under the thread that reads.
            socket.socket.shutdown(sock, socket.SHUT_RDWR)
        except OSError:
            return


def _read(answer: http.client.HTTPResponse, headers: Mapping[str, str], request: Request, deadline: float) -> bytes:
    length = answer.length
    if length is not None and length > request.max_size:
        raise FetchError(f"{length} bytes are more than max_size = {request.max_size}", url=request.url)
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip", "x-gzip", ""):
        raise FetchError(f"an encoding that was not asked for: {encoding}", url=request.url)
    unpack = Unpacker(request.max_size) if "gzip" in encoding else None
    received = 0
    parts: list[bytes] = []
    while chunk := answer.read1(_CHUNK):
        received += len(chunk)
        if received > request.max_size:
            raise FetchError(f"more than max_size = {request.max_size} bytes", url=request.url)
        try:
            parts.append(unpack.feed(chunk) if unpack else chunk)
        except FeedError as error:
            raise FetchError(error.message, url=request.url) from error
    if time.monotonic() >= deadline:
        raise TimeoutError
    if (length is not None and received < length) or (unpack is not None and not unpack.complete):
        raise FetchError(f"cut off after {received} bytes", url=request.url, again=True)
    return b"".join(parts)


def _refused(status: int, reason: str, headers: Mapping[str, str], url: str) -> FetchError:
    again = status in (408, 425, 429) or status >= 500
    return FetchError(f"the server answers {status} {reason}", url=url, again=again, after=_retry_after(headers))


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Retry-After: seconds or a date (RFC 9110, 10.2.3)."""
    text = headers.get("retry-after", "").strip()
    if text.isdigit() and len(text) < 10:
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None


def _why(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
