# SPDX-License-Identifier: Apache-2.0
"""`check` on what people and machines write wrongly: one line or one object for each resource, whatever it is."""

import json
from pathlib import Path
from typing import Any

import pytest

from appliance.cli import main

TIER = "apiVersion: projectcalico.org/v3\nkind: Tier\nmetadata: {name: %s}\n"
FEED = TIER.replace("Tier", "GlobalThreatFeed") + "spec: {pull: {http: {url: %r}}}\n"


def objects(capsys: pytest.CaptureFixture[str], status: int, *arguments: str) -> list[dict[str, Any]]:
    assert main(["check", "--json", *arguments]) == status
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for entry in found:
        assert list(entry) == ["file", "line", "kind", "name", "valid", "errors"]
        assert entry["valid"] is not bool(entry["errors"])
        assert all(list(error) == ["field", "message"] and error["message"] for error in entry["errors"])
    return found


@pytest.mark.parametrize(
    ("content", "line", "words"),
    [
        (b"a: [\n", 1, "invalid YAML"),
        (b"a: [\n\n  \n---\n", 1, "invalid YAML"),
        (b"\xff\xfea\x00", 1, "not UTF-8"),
        (bytes(range(256)), 2, "not UTF-8"),
        (b"a: \x00\n", 1, "control characters"),
        (b"kind: Tier\n\tmetadata: {}\n", 2, "invalid YAML"),
        (b"a: 1\r\nb: 2\r\na: 3\r\n", 3, "key 'a' stands twice"),
        (b"? [a]\n: b\n", 1, "a key must be a string"),
        (b"a: " + b"{a: " * 100_000 + b"\n", 1, "nested more than 64 deep"),
        (b"a: &a [*a]\n", 1, "has no anchor"),
        (b"hello\n", 1, "expected a resource, found 'hello'"),
        (b'{"kind": "Tier",}', 1, "apiVersion"),
        (b"kind: Tier\n", 1, "expected projectcalico.org/v3, found nothing"),
        (b"apiVersion: apps/v1\nkind: Deployment\n", 1, "unknown kind 'Deployment'"),
        (b"# " + b"x" * (16 << 20), 1, "larger than 16 MiB"),
    ],
)
@pytest.mark.parametrize("name", ["a.yaml", "a.json"])
def test_what_is_no_resource_is_one_object(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, line: int, words: str, name: str
) -> None:
    (tmp_path / name).write_bytes(content)
    (tmp_path / "good.yaml").write_text(TIER % "good")
    wrong, good = objects(capsys, 1, str(tmp_path))
    assert (wrong["file"], wrong["line"]) == (str(tmp_path / name), line if "apiVersion" not in words else 1)
    assert any(words in error["message"] or words == error["field"] for error in wrong["errors"])
    assert (good["kind"], good["name"], good["valid"]) == ("Tier", "good", True)


@pytest.mark.parametrize("content", [b"", b"# nothing\n---\n---\n", b"\xef\xbb\xbf", b"---\n...\n", b"null\n"])
def test_nothing_is_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes) -> None:
    (tmp_path / "a.yaml").write_bytes(content)
    assert objects(capsys, 0, str(tmp_path)) == []


def test_a_path_that_is_not_there_hides_no_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(TIER % "a")
    gone, found = objects(capsys, 1, str(tmp_path / "gone"), str(file), str(tmp_path))
    assert (gone["valid"], found["name"], found["valid"]) == (False, "a", True)


def test_no_more_is_read_than_may_be(capsys: pytest.CaptureFixture[str]) -> None:
    (entry,) = objects(capsys, 1, "/dev/zero")
    assert entry["errors"] == [{"field": "", "message": "file is larger than 16 MiB"}]


