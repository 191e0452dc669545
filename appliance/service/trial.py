# SPDX-License-Identifier: Apache-2.0
"""Policy on trial: the policy folder is replaced, and replaced back unless somebody confirms in time.

What is needed to go back is on disk before anything is replaced, so a crash does not keep an unconfirmed policy:

    rollback/files/*       the folder as it was
    rollback/trial.json    {"folder": ..., "deadline": seconds since 1970}    written last, removed first

All functions block for as long as small files take.
"""

import json
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fastpath.errors import PortcullisError

SUFFIXES = (".yaml", ".yml")


class TrialError(PortcullisError):
    """A policy that cannot be put on trial, or a trial that does not exist."""


@dataclass(frozen=True)
class Trial:
    """What is on trial: `folder` was replaced and goes back at `deadline`, seconds since 1970."""

    folder: Path
    deadline: float

    @property
    def left(self) -> float:
        return max(0.0, self.deadline - time.time())


class TrialStore:
    """Keeps at most one trial below `state`."""

    def __init__(self, state: Path) -> None:
        self._root = state / "rollback"
        self._note = self._root / "trial.json"
        self._saved = self._root / "files"

    def current(self) -> Trial | None:
        """The trial that was begun and not ended, also by a process that is gone."""
        try:
            note = json.loads(self._note.read_text())
            return Trial(Path(note["folder"]), float(note["deadline"]))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise TrialError(f"cannot be read: {error}", file=str(self._note)) from error

    def begin(self, folder: Path, files: Mapping[str, str], seconds: float | None) -> Trial | None:
        """Replaces the policy files of `folder`. seconds: until it goes back by itself; None: for good."""
        if self.current() is not None:
            raise TrialError("another policy is on trial: confirm it or roll it back first")
        for name in files:
            if Path(name).name != name or name.startswith(".") or Path(name).suffix not in SUFFIXES:
                raise TrialError(f"{name!r} is no name of a policy file (*.yaml, *.yml)")
        trial = None
        if seconds is not None:
            shutil.rmtree(self._root, ignore_errors=True)
            self._saved.mkdir(parents=True, mode=0o700)
            for path in policy_files(folder):
                shutil.copy2(path, self._saved / path.name)
            trial = Trial(folder, time.time() + seconds)
            _write(self._note, json.dumps({"folder": str(folder), "deadline": trial.deadline}))
        folder.mkdir(parents=True, exist_ok=True)
        replace_files(folder, files)
        return trial

    def confirm(self) -> None:
        """It stays."""
        if self.current() is None:
            raise TrialError("no policy is on trial")
        self._end()

    def roll_back(self) -> Path:
        """It goes; the folder that is as it was."""
        trial = self.current()
        if trial is None:
            raise TrialError("no policy is on trial")
        replace_files(trial.folder, {path.name: path.read_text() for path in policy_files(self._saved)})
        self._end()
        return trial.folder

    def _end(self) -> None:
        self._note.unlink()
        shutil.rmtree(self._root, ignore_errors=True)


def policy_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES and not path.name.startswith("."))


def replace_files(folder: Path, files: Mapping[str, str]) -> None:
    """Afterwards the folder's policy files are these. Each is replaced whole; new ones come before old ones go."""
    for name, text in files.items():
        _write(folder / name, text)
    for path in policy_files(folder):
        if path.name not in files:
            path.unlink()


def _write(path: Path, text: str) -> None:
    fresh = path.with_name(f".{path.name}.new")
    with fresh.open("w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    fresh.replace(path)
