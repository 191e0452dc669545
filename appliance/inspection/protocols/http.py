# SPDX-License-Identifier: Apache-2.0
"""HTTP/1 (RFC 9112), both directions of a connection, without I/O and independent of segmentation."""

import re
from collections import deque
from dataclasses import dataclass

from appliance.inspection.protocols.errors import ParseError

MAX_HEAD = 64 * 1024  # bytes of start line and header fields
MAX_PENDING = 64  # requests that wait for their response

METHODS = frozenset(
    b"GET HEAD POST PUT DELETE OPTIONS TRACE CONNECT PATCH PROPFIND PROPPATCH MKCOL COPY MOVE LOCK UNLOCK REPORT "
    b"SEARCH PURGE MERGE BREW NOTIFY SUBSCRIBE UNSUBSCRIBE M-SEARCH".split()
)
_VERSION = re.compile(rb" HTTP/1\.[0-9]\Z")
_TOKEN = frozenset(b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """`uri` is the request target as sent; `host` is the host name in lower case without port; `headers` are
    (name, value) in order, names as sent; `raw_headers` is the header block as sent, without the empty line."""

    method: bytes
    uri: bytes
    version: bytes
    host: bytes
    user_agent: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    raw_headers: bytes


@dataclass(frozen=True, slots=True)
class HttpResponse:
    status: int
    reason: bytes
    version: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    raw_headers: bytes


class _Body:
    """Skips a message body. `remaining`: bytes, or -1 until the connection ends."""

    __slots__ = ("bare", "chunked", "remaining", "state")

    def __init__(self, remaining: int, chunked: bool) -> None:
        self.remaining = remaining
        self.chunked = chunked
        self.state = "size"
        self.bare = False

    def skip(self, data: bytearray) -> bool:
        """Consume from `data`; True when the body has ended. Raises ParseError."""
        if not self.chunked:
            if self.remaining < 0:
                data.clear()
                return False
            taken = min(self.remaining, len(data))
            del data[:taken]
            self.remaining -= taken
            return self.remaining == 0
        while True:
            if self.state == "data":
                taken = min(self.remaining, len(data))
                del data[:taken]
                self.remaining -= taken
                if self.remaining:
                    return False
                self.state = "end"
            line = _take_line(data)
            if line is None:
                return False
            if not line.endswith(b"\r"):
                self.bare = True
            line = line.rstrip(b"\r")
            if self.state == "end":
                if line:
                    raise ParseError("chunk is longer than it said")
                self.state = "size"
            elif self.state == "size":
                self.remaining = _chunk_size(line)
                self.state = "data" if self.remaining else "trailer"
            elif not line:
                return True


class _Direction:
    """The messages of one direction: head, body, head, body."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._scanned = 0
        self._body: _Body | None = None
        self.bare = False

    @property
    def held(self) -> int:
        """Bytes that wait to be read as a message."""
        return len(self._buffer)

    def take_rest(self) -> bytes:
        rest = bytes(self._buffer)
        self._buffer.clear()
        return rest

    def next_head(self) -> bytes | None:
        """The next complete head, its final empty line removed; None: more bytes are needed."""
        if self._body is not None:
            ended = self._body.skip(self._buffer)
            self.bare = self.bare or self._body.bare
            if not ended:
                return None
            self._body = None
        # Empty lines before a start line are allowed (RFC 9112 section 2.2).
        leading = 0
        while leading < len(self._buffer) and self._buffer[leading] in b"\r\n":
            leading += 1
        if leading:
            del self._buffer[:leading]
            self._scanned = 0
        end, size = _head_end(self._buffer, self._scanned)
        if end < 0:
            if len(self._buffer) > MAX_HEAD:
                raise ParseError("HTTP header is too long")
            self._scanned = max(0, len(self._buffer) - 3)
            return None
        if end > MAX_HEAD:
            raise ParseError("HTTP header is too long")
        head = bytes(self._buffer[:end])
        del self._buffer[:size]
        self._scanned = 0
        return head

    def start_line(self) -> bytes | None:
        """The start line of a head that is not complete yet; None: not even that is."""
        data = b"" if self._body is not None else bytes(self._buffer[:MAX_HEAD]).lstrip(b"\r\n")
        line, newline, _ = data.partition(b"\n")
        return line.rstrip(b"\r") if newline else None

    def add(self, data: bytes) -> None:
        self._buffer += data

    def set_body(self, body: _Body | None) -> None:
        self._body = body


class HttpSession:
    """Both directions of a connection. Feed bytes in order; each call returns the messages whose heads are complete.
    After CONNECT succeeded or the protocol was upgraded `tunnel` is True and the bytes are another protocol's:
    take what was left over from `rest()`."""

    def __init__(self) -> None:
        self._requests = _Direction()
        self._responses = _Direction()
        self._methods: deque[bytes] = deque()
        self.tunnel = False

    def to_server(self, data: bytes) -> list[HttpRequest]:
        """Raises ParseError when this is not HTTP/1; the session is of no use then."""
        events: list[HttpRequest] = []
        self._requests.add(data)
        while not self.tunnel and not self._waits_for_tunnel():
            head = self._requests.next_head()
            if head is None:
                break
            request, body = _parse_request(head)
            self._requests.set_body(body)
            if len(self._methods) >= MAX_PENDING:
                self._methods.popleft()
            self._methods.append(request.method)
            events.append(request)
        if self._waits_for_tunnel() and self._requests.held > MAX_HEAD:
            raise ParseError("too many bytes behind CONNECT")
        return events

    def to_client(self, data: bytes) -> list[HttpRequest | HttpResponse]:
        """As above. A refused CONNECT also brings out the requests that were sent behind it."""
        events: list[HttpRequest | HttpResponse] = []
        self._responses.add(data)
        while not self.tunnel:
            head = self._responses.next_head()
            if head is None:
                break
            response, fields = _parse_response(head)
            events.append(response)
            if 100 <= response.status < 200 and response.status != 101:
                continue
            method = self._methods.popleft() if self._methods else b""
            if response.status == 101 or (method == b"CONNECT" and 200 <= response.status < 300):
                self.tunnel = True
                break
            self._responses.set_body(_response_body(method, response.status, fields))
            if method == b"CONNECT":
                events += self.to_server(b"")
        return events

    @property
    def unclear(self) -> str:
        """Why a server might see other requests than were returned so far; empty if none can be thought of."""
        line = self._requests.start_line()
        if line is not None and not _VERSION.search(line):
            return "request without HTTP/1.x"  # a server of HTTP/0.9 answers before the head is complete
        if self._waits_for_tunnel() and self._requests.held:
            return "bytes behind CONNECT"
        return "chunk size line without CR" if self._requests.bare else ""

    def rest(self) -> tuple[bytes, bytes]:
        """What was received of the tunnelled protocol with the messages: to the server, to the client."""
        return self._requests.take_rest(), self._responses.take_rest()

    def _waits_for_tunnel(self) -> bool:
        return bool(self._methods) and self._methods[-1] == b"CONNECT"


def _head_end(data: bytearray, start: int) -> tuple[int, int]:
    """(length of the head, length with its empty line), or (-1, -1). Bare LF ends a line too (RFC 9112 section 2.2)."""
    position = max(0, start)
    while True:
        newline = data.find(b"\n", position)
        if newline < 0:
            return -1, -1
        if data[newline + 1 : newline + 2] == b"\n":
            return newline, newline + 2
        if data[newline + 1 : newline + 3] == b"\r\n":
            return newline, newline + 3
        position = newline + 1


def _take_line(data: bytearray) -> bytes | None:
    newline = data.find(b"\n", 0, MAX_HEAD)
    if newline < 0:
        if len(data) >= MAX_HEAD:
            raise ParseError("line in a chunked body is too long")
        return None
    line = bytes(data[:newline])
    del data[: newline + 1]
    return line


def _chunk_size(line: bytes) -> int:
    text = line.split(b";", 1)[0].strip()
    if not text or len(text) > 16 or any(byte not in b"0123456789abcdefABCDEF" for byte in text):
        raise ParseError("chunk size is not a hexadecimal number")
    return int(text, 16)


def _parse_request(head: bytes) -> tuple[HttpRequest, _Body | None]:
    line, raw = _split_head(head)
    parts = line.split(None, 1)
    if len(parts) != 2 or not all(byte in _TOKEN for byte in parts[0]):
        raise ParseError("not an HTTP request line")
    method = parts[0]
    target, _, version = parts[1].rpartition(b" ")
    if not version.startswith(b"HTTP/1."):
        raise ParseError("request line does not end in HTTP/1.x")
    uri = target.strip()
    headers = _parse_headers(raw)
    fields = _known(headers)
    host = _host_of(method, uri, fields)
    request = HttpRequest(method, uri, version, host, fields.get(b"user-agent", b""), headers, raw)
    return request, _body_of(fields)


def _parse_response(head: bytes) -> tuple[HttpResponse, dict[bytes, bytes]]:
    line, raw = _split_head(head)
    parts = line.split(None, 2)
    if len(parts) < 2 or not parts[0].startswith(b"HTTP/1.") or len(parts[1]) != 3 or not parts[1].isdigit():
        raise ParseError("not an HTTP status line")
    headers = _parse_headers(raw)
    reason = parts[2] if len(parts) > 2 else b""
    return HttpResponse(int(parts[1]), reason, parts[0], headers, raw), _known(headers)


def _split_head(head: bytes) -> tuple[bytes, bytes]:
    line, _, raw = head.partition(b"\n")
    return line.rstrip(b"\r"), raw.rstrip(b"\r")


def _parse_headers(raw: bytes) -> tuple[tuple[bytes, bytes], ...]:
    headers: list[tuple[bytes, bytes]] = []
    for line in raw.split(b"\n") if raw else ():
        line = line.rstrip(b"\r")
        if line[:1] in (b" ", b"\t") and headers:
            # Obsolete line folding (RFC 9112 section 5.2): servers that still unfold would see one value.
            name, value = headers[-1]
            headers[-1] = (name, value + b" " + line.strip())
            continue
        # A line without a colon is kept as a name without a value: giving up on it would hide the fields behind it.
        name, _, value = line.partition(b":")
        headers.append((name.strip(), value.strip()))
    return tuple(headers)


def _known(headers: tuple[tuple[bytes, bytes], ...]) -> dict[bytes, bytes]:
    """Names in lower case; several fields of a name are joined (RFC 9110 section 5.3)."""
    fields: dict[bytes, bytes] = {}
    for name, value in headers:
        key = name.lower()
        fields[key] = fields[key] + b", " + value if key in fields else value
    return fields


def _host_of(method: bytes, uri: bytes, fields: dict[bytes, bytes]) -> bytes:
    """The target's own host goes before the Host field (RFC 9112 section 3.2.2)."""
    host = fields.get(b"host", b"")
    if method == b"CONNECT":
        host = uri
    elif b"://" in uri[:16]:
        host = uri.split(b"://", 1)[1].split(b"/", 1)[0].split(b"?", 1)[0].rpartition(b"@")[2]
    host = host.split(b",", 1)[0].strip()
    if host.startswith(b"["):
        return host.partition(b"]")[0][1:].lower()
    return host.partition(b":")[0].rstrip(b".").lower()


def _body_of(fields: dict[bytes, bytes]) -> _Body | None:
    coding = fields.get(b"transfer-encoding")
    if coding is not None and coding.lower().rpartition(b",")[2].strip() == b"chunked":
        return _Body(0, True)
    length = fields.get(b"content-length")
    if length is None:
        return None
    # Equal repeated lengths may be joined by a comma (RFC 9110 section 8.6); different ones are an attack.
    values = {part.strip() for part in length.split(b",")}
    value = values.pop()
    if values or not value.isdigit() or len(value) > 18:
        raise ParseError("Content-Length is not one number")
    return _Body(int(value), False) if int(value) else None


def _response_body(method: bytes, status: int, fields: dict[bytes, bytes]) -> _Body | None:
    if method == b"HEAD" or status in (204, 304):
        return None
    if b"content-length" not in fields and b"chunked" not in fields.get(b"transfer-encoding", b"").lower():
        return _Body(-1, False)
    return _body_of(fields)
