# SPDX-License-Identifier: Apache-2.0
import bz2
import gzip
import io
import lzma
import zipfile
from collections.abc import Callable

import pytest

from threatfeeds import FeedConfig, FeedError, read_feed
from threatfeeds.packed import unpack


def zipped(data: bytes, *more: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("list.txt", *more):
            archive.writestr(name, data)
    return file.getvalue()


PACKED = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zip": zipped}


@pytest.mark.parametrize("kind", PACKED)
def test_a_packed_list_is_read_as_the_list_in_it(kind: str) -> None:
    pack: Callable[[bytes], bytes] = PACKED[kind]
    assert unpack(pack(b"192.0.2.1\n"), 100) == b"192.0.2.1\n"
    config = FeedConfig(file="list", name="x", max_size=1000)
    assert read_feed(config, pack(b"192.0.2.1\n")).counts["ipv4"] == 1
    with pytest.raises(FeedError, match="list: unpacks to more than max_size = 1000"):
        read_feed(config, pack(b"\n" * 100_000))


@pytest.mark.parametrize("kind", PACKED)
def test_a_packed_list_that_is_cut_off_is_an_error(kind: str) -> None:
    with pytest.raises(FeedError, match=r"cut off|cannot be read"):
        unpack(PACKED[kind](bytes(range(256)) * 40)[:-12], 1 << 20)


def test_an_archive_of_several_files_is_no_list() -> None:
    with pytest.raises(FeedError, match="a zip file of 2 files"):
        unpack(zipped(b"x", "other.txt"), 100)


@pytest.mark.parametrize("data", [b"\x7fELF\0\0\0\0", b"\0" * 100, b"%PDF-1.7\n\0\x01\x02"])
def test_what_is_no_text_is_refused(data: bytes) -> None:
    with pytest.raises(FeedError, match="list: this is binary"):
        read_feed(FeedConfig(file="list", name="x"), data)
