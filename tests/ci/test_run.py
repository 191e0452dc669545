# SPDX-License-Identifier: Apache-2.0
"""`.ci/run`: a few tests that failed once are run again and named; nothing else is forgiven."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

RUN = Path(__file__).resolve().parents[2] / ".ci/run"
MAKE = """#!/bin/bash
case $1 in
test-systemd) echo "=== 18 passed in 1.0s ===" ;;
test)
    [ -z "$C_FAILED" ] || exit 2
    echo "FAILED tests/a.py::b[x] - boom"
    echo "=== $FAILED failed, 5401 passed in 9.0s (0:00:09) ==="
    exit 2
    ;;
test-py) echo "=== 1 passed in 2.0s ===" && exit "$AGAIN" ;;
esac
"""


def run(tmp_path: Path, failed: int, again: int, c_failed: str = "") -> tuple[int, str]:
    """(exit status, output) where `failed` tests of `make test` fail, and `make` on them ends with `again`."""
    (tmp_path / ".ci").mkdir()
    shutil.copy(RUN, tmp_path / ".ci/run")
    make = tmp_path / "bin/make"
    make.parent.mkdir()
    make.write_text(MAKE)
    make.chmod(0o755)
    words = {"FAILED": str(failed), "AGAIN": str(again), "C_FAILED": c_failed}
    done = subprocess.run(
        ["bash", tmp_path / ".ci/run"],
        env={**os.environ, **words, "PATH": f"{make.parent}:{os.environ['PATH']}"},
        capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    return done.returncode, done.stdout


@pytest.mark.parametrize("failed", [1, 3])
def test_few_that_pass_by_themselves_are_named_and_forgiven(tmp_path: Path, failed: int) -> None:
    status, output = run(tmp_path, failed, 0)
    assert status == 0
    assert "FAILED ONCE tests/a.py::b[x] - boom" in output and output.endswith("=== 1 passed in 2.0s ===\n")


@pytest.mark.parametrize(("failed", "again", "c_failed"), [(1, 1, ""), (4, 0, ""), (12, 0, ""), (1, 0, "yes")])
def test_all_else_fails_the_run(tmp_path: Path, failed: int, again: int, c_failed: str) -> None:
    assert run(tmp_path, failed, again, c_failed)[0] == 2