def test_what_stands_twice_on_one_line_is_told_of_the_second(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiers = [{"apiVersion": "projectcalico.org/v3", "kind": "Tier", "metadata": {"name": name}} for name in "abaca"]
    (tmp_path / "a.json").write_text(json.dumps(tiers))
    told = [(entry["name"], entry["valid"]) for entry in objects(capsys, 1, str(tmp_path))]
    assert told == [("a", True), ("b", True), ("a", False), ("c", True), ("a", False)]


def test_names_stay_on_their_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.yaml").write_text((TIER % r'"a\nb\e[2J"') + f'spec: {{"{"k" * 900}\\n": 1}}\n')
    assert main(["check", str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[1] for line in lines[:-1]] == [r"Tier/a\nb\x1b[2J"] * 2
    assert all(len(line) < 1000 and line.isprintable() for line in lines)


def test_a_feed_is_told_by_name_and_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = [FEED % ("one", "https://a.example/"), "a: [\n", FEED % ("two", "ftp://a.example/"), TIER % "t"]
    (tmp_path / "a.yaml").write_text("---\n".join(texts))
    found = objects(capsys, 1, str(tmp_path))
    assert {(entry["line"], entry["kind"], entry["name"], entry["valid"]) for entry in found} == {
        (1, "GlobalThreatFeed", "one", True), (6, "", "", False), (8, "GlobalThreatFeed", "two", False),
        (13, "Tier", "t", True),
    }  # fmt: skip


def test_a_deep_document_beside_a_feed_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    deep = "a: " + "{a: " * 200_000 + "}" * 200_000
    (tmp_path / "a.yaml").write_text(FEED % ("one", "https://a.example/") + "---\n" + deep)
    assert [entry["valid"] for entry in objects(capsys, 1, str(tmp_path))] == [True, False]


def test_a_namespace_of_a_resource_of_the_whole_cluster_is_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(
        "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkSet\nmetadata: {name: a, namespace: shop}\nspec: {}\n"
        "---\n" + TIER.replace("Tier", "NetworkSet") % "b, namespace: shop"
    )
    assert main(["check", str(file)]) == 0
    (warning,) = [line for line in capsys.readouterr().out.splitlines() if "warning" in line]
    assert warning.startswith(f"warning: {file}:1: metadata.namespace: GlobalNetworkSet a: ")


def test_a_namespace_of_a_threat_feed_is_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(FEED.replace("%s", "a, namespace: shop") % "https://lists.example/a")
    assert main(["check", str(file)]) == 0
    (warning, _) = capsys.readouterr().out.splitlines()
    assert warning.startswith(f"warning: {file}:3: GlobalThreatFeed/a: metadata.namespace: ")


def configured(tmp_path: Path, **named: str) -> Path:
    """A configuration that names three folders, and a good file in each, but for what is said otherwise."""
    files = {"policy/a.yaml": TIER % "a", "feeds/f.toml": 'file = "f.txt"\n', "feeds/f.txt": "192.0.2.1\n"}
    files |= {"rules/s.sig": 'alert tcp any any -> any any (msg:"m"; sid:1;)\n', "policy/notes.json": "{"}
    config = tmp_path / "portcullis.conf"
    files[config.name] = (
        f'[policy]\npaths = ["{tmp_path}/policy"]\n[feeds]\npaths = ["{tmp_path}/feeds"]\n'
        f'[inspection]\nsignatures = ["{tmp_path}/rules/*.sig"]\n'
    )
    for name, text in (files | {name.replace("__", "/"): text for name, text in named.items()}).items():
        path = tmp_path / name.replace("_", ".")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return config


def test_a_configuration_alone_is_checked_with_what_it_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = objects(capsys, 0, "--config", str(configured(tmp_path)))
    assert [(entry["kind"], entry["name"]) for entry in found] == [
        ("Configuration", "portcullis.conf"), ("Tier", "a"), ("Feed", "f"), ("Signature", "1"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text", "kind"),
    [
        ("policy__a_yaml", TIER % "A_", "Tier"),
        ("feeds__f_toml", "file = 3\n", "Feed"),
        ("rules__s_sig", "alert nonsense\n", "Signature"),
        ("portcullis_conf", "[queues]\nlenght = 5\n", "Configuration"),
        ("portcullis_conf", '[policy]\npaths = ["/nowhere/policy"]\n', "Configuration"),
    ],
)
def test_what_is_wrong_in_a_configuration_or_what_it_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, text: str, kind: str
) -> None:
    found = objects(capsys, 1, "--config", str(configured(tmp_path, **{name: text})))
    assert [entry["kind"] for entry in found if not entry["valid"]] == [kind]


def test_a_configuration_that_is_not_there_is_invalid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (entry,) = objects(capsys, 1, "--config", str(tmp_path / "gone.toml"))
    assert (entry["kind"], entry["valid"]) == ("Configuration", False)


def test_nothing_to_check_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check"]) == 2
    assert "name a PATH" in capsys.readouterr().err
