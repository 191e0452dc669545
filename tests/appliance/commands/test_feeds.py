# SPDX-License-Identifier: Apache-2.0
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest

from appliance.cli import main
from appliance.commands import feeds
from appliance.commands.feeds_update import serve
from appliance.service.aside import Aside, save
from appliance.sources.feed_copies import Copies
from threatfeeds import Feed, FeedConfig, prefix, read_feed
from threatfeeds.fetch.http import Request, Response
from threatfeeds.fetch.store import Store, read_set
from threatfeeds.updater import Updater

KINDS = ["ipv4", "ipv6", "ipv4_prefix", "ipv6_prefix", "range", "domain", "url", "ja3", "ja4", "sha1", "sha256", "md5"]
# What a file is in, where its place in the corpora does not already say "plain".
FORMATS = {
    "abusech/feodo-ipblocklist.csv": "csv",
    "abusech/sslipblacklist-2020.csv": "csv",
    "dnsmasq/": "dnsmasq",
    "domains/unit42-silverterrier_domains19_CRLF.csv": "csv",
    "hosts/": "hosts",
    "misp-warninglists/": "json",
    "misp/eset-": "misp",
    "misp/misp_": "misp",
    "misp/feed-metadata": "json",
    "p2p/": "p2p",
    "rpz/": "rpz",
    "spamhaus/drop_v4.json": "json",
    "stix/misp-stix1": "stix1",
    "stix/": "stix",
    "taxii/": "stix",
    "zeek-intel/": "zeek-intel",
    "intelmq/dataplane": "csv",
    "intelmq/cymru": "csv",
    "intelmq/dshield_block": "dshield",
    "defanged/eset": "report",
    "defanged/executemalware": "report",
}
_ENTRY = re.compile(r"- `(?P<file>[^`]+)` \|.*?\| (?P<bytes>\d+) B \| (?P<entries>\d+) entries \| (?P<quirks>.*)")
# Lists of one indicator in each line: what INDEX.md counts is what a reader must find.
_LISTS = ("bitwire/", "blocklistde/", "blocklistproject/", "cins/", "cps/", "firehol", "hosts/", "tor/", "p2p/",
          "dnsmasq/", "domains/dnsbunker", "spamhaus/edrop", "misp-warninglists/", "zeek-intel/")  # fmt: skip


