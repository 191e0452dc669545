# SPDX-License-Identifier: Apache-2.0
"""TLS up to the point where it is encrypted: the ClientHello (RFC 8446 section 4.1.2, RFC 6066, RFC 7301), and the
server's certificate as far as it is in clear, up to TLS 1.2 (RFC 5246 section 7.4.2).

Handshake messages may be split over records, and records over segments; neither changes what is reported.
"""

from dataclasses import dataclass

from appliance.inspection.protocols.errors import ParseError

MAX_RECORD = 16384 + 2048
MAX_HELLO = 64 * 1024  # bytes of a hello
MAX_CERTIFICATE = 64 * 1024  # bytes of the server's own certificate

_CHANGE_CIPHER_SPEC = 20
_ALERT = 21
_HANDSHAKE = 22
_APPLICATION_DATA = 23
_HEARTBEAT = 24
_CLIENT_HELLO = 1
_SERVER_HELLO = 2
_CERTIFICATE = 11
_CHAIN_HEAD = 10  # bytes in front of the first certificate: message head, length of all, length of this one


@dataclass(frozen=True, slots=True)
class TlsClientHello:
    """`version` is the legacy version of the hello, `versions` those of the supported_versions extension. Numbers
    stay in the order in which they were sent: fingerprints (JA3, JA4) need it. `sni` is lower case, "" if absent.
    `first_alpn`: bytes of the first protocol name."""

    version: int
    sni: str
    alpn: tuple[str, ...]
    cipher_suites: tuple[int, ...]
    extensions: tuple[int, ...]
    groups: tuple[int, ...]
    point_formats: tuple[int, ...]
    signature_algorithms: tuple[int, ...]
    versions: tuple[int, ...]
    first_alpn: bytes = b""


@dataclass(frozen=True, slots=True)
class TlsServerHello:
    version: int
    cipher_suite: int
    extensions: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TlsCertificate:
    """The server's own certificate, the first of its chain, in DER."""

    der: bytes


TlsEvent = TlsClientHello | TlsServerHello | TlsCertificate


class _Reader:
    """Bounds-checked big-endian reading."""

    __slots__ = ("_data", "_position")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def __bool__(self) -> bool:
        return self._position < len(self._data)

    def take(self, size: int) -> bytes:
        end = self._position + size
        if end > len(self._data):
            raise ParseError("TLS structure is cut")
        taken = self._data[self._position : end]
        self._position = end
        return taken

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def block(self, size: int) -> "_Reader":
        """A vector whose length is written in `size` bytes."""
        return _Reader(self.take(self.number(size)))

    def numbers(self, size: int) -> tuple[int, ...]:
        """All that is left, as numbers of `size` bytes."""
        values = []
        while self:
            values.append(self.number(size))
        return tuple(values)


class TlsDirection:
    """The records of one direction. `encrypted` is set by application data, or by a handshake record behind a
    ChangeCipherSpec that is no further hello; from then on bytes are skipped. `hello`: this side's was complete."""

    def __init__(self, *, client: bool) -> None:
        self._wanted = _CLIENT_HELLO if client else _SERVER_HELLO
        self._buffer = bytearray()
        self._message = bytearray()
        self._skip = 0  # bytes of a handshake message that nobody asks for
        self._changed = False
        self.hello = False
        self.encrypted = False

    def feed(self, data: bytes) -> list[TlsEvent]:
        """Raises ParseError when this is not TLS; the object is of no use then."""
        if self.encrypted:
            return []
        events: list[TlsEvent] = []
        self._buffer += data
        while len(self._buffer) >= 5 and not self.encrypted:
            kind, major = self._buffer[0], self._buffer[1]
            length = int.from_bytes(self._buffer[3:5], "big")
            if not _CHANGE_CIPHER_SPEC <= kind <= _HEARTBEAT or major != 3 or length > MAX_RECORD:
                raise ParseError("not a TLS record")
            if len(self._buffer) < 5 + length:
                break
            body = bytes(self._buffer[5 : 5 + length])
            del self._buffer[: 5 + length]
            if kind == _HANDSHAKE and not (self._changed and not self._is_hello(body)):
                self._handshake(body, events)
            elif kind == _CHANGE_CIPHER_SPEC and self.hello:
                # A client that is asked to retry sends this before its second, readable hello (RFC 8446, D.4).
                self._changed = True
            elif kind in (_HANDSHAKE, _APPLICATION_DATA) and self.hello:
                self.encrypted = True
                self._buffer.clear()
                self._message.clear()
            elif kind != _ALERT:
                raise ParseError("TLS data before the hello")
        return events

    def _is_hello(self, body: bytes) -> bool:
        return len(body) > 38 and body[0] == self._wanted and int.from_bytes(body[1:4], "big") == len(body) - 4

    def _handshake(self, body: bytes, events: list[TlsEvent]) -> None:
        self._message += body
        while True:
            skipped = min(self._skip, len(self._message))
            del self._message[:skipped]
            self._skip -= skipped
            if len(self._message) < 4:
                return
            kind = self._message[0]
            length = int.from_bytes(self._message[1:4], "big")
            if not self.hello and kind != self._wanted:
                raise ParseError(f"TLS handshake begins with message {kind}")
            if kind == self._wanted:
                if length > MAX_HELLO:
                    raise ParseError("TLS handshake message is too long")
                if len(self._message) < 4 + length:
                    return
                message = bytes(self._message[4 : 4 + length])
                # A second ClientHello (after HelloRetryRequest) is reported too: its name may differ.
                events.append(parse_client_hello(message) if kind == _CLIENT_HELLO else parse_server_hello(message))
                self.hello = True
            elif kind == _CERTIFICATE and self._wanted == _SERVER_HELLO and not self._certificate(length, events):
                return
            self._skip = 4 + length

    def _certificate(self, length: int, events: list[TlsEvent]) -> bool:
        """Reports the first certificate of the chain as soon as it is whole; False: more bytes are needed."""
        if length < _CHAIN_HEAD - 4:
            return True  # an empty chain
        if len(self._message) < _CHAIN_HEAD:
            return False
        size = int.from_bytes(self._message[7:10], "big")
        if size > MAX_CERTIFICATE or _CHAIN_HEAD - 4 + size > length:
            raise ParseError("TLS certificate is too long")
        if len(self._message) < _CHAIN_HEAD + size:
            return False
        events.append(TlsCertificate(bytes(self._message[_CHAIN_HEAD : _CHAIN_HEAD + size])))
        return True


