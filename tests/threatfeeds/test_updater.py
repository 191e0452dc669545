# SPDX-License-Identifier: Apache-2.0
"""One round after another against a list that changes as lists do."""

import threading
from pathlib import Path

import msgspec
import pytest

from threatfeeds import FeedConfig, prefix
from threatfeeds.fetch.http import FetchError, Request, Response
from threatfeeds.fetch.store import Health, Store, read_bounded, read_health, read_set
from threatfeeds.updater import Updater

URL = "https://lists.example/bad.txt"
MANY = b"".join(b"192.0.%d.%d\n" % (n >> 8, n & 255) for n in range(1, 201))


class Round:
    """An updater, a list that says what the test wants, and a clock."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self.folder = folder
        self.body: bytes | None = b"192.0.2.1\n"
        self.now = 1_000_000.0
        self.asked = 0
        self.config = FeedConfig(name="bad", url=URL, **settings)  # type: ignore[arg-type]
        self.updater = Updater(Store(folder), get=self.get, clock=lambda: self.now)

    def get(self, request: Request) -> Response:
        self.asked += 1
        if self.body is None:
            raise FetchError("the server answers 500", url=request.url, again=True)
        return Response(200, self.body, {})

    def go(self, body: bytes | None = b"", *, accept: bool = False, later: float = 7200) -> Health:
        self.now += later
        if body != b"":
            self.body = body
        self.updater.update([self.config], accept=accept)
        self.updater.publish([self.config])
        return read_health(self.folder)["bad"]

    def in_force(self) -> list[str]:
        return [prefix.text(entry) for feed in read_set(self.folder) for entry in feed.content.prefixes]


@pytest.fixture
def round_(tmp_path: Path) -> Round:
    return Round(tmp_path)


def test_list_comes_into_the_set_and_changes_are_counted(round_: Round) -> None:
    health = round_.go(b"192.0.2.1\n192.0.2.2\n")
    assert (health.state, health.entries, health.added, health.removed) == ("ok", 2, 2, 0)
    health = round_.go(b"192.0.2.2\n192.0.2.3\n192.0.2.4\n")
    assert (health.entries, health.added, health.removed) == (3, 2, 1)
    assert round_.in_force() == ["192.0.2.2", "192.0.2.3", "192.0.2.4"]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (None, "the server answers 500"),
        (b"\n", "fewer than min_entries"),
        (b"<!DOCTYPE html><html><body>192.0.2.9</body>", "HTML"),
        (b"\x7fELF\0\0\0\1", "binary"),
        (b"nonsense\n" * 50 + b"192.0.2.9\n", "no indicator"),
        (b"192.0.2.9\n" * 30, "bytes are more than max_size"),
    ],
)
def test_bad_list_leaves_the_last_good_copy_with_a_clear_problem(tmp_path: Path, body: bytes | None, says: str) -> None:
    big = "max_size" in says
    round_ = Round(tmp_path, max_size=100) if big else Round(tmp_path)
    good = round_.go(b"192.0.2.1\n")
    bad = round_.go(body)
    assert (bad.state, bad.failures, bad.confirmed) == ("failed", 1, good.confirmed)
    assert says in bad.problem
    assert round_.in_force() == ["192.0.2.1"]
    assert round_.go(b"192.0.2.2\n").state == "ok"
    assert round_.in_force() == ["192.0.2.2"]


@pytest.mark.parametrize(("body", "says"), [(b"192.0.2.1\n" * 3, "it shrank"), (b"", "")])
def test_implausible_list_waits_in_quarantine_until_it_is_accepted(round_: Round, body: bytes, says: str) -> None:
    round_.go(MANY)
    if not says:
        body, says = b"".join(b"198.51.%d.%d\n" % (n >> 8, n & 255) for n in range(3000)), "it grew"
    health = round_.go(body)
    assert health.state == "quarantined"
    assert says in health.problem
    assert len(round_.in_force()) == 200
    assert (round_.folder / "bad" / "quarantine").read_bytes() == body
    assert round_.go(accept=True).state == "ok"
    assert len(round_.in_force()) == len(set(body.split()))
    assert not (round_.folder / "bad" / "quarantine").exists()


def test_format_that_changes_overnight_waits_in_quarantine(tmp_path: Path) -> None:
    round_ = Round(tmp_path, format="auto")
    round_.go(MANY)
    health = round_.go(b'[{"ip": "192.0.2.1"}]')
    assert (health.state, "from plain to json" in health.problem) == ("quarantined", True)


def test_restart_without_network_has_the_last_good_copy(round_: Round) -> None:
    round_.go(b"192.0.2.1\n")
    (round_.folder / "feeds.set").unlink()
    again = Round(round_.folder)
    again.now = round_.now
    again.go(None)
    assert again.in_force() == ["192.0.2.1"]


def test_nothing_is_written_when_nothing_changed(round_: Round) -> None:
    round_.go(b"192.0.2.1\n")
    before = (round_.folder / "feeds.set").stat()
    round_.go()
    assert (round_.folder / "feeds.set").stat().st_mtime_ns == before.st_mtime_ns


def test_copy_that_nobody_confirms_is_given_up(tmp_path: Path) -> None:
    round_ = Round(tmp_path, expires="1d")
    round_.go(b"192.0.2.1\n")
    assert round_.go(None, later=80_000).state == "failed"
    assert round_.in_force() == ["192.0.2.1"]
    assert round_.go(None, later=80_000).state == "expired"
    assert round_.in_force() == []
    assert round_.go(b"192.0.2.1\n").state == "ok"
    assert round_.in_force() == ["192.0.2.1"]


def test_entries_remember_when_they_were_listed_first(round_: Round) -> None:
    round_.go(b"192.0.2.1\n")
    first = int(round_.now)
    round_.go(b"192.0.2.1\n192.0.2.2\n", later=5000)
    (feed,) = read_set(round_.folder, with_times=True)
    assert list(feed.seen) == [first, first + 5000]


def test_only_what_is_due_is_asked(round_: Round) -> None:
    round_.go(b"192.0.2.1\n")
    assert round_.updater.due([round_.config]) == []
    round_.now += 3600 * 1.2
    assert round_.updater.due([round_.config]) == [round_.config]


@pytest.mark.parametrize(
    ("period", "body", "minutes"),
    [
        ("1h", None, [1, 2, 4, 8, 16, 32, 64, 128, 256, 360, 360]),
        ("1d", None, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 1440, 1440]),
        ("1h", b"<html>", [60, 120, 240, 360, 360]),
        ("1d", b"<html>", [1440, 1440]),
    ],
)
def test_failures_wait_longer_each_time_and_never_for_days(
    tmp_path: Path, period: str, body: bytes | None, minutes: list[int]
) -> None:
    round_ = Round(tmp_path, period=period)
    for expected in minutes:
        round_.go(body)
        wait = (round_.updater.next_due([round_.config]) - round_.now) / 60
        assert 0.9 * expected <= wait <= 1.1 * expected
    round_.go(b"192.0.2.1\n")
    assert round_.go(None).failures == 1


def test_reader_that_fails_is_a_failure_of_its_feed_alone(round_: Round, monkeypatch: pytest.MonkeyPatch) -> None:
    round_.go(b"192.0.2.1\n")
    with monkeypatch.context() as patch:
        patch.setattr("threatfeeds.updater.read_as", lambda *_: [][1])
        health = round_.go(b"192.0.2.2\n")
    assert (health.state, "IndexError" in health.problem) == ("failed", True)
    assert round_.in_force() == ["192.0.2.1"]


def test_slow_source_holds_no_other_up(round_: Round) -> None:
    answer = threading.Event()

    def get(request: Request) -> Response:
        if "slow" in request.url:
            answer.wait(30)
        return Response(200, b"192.0.2.1\n" if "slow" in request.url else b"192.0.2.2\n", {})

    updater = Updater(Store(round_.folder), get=get, clock=lambda: round_.now)
    configs = [FeedConfig(name=name, url=f"https://lists.example/{name}") for name in ("slow", "quick")]
    updater.start(configs)
    assert [report.name for report in updater.ended(0.5)] == ["quick"]
    assert updater.busy
    updater.publish(configs)
    assert round_.in_force() == ["192.0.2.2"]
    assert updater.next_due(configs) > round_.now
    updater.start([configs[0]])  # is being asked
    answer.set()
    assert [report.name for report in updater.ended(30)] == ["slow"]
    assert not updater.busy
    updater.publish(configs)
    assert sorted(round_.in_force()) == ["192.0.2.1", "192.0.2.2"]


def test_what_was_not_believed_is_gone_when_the_source_says_the_list_of_before(round_: Round) -> None:
    round_.go(MANY)
    assert round_.go(b"192.0.2.1\n").state == "quarantined"
    assert round_.go(MANY).state == "ok"
    assert not (round_.folder / "bad" / "quarantine").exists()


def test_other_source_of_the_same_name_replaces_the_list_when_it_comes(round_: Round) -> None:
    round_.go(MANY)
    round_.config = msgspec.structs.replace(round_.config, url="https://lists.example/other.txt")
    assert round_.updater.due([round_.config]) == [round_.config]
    round_.go(None)
    assert len(round_.in_force()) == 200
    assert round_.updater.due([round_.config]) == []
    assert round_.go(b"192.0.2.7\n").state == "ok"
    assert round_.in_force() == ["192.0.2.7"]


def test_format_that_the_operator_changes_is_no_surprise(round_: Round) -> None:
    round_.go(MANY)
    round_.config = msgspec.structs.replace(round_.config, format="csv", column="ip", min_entries=0)
    assert round_.go(b"date,ip\n1,192.0.2.1\n" + b"".join(b"2,192.0.3.%d\n" % n for n in range(200))).state == "ok"
    assert len(round_.in_force()) == 201


def test_removed_feed_leaves_the_set(round_: Round) -> None:
    round_.go(b"192.0.2.1\n")
    round_.updater.publish([])
    assert round_.in_force() == []


def test_links_and_pipes_in_the_state_folder_are_not_followed(tmp_path: Path) -> None:
    import os

    (tmp_path / "target").write_bytes(b"x")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "pipe"):
        with pytest.raises((OSError, Exception), match=r"symbolic|regular"):
            read_bounded(tmp_path / name, 10)
