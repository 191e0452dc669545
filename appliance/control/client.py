# SPDX-License-Identifier: Apache-2.0
"""The command line's side: one request, one answer."""

import json
import socket
from pathlib import Path
from typing import Any

from appliance.control.server import ControlError

TIMEOUT = 60.0  # seconds


def ask(path: Path, request: dict[str, Any]) -> dict[str, Any]:
    """Raises ControlError: nobody there, not allowed, or the service refused."""
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(TIMEOUT)
            sock.connect(str(path))
            sock.sendall(json.dumps(request).encode() + b"\n")
            with sock.makefile("rb") as stream:
                line = stream.readline()
    except FileNotFoundError as error:
        raise ControlError(f"no service runs here: {path} does not exist") from error
    except OSError as error:
        raise ControlError(f"the service cannot be asked at {path}: {error.strerror or error}") from error
    try:
        answer = json.loads(line)
    except ValueError as error:
        raise ControlError("the service ended before it answered") from error
    if not answer.pop("ok", False):
        raise ControlError(str(answer.get("error", "the service refused")))
    result: dict[str, Any] = answer
    return result
