# SPDX-License-Identifier: Apache-2.0
"""What listens in the server namespace: HTTP, HTTPS, a TCP and a UDP echo. Every port that is denied listens, too."""

import asyncio
import contextlib
import socket
import ssl
from pathlib import Path
from typing import cast

HTTP_PORTS = (80, 8000, 8001, 8002)
HTTPS_PORT = 443
ECHO_PORT = 7000
UDP_PORTS = (5001, 5002)
LONG = 32 << 20  # bytes of /long

_CHUNK = bytes(65536)


async def _http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One request, one response: /long is LONG bytes of zeros, all else a word."""
    with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
        request = await reader.readuntil(b"\r\n\r\n")
        length = LONG if request.split(b" ")[1] == b"/long" else 3
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % length)
        if length == LONG:
            for _ in range(LONG // len(_CHUNK)):
                writer.write(_CHUNK)
                await writer.drain()
        else:
            writer.write(b"ok\n")
        await writer.drain()
    writer.close()


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(4096):
            writer.write(data)
            await writer.drain()
    writer.close()


class _UdpEcho(asyncio.DatagramProtocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, address: tuple[str | int, ...]) -> None:
        self._transport.sendto(data, address)


async def _serve(certificate: Path) -> None:
    loop = asyncio.get_running_loop()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    for host in ("0.0.0.0", "::"):
        for port in HTTP_PORTS:
            await asyncio.start_server(_http, host, port)
        await asyncio.start_server(_http, host, HTTPS_PORT, ssl=tls)
        await asyncio.start_server(_echo, host, ECHO_PORT)
    for port in UDP_PORTS:  # one socket for both families
        await loop.create_datagram_endpoint(_UdpEcho, local_addr=("::", port), family=socket.AF_INET6)
    await asyncio.Event().wait()


def serve(certificate: Path) -> None:
    """Runs until it is ended. `certificate`: PEM with key."""
    asyncio.run(_serve(certificate))
