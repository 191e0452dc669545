# SPDX-License-Identifier: Apache-2.0
"""A walk that nobody waits for leaves the processor to others, and its thread alone does."""

import os
import threading

import pytest

from appliance.netfilter import conntrack
from fastpath.errors import FastpathError


def _nice() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def test_it_steps_back_behind_all_other_threads() -> None:
    before = _nice()
    assert conntrack._stepped_back(_nice) == max(before, conntrack.NICE)
    assert _nice() == before


def test_what_it_raises_is_raised() -> None:
    def refused() -> int:
        raise FastpathError(1, "cannot read the connection table")

    with pytest.raises(FastpathError, match="cannot read the connection table"):
        conntrack._stepped_back(refused)
