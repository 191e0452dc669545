# SPDX-License-Identifier: Apache-2.0
"""The server's side. It runs in the event loop of the service; what blocks is the handlers' own business."""

import asyncio
import json
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from fastpath.errors import PortcullisError

MAX_REQUEST = 64 << 20  # bytes: a policy directory travels in one request
IDLE = 30.0  # seconds that a client may take for its request

Handler = Callable[[Mapping[str, Any]], Awaitable[dict[str, Any]]]


class ControlError(PortcullisError):
    """The control socket, or a request over it, cannot be served."""


class ControlServer:
    """Serves `handlers` by the request's "do". Raises ControlError when the path cannot be had."""

    def __init__(self, path: Path, handlers: Mapping[str, Handler]) -> None:
        self._path = path
        self._handlers = handlers
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        try:
            self._path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            if self._path.exists():
                if _answers(self._path):
                    raise ControlError(
                        f"another instance answers at {self._path}; choose another path", field="control.socket"
                    )
                self._path.unlink()
            before = os.umask(0o177)
            try:
                self._server = await asyncio.start_unix_server(self._serve, self._path, limit=MAX_REQUEST)
            finally:
                os.umask(before)
        except OSError as error:
            raise ControlError(
                f"{self._path} cannot be used: {error.strerror or error}", field="control.socket"
            ) from error

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(IDLE):
                line = await reader.readline()
            if line:
                writer.write(json.dumps(await self._answer(line)).encode() + b"\n")
                await writer.drain()
        except (TimeoutError, ValueError, OSError):
            pass  # too slow, too long, or gone: nobody to tell
        finally:
            writer.close()

    async def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            request = json.loads(line)
            if not isinstance(request, dict):
                raise ValueError("expected an object")
            handler = self._handlers.get(str(request.get("do")))
            if handler is None:
                known = ", ".join(sorted(self._handlers))
                raise ControlError(f"unknown request {request.get('do')!r}; known are {known}")
            return {"ok": True, **await handler(request)}
        except (PortcullisError, ValueError, RecursionError) as error:
            return {"ok": False, "error": str(error)}


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(1.0)
        try:
            sock.connect(str(path))
        except OSError:
            return False
        return True
