# SPDX-License-Identifier: Apache-2.0
"""Imports run one way: appliance → threatfeeds → rules → fastpath."""

import ast
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
ROOMS = ("fastpath", "rules", "threatfeeds", "appliance")  # each may import those before it


def imported(path: Path) -> set[str]:
    """Top-level names that a file imports, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_a_package_imports_only_what_stands_below_it(room: str) -> None:
    above = set(ROOMS[ROOMS.index(room) + 1 :]) | {"bench", "tests"}
    files = list((REPOSITORY / room).rglob("*.py"))
    assert files
    assert {str(file.relative_to(REPOSITORY)): bad for file in files if (bad := imported(file) & above)} == {}


def test_rules_do_no_input_or_output() -> None:
    outside = {"asyncio", "os", "pathlib", "shutil", "subprocess", "tempfile", "urllib"}
    files = (REPOSITORY / "rules").rglob("*.py")
    assert {str(file.relative_to(REPOSITORY)): bad for file in files if (bad := imported(file) & outside)} == {}
