# SPDX-License-Identifier: Apache-2.0
"""Names of the owners of local sockets."""

import pwd
from typing import Any

import pytest

from appliance.events.users import user_name


def test_names_of_users() -> None:
    assert user_name(pwd.getpwnam("root").pw_uid) == "root"
    assert user_name(4_000_000_000) == ""
    assert user_name(1 << 40) == ""


def test_a_user_is_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def getpwuid(uid: int) -> Any:
        asked.append(uid)
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", getpwuid)
    user_name.cache_clear()
    assert [user_name(12345), user_name(12345), user_name(54321)] == ["", "", ""]
    assert asked == [12345, 54321]
    user_name.cache_clear()
