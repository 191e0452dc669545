# SPDX-License-Identifier: Apache-2.0
"""`.ci/retry`: a command that fails for a moment does not fail the run, one that fails for good does."""

import os
import subprocess
from pathlib import Path

RETRY = Path(__file__).resolve().parents[2] / ".ci/retry"
COUNTED = 'echo >>"$0"; [ "$(wc -l <"$0")" -ge "$1" ] || exit 7'


def tries(tmp_path: Path, good: int) -> tuple[int, int]:
    """(exit status, tries) of a command that succeeds from the try `good` on."""
    marks = tmp_path / "marks"
    done = subprocess.run(
        [RETRY, "sh", "-c", COUNTED, marks, str(good)],
        env={**os.environ, "RETRY_PAUSES": "0 0"},
        capture_output=True,
        timeout=30,
    )
    return done.returncode, marks.read_text().count("\n")


def test_what_succeeds_runs_once(tmp_path: Path) -> None:
    assert tries(tmp_path, 1) == (0, 1)


def test_what_fails_for_a_moment_succeeds(tmp_path: Path) -> None:
    assert tries(tmp_path, 3) == (0, 3)


def test_what_fails_for_good_fails_with_its_own_status(tmp_path: Path) -> None:
    assert tries(tmp_path, 9) == (7, 3)
