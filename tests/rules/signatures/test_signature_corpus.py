# SPDX-License-Identifier: Apache-2.0
"""Emerging Threats Open: every rule is either usable or refused with a reason."""

import gzip
from pathlib import Path

import pytest

from rules.signatures import SignatureLoad, compile_signatures, parse_signatures


@pytest.fixture(scope="module")
def loaded(corpora: Path) -> SignatureLoad:
    (path,) = (corpora / "et-open").glob("*.rules.gz")
    return parse_signatures(gzip.decompress(path.read_bytes()).decode("utf-8", "surrogateescape"), path.stem)


def test_every_enabled_rule_is_accounted_for(loaded: SignatureLoad) -> None:
    assert len(loaded.signatures) + len(loaded.errors) == 31_996
    assert all(error.file and error.line for error in loaded.errors)
    assert len(loaded.signatures) > 19_000


def test_almost_nothing_is_called_wrong(loaded: SignatureLoad) -> None:
    wrong = [str(error) for error in loaded.errors if not error.unsupported]
    assert len(wrong) < 10, wrong[:20]


def test_set_compiles(loaded: SignatureLoad) -> None:
    rules = compile_signatures(loaded.signatures)
    assert len(rules) + len(rules.errors) == len(loaded.signatures)
    assert len(rules.errors) < 5