def run(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> Any:
    assert main(["feeds", *arguments, "--json"]) == status
    return json.loads(capsys.readouterr().out)


def samples(corpora: Path) -> dict[str, int]:
    text = (corpora / "feeds" / "INDEX.md").read_text()
    return {found["file"]: int(found["entries"]) for found in map(_ENTRY.match, text.splitlines()) if found}


def test_every_sample_is_read_in_its_format(corpora: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = {name: run(capsys, "parse", str(corpora / "feeds" / name)) for name in samples(corpora)}
    assert len(found) > 100
    for name, seen in found.items():
        if name.startswith("intelmq/") and not any(name.startswith(known) for known in FORMATS):
            continue  # mails, tables and reports of many makers
        expected = next((form for start, form in FORMATS.items() if name.startswith(start)), "plain")
        assert (name, seen["format"]) == (name, expected)


def test_numbers_are_those_of_the_index(corpora: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, entries in samples(corpora).items():
        if name.startswith(_LISTS):
            seen = run(capsys, "parse", str(corpora / "feeds" / name))
            total = sum(seen["indicators"].values()) + seen["duplicates"] + len(seen["rejected"])
            assert (name, total) == (name, entries)


def test_parse_prints_the_shape_that_programs_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "list").write_text("# a\n192.0.2.1\n192.0.2.1\nevil[.]example\nnonsense\n2001:db8::/32\n")
    found = run(capsys, "parse", str(tmp_path / "list"))
    assert list(found) == ["format", "indicators", "duplicates", "comments", "rejected"]
    assert list(found["indicators"]) == KINDS
    assert {kind: number for kind, number in found["indicators"].items() if number} == {
        "ipv4": 1, "domain": 1, "ipv6_prefix": 1,
    }  # fmt: skip
    assert (found["duplicates"], found["comments"]) == (1, 1)
    assert found["rejected"] == [{"line": 5, "text": "nonsense", "why": "neither an address nor a name"}]


def test_unknown_format_and_missing_file_are_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "list").write_text("x")
    assert main(["feeds", "parse", str(tmp_path / "list"), "--format", "plian"]) == 2
    assert main(["feeds", "parse", str(tmp_path / "none")]) == 2
    assert "cannot be read" in capsys.readouterr().err


@pytest.fixture
def node(tmp_path: Path) -> list[str]:
    """A node with a local feed and a fetched one; the arguments that name its configuration."""
    folder = tmp_path / "feeds.d"
    folder.mkdir()
    (folder / "local.toml").write_text('file = "local.txt"\naction = "drop"\nlabels = { level = "high" }')
    (folder / "local.txt").write_text("192.0.2.0/24\nevil.example\n")
    (folder / "words.toml").write_text('file = "words.txt"\naction = "reject"\nenabled = true')
    (folder / "words.txt").write_text(f"http://B\u00fccher.example/a/b\nhttps://hidden.example/x\n{'a1' * 16}\n")
    (folder / "far.toml").write_text('url = "https://lists.example/far"\naction = "alert"')
    (tmp_path / "portcullis.toml").write_text(
        f'[feeds]\npaths = ["{folder}"]\nstate = "{tmp_path}/state"\nallow = ["good.evil.example", "192.0.2.9"]\n'
    )

    def get(request: Request) -> Response:
        return Response(200, b"192.0.2.7\n198.51.100.0/24\n*.evil.example\nnonsense-here.\n", {})

    config = FeedConfig(name="far", url="https://lists.example/far", max_rejected=50)
    updater = Updater(Store(tmp_path / "state"), get=get, clock=lambda: 1_785_542_400.0)
    updater.update([config])
    updater.publish([config])
    return ["--config", str(tmp_path / "portcullis.toml")]


def test_list_and_show(node: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    found = {feed["name"]: feed for feed in run(capsys, "list", *node)}
    assert (found["local"]["entries"], found["local"]["state"], found["local"]["action"]) == (2, "ok", "drop")
    assert (found["far"]["entries"], found["far"]["rejected"], found["far"]["added"]) == (3, 1, 3)
    local = run(capsys, "show", "local", *node)
    assert local["labels"] == {"level": "high"}
    saved = "feed local: 1 of its entries not enforced: configured 192.0.2.9"
    assert any(text.startswith(saved) for text in local["left_out"])
    shown = run(capsys, "show", "far", *node)
    assert "nonsense-here" in shown["warnings"][0]
    assert main(["feeds", "show", "nobody", *node]) == 2


def test_test_says_which_feed_since_when_and_what_happens(node: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    found = run(capsys, "test", "192.0.2.7", *node)
    assert found["result"] == "drop"
    assert {match["feed"] for match in found["matches"]} == {"far", "local"}
    assert next(m for m in found["matches"] if m["feed"] == "far")["since"] == "2026-08-01T00:00:00Z"
    assert run(capsys, "test", "www.evil.example", *node)["result"] == "drop"
    assert run(capsys, "test", "203.0.113.1", *node) == {
        "what": "203.0.113.1", "result": "none", "matches": [], "allowed": "",
    }  # fmt: skip


def test_test_knows_urls_and_fingerprints(node: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    for what, entry in (
        ("http://xn--bcher-kva.example:80/a/./b", "http://B\u00fccher.example/a/b"), ("A1" * 16, "a1" * 16),
    ):  # fmt: skip
        found = run(capsys, "test", what, *node)
        assert found["result"] == "reject" and [match["entry"] for match in found["matches"]] == [entry]
    for what in ("https://hidden.example/x", "hidden.example", "http://b\u00fccher.example/a/c", "b1" * 16):
        assert run(capsys, "test", what, *node)["result"] == "none"
    assert run(capsys, "test", "https://www.evil.example/x", *node)["result"] == "drop"
    feed = Path(node[1]).parent / "feeds.d" / "words.toml"
    feed.write_text('file = "words.txt"\naction = "reject"\nhttps_hosts = true')
    assert run(capsys, "test", "https://hidden.example/y", *node)["result"] == "reject"


@pytest.mark.parametrize("what", ["192.0.2.9", "www.good.evil.example", "127.0.0.1"])
def test_test_says_what_is_never_blocked(node: list[str], capsys: pytest.CaptureFixture[str], what: str) -> None:
    found = run(capsys, "test", what, *node)
    assert (found["result"], found["matches"]) == ("none", [])
    assert found["allowed"]


def test_test_says_that_nobody_looks_for_a_hash_of_a_file(
    node: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "feeds.d/files.toml").write_text('file = "files.txt"\naction = "drop"\nhashes = "files"')
    (tmp_path / "feeds.d/files.txt").write_text("d" * 40)
    found = run(capsys, "test", "d" * 40, *node)
    assert (found["result"], [match["action"] for match in found["matches"]]) == ("none", ["none"])
    assert main(["feeds", "test", "d" * 40, *node]) == 0
    assert "looked for nowhere" in capsys.readouterr().out


@pytest.mark.parametrize(("hours", "state"), [(2, "ok"), (4, "stale")])
def test_a_feed_whose_source_is_silent_is_shown_as_stale(
    node: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], hours: int, state: str
) -> None:
    monkeypatch.setattr("time.time", lambda: 1_785_542_400.0 + 3600 * hours)
    found = {feed["name"]: (feed["state"], feed["problem"]) for feed in run(capsys, "list", *node)}
    assert found["far"] == (state, "no word from its source for three periods" if state == "stale" else "")
    assert found["local"] == ("ok", "")


def test_diff_and_export(node: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "new").write_text("192.0.2.0/24\nworse.example\n")
    found = run(capsys, "diff", "local", str(tmp_path / "new"), *node)
    assert (found["added"], found["removed"]) == (["worse.example"], ["evil.example"])
    assert run(capsys, "export", "local", *node) == {"local": ["192.0.2.0/24", "evil.example"]}


def test_update_says_what_failed_and_keeps_the_copy(node: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    config = Path(node[1])
    feed = config.parent / "feeds.d" / "far.toml"
    feed.write_text('url = "https://127.0.0.1:9/far"\ntimeout = "1s"\nca = "/nonexistent.pem"')
    (report,) = run(capsys, "update", *node, status=1)
    assert (report["name"], report["state"]) == ("far", "failed")
    assert next(feed for feed in run(capsys, "list", *node) if feed["name"] == "far")["entries"] == 3


def test_update_publishes_what_is_there_while_a_source_is_slow(
    node: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "feeds.d/slow.toml").write_text('url = "https://lists.example/slow"')

    def published() -> set[str]:
        return {prefix.text(entry) for feed in read_set(tmp_path / "state") for entry in feed.content.prefixes}

    def get(request: Request) -> Response:
        if "far" in request.url:
            return Response(200, b"203.0.113.1\n", {})
        end = time.monotonic() + 20
        while "203.0.113.1" not in published() and time.monotonic() < end:
            time.sleep(0.05)
        return Response(200, b"203.0.113.2\n" if "203.0.113.1" in published() else b"", {})

    monkeypatch.setattr("appliance.commands.feeds_update.PATIENCE", 0.2)
    monkeypatch.setattr("appliance.commands.feeds_update.Updater", partial(Updater, get=get))
    reports = run(capsys, "update", *node)
    assert {report["name"]: report["state"] for report in reports} == {"far": "ok", "slow": "ok"}
    assert published() == {"203.0.113.1", "203.0.113.2"}


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it is about leaving root's rights")
def test_root_leaves_its_rights_before_it_fetches() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        state = folder / "state"
        state.mkdir()
        os.chown(state, 65534, 65534)
        (folder / "feeds.d").mkdir()
        (folder / "feeds.d" / "far.toml").write_text('url = "https://127.0.0.1:9/far"\nca = "/nonexistent.pem"')
        config = folder / "portcullis.toml"
        config.write_text(f'[feeds]\npaths = ["{folder}/feeds.d"]\nstate = "{state}"\n')
        done = subprocess.run(
            [sys.executable, "-m", "appliance", "feeds", "update", "--config", str(config)],
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert (done.returncode, "far: failed" in done.stdout) == (1, True), done.stderr
        made = [state / "far", state / "far" / "state.json", state / "health.json"]
        assert [(path.stat().st_uid, path.stat().st_gid) for path in made] == [(65534, 65534)] * 3


def test_daemon_goes_on_after_errors(node: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    config = Path(node[1])
    feeds = config.parent / "feeds.d"
    (feeds / "far.toml").write_text("nonsense")
    waits: list[float] = []
    assert serve(config, rounds=2, sleep=waits.append) == 0
    assert len(waits) == 2
    assert capsys.readouterr().err.count("far.toml") == 1


@pytest.fixture
def aside(node: list[str], tmp_path: Path) -> list[str]:
    """The feed local grew, and the service has put that aside."""
    config = tmp_path / "portcullis.toml"
    config.write_text(config.read_text() + f'[control]\nstate = "{tmp_path}/service"\n')
    (tmp_path / "service").mkdir()
    feed = FeedConfig(name="local", file=str(tmp_path / "feeds.d/local.txt"), action="drop", labels={"level": "high"})
    before = Feed(feed, read_feed(feed, b"192.0.2.0/24\nevil.example\n"))
    refused = Feed(feed, read_feed(feed, b"192.0.2.0/24\n198.51.100.0/24\n"))
    (tmp_path / "feeds.d/local.txt").write_text("192.0.2.0/24\n198.51.100.0/24\n")
    save(tmp_path / "service", {"local": Aside(before, refused, "it would block much", 1.0)})
    return node


def test_list_that_the_service_put_aside_is_not_what_is_in_force(
    aside: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    found = run(capsys, "diff", "local", *aside)
    assert (found["added"], found["removed"]) == (["198.51.100.0/24"], ["evil.example"])
    assert run(capsys, "export", "local", *aside) == {"local": ["192.0.2.0/24", "evil.example"]}
    shown = run(capsys, "show", "local", *aside)
    assert (shown["state"], shown["problem"]) == ("quarantined", "it would block much")
    assert run(capsys, "test", "evil.example", *aside)["result"] == "drop"
    tested = run(capsys, "test", "198.51.100.1", *aside)
    assert "local" not in {match["feed"] for match in tested["matches"]}


def test_nothing_is_aside_once_the_list_is_that_of_before(
    aside: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "feeds.d/local.txt").write_text("evil.example\n192.0.2.0/24\n")
    assert run(capsys, "show", "local", *aside)["state"] == "ok"
    assert main(["feeds", "diff", "local", *aside]) == 2
    assert "nothing of local is in quarantine" in capsys.readouterr().err


def test_list_that_cannot_be_read_is_shown_with_the_copy_in_force(
    node: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "portcullis.toml"
    config.write_text(config.read_text() + f'[control]\nstate = "{tmp_path}/service"\n')
    feed = FeedConfig(name="local", file=str(tmp_path / "feeds.d/local.txt"))
    Copies(tmp_path / "service/lists").keep([Feed(feed, read_feed(feed, b"evil.example\n"))])
    (tmp_path / "feeds.d/local.txt").unlink()
    shown = run(capsys, "show", "local", *node)
    assert (shown["state"], shown["entries"], "No such file" in shown["problem"]) == ("failed", 1, True)
    assert run(capsys, "test", "evil.example", *node)["result"] == "drop"


def test_copy_that_nobody_confirmed_in_time_is_shown_as_given_up(
    node: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "feeds.d/far.toml").write_text('url = "https://lists.example/far"\nexpires = "1d"')
    assert run(capsys, "export", "far", *node) == {"far": []}
    assert run(capsys, "show", "far", *node)["state"] == "expired"
    monkeypatch.setattr("time.time", lambda: 1_785_542_400.0 + 3600)
    assert run(capsys, "show", "far", *node)["entries"] == 3


def test_an_entry_without_a_time_is_told_without_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    match = {"feed": "local", "entry": "192.0.2.1/32", "since": None, "action": "drop", "direction": "both"}
    monkeypatch.setattr(feeds, "feeds_of", lambda arguments: MagicMock())
    monkeypatch.setattr(feeds, "test", lambda *_: {"matches": [match], "allowed": ""})
    assert feeds.run_test(Namespace(json=False, what="192.0.2.1")) == 0
    assert capsys.readouterr().out == "local: lists 192.0.2.1/32: drop, both\n"
