# SPDX-License-Identifier: Apache-2.0
"""Outside cases, one parameter each."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rules.policy import Resource, load_documents

CORPORA = Path(__file__).parents[4] / "shared" / "corpora"
CASES = {
    "selector_case": "calico/selectors.json",
    "verdict_case": "calico/policy_verdicts.json",
    "validation_case": "calico/validation.json",
    "staged_case": "calico/staged.json",
    "host_case": "calico/host_endpoints.json",
    "kubernetes_case": "k8s/netpol.json",
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for name, place in CASES.items():
        if name not in metafunc.fixturenames:
            continue
        file = CORPORA / place
        if not file.is_file():
            skip = pytest.mark.skip(reason=f"outside cases {place} are not here")
            metafunc.parametrize(name, [pytest.param(None, marks=skip)])
            continue
        cases = json.loads(file.read_text())
        ids = [str(case.get("id") or case.get("name") or case.get("selector")) for case in cases]
        metafunc.parametrize(name, cases, ids=ids)


@pytest.fixture
def resources() -> Callable[[list[Any]], list[Resource]]:
    """Resources from documents; what the validator refuses but is understood (port 0) counts: the cases ask."""

    def load(documents: list[Any]) -> list[Resource]:
        found: list[Resource] = []
        for document in documents:
            result = load_documents(json.dumps(document), "case.yaml")
            assert result.understood or not result.errors, [str(error) for error in result.errors]
            found += [*result.resources, *result.understood]
        return found

    return load
