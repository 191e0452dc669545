# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest

from appliance.service.trial import TrialError, TrialStore, policy_files


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in policy_files(folder)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "policy.d"
    made.mkdir()
    (made / "a.yaml").write_text("old a")
    (made / "b.yml").write_text("old b")
    (made / "notes.txt").write_text("not policy")
    return made


NEW = {"a.yaml": "new a", "c.yaml": "new c"}


def test_a_trial_replaces_the_policy_files_and_goes_back(tmp_path: Path, folder: Path) -> None:
    store = TrialStore(tmp_path / "state")
    trial = store.begin(folder, NEW, 60.0)
    assert trial is not None and 59 < trial.left <= 60
    assert contents(folder) == NEW
    assert store.roll_back() == folder
    assert contents(folder) == {"a.yaml": "old a", "b.yml": "old b"}
    assert (folder / "notes.txt").read_text() == "not policy"
    assert store.current() is None


def test_a_confirmed_trial_stays(tmp_path: Path, folder: Path) -> None:
    store = TrialStore(tmp_path / "state")
    store.begin(folder, NEW, 60.0)
    store.confirm()
    assert contents(folder) == NEW
    with pytest.raises(TrialError, match="no policy is on trial"):
        store.roll_back()


def test_a_trial_outlives_the_process_that_began_it(tmp_path: Path, folder: Path) -> None:
    TrialStore(tmp_path / "state").begin(folder, NEW, -1.0)
    found = TrialStore(tmp_path / "state").current()
    assert found is not None and found.left == 0
    TrialStore(tmp_path / "state").roll_back()
    assert contents(folder) == {"a.yaml": "old a", "b.yml": "old b"}


def test_there_is_one_trial_at_a_time(tmp_path: Path, folder: Path) -> None:
    store = TrialStore(tmp_path / "state")
    store.begin(folder, NEW, 60.0)
    with pytest.raises(TrialError, match="on trial"):
        store.begin(folder, {}, 60.0)
    assert contents(folder) == NEW


@pytest.mark.parametrize("name", ["../a.yaml", "/etc/passwd", ".a.yaml", "a.txt", "x/a.yaml"])
def test_a_name_cannot_leave_the_folder(tmp_path: Path, folder: Path, name: str) -> None:
    with pytest.raises(TrialError):
        TrialStore(tmp_path / "state").begin(folder, {name: "x"}, 60.0)
    assert contents(folder) == {"a.yaml": "old a", "b.yml": "old b"}


def test_a_broken_note_is_said(tmp_path: Path) -> None:
    note = tmp_path / "state/rollback/trial.json"
    note.parent.mkdir(parents=True)
    note.write_text("{")
    with pytest.raises(TrialError, match=r"trial\.json"):
        TrialStore(tmp_path / "state").current()
