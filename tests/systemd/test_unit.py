# SPDX-License-Identifier: Apache-2.0
"""The unit as systemd reads it: it verifies, and its exposure stays where it was measured."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

SYSTEMD = Path(__file__).resolve().parents[2] / "systemd"
EXPOSURE = 2.0  # measured 1.9 with systemd 252; the rest is AF_INET, AF_NETLINK, CAP_NET_ADMIN, the host's network

pytestmark = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze on this machine")


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit with a program that exists, alone in a folder."""
    text = (SYSTEMD / "portcullis.service").read_text()
    path = tmp_path / "portcullis.service"
    path.write_text(text.replace("/opt/portcullis/bin/portcullis", "/bin/true"))
    return path


def test_systemd_accepts_every_line_of_the_unit(unit: Path) -> None:
    result = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True, timeout=60
    )
    ours = [line for line in result.stderr.splitlines() if "portcullis" in line]
    assert ours == []
    assert result.returncode == 0, result.stderr


def test_exposure_does_not_grow(unit: Path) -> None:
    result = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", str(unit)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    found = re.search(r"Overall exposure level for portcullis\.service: ([0-9.]+)", result.stdout)
    assert found, result.stdout + result.stderr
    assert float(found[1]) <= EXPOSURE


def test_the_unit_holds_one_capability() -> None:
    lines = (SYSTEMD / "portcullis.service").read_text().splitlines()
    assert "CapabilityBoundingSet=CAP_NET_ADMIN" in lines
    assert "AmbientCapabilities=CAP_NET_ADMIN" in lines
    assert "NoNewPrivileges=yes" in lines


@pytest.mark.skipif(shutil.which("systemd-sysusers") is None, reason="no systemd-sysusers on this machine")
def test_the_user_of_the_unit_is_the_one_that_sysusers_makes(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    subprocess.run(
        ["systemd-sysusers", f"--root={tmp_path}", str(SYSTEMD / "portcullis.sysusers")], check=True, timeout=60
    )
    users = {line.split(":")[0] for line in (tmp_path / "etc/passwd").read_text().splitlines()}
    match = re.search(r"^User=(.*)$", (SYSTEMD / "portcullis.service").read_text(), re.M)
    assert match and match[1] in users
