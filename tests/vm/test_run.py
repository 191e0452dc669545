# SPDX-License-Identifier: Apache-2.0
"""What the host side of `make test-vm` makes of reports: nothing that failed, or never ran, is taken for success."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from tests.vm import run

REPORT = """run: backend auto, kernel 6.1.0
tests/lab/test_a.py::test_one PASSED [ 50%]
=========================== short test summary info ============================
PASSED tests/lab/test_a.py::test_one
SKIPPED [2] tests/lab/test_a.py:7: no podman here
==================== 1 passed, 2 skipped in 3.20s (0:00:03) ====================
exit status 0
end of the plan
"""


class Finished:
    """A machine that has ended."""

    def __init__(self, text: str) -> None:
        self.text = text

    def report(self) -> run.Report:
        return run.Report(self.text)

    def console(self) -> str:
        return "the console"


def told(here: int, *reports: str) -> int:
    return run.tell(cast(list[run.Machine], [Finished(report) for report in reports]), here)


def test_success_lists_skips_and_closing_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert told(6, REPORT, REPORT) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines.count("SKIPPED [2] tests/lab/test_a.py:7: no podman here") == 2
    assert "test-vm: run: backend auto, kernel 6.1.0" in lines
    assert "test-vm: 1 passed, 2 skipped in 3.20s (0:00:03)" in lines
    assert lines[-1] == "test-vm: 2 passed, 4 skipped of 6"


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("end of the plan\n", ""),
        lambda text: text.replace("exit status 0", "exit status 1"),
        lambda text: text.replace("exit status 0", "exit status 3"),
        lambda text: text.replace("[2]", "[1]"),
        lambda text: "",
    ],
    ids=["not finished", "failed", "pytest broke", "one is missing", "never booted"],
)
def test_all_else_is_failure(change: Callable[[str], str], capsys: pytest.CaptureFixture[str]) -> None:
    assert told(3, change(REPORT)) == 1


def test_failures_are_shown_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    text = REPORT.replace("=== short", "E   assert 1 == 2\n=== short")
    text = text.replace("PASSED tests", "FAILED tests").replace("exit status 0", "exit status 1")
    assert told(3, text) == 1
    out = capsys.readouterr().out
    assert "E   assert 1 == 2" in out
    assert "FAILED tests/lab/test_a.py::test_one" in out.splitlines()


def test_every_run_is_in_one_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "cost", lambda name: float(name))
    runs = [("auto", str(number)) for number in (9, 5, 4, 3, 3)]
    shares = run.share_out(runs, 2)
    assert sorted(one for share in shares for one in share) == sorted(runs)
    assert [sum(int(name) for _, name in share) for share in shares] == [12, 12]
    assert run.share_out(runs[:1], 2) == [runs[:1]]


def test_the_chains_run_with_both_backends() -> None:
    runs = run.runs_of(["tests/lab/test_traps.py", *run.TWICE])
    assert {test for backend, test in runs if backend == "xt"} == set(run.TWICE)
    assert {test for backend, test in runs if backend == "auto"} == {"tests/lab/test_traps.py", *run.TWICE}
    lines = run.plan_of(runs).splitlines()
    assert [line.split()[0] for line in lines] == ["auto", "xt"]
    assert "tests/lab/test_traps.py" in lines[0] and "tests/lab/test_traps.py" not in lines[1]


def test_what_is_left_out_is_a_test_with_a_reason() -> None:
    for test, why in run.LEFT_OUT.items():
        path, _, name = test.partition("::")
        assert f"def {name.partition('[')[0]}(" in (run.REPOSITORY / path).read_text()
        assert why


def test_without_qemu_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def which(program: str) -> Any:
        return None if program == run.QEMU else f"/usr/bin/{program}"

    monkeypatch.setattr(run.shutil, "which", which)
    monkeypatch.setattr("sys.argv", ["run", str(tmp_path)])
    assert run.main() == 0
    assert "test-vm: skipped: no qemu-system-x86_64" in capsys.readouterr().out
