# SPDX-License-Identifier: Apache-2.0
"""The demonstration is the acceptance test: the real service, real clients, every step as expected."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")


@pytest.mark.lab
@pytest.mark.slow
@pytest.mark.timeout(180)
def test_every_step_of_the_demonstration_is_as_expected() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "appliance.lab.demo"],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=170,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    last = done.stdout.strip().splitlines()[-1]
    count, _, total = last.partition(" of ")
    assert count == total.split()[0], last
