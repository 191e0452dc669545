# SPDX-License-Identifier: Apache-2.0
"""A forked program against its twin that was started: nothing that it can see of itself differs."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from appliance.lab import Lab, Namespace
from tests.vm import forked
from tests.vm.forked import Command, recognise
from tests.vm.run import REPOSITORY

PYTHON = [sys.executable, "-m"]
SHOW = [*PYTHON, "tests.vm.introspection"]


@pytest.fixture
def forks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forked, "OURS", ("appliance", "tests"))
    monkeypatch.setattr(subprocess.Popen, "_execute_child", forked._execute_child)


@pytest.fixture
def there(needs_root: None) -> Iterator[Namespace]:
    with Lab() as lab:
        yield lab.namespace("there")


@pytest.mark.parametrize(
    ("words", "command"),
    [
        ([*PYTHON, "appliance", "run"], Command("appliance", ("run",))),
        ([*PYTHON, "appliance.inspection.worker"], Command("appliance.inspection.worker", ())),
        (["ip", "netns", "exec", "pc-1", *PYTHON, "appliance"], Command("appliance", (), "pc-1")),
        ([*PYTHON, "http.server"], None),
        ([sys.executable, "-c", "appliance"], None),
        (["ip", "netns", "exec", "pc-1", "ip", "link"], None),
        (["setpriv", *PYTHON, "appliance"], None),
        (["true"], None),
    ],
)
def test_what_is_forked(words: Sequence[str], command: Command | None) -> None:
    assert recognise(words) == command


def ask(words: Sequence[str], **options: Any) -> dict[str, Any]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "LAB": "1"}
    done = subprocess.run(words, capture_output=True, text=True, input="words", env=environment, **options)
    return {**json.loads(done.stdout), "status": done.returncode, "stderr": done.stderr}


@pytest.mark.parametrize("status", ["0", "3"])
def test_it_sees_what_it_would_see_if_it_were_started(
    status: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    with (tmp_path / "file").open("w") as file:
        number = file.fileno()
        options = {"cwd": tmp_path, "pass_fds": (number,)}
        started = ask([*SHOW, status, "word"], **options)
        request.getfixturevalue("forks")
        assert ask([*SHOW, status, "word"], **options) == started
    assert started["status"] == int(status)
    assert started["descriptors"] == sorted(["0", "1", "2", str(number)])


def test_it_is_in_the_namespace_and_its_sys_shows_it(there: Namespace, request: pytest.FixtureRequest) -> None:
    started = ask(there.command([*SHOW, "0"]))
    request.getfixturevalue("forks")
    assert ask(there.command([*SHOW, "0"])) == started
    assert started["links"] == ["lo"]


def test_the_command_line_is_in_proc(forks: None) -> None:
    with subprocess.Popen([*SHOW, "0"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=-1) as process:
        assert process.stdin is not None
        while b"pytest" in (line := Path(f"/proc/{process.pid}/cmdline").read_bytes()):
            pass
        # As much as has room: the fork has the memory of this process's own command line.
        shown = line.rstrip(b"\0")
        assert shown and b"\0".join(word.encode() for word in (*SHOW, "0")).startswith(shown)


def test_an_error_that_nobody_catches_is_told(forks: None) -> None:
    done = subprocess.run([*SHOW, "no number"], capture_output=True, text=True, input="")
    assert done.returncode == 1
    assert "ValueError: invalid literal" in done.stderr


def test_a_killed_one_has_the_signal_as_its_status(forks: None) -> None:
    with subprocess.Popen([*SHOW, "0"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        process.kill()
        assert process.wait(10) == -9


def test_the_service_starts_its_inspectors_in_the_same_way(forks: None) -> None:
    async def run() -> tuple[int, int, int | None]:
        process = await forked._create_subprocess_exec(*SHOW, "5", stdin=asyncio.subprocess.DEVNULL, stdout=-3)
        return process.pid, await process.wait(), process.returncode

    pid, waited, status = asyncio.run(run())
    assert pid > 0
    assert (waited, status) == (5, 5)
