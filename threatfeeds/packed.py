# SPDX-License-Identifier: Apache-2.0
"""Lists that are published compressed. What would unpack to too much is refused before it is in memory."""

import bz2
import io
import lzma
import zipfile
import zlib
from typing import Protocol

from threatfeeds.config import FeedError

_MEMORY = 64 << 20  # bytes that xz may use for its dictionary


def unpack(data: bytes, max_size: int) -> bytes:
    """A list as .gz, .bz2 or .xz, or as the only file of a .zip; anything else as it is. Raises FeedError."""
    if data.startswith(b"\x1f\x8b"):
        unpacker = Unpacker(max_size)
        unpacked = unpacker.feed(data)
        if not unpacker.complete:
            raise FeedError("the gzip file is cut off")
        return unpacked
    if data.startswith(b"BZh"):
        return _decompressed(bz2.BZ2Decompressor(), data, max_size, "bzip2")
    if data.startswith(b"\xfd7zXZ\0"):
        return _decompressed(lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MEMORY), data, max_size, "xz")
    if data.startswith(b"PK\x03\x04"):
        return _unzipped(data, max_size)
    return data


class Unpacker:
    """gzip, as it comes."""

    def __init__(self, max_size: int) -> None:
        self._left = max_size
        self._max_size = max_size
        self._inflate = zlib.decompressobj(31)

    @property
    def complete(self) -> bool:
        return self._inflate.eof

    def feed(self, data: bytes) -> bytes:
        """Raises FeedError when it is too much, or no gzip."""
        parts: list[bytes] = []
        while data:
            if self._inflate.eof:
                if not data.strip(b"\0"):
                    break  # padding
                self._inflate = zlib.decompressobj(31)  # gzip members may follow each other
            try:
                part = self._inflate.decompress(data, self._left + 1)
            except zlib.error as error:
                raise FeedError(f"not gzip: {error}") from error
            self._left -= len(part)
            if self._left < 0:
                raise FeedError(f"unpacks to more than max_size = {self._max_size} bytes")
            parts.append(part)
            data = self._inflate.unconsumed_tail or self._inflate.unused_data
        return b"".join(parts)


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


def _decompressed(decompressor: _Decompressor, data: bytes, max_size: int, name: str) -> bytes:
    try:
        unpacked = decompressor.decompress(data, max_size + 1)
    except (OSError, EOFError, ValueError, lzma.LZMAError) as error:
        raise FeedError(f"the {name} file cannot be read: {error}") from error
    if len(unpacked) > max_size:
        raise FeedError(f"unpacks to more than max_size = {max_size} bytes")
    if not decompressor.eof:
        raise FeedError(f"the {name} file is cut off")
    return unpacked


def _unzipped(data: bytes, max_size: int) -> bytes:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            files = [entry for entry in archive.infolist() if not entry.is_dir()]
            if len(files) != 1:
                raise FeedError(f"a zip file of {len(files)} files, expected one")
            with archive.open(files[0]) as file:
                unpacked = file.read(max_size + 1)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError, zlib.error, EOFError, OSError) as error:
        raise FeedError(f"the zip file cannot be read: {error}") from error
    if len(unpacked) > max_size:
        raise FeedError(f"unpacks to more than max_size = {max_size} bytes")
    return unpacked
