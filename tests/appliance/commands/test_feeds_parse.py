# SPDX-License-Identifier: Apache-2.0
import gzip
import subprocess
import sys
from pathlib import Path

import pytest

from appliance.cli import main
from appliance.commands.feeds_parse import LARGEST

LIST = "# x\n192.0.2.1\n192.0.2.1\n2001:db8::/32\n" + "no entry\n" * 5 + "evil.exe\n\x1b[31mred\n"


def shown(path: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    assert main(["feeds", "parse", str(path), *arguments]) == 0
    return capsys.readouterr().out.splitlines()


def test_a_person_sees_what_there_is_and_why_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "list").write_text(LIST)
    head, *lines = shown(tmp_path / "list", capsys, "--format", "plain")
    assert head == f"{tmp_path}/list: format plain"
    assert [line.split(None, 1) for line in lines[:5]] == [
        ["1", "IPv4 addresses"], ["1", "IPv6 networks"], ["1", "repeated"], ["1", "comments"], ["7", "rejected:"],
    ]  # fmt: skip
    assert [line.strip() for line in lines[5:]] == [
        "6 × neither an address nor a name", "line 5: no entry", "line 6: no entry", "line 7: no entry", "and 3 more",
        "1 × the name of a file", "line 10: evil.exe", "(--json shows all)",
    ]  # fmt: skip


def test_what_a_list_holds_does_not_reach_the_terminal_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "list").write_text("\x1b[31mred\n")
    assert shown(tmp_path / "list", capsys, "--format", "plain")[-1].strip() == r"line 1: \x1b[31mred"


def test_a_list_without_indicators_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "list").write_text("# nothing\n")
    lines = shown(tmp_path / "list", capsys)
    assert lines[0].endswith("format plain (guessed)")
    assert lines[1].split() == ["no", "indicators"]


def test_records_are_called_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "list").write_text('["192.0.2.1", "nothing"]')
    assert shown(tmp_path / "list", capsys)[-1].strip() == "record 2: nothing"


def test_a_packed_list_is_read_and_a_binary_one_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "list.gz").write_bytes(gzip.compress(b"192.0.2.1\n"))
    assert shown(tmp_path / "list.gz", capsys)[1].split(None, 1) == ["1", "IPv4 addresses"]
    (tmp_path / "list").write_bytes(b"\x7fELF\0\0")
    assert main(["feeds", "parse", str(tmp_path / "list")]) == 2
    assert f"{tmp_path}/list: this is binary, not a list" in capsys.readouterr().err


def test_a_list_needs_the_memory_that_it_needs_and_not_what_a_list_may_need(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("192.0.2.1\n")
    command = ["prlimit", f"--as={LARGEST // 2}", sys.executable, "-m", "appliance", "feeds", "parse", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, "IPv4 addresses" in done.stdout) == (0, True), done.stderr
