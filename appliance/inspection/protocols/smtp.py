# SPDX-License-Identifier: Apache-2.0
"""SMTP (RFC 5321) as far as it takes to see STARTTLS (RFC 3207): which reply answers which command.

Commands may be pipelined (RFC 2920). After DATA and STARTTLS the client's bytes are read on only when the reply is
there, because it decides what they are.
"""

from collections import deque
from collections.abc import Sequence
from typing import NoReturn

from appliance.inspection.protocols.errors import ParseError

MAX_LINE = 64 * 1024  # bytes
MAX_PENDING = 1000  # commands that wait for their reply
_WAITS = frozenset((b"DATA", b"STARTTLS", b"AUTH"))
_CONTENT = b"."  # stands for the message after DATA, which has a reply of its own


class SmtpSession:
    """Both directions of a connection. After STARTTLS was accepted `tunnel` is True and the bytes are TLS: take what
    was left over from `rest()`."""

    def __init__(self) -> None:
        self._client = bytearray()
        self._server = bytearray()
        self._pending: deque[bytes] = deque([b""])  # the greeting answers no command
        self._content = False
        self._continued = False
        self._skip = 0
        self.tunnel = False

    def to_server(self, data: bytes) -> Sequence[NoReturn]:
        """Raises ParseError when this is not SMTP; the session is of no use then."""
        self._client += data
        while not self.tunnel and not self._waits():
            if self._skip:
                taken = min(self._skip, len(self._client))
                del self._client[:taken]
                self._skip -= taken
            newline = self._client.find(b"\n")
            if newline < 0:
                break
            line = bytes(self._client[:newline]).rstrip(b"\r")
            del self._client[: newline + 1]
            self._line(line)
        if len(self._client) > MAX_LINE:
            raise ParseError("SMTP line is too long, or too much behind a command that waits")
        return ()

    def to_client(self, data: bytes) -> Sequence[NoReturn]:
        """As above."""
        self._server += data
        while not self.tunnel:
            newline = self._server.find(b"\n")
            if newline < 0:
                break
            line = bytes(self._server[:newline])
            del self._server[: newline + 1]
            if len(line) < 3 or not line[:3].isdigit():
                raise ParseError("not an SMTP reply")
            if line[3:4] != b"-":
                self._reply(int(line[:3]))
        if len(self._server) > MAX_LINE:
            raise ParseError("SMTP line is too long")
        return ()

    def rest(self) -> tuple[bytes, bytes]:
        """What was received of TLS with the messages: to the server, to the client."""
        return bytes(self._client), bytes(self._server)

    def _waits(self) -> bool:
        return bool(self._pending) and self._pending[-1] in _WAITS

    def _line(self, line: bytes) -> None:
        if self._content:
            if line == b".":
                self._content = False
                self._wait_for(_CONTENT)
            return
        if self._continued:
            self._continued = False
            self._wait_for(b"AUTH")
            return
        words = line.upper().split(None, 2)
        verb = words[0] if words else b""
        if verb == b"BDAT" and len(words) > 1 and words[1].isdigit() and len(words[1]) < 18:
            self._skip = int(words[1])  # RFC 3030
        self._wait_for(verb)

    def _wait_for(self, verb: bytes) -> None:
        if len(self._pending) >= MAX_PENDING:
            raise ParseError("too many SMTP commands without a reply")
        self._pending.append(verb)

    def _reply(self, code: int) -> None:
        if not self._pending:
            return  # 421: the server ends the connection
        verb = self._pending.popleft()
        if verb == b"STARTTLS" and code == 220:
            self.tunnel = True
            return
        self._content = self._content or (verb == b"DATA" and code == 354)
        self._continued = verb == b"AUTH" and code == 334
        self.to_server(b"")
