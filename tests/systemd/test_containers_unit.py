# SPDX-License-Identifier: Apache-2.0
"""The unit that may ask the container engines has no capability, no network and no packet."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

UNIT = Path(__file__).resolve().parents[2] / "systemd/portcullis-containers.service"
EXPOSURE = 2.2  # it is root, without capabilities: the sockets are root's

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze on this machine")


@pytest.fixture
def unit(tmp_path: Path) -> str:
    path = tmp_path / UNIT.name
    path.write_text(UNIT.read_text().replace("/opt/portcullis/bin/portcullis", "/bin/true"))
    return str(path)


@needs_systemd
def test_systemd_accepts_every_line(unit: str) -> None:
    result = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, timeout=60)
    assert [line for line in result.stderr.splitlines() if "portcullis" in line] == []


@needs_systemd
def test_exposure_does_not_grow(unit: str) -> None:
    result = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", unit],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    found = re.search(r"Overall exposure level for portcullis-containers\.service: ([0-9.]+)", result.stdout)
    assert found, result.stdout + result.stderr
    assert float(found[1]) <= EXPOSURE


def test_no_capability_and_no_address_family_of_a_network() -> None:
    lines = UNIT.read_text().splitlines()
    assert "CapabilityBoundingSet=" in lines
    assert "RestrictAddressFamilies=AF_UNIX AF_NETLINK" in lines
