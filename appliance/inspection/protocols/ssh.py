# SPDX-License-Identifier: Apache-2.0
"""SSH up to the point where it is encrypted (RFC 4253): version line, then packets until NEWKEYS, each way."""

from collections.abc import Sequence
from typing import NoReturn

from appliance.inspection.protocols.errors import ParseError

MAX_PACKET = 256 * 1024  # bytes; RFC 4253 section 6.1 asks for 35000 at least, OpenSSH takes as many as this
MAX_LINES = 64 * 1024  # bytes that a server may say before its version (RFC 4253 section 4.2)
_NEWKEYS = 21


class _Direction:
    def __init__(self) -> None:
        self._buffer = bytearray()
        self._said = 0
        self._version = False
        self.encrypted = False

    def feed(self, data: bytes) -> None:
        """Raises ParseError."""
        if self.encrypted:
            return
        self._buffer += data
        while not self._version:
            if not self._line():
                return
        while len(self._buffer) >= 6 and not self.encrypted:
            length, padding, message = int.from_bytes(self._buffer[:4], "big"), self._buffer[4], self._buffer[5]
            if length > MAX_PACKET or length < padding + 2:
                raise ParseError("not an SSH packet")
            if len(self._buffer) < 4 + length:
                return
            del self._buffer[: 4 + length]
            if message == _NEWKEYS:
                self.encrypted = True
                self._buffer.clear()

    def _line(self) -> bool:
        newline = self._buffer.find(b"\n")
        self._said += newline + 1
        if self._said > MAX_LINES or (newline < 0 and len(self._buffer) > MAX_LINES):
            raise ParseError("too much before the SSH version")
        if newline < 0:
            return False
        self._version = self._buffer.startswith(b"SSH-")
        del self._buffer[: newline + 1]
        return True


class SshSession:
    """Both directions of a connection. Feed bytes in order; there are no events."""

    def __init__(self) -> None:
        self._sides = _Direction(), _Direction()

    @property
    def encrypted(self) -> bool:
        """Both sides have changed to the new keys: nothing that follows can be read."""
        return self._sides[0].encrypted and self._sides[1].encrypted

    def to_server(self, data: bytes) -> Sequence[NoReturn]:
        """Raises ParseError when this is not SSH 2."""
        self._sides[0].feed(data)
        return ()

    def to_client(self, data: bytes) -> Sequence[NoReturn]:
        """Raises ParseError when this is not SSH 2."""
        self._sides[1].feed(data)
        return ()
