# SPDX-License-Identifier: Apache-2.0
"""Docker Engine API v1.41 on a Unix socket, as much of it as the source asks for. Shapes recorded from Podman 4.3.1.

Answers are written in pieces of `piece` bytes, so that chunk and line ends fall anywhere.
"""

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any


def listed(number: int, name: str, networks: dict[str, str | tuple[str, str]], **labels: str) -> dict[str, Any]:
    """An entry of GET /containers/json: networks maps a network's name to the IPv4 (and IPv6) address there."""
    attachments = {}
    for position, (network, address) in enumerate(sorted(networks.items())):
        v4, v6 = address if isinstance(address, tuple) else (address, "")
        attachments[network] = {
            "IPAMConfig": None,
            "Links": None,
            "Aliases": [container_id(number)[:12]],
            "NetworkID": network,
            "EndpointID": "",
            "Gateway": f"10.9{1 + position}.0.1",
            "IPAddress": v4,
            "IPPrefixLen": 24,
            "IPv6Gateway": "fd00:92::1" if v6 else "",
            "GlobalIPv6Address": v6,
            "GlobalIPv6PrefixLen": 64 if v6 else 0,
            "MacAddress": "0e:58:aa:4b:d3:07",
            "DriverOpts": None,
        }
    return {
        "Id": container_id(number),
        "Names": [f"/{name}"],
        "Image": "localhost/local/box:1",
        "Command": "/bin/sh",
        "Created": 1795321159,
        "Ports": [],
        "Labels": labels,
        "State": "running",
        "Status": "Up 1 second",
        "NetworkSettings": {"Networks": attachments or None},
        "Mounts": [],
        "Name": "",
        "Config": None,
    }


def container_id(number: int) -> str:
    return f"{number:064x}"


def event(kind: str, action: str, number: int, **attributes: str) -> bytes:
    return (
        json.dumps(
            {
                "status": action,
                "id": container_id(number),
                "from": "localhost/local/box:1",
                "Type": kind,
                "Action": action,
                "Actor": {"ID": container_id(number), "Attributes": attributes},
                "scope": "local",
                "time": 1795321159,
            }
        ).encode()
        + b"\n"
    )


class Engine:
    """`containers` is what the list answers; `details` what inspection answers, by id. `raw` replaces every answer."""

    def __init__(self, path: Path, *, piece: int = 1 << 20) -> None:
        self.path = path
        self.piece = piece
        self.containers: list[dict[str, Any]] = []
        self.details: dict[str, dict[str, Any]] = {}
        self.raw: bytes | None = None
        self.asked: list[str] = []
        self._server: asyncio.Server | None = None
        self._streams: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, str(self.path))

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in list(self._streams):
            writer.close()
        self.path.unlink(missing_ok=True)

    async def listening(self) -> None:
        """Returns when somebody listens to events."""
        async with asyncio.timeout(5):
            while not self._streams:  # noqa: ASYNC110
                await asyncio.sleep(0.005)

    async def tell(self, data: bytes) -> None:
        for writer in self._streams:
            for start in range(0, len(data), self.piece):
                part = data[start : start + self.piece]
                writer.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
                await writer.drain()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            request = (await reader.readuntil(b"\r\n\r\n")).decode()
            target = request.split()[1]
            self.asked.append(target)
            if self.raw is not None:
                await self._write(writer, self.raw)
            elif target.startswith("/v1.41/events"):
                await self._write(writer, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                self._streams.add(writer)
                await reader.read()
                self._streams.discard(writer)
            elif target == "/v1.41/containers/json":
                await self._answer(writer, self.containers)
            else:
                found = self.details.get(target.split("/")[3])
                if found is None:
                    body = b'{"message":"no such container"}'
                    head = f"HTTP/1.1 404 Not Found\r\nContent-Length: {len(body)}\r\n\r\n"
                    await self._write(writer, head.encode() + body)
                else:
                    await self._answer(writer, found)
        writer.close()

    async def _answer(self, writer: asyncio.StreamWriter, value: Any) -> None:
        body = json.dumps(value).encode()
        head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        await self._write(writer, f"{head}{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n")

    async def _write(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        for start in range(0, len(data), self.piece):
            writer.write(data[start : start + self.piece])
            await writer.drain()
