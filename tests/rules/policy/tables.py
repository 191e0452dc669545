# SPDX-License-Identifier: Apache-2.0
"""Experiments with the validator: a resource in which one thing is changed, and what is said of it."""

from collections.abc import Mapping
from typing import Any

from rules.policy import validate_object

V3 = "projectcalico.org/v3"
Refused = tuple[str, str]  # the field, and words of the message
Experiment = tuple[Any, Refused | None]


def resource(kind: str, spec: Any, *, api: str = V3, **metadata: Any) -> dict[str, Any]:
    return {"apiVersion": api, "kind": kind, "metadata": {"name": "x", **metadata}, "spec": spec}


def check(document: Mapping[str, Any], refused: Refused | None) -> None:
    """It is accepted, or refused in that field, which is told from `spec` on, with these words and in no other."""
    errors = validate_object(document)
    told = [str(error) for error in errors]
    if refused is None:
        assert told == []
        return
    field, words = refused
    assert {(error.at_field or "").removeprefix("spec.") for error in errors} == {field}, told
    assert any(words in text for text in told), told
