# SPDX-License-Identifier: Apache-2.0
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rules.policy.http import http_matches, normalize_path
from rules.policy.model import HttpMatch, HttpPath


def test_methods_paths_and_normalisation_are_calicos(corpora: Path) -> None:
    cases = json.loads((corpora / "calico" / "l7.json").read_text())
    for case in cases["http_methods"]:
        assert http_matches(HttpMatch(tuple(case["methods"]), ()), case["method"], "/") is case["match"], case
    for case in cases["http_paths"]:
        paths = tuple(HttpPath(path.get("exact"), path.get("prefix")) for path in case["paths"])
        assert http_matches(HttpMatch((), paths), "GET", case["path"]) is case["match"], case
    for case in cases["http_normalize"]:
        assert normalize_path(case["in"]) == case["out"], case


@pytest.mark.parametrize("target", ["/a#/../b", "/a%zz", "/a%", "/a%2", "*", "/%2500"])
def test_what_is_ambiguous_is_no_path(target: str) -> None:
    assert normalize_path(target) is None


@pytest.mark.parametrize(
    ("prefix", "path", "expected"), [("/", "/x", True), ("/a/", "/a/b", True), ("/a/", "/ab", False)]
)
def test_prefixes_end_at_segments(prefix: str, path: str, expected: bool) -> None:
    assert http_matches(HttpMatch((), (HttpPath(None, prefix),)), "GET", path) is expected


@given(st.text(max_size=30))
def test_a_normal_path_has_nothing_left_to_clean(target: str) -> None:
    path = normalize_path("/" + target)
    if path is not None:
        assert path.startswith("/") and "//" not in path and "/../" not in path + "/" and "\0" not in path