class TlsSession:
    """Both directions of a connection."""

    def __init__(self) -> None:
        self._client = TlsDirection(client=True)
        self._server = TlsDirection(client=False)

    def to_server(self, data: bytes) -> list[TlsEvent]:
        return self._client.feed(data)

    def to_client(self, data: bytes) -> list[TlsEvent]:
        return self._server.feed(data)

    @property
    def encrypted(self) -> bool:
        """Both sides said hello and went on encrypted."""
        return self._client.encrypted and self._server.encrypted


def parse_client_hello(message: bytes) -> TlsClientHello:
    """The body of a ClientHello message. Raises ParseError."""
    reader = _Reader(message)
    version = reader.number(2)
    reader.take(32)
    reader.block(1)
    ciphers = reader.block(2).numbers(2)
    reader.block(1)
    sni = ""
    alpn: tuple[bytes, ...] = ()
    extensions: list[int] = []
    groups: tuple[int, ...] = ()
    formats: tuple[int, ...] = ()
    algorithms: tuple[int, ...] = ()
    versions: tuple[int, ...] = ()
    fields = reader.block(2) if reader else _Reader(b"")
    while fields:
        kind = fields.number(2)
        body = fields.block(2)
        extensions.append(kind)
        if kind == 0 and body:
            sni = _server_name(body)
        elif kind == 10:
            groups = body.block(2).numbers(2)
        elif kind == 11:
            formats = body.block(1).numbers(1)
        elif kind == 13:
            algorithms = body.block(2).numbers(2)
        elif kind == 16:
            alpn = _protocol_names(body)
        elif kind == 43:
            versions = body.block(1).numbers(2)
    names = tuple(name.decode("ascii", "backslashreplace") for name in alpn)
    first = alpn[0] if alpn else b""
    return TlsClientHello(version, sni, names, ciphers, tuple(extensions), groups, formats, algorithms, versions, first)


def parse_server_hello(message: bytes) -> TlsServerHello:
    """The body of a ServerHello message. Raises ParseError."""
    reader = _Reader(message)
    version = reader.number(2)
    reader.take(32)
    reader.block(1)
    cipher = reader.number(2)
    reader.take(1)
    extensions = []
    fields = reader.block(2) if reader else _Reader(b"")
    while fields:
        kind = fields.number(2)
        body = fields.block(2)
        extensions.append(kind)
        if kind == 43:
            version = body.number(2)
    return TlsServerHello(version, cipher, tuple(extensions))


def _server_name(body: _Reader) -> str:
    names = body.block(2)
    while names:
        kind = names.number(1)
        name = names.block(2)
        if kind == 0:
            return bytes(name.numbers(1)).decode("ascii", "backslashreplace").rstrip(".").lower()
    return ""


def _protocol_names(body: _Reader) -> tuple[bytes, ...]:
    names = body.block(2)
    result = []
    while names:
        result.append(names.take(names.number(1)))
    return tuple(result)
