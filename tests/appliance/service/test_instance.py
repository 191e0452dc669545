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


def test_the_second_is_told_who_the_first_is_until_that_is_gone() -> None:
    async def both() -> None:
        first, second = Claim(), Claim()
        first.claim()
        for _ in range(200):  # more than may wait to be turned away
            with pytest.raises(InstanceError, match=rf"another portcullis .* \(pid {os.getpid()}\)"):
                second.claim()
            await asyncio.sleep(0)
        first.close()
        second.claim()
        second.close()

    asyncio.run(both())


def test_a_stranger_who_took_the_name_keeps_nobody_from_filtering(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stranger:
        stranger.bind(instance.NAME)
        Claim().claim()  # it does not even listen
        stranger.listen(1)
        monkeypatch.setattr(instance, "_holder", lambda: (1234, os.geteuid() + 1))
        Claim().claim()


def test_a_claim_that_was_never_made_can_be_closed() -> None:
    Claim().close()
