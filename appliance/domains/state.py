# SPDX-License-Identifier: Apache-2.0
"""The file that carries names over a restart."""

import contextlib
import ipaddress
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from appliance.domains.table import MAX_PAIRS, Pair
from fastpath.errors import PortcullisError

MAX_BYTES = 64 << 20

_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]
_Address = Annotated[str, msgspec.Meta(max_length=45)]


class StateError(PortcullisError):
    """The file is not one of ours, is damaged or cannot be read."""


class _State(msgspec.Struct, forbid_unknown_fields=True):
    """`pairs`: name, address, when it expires (seconds since 1970). `aliases`: name asked for, name of policy."""

    version: Literal[1]
    pairs: Annotated[list[tuple[_Name, _Address, float]], msgspec.Meta(max_length=MAX_PAIRS)]
    aliases: Annotated[list[tuple[_Name, _Name]], msgspec.Meta(max_length=MAX_PAIRS)] = []


Learned = tuple[tuple[Pair, ...], tuple[tuple[str, str], ...]]  # pairs and aliases


def encode_state(pairs: Iterable[Pair], aliases: Iterable[tuple[str, str]] = ()) -> bytes:
    return msgspec.json.encode(_State(1, [(p.name, p.address, p.expires) for p in pairs], list(aliases)))


def decode_state(data: bytes, file: str) -> Learned:
    """Raises StateError; one wrong pair makes the whole file wrong."""
    try:
        state = msgspec.json.decode(data, type=_State)
        pairs = (Pair(name, str(ipaddress.ip_address(address)), expires) for name, address, expires in state.pairs)
        return tuple(pairs), tuple(state.aliases)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise StateError(f"not a file of learned names: {error}", file=file) from None


def read_state(path: Path) -> Learned:
    """Nothing where there is no file. Raises StateError."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return (), ()
    except OSError as error:
        raise StateError(f"cannot be read: {error.strerror}", file=str(path)) from None
    if len(data) > MAX_BYTES:
        raise StateError(f"longer than {MAX_BYTES} bytes", file=str(path))
    return decode_state(data, str(path))


def write_state(path: Path, pairs: Iterable[Pair], aliases: Iterable[tuple[str, str]] = ()) -> None:
    """The old file stays until the new one is whole. Raises StateError."""
    data = encode_state(pairs, aliases)
    temporary = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(handle)
        Path(temporary).replace(path)
    except OSError as error:
        if temporary:
            with contextlib.suppress(OSError):
                Path(temporary).unlink()
        raise StateError(f"cannot be written: {error.strerror}", file=str(path)) from None
