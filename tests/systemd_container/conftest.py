# SPDX-License-Identifier: Apache-2.0
"""One machine for all tests here; each begins with a stopped service and the configuration below."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.service.nodes import ALLOW
from tests.systemd_container.machine import Machine

TREE = Path(os.environ.get("PORTCULLIS_DEBIAN_TREE", "/nonexistent"))
# Every packet needs a worker: what a restart loses is seen.
CONFIG = """
mode = "enforce"
node = "node"
[queues]
count = 2
[fastpath]
fates = false
"""


def _why_not() -> str | None:
    if os.geteuid() != 0:
        return "needs root: boots a container"
    for program in ("systemd-nspawn", "nsenter", "unshare"):
        if shutil.which(program) is None:
            return f"needs {program}"
    if not (TREE / "opt/portcullis/bin/portcullis").exists():
        return "needs a Debian tree with the appliance installed: `make test-systemd` makes it and runs these"
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if reason := _why_not():
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def booted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    machine = Machine(TREE, tmp_path_factory.mktemp("machine"))
    yield machine
    machine.close()


@pytest.fixture
def machine(booted: Machine) -> Iterator[Machine]:
    booted.write("/etc/portcullis/portcullis.toml", CONFIG)
    booted.write("/etc/portcullis/policy.d/allow.yaml", ALLOW)
    yield booted
    booted.run("systemctl", "stop", "portcullis-feeds.timer", "portcullis-feeds.service", "portcullis.service")
    booted.run("systemctl", "reset-failed")
    for unit in ("portcullis.service", "portcullis-feeds.service"):
        booted.drop_in(unit, "")
    for folder in ("etc/portcullis/policy.d", "etc/portcullis/feeds.d", "var/lib/portcullis-feeds"):
        for path in (booted.root / folder).glob("*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
