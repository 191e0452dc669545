# SPDX-License-Identifier: Apache-2.0
"""Fixtures that all test folders share."""

import os
from pathlib import Path

import pytest

from appliance.netfilter.backend import has_nfqueue
from tests.patience import PATIENCE

_CORPORA = Path(__file__).parents[2] / "shared" / "corpora"


@pytest.fixture(scope="session")
def corpora() -> Path:
    """The folder of outside test cases; the test is skipped where it is not there."""
    if not _CORPORA.is_dir():
        pytest.skip("the outside corpora (../shared/corpora) are not here")
    return _CORPORA


def _why_no_lab() -> str | None:
    """Why namespaces and queues cannot be used here, or None."""
    if os.geteuid() != 0:
        return "needs root: network namespaces and NFQUEUE"
    if not has_nfqueue():  # by asking, which makes the kernel load its module
        return "needs a kernel with NFQUEUE (CONFIG_NETFILTER_NETLINK_QUEUE)"
    return None


@pytest.fixture(scope="session")
def needs_root() -> None:
    """Skips, with the reason, what cannot run without root and network namespaces."""
    if reason := _why_no_lab():
        pytest.skip(reason)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked ``lab``, and everything below tests/lab, are skipped with a reason where they cannot run."""
    reason = _why_no_lab()
    lab = Path(__file__).parent / "lab"
    for item in items:
        if lab in item.path.parents:
            item.add_marker("lab")
        limit = item.get_closest_marker("timeout")
        if PATIENCE != 1 and limit is not None and limit.args:
            item.add_marker(pytest.mark.timeout(limit.args[0] * PATIENCE), append=False)
        if reason and item.get_closest_marker("lab"):
            item.add_marker(pytest.mark.skip(reason=reason))
