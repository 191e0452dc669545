# SPDX-License-Identifier: Apache-2.0
"""`make install` into a staging folder: everything in the usual places, nothing that points back to it."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        shutil.which("make") is None or not (REPOSITORY / ".venv/bin/pip").exists(),
        reason="needs make and the tree's own .venv (`make run` or `make test` makes it)",
    ),
]


def install(root: Path) -> None:
    done = subprocess.run(
        ["make", "-C", str(REPOSITORY), "-o", "build/core", "install", f"DESTDIR={root}"],
        capture_output=True,
        text=True,
        timeout=280,
        stdin=subprocess.DEVNULL,
        env={name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")},
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("root")
    install(path)
    return path


def test_everything_is_in_its_place(root: Path) -> None:
    for name in (
        "opt/portcullis/bin/portcullis",
        "usr/local/bin/portcullis",
        "etc/portcullis/portcullis.toml",
        "etc/portcullis/policy.d",
        "etc/portcullis/feeds.d",
        "etc/portcullis/signatures.d",
        "etc/systemd/system/portcullis.service",
        "usr/lib/sysusers.d/portcullis.conf",
        "etc/systemd/system/portcullis-feeds.service",
        "etc/systemd/system/portcullis-feeds.timer",
        "etc/systemd/system/portcullis-containers.service",
        "usr/lib/tmpfiles.d/portcullis.conf",
        "opt/portcullis/share/doc/portcullis/examples/README.md",
    ):
        assert (root / name).is_symlink() or (root / name).exists(), name


def test_nothing_points_to_the_staging_folder(root: Path) -> None:
    places = [
        *(root / "opt/portcullis/bin").iterdir(),
        root / "opt/portcullis/pyvenv.cfg",
        root / "etc/systemd/system/portcullis.service",
    ]
    texts = [path for path in places if path.is_file() and not path.is_symlink()]
    assert [path.name for path in texts if str(root).encode() in path.read_bytes()] == []
    assert (root / "usr/local/bin/portcullis").readlink() == Path("/opt/portcullis/bin/portcullis")


def test_the_installed_packages_run_without_the_tree(root: Path, tmp_path: Path) -> None:
    python = root / "opt/portcullis/bin/python"
    packages = next((root / "opt/portcullis/lib").glob("python3*/site-packages"))
    done = subprocess.run(
        [str(python), "-m", "appliance", "--version"],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(packages)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert re.match(r"portcullis \d", done.stdout), done.stdout + done.stderr
    places = "import appliance.service.service as s, fastpath._fastpath as f; print(f.__file__); print(s.__file__)"
    imported = subprocess.run(
        [str(python), "-c", places],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(packages)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert imported.stdout.count(str(root)) == 2, imported.stdout + imported.stderr


def test_a_second_install_keeps_what_the_administrator_wrote(root: Path) -> None:
    config = root / "etc/portcullis/portcullis.toml"
    config.write_text('mode = "enforce"\n')
    install(root)
    assert config.read_text() == 'mode = "enforce"\n'
