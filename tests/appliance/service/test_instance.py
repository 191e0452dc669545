# SPDX-License-Identifier: Apache-2.0
"""One service in a network namespace, by a name that goes with its process."""

import asyncio
import os
import socket
from collections.abc import Iterator

import pytest

from appliance.service import instance
from appliance.service.instance import Claim, InstanceError


@pytest.fixture(autouse=True)
def own_name(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A service may run here."""
    monkeypatch.setattr(instance, "NAME", f"\0portcullis-test-{os.getpid()}")
    yield


@pytest.mark.parametrize("able", [True, False])
def test_who_could_filter_keeps_the_second_out_until_it_is_gone(monkeypatch: pytest.MonkeyPatch, able: bool) -> None:
    """Anybody may use the name: one without the capability keeps nobody from filtering."""
    monkeypatch.setattr(instance, "has_net_admin", lambda process: process == str(os.getpid()) and able)

    async def both() -> None:
        first, second = Claim(), Claim()
        first.claim()
        for _ in range(200):  # more than may wait to be turned away
            if able:
                with pytest.raises(InstanceError, match=rf"another portcullis .* \(pid {os.getpid()}\)"):
                    second.claim()
            else:
                second.claim()
            await asyncio.sleep(0)
        first.close()
        second.claim()
        second.close()

    asyncio.run(both())


def test_a_name_that_nobody_listens_at_keeps_nobody_from_filtering() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stranger:
        stranger.bind(instance.NAME)
        Claim().claim()


def test_a_claim_that_was_never_made_can_be_closed() -> None:
    Claim().close()
