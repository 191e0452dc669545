# SPDX-License-Identifier: Apache-2.0
"""HTTP/1.1 requests over a Unix socket (RFC 9112), as container engines serve them: GET only, everything bounded.

One connection for each request, `Connection: close`. The peer is not trusted to be right: an answer that is broken,
cut or larger than what was asked for is an HttpError, and so are timeouts and refused connections.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from fastpath.errors import PortcullisError

MAX_LINE = 16 << 10  # bytes of a status, header or chunk line
MAX_HEADERS = 100
MAX_ERROR_TEXT = 4096  # bytes of an error's body that are read
PIECE = 64 << 10  # bytes given on at a time
CONNECT_TIMEOUT = 5.0  # seconds


class HttpError(PortcullisError):
    """No answer, or none that makes sense."""


@dataclass(frozen=True)
class Head:
    """Status and headers of an answer; header names in lower case, of repeated ones the values joined by commas."""

    status: int
    reason: str
    headers: dict[str, str]


async def get(path: str, target: str, *, limit: int, seconds: float) -> bytes:
    """The body of a 200 answer. limit: bytes; seconds: for everything. Raises HttpError."""
    try:
        async with asyncio.timeout(seconds), open_stream(path, target) as pieces:
            body = bytearray()
            async for piece in pieces:
                body += piece
                if len(body) > limit:
                    raise HttpError(f"{target}: the answer has more than {limit} bytes", file=path)
            return bytes(body)
    except TimeoutError:
        raise HttpError(f"{target}: no complete answer within {seconds:.0f} s", file=path) from None


@contextlib.asynccontextmanager
async def open_stream(
    path: str, target: str, *, seconds: float = CONNECT_TIMEOUT
) -> AsyncIterator[AsyncIterator[bytes]]:
    """The body of a 200 answer piece by piece, as long as the peer sends; `seconds` until its head is there."""
    writer: asyncio.StreamWriter | None = None
    try:
        try:
            async with asyncio.timeout(seconds):
                reader, writer = await asyncio.open_unix_connection(path, limit=MAX_LINE)
                writer.write(f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode("ascii"))
                await writer.drain()
                head = await read_head(reader)
        except TimeoutError:
            raise HttpError(f"no answer within {seconds:.0f} s", file=path) from None
        except OSError as error:
            raise HttpError(f"cannot be reached: {error.strerror or error}", file=path) from None
        except HttpError as error:
            raise HttpError(f"{target}: {error.message}", file=path) from None
        if head.status != 200:
            raise HttpError(f"{target}: {head.status} {head.reason}{await _error_text(reader, head)}", file=path)
        yield _named(read_body(reader, head), path, target)
    finally:
        if writer is not None:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def read_head(reader: asyncio.StreamReader) -> Head:
    """Raises HttpError; informational answers (1xx) are skipped."""
    for _ in range(4):
        head = await _read_head(reader)
        if not 100 <= head.status < 200:
            return head
    raise HttpError("too many informational answers")


async def _read_head(reader: asyncio.StreamReader) -> Head:
    version, _, rest = (await _line(reader)).partition(" ")
    code, _, reason = rest.partition(" ")
    if version not in ("HTTP/1.1", "HTTP/1.0") or not (code.isascii() and code.isdigit() and len(code) == 3):
        raise HttpError("this is not an HTTP answer")
    headers: dict[str, str] = {}
    for _ in range(MAX_HEADERS):
        line = await _line(reader)
        if not line:
            return Head(int(code), "".join(char for char in reason if char.isprintable())[:100], headers)
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise HttpError("broken header line")
        name, value = name.lower(), value.strip()
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    raise HttpError(f"more than {MAX_HEADERS} header lines")


async def read_body(reader: asyncio.StreamReader, head: Head) -> AsyncIterator[bytes]:
    """Body bytes without their framing (RFC 9112, section 6.3). Raises HttpError when the body is cut or broken."""
    coding = head.headers.get("transfer-encoding", "").lower()
    length = head.headers.get("content-length")
    if coding and (coding != "chunked" or length is not None):
        raise HttpError("unknown transfer coding")
    if coding:
        while size := _chunk_size(await _line(reader)):
            async for piece in _exactly(reader, size):
                yield piece
            if await _line(reader):
                raise HttpError("broken chunk")
        for _ in range(MAX_HEADERS):
            if not await _line(reader):
                return
        raise HttpError("too many trailer lines")
    if length is not None:
        if not (length.isascii() and length.isdigit() and len(length) <= 18):
            raise HttpError("broken Content-Length")
        async for piece in _exactly(reader, int(length)):
            yield piece
        return
    while piece := await _read(reader, PIECE):
        yield piece


def _chunk_size(line: str) -> int:
    digits = line.partition(";")[0].strip()
    if not digits or len(digits) > 15 or digits.strip("0123456789abcdefABCDEF"):
        raise HttpError("broken chunk size")
    return int(digits, 16)


async def _exactly(reader: asyncio.StreamReader, size: int) -> AsyncIterator[bytes]:
    while size:
        piece = await _read(reader, min(size, PIECE))
        if not piece:
            raise HttpError("the answer is cut")
        size -= len(piece)
        yield piece


async def _read(reader: asyncio.StreamReader, size: int) -> bytes:
    try:
        return await reader.read(size)
    except OSError as error:
        raise HttpError(f"the connection broke: {error.strerror or error}") from None


async def _line(reader: asyncio.StreamReader) -> str:
    try:
        line = await reader.readuntil(b"\n")
    except asyncio.IncompleteReadError:
        raise HttpError("the answer is cut") from None
    except asyncio.LimitOverrunError:
        raise HttpError(f"a line has more than {MAX_LINE} bytes") from None
    except OSError as error:
        raise HttpError(f"the connection broke: {error.strerror or error}") from None
    return line.rstrip(b"\r\n").decode("latin-1")


async def _named(pieces: AsyncIterator[bytes], path: str, target: str) -> AsyncIterator[bytes]:
    try:
        async for piece in pieces:
            yield piece
    except HttpError as error:
        raise HttpError(f"{target}: {error.message}", file=path) from None


async def _error_text(reader: asyncio.StreamReader, head: Head) -> str:
    """What the engine says about its refusal; nothing when even that is broken."""
    text = b""
    with contextlib.suppress(HttpError, TimeoutError):
        async with asyncio.timeout(CONNECT_TIMEOUT):
            async for piece in read_body(reader, head):
                text += piece
                if len(text) >= MAX_ERROR_TEXT:
                    break
    words = "".join(char for char in text[:200].decode(errors="replace") if char.isprintable())
    return f": {words}" if words else ""
