# SPDX-License-Identifier: Apache-2.0
"""The unit that talks to the network holds nothing worth stealing."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

SYSTEMD = Path(__file__).resolve().parents[2] / "systemd"
EXPOSURE = 1.4  # measured 1.3 with systemd 252: it needs the Internet and DNS

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze on this machine")


@pytest.fixture
def units(tmp_path: Path) -> list[str]:
    """Service and timer with a program that exists, alone in a folder."""
    for name in ("portcullis-feeds.service", "portcullis-feeds.timer"):
        text = (SYSTEMD / name).read_text()
        (tmp_path / name).write_text(text.replace("/opt/portcullis/bin/portcullis", "/bin/true"))
    return [str(path) for path in sorted(tmp_path.iterdir())]


@needs_systemd
def test_systemd_accepts_every_line(units: list[str]) -> None:
    result = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True, timeout=60
    )
    assert [line for line in result.stderr.splitlines() if "portcullis" in line] == []
    assert result.returncode == 0, result.stderr


@needs_systemd
def test_exposure_does_not_grow(units: list[str]) -> None:
    result = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", units[0]],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    found = re.search(r"Overall exposure level for portcullis-feeds\.service: ([0-9.]+)", result.stdout)
    assert found, result.stdout + result.stderr
    assert float(found[1]) <= EXPOSURE


def test_no_capability_and_a_user_that_sysusers_makes() -> None:
    lines = (SYSTEMD / "portcullis-feeds.service").read_text().splitlines()
    assert "CapabilityBoundingSet=" in lines
    assert "User=portcullis-feeds" in lines
    assert "u portcullis-feeds " in (SYSTEMD / "portcullis.sysusers").read_text()
