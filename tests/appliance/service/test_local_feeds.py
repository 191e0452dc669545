# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest

from appliance.service.localfeeds import FILE, LOCAL, LocalFeedError, LocalFeeds
from threatfeeds import prefix


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def listed(feeds: LocalFeeds) -> dict[str, list[str]]:
    return {
        feed.config.name: [*map(prefix.text, feed.content.prefixes), *(domain.name for domain in feed.content.domains)]
        for feed in feeds.feeds()
    }


def test_what_is_added_is_there_after_a_restart_until_its_time_is_over(tmp_path: Path) -> None:
    clock = Clock()
    feeds = LocalFeeds(tmp_path, clock)
    assert feeds.add("192.0.2.77/24", seconds=60, reason="scan") == "192.0.2.0/24"
    assert feeds.add("Evil[.]example") == "evil.example"
    assert feeds.add("2001:db8::1", feed="mine") == "2001:db8::1"
    assert feeds.add("192.0.2.1-192.0.2.3", feed="mine") == "192.0.2.1-192.0.2.3"
    feeds.save(feeds.packed())
    again = LocalFeeds(tmp_path, clock)
    again.load()
    expected = {
        "local": ["192.0.2.0/24", "evil.example"],
        "mine": ["192.0.2.1", "192.0.2.2/31", "2001:db8::1"],
    }
    assert listed(again) == listed(feeds) == expected
    assert again.entries()[LOCAL]["192.0.2.0/24"].reason == "scan"
    assert again.next_end() == 1060
    before = again.feeds()
    assert not again.expire()
    clock.now = 1060
    assert again.expire()
    assert listed(again)["local"] == ["evil.example"]
    assert again.feeds()[1] is before[1]  # what did not change is the same
    again.remove("192.0.2.1-192.0.2.3", feed="mine")
    again.remove("2001:db8::1", feed="mine")
    assert listed(again) == {"local": ["evil.example"]}


@pytest.mark.parametrize("text", ["", "1.2.3", "a" * 64, "http://x.example/a", "localhost", "010.1.1.1"])
def test_what_is_no_entry_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(LocalFeedError):
        LocalFeeds(tmp_path).add(text)


def test_what_is_not_there_cannot_be_removed(tmp_path: Path) -> None:
    with pytest.raises(LocalFeedError, match="not in the feed local"):
        LocalFeeds(tmp_path).remove("192.0.2.1")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"local": {"x": 1}}', b"\xff"])
def test_a_damaged_file_is_said_and_the_feed_is_empty(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    feeds = LocalFeeds(tmp_path)
    with pytest.raises(LocalFeedError, match=FILE):
        feeds.load()
    assert listed(feeds) == {"local": []}


def test_entries_of_the_file_are_checked(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text('{"local": {"192.0.2.1": {"added": 1}, "x": {"added": 1}}, "BAD NAME": {}}')
    feeds = LocalFeeds(tmp_path)
    feeds.load()
    assert listed(feeds) == {"local": ["192.0.2.1"]}
