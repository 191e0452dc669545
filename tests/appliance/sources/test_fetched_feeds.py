# SPDX-License-Identifier: Apache-2.0
"""Feeds that portcullis-feeds has fetched, as the service takes them from the set."""

import asyncio
import os
from pathlib import Path

import pytest

from appliance.sources import FeedDirectory
from threatfeeds import FeedConfig, prefix
from threatfeeds.fetch.http import FetchError, Request, Response
from threatfeeds.fetch.store import Store
from threatfeeds.updater import Updater


class Node:
    def __init__(self, folder: Path) -> None:
        self.now = 1_000_000.0
        self.state = folder / "state"
        self.config = folder / "feeds.d" / "far.toml"
        self.config.parent.mkdir()
        self.configure("")
        self.body: bytes | None = b"192.0.2.1\n"
        self.updater = Updater(Store(self.state), get=self.get, clock=lambda: self.now)
        self.source = FeedDirectory([self.config.parent], state=self.state, clock=lambda: self.now)

    def configure(self, settings: str) -> None:
        self.config.write_text(f'url = "https://lists.example/far"\naction = "drop"\n{settings}')

    def get(self, request: Request) -> Response:
        if self.body is None:
            raise FetchError("the server answers 500", url=request.url)
        return Response(200, self.body, {})

    def fetch(self, body: bytes | None) -> None:
        self.body = body
        config = FeedConfig(name="far", url="https://lists.example/far", max_rejected=50)
        self.updater.update([config])
        self.updater.publish([config])

    def entries(self) -> list[str]:
        return [prefix.text(p) for feed in self.snapshot().all() for p in feed.content.prefixes]

    def snapshot(self):  # type: ignore[no-untyped-def]
        asyncio.run(self.source.snapshot())
        return asyncio.run(self.source._refresh(everything=False))

    def warnings(self) -> str:
        snapshot = self.snapshot()
        assert snapshot.errors == ()
        return "\n".join(map(str, snapshot.warnings))


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def test_before_the_first_fetch_the_feed_is_empty_and_says_so(node: Node) -> None:
    assert node.entries() == []
    assert "feed far is empty: portcullis-feeds has not fetched it yet" in node.warnings()


def test_content_is_of_the_set_and_the_rest_of_the_configuration(node: Node) -> None:
    node.fetch(b"192.0.2.1\n")
    node.configure('labels = { level = "high" }')
    (feed,) = node.snapshot().all()
    assert (feed.config.action, feed.config.labels) == ("drop", {"level": "high"})
    assert node.entries() == ["192.0.2.1"]
    assert node.warnings() == ""


def test_unchanged_content_is_the_same_object_and_the_same_snapshot(node: Node) -> None:
    node.fetch(b"192.0.2.1\n")
    before = node.snapshot()
    node.now += 60
    node.fetch(b"192.0.2.1\n")
    assert node.snapshot() is before
    node.fetch(b"192.0.2.1\n192.0.2.2\n")
    assert node.snapshot() is not before


def test_failed_stale_and_rejected_are_told_as_warnings(node: Node) -> None:
    node.fetch(b"192.0.2.1\nnonsense-here.\n")
    assert "nonsense-here" in node.warnings()
    node.now += 4 * 3600
    assert "feed far is stale: no word from its source since 1970-01-12" in node.warnings()
    node.fetch(None)
    assert "feed far failed: https://lists.example/far: the server answers 500" in node.warnings()
    assert node.entries() == ["192.0.2.1"]


def test_copy_that_is_too_old_is_given_up_also_when_the_updater_is_dead(node: Node) -> None:
    node.configure('expires = "1d"')
    node.fetch(b"192.0.2.1\n")
    assert node.entries() == ["192.0.2.1"]
    node.now += 90_000
    assert node.entries() == []
    assert "feed far expired: no word from its source since 1970-01-12" in node.warnings()
    node.fetch(None)
    assert "expired" in node.warnings() and "the server answers 500" in node.warnings()
    assert node.entries() == []


@pytest.mark.parametrize("damage", [b"", b"PCFEEDS\0", b"\0" * 1000, None])
def test_damaged_set_leaves_what_was_in_force(node: Node, damage: bytes | None) -> None:
    node.fetch(b"192.0.2.1\n")
    assert node.entries() == ["192.0.2.1"]
    path = node.state / "feeds.set"
    if damage is None:
        path.unlink()
        path.symlink_to("/etc/passwd")
    else:
        path.write_bytes(damage)
    assert node.entries() == ["192.0.2.1"]
    assert "feeds.set" in node.warnings()
    assert "feeds.set" in node.warnings()


def test_hostile_health_is_refused(node: Node) -> None:
    node.fetch(b"192.0.2.1\n")
    node.entries()
    (node.state / "health.json").write_text('{"far": {"state": "perfect"}}')
    assert node.entries() == ["192.0.2.1"]
    assert "health.json" in node.warnings()
    (node.state / "health.json").unlink()
    os.mkfifo(node.state / "health.json")
    assert node.entries() == ["192.0.2.1"]


def test_calico_threat_feed_is_an_equal_way_in(node: Node) -> None:
    node.config.unlink()
    (node.config.parent / "calico.yaml").write_text(
        "apiVersion: projectcalico.org/v3\nkind: GlobalThreatFeed\nmetadata: {name: far}\n"
        "spec: {pull: {http: {url: 'https://lists.example/far'}}}\n"
    )
    node.fetch(b"192.0.2.1\n")
    (feed,) = node.snapshot().all()
    assert (feed.config.name, feed.config.action) == ("far", "alert")
    assert node.entries() == ["192.0.2.1"]


def test_half_of_a_local_list_may_be_rejected_unless_it_says_otherwise(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text('file = "bad.txt"')
    (tmp_path / "bad.txt").write_text("192.0.2.1\nnonsense\nnonsense\n")
    source = FeedDirectory([tmp_path])
    (error,) = asyncio.run(source.snapshot()).errors
    assert (error.line, error.file, error.feed) == (2, str(tmp_path / "bad.txt"), "bad")
    assert "neither an address nor a name" in error.message
    (tmp_path / "bad.txt").write_text("192.0.2.1\n192.0.2.2\n192.0.2.3\nnonsense\n")
    assert [warning.line for warning in asyncio.run(source.resync()).warnings] == [4]
    (tmp_path / "bad.toml").write_text('file = "bad.txt"\nmax_rejected = 25')
    snapshot = asyncio.run(source.resync())
    assert snapshot.errors == ()
    assert [(warning.line, "left out" in warning.message) for warning in snapshot.warnings] == [(4, True)]
    (tmp_path / "bad.toml").write_text('file = "bad.txt"\nmax_rejected = 24.9')
    assert len(asyncio.run(source.resync()).errors) == 1
