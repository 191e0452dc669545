# SPDX-License-Identifier: Apache-2.0
"""The service with what portcullis.service leaves it: a user of its own and CAP_NET_ADMIN, nothing else."""

import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import pytest

from appliance.lab import Lab, have_root
from appliance.lab.program import REPOSITORY, Service

pytestmark = [pytest.mark.lab, pytest.mark.skipif(not have_root(), reason="network namespaces need root")]

NOBODY = "65534"
AS_UNIT = (
    "setpriv",
    f"--reuid={NOBODY}",
    f"--regid={NOBODY}",
    "--groups=0",
    "--no-new-privs",
    "--bounding-set=-all,+net_admin",
    "--inh-caps=-all,+net_admin",
    "--ambient-caps=-all,+net_admin",
)
# Again by its own name, as the service starts its inspectors: setpriv itself could still reach root's folders.
PROBE = """
import os, sys
os.execv(sys.executable, [sys.executable, "-B", "-c", "import appliance.service.service, fastpath._fastpath"])
"""
CONFIG = """
mode = "enforce"
[policy]
paths = ["{dir}/policy.d"]
[feeds]
paths = []
[inspection]
signatures = []
[metrics]
listen = ""
[control]
socket = "{dir}/control.sock"
state = "{dir}/state"
[events]
file = "{dir}/eve.json"
"""


@pytest.fixture
def python() -> tuple[str, dict[str, str]]:
    """An interpreter that an unprivileged user may run, and the variables it needs to find the packages."""
    variables = {**os.environ, "PYTHONPATH": f"{REPOSITORY}:{sysconfig.get_paths()['purelib']}", "HOME": "/"}
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for candidate in (str(Path(sys.executable).resolve()), f"/usr/bin/{version}"):
        tried = subprocess.run(
            [*AS_UNIT, candidate, "-B", "-c", PROBE],
            env=variables,
            capture_output=True,
            text=True,
            timeout=60,
            cwd="/",
        )
        if tried.returncode == 0:
            return candidate, variables
    pytest.skip(f"no interpreter that another user may run: {tried.stderr.strip().splitlines()[-1]}")


def test_one_capability_is_enough(python: tuple[str, dict[str, str]]) -> None:
    interpreter, variables = python
    with tempfile.TemporaryDirectory(prefix="portcullis-unit-") as name, Lab() as lab:
        directory = Path(name)  # pytest's own folders are closed to other users
        config = directory / "portcullis.toml"
        config.write_text(CONFIG.format(dir=directory))
        (directory / "policy.d").mkdir()
        for path in (directory, config):
            os.chown(path, int(NOBODY), int(NOBODY))
        client, node, server = lab.chain()
        service = Service(node, config, directory / "log")
        service.command = [*AS_UNIT, interpreter, "-B", "-m", "appliance", "run", "--config", str(config)]
        service.start(env=variables)
        status = Path(f"/proc/{service.pid}/status").read_text()
        assert "CapEff:\t0000000000001000\n" in status  # CAP_NET_ADMIN is bit 12
        assert f"Uid:\t{NOBODY}\t" in status
        assert "1 received" in client.run(["ping", "-c", "1", "-W", "2", server.v4], check=False).stdout
        assert service.stop() == 0, service.output()
        assert node.run(["nft", "list", "ruleset"]).stdout.strip() == ""
