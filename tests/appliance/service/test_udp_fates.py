# SPDX-License-Identifier: Apache-2.0
"""When fates of UDP flows are ended, by a connection table that only notes it."""

import asyncio
from typing import Any

import pytest

from appliance.commands.service import _limits
from appliance.config.model import Fastpath
from appliance.netfilter import NetfilterError
from appliance.service.udpfates import UdpFates
from tests.patience import PATIENCE

ENDED = 2  # fates in each walk


class Table:
    def __init__(self, *, counts: bool = True, refuses: bool = False) -> None:
        self.walks: list[int] = []
        self.said: list[str] = []
        self.counts = counts
        self.refuses = refuses

    def age(self, carried: int = 0) -> int:
        self.walks.append(carried)
        if self.refuses:
            raise NetfilterError("no conntrack")
        return ENDED

    async def run(self, walks: int, **settings: Any) -> UdpFates:
        """Until it has walked so often; 0: for a moment."""
        fates = UdpFates(
            Fastpath(**settings), self.age, say=self.said.append, counts=lambda: self.counts, look=0.01
        )  # fmt: skip
        tasks = [asyncio.create_task(work) for work in fates.work()]
        for _ in range(int(500 * PATIENCE) if walks else 30):
            if walks and fates.ended // ENDED + len(self.said) >= walks:
                break
            await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return fates


def test_by_time_all_flows_come_up() -> None:
    table = Table()
    fates = asyncio.run(table.run(1, udp_fate_seconds=1, udp_fate_bytes=0))
    assert set(table.walks) == {0}
    assert fates.state() == {"seconds": 1, "bytes": 0, "counted": True, "ended": fates.ended}


def test_by_bytes_those_that_carried_so_many() -> None:
    table = Table()
    asyncio.run(table.run(3, udp_fate_seconds=0, udp_fate_bytes=5000))
    assert set(table.walks) == {5000}


def test_nobody_walks_for_bytes_that_are_not_counted() -> None:
    table = Table(counts=False)
    asyncio.run(table.run(0, udp_fate_seconds=0, udp_fate_bytes=5000))
    assert not table.walks


@pytest.mark.parametrize("settings", [{"udp_fate_seconds": 0, "udp_fate_bytes": 0}, {"fates": False}])
def test_without_limits_or_fates_there_is_nothing_to_do(settings: dict[str, Any]) -> None:
    fates = UdpFates(Fastpath(**settings), Table().age, say=print)
    assert fates.work() == [] and not Fastpath(**settings).udp_fates_end
    assert _limits(fates.state()) == "no limit"


def test_a_table_that_cannot_be_read_stops_nothing() -> None:
    table = Table(refuses=True)
    fates = asyncio.run(table.run(2, udp_fate_seconds=0, udp_fate_bytes=5000))
    assert fates.ended == 0 and table.said[:2] == ["fates of UDP flows could not be ended: no conntrack"] * 2
