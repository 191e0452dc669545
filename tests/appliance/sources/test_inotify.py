# SPDX-License-Identifier: Apache-2.0
import asyncio
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.sources.files import RESCAN, changes
from appliance.sources.inotify import CLOSE_WRITE, MODIFY, Inotify, parse

NAMES = st.binary(max_size=40).filter(lambda name: b"\0" not in name)


@given(st.lists(st.tuples(st.integers(1, 1 << 30), st.integers(0, 0xFFFF), NAMES)), st.integers(1, 16))
def test_events_are_read_as_the_kernel_writes_them_and_a_cut_one_is_left_out(
    events: list[tuple[int, int, bytes]], cut: int
) -> None:
    data = b""
    for watch, mask, name in events:
        length = (len(name) + 16) // 16 * 16
        data += struct.pack("iIII", watch, mask, 0, length) + name.ljust(length, b"\0")
    whole = [(watch, mask, name.decode(errors="surrogateescape")) for watch, mask, name in events]
    assert list(parse(data)) == whole
    assert list(parse(data[:-cut])) == whole[:-1]


def test_a_writer_is_told_from_a_file_that_is_there_whole(tmp_path: Path) -> None:
    async def dialogue() -> None:
        inotify = Inotify((tmp_path,))
        try:
            with (tmp_path / "a").open("w") as file:
                file.write("half")
                file.flush()
                first = await inotify.read(5)
                assert {event.mask for event in first} >= {MODIFY}
                assert not any(event.settled for event in first)
            assert [event.mask for event in await inotify.read(5)] == [CLOSE_WRITE]
        finally:
            inotify.close()

    asyncio.run(dialogue())


def test_a_directory_that_is_not_there_cannot_be_watched(tmp_path: Path) -> None:
    async def dialogue() -> None:
        with pytest.raises(FileNotFoundError):
            Inotify((tmp_path / "none",))

    asyncio.run(dialogue())


def told(directory: Path, act: Callable[[], Awaitable[None]]) -> list[frozenset[Path] | None]:
    """What the watch says from `act` on, until it is quiet again."""

    async def dialogue() -> list[frozenset[Path] | None]:
        found: asyncio.Queue[frozenset[Path] | None] = asyncio.Queue()

        async def follow() -> None:
            async for paths in changes(lambda: [directory], (".yaml",)):
                found.put_nowait(paths)

        task = asyncio.create_task(follow())
        await found.get()  # the first look without a change: the watch stands
        await act()
        seen = [await asyncio.wait_for(found.get(), RESCAN * 3)]
        while not found.empty():
            seen.append(found.get_nowait())
        task.cancel()
        await asyncio.wait([task])
        return seen

    return asyncio.run(dialogue())


def test_a_file_is_told_when_its_writer_closed_it(tmp_path: Path) -> None:
    async def write() -> None:
        with (tmp_path / "a.yaml").open("w") as file:
            for _ in range(10):
                file.write("part\n")
                file.flush()
                await asyncio.sleep(0.03)  # longer than a burst's end

    assert told(tmp_path, write) == [frozenset({tmp_path / "a.yaml"})]


def test_files_that_come_together_are_told_together(tmp_path: Path) -> None:
    async def write() -> None:
        for name in ("a", "b", "c"):
            (tmp_path / f"{name}.tmp").write_text("x")
            (tmp_path / f"{name}.tmp").replace(tmp_path / f"{name}.yaml")

    assert told(tmp_path, write) == [frozenset(tmp_path / f"{name}.yaml" for name in ("a", "b", "c"))]


def test_a_link_that_is_turned_makes_everything_suspect(tmp_path: Path) -> None:
    async def turn() -> None:
        (tmp_path / ".fresh").symlink_to("/nowhere")
        (tmp_path / ".fresh").replace(tmp_path / "..data")

    assert told(tmp_path, turn) == [None]
