# SPDX-License-Identifier: Apache-2.0
"""Running nft scripts: through libnftables in this process (no fork, about 2 ms), else through the nft binary.

Calls block. The network namespace is that of the calling thread.
"""

import ctypes
import functools
import json
import subprocess
from typing import Any

from fastpath.errors import PortcullisError

LIBRARY = "libnftables.so.1"
OUTPUT_JSON = 1 << 4  # NFT_CTX_OUTPUT_JSON
OUTPUT_TERSE = 1 << 11  # NFT_CTX_OUTPUT_TERSE
TIMEOUT = 10.0  # seconds, of the binary


class NftError(PortcullisError):
    """nft refused a script; the message is its own."""


@functools.cache
def _library() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError:
        return None
    library.nft_ctx_new.restype = ctypes.c_void_p
    library.nft_ctx_new.argtypes = [ctypes.c_uint32]
    for name in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
        getattr(library, name).restype = ctypes.c_char_p
        getattr(library, name).argtypes = [ctypes.c_void_p]
    for name in ("nft_ctx_free", "nft_ctx_buffer_output", "nft_ctx_buffer_error"):
        getattr(library, name).argtypes = [ctypes.c_void_p]
    library.nft_ctx_output_set_flags.argtypes = [ctypes.c_void_p, ctypes.c_uint]
    library.nft_ctx_set_dry_run.argtypes = [ctypes.c_void_p, ctypes.c_bool]
    library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    return library


def run(script: str, *, check: bool = False, as_json: bool = False, terse: bool = False) -> str:
    """The script as one transaction; returns what nft prints.

    check: ask the kernel, change nothing. A script that makes base chains must not be checked on a live
    system: undoing them unregisters hooks, which drops queued packets.
    """
    library = _library()
    if library is None:
        return _run_binary(script, check, as_json, terse)
    context = library.nft_ctx_new(0)
    if not context:
        raise NftError("libnftables: no context (out of memory, or no netlink socket)")
    try:
        library.nft_ctx_buffer_output(context)
        library.nft_ctx_buffer_error(context)
        library.nft_ctx_set_dry_run(context, check)
        if as_json:
            library.nft_ctx_output_set_flags(context, OUTPUT_JSON | OUTPUT_TERSE * terse)
        failed = library.nft_run_cmd_from_buffer(context, script.encode())
        output: bytes = library.nft_ctx_get_output_buffer(context) or b""
        error: bytes = library.nft_ctx_get_error_buffer(context) or b""
    finally:
        library.nft_ctx_free(context)
    if failed:
        raise NftError(error.decode(errors="replace").strip() or "nft failed and does not say why")
    return output.decode(errors="replace")


def _run_binary(script: str, check: bool, as_json: bool, terse: bool) -> str:
    command = ["nft", *(["-c"] if check else []), *(["-t"] if terse else [])]
    # In JSON mode the command prints what its arguments list, not what a file does.
    command += ["-j", script] if as_json else ["-f", "-"]
    try:
        done = subprocess.run(command, input=f"{script}\n", capture_output=True, text=True, timeout=TIMEOUT)
    except FileNotFoundError as error:
        raise NftError(f"neither {LIBRARY} nor the nft command is installed") from error
    except subprocess.TimeoutExpired as error:
        raise NftError(f"nft: not finished after {TIMEOUT} s") from error
    if done.returncode:
        raise NftError(done.stderr.strip() or f"nft: exit {done.returncode}")
    return done.stdout


def query(command: str, *, terse: bool = False) -> list[dict[str, Any]]:
    """The objects a `list` command answers, each {kind: {...}}. terse: sets without their elements."""
    text = run(command, as_json=True, terse=terse)
    if not text.strip():
        return []
    objects: list[dict[str, Any]] = json.loads(text)["nftables"]
    return [entry for entry in objects if "metainfo" not in entry]
