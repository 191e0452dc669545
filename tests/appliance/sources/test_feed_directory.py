# SPDX-License-Identifier: Apache-2.0
import asyncio
import os
import time
from pathlib import Path

import pytest

from appliance.sources import FeedDirectory, SourcesError
from appliance.sources.feed_copies import Copies
from threatfeeds import Feed, FeedConfig, FeedContent, prefix


def entries(source: FeedDirectory, *, resync: bool = True) -> dict[str, list[str]]:
    snapshot = asyncio.run(source.resync() if resync else source.snapshot())
    return {feed.config.name: [prefix.text(entry) for entry in feed.content.prefixes] for feed in snapshot.all()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "bad.toml").write_text('file = "bad.txt"\naction = "drop"')
    (tmp_path / "bad.txt").write_text("192.0.2.1\n")
    return tmp_path


def test_feed_is_named_after_its_file_and_its_list_lies_beside_it(folder: Path) -> None:
    assert entries(FeedDirectory([folder])) == {"bad": ["192.0.2.1"]}


@pytest.mark.parametrize("content", [b"", b"<html>", b"\0\0\0", b"nonsense only"])
def test_broken_list_leaves_the_last_good_copy(folder: Path, content: bytes) -> None:
    source = FeedDirectory([folder])
    entries(source)
    (folder / "bad.txt").write_bytes(content)
    assert entries(source) == {"bad": ["192.0.2.1"]}
    snapshot = asyncio.run(source.snapshot())
    assert snapshot.errors[0].file == str(folder / "bad.txt")
    assert snapshot.kept == (str(folder / "bad.toml"),)
    (folder / "bad.txt").write_text("192.0.2.2")
    assert entries(source) == {"bad": ["192.0.2.2"]}
    assert asyncio.run(source.snapshot()).errors == ()


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(10 << 30)


BAD = {
    "empty": lambda path: path.write_bytes(b""),
    "html": lambda path: path.write_bytes(b"<!doctype html><html><body>192.0.2.9</body></html>"),
    "binary": lambda path: path.write_bytes(b"192.0.2.9\n\0\1\2"),
    "10 GB": sparse,
    "another format": lambda path: path.write_bytes(b'{"a": 1}\n{"b": "x"}\n'),
    "a folder": lambda path: path.mkdir(),
    "a pipe": lambda path: os.mkfifo(path),
    "nothing": lambda path: None,
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_list_at_update_and_at_load(folder: Path, kind: str) -> None:
    """While it runs the last good copy stays; the next start has it, too; a node that never had one goes without."""
    source = FeedDirectory([folder], copies=folder / "copies")

    async def once(source: FeedDirectory) -> None:
        watch = source.watch()
        waiting = asyncio.ensure_future(anext(watch))
        await asyncio.to_thread(wait_for, folder / "copies/bad.set")
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)

    asyncio.run(asyncio.wait_for(once(source), 20))
    (folder / "bad.txt").unlink()
    BAD[kind](folder / "bad.txt")
    assert entries(source) == {"bad": ["192.0.2.1"]}
    restarted = FeedDirectory([folder], copies=folder / "copies")
    assert entries(restarted, resync=False) == {"bad": ["192.0.2.1"]}
    snapshot = asyncio.run(restarted.snapshot())
    assert (snapshot.errors[0].feed, snapshot.errors[0].state) == ("bad", "failed")
    assert snapshot.kept == (str(folder / "bad.toml"),)
    fresh = FeedDirectory([folder], copies=folder / "elsewhere")
    assert entries(fresh, resync=False) == {}
    assert len(asyncio.run(fresh.snapshot()).errors) == 1


def test_a_copy_of_another_file_is_not_taken(folder: Path) -> None:
    feed = Feed(FeedConfig(file="/other", name="bad"), FeedContent())
    Copies(folder / "copies").keep([feed])
    (folder / "bad.txt").write_bytes(b"")
    assert entries(FeedDirectory([folder], copies=folder / "copies")) == {}


def test_missing_list_is_an_error_and_the_other_feeds_work(folder: Path) -> None:
    (folder / "other.toml").write_text('file = "none.txt"')
    source = FeedDirectory([folder])
    assert entries(source) == {"bad": ["192.0.2.1"]}
    assert "none.txt: the list cannot be read" in str(asyncio.run(source.snapshot()).errors[0])


def test_invalid_configuration_leaves_the_last_good_one(folder: Path) -> None:
    source = FeedDirectory([folder])
    entries(source)
    (folder / "bad.toml").write_text('file = "bad.txt"\naction = "block"')
    assert entries(source) == {"bad": ["192.0.2.1"]}
    error = asyncio.run(source.snapshot()).errors[0]
    assert (error.line, error.field) == (2, "action")
    assert asyncio.run(source.snapshot()).all()[0].config.action == "drop"


def test_switched_off_and_removed_feeds_are_gone(folder: Path) -> None:
    source = FeedDirectory([folder])
    entries(source)
    (folder / "bad.toml").write_text('file = "bad.txt"\nenabled = false')
    assert entries(source) == {}
    (folder / "bad.toml").write_text('file = "bad.txt"')
    assert entries(source) == {"bad": ["192.0.2.1"]}
    (folder / "bad.toml").unlink()
    assert entries(source) == {}


def test_name_used_twice_belongs_to_the_first_file(folder: Path) -> None:
    (folder / "second.toml").write_text('file = "bad.txt"\nname = "bad"')
    source = FeedDirectory([folder])
    assert entries(source) == {"bad": ["192.0.2.1"]}
    assert "already defined in" in str(asyncio.run(source.snapshot()).errors[0])


def test_missing_directory_is_an_error_only_when_required(tmp_path: Path) -> None:
    assert entries(FeedDirectory([tmp_path / "none"])) == {}
    with pytest.raises(SourcesError, match="does not exist"):
        asyncio.run(FeedDirectory([tmp_path / "none"], required=True).snapshot())


def test_watch_tells_changes_of_lists_in_other_folders(folder: Path) -> None:
    lists = folder / "lists"
    lists.mkdir()
    (lists / "bad.txt").write_text("198.51.100.1")

    async def dialogue() -> list[list[str]]:
        source = FeedDirectory([folder])
        await source.snapshot()
        seen: asyncio.Queue[list[str]] = asyncio.Queue()

        async def follow() -> None:
            async for snapshot in source.watch():
                seen.put_nowait([prefix.text(entry) for feed in snapshot.all() for entry in feed.content.prefixes])

        task = asyncio.create_task(follow())
        await asyncio.sleep(0.2)
        told = []
        async with asyncio.timeout(10):
            (folder / "bad.txt").write_text("192.0.2.9")
            told.append(await seen.get())
            (folder / "bad.toml").write_text('file = "lists/bad.txt"')
            told.append(await seen.get())
            await asyncio.sleep(0.2)
            (lists / "bad.txt").write_text("198.51.100.2")
            told.append(await seen.get())
        task.cancel()
        await asyncio.wait([task])
        return told

    assert asyncio.run(dialogue()) == [["192.0.2.9"], ["198.51.100.1"], ["198.51.100.2"]]
