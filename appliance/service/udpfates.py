# SPDX-License-Identifier: Apache-2.0
"""The fate of a UDP flow ends: after a time, and when its connection has carried so much.

Nothing tells the end of a UDP flow, and another conversation may take over its addresses and ports while the kernel
still has the connection. So walks over conntrack (fp_conntrack) take the generation from the marks of allowed UDP
flows: the next packet comes up with the flow's direction and previous fate, and is decided anew.

    every `seconds`      all of them: no fate is older than that, and none younger than a walk ago is spared
    every LOOK seconds   those whose connection has carried `carried` bytes, where the kernel counts them
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from appliance.config.model import Fastpath
from appliance.netfilter.conntrack import counts_bytes
from fastpath.errors import PortcullisError

LOOK = 10.0  # seconds between walks for what was carried


class Age(Protocol):
    """Netfilter.age; blocks."""

    def __call__(self, carried: int = 0) -> int: ...


class UdpFates:
    """All methods but state() run in the event loop."""

    def __init__(
        self,
        settings: Fastpath,
        age: Age,
        *,
        say: Callable[[str], None],
        counts: Callable[[], bool] = counts_bytes,
        look: float = LOOK,
    ) -> None:
        self._seconds = settings.udp_fate_seconds if settings.fates else 0
        self._carried = settings.udp_fate_bytes if settings.fates else 0
        self._age = age
        self._say = say
        self._counts = counts
        self._look = look
        self.ended = 0

    def work(self) -> list[Coroutine[Any, Any, None]]:
        """What runs as long as the service; [] without limits."""
        walks = []
        if self._seconds:
            walks.append(self._walk_every(self._seconds, 0))
        if self._carried:
            walks.append(self._walk_every(self._look, self._carried))
        return walks

    def state(self) -> dict[str, Any]:
        """seconds, bytes: the limits, 0 for none; counted: whether bytes are; ended: fates, since the start."""
        return {
            "seconds": self._seconds, "bytes": self._carried, "counted": self._counts(), "ended": self.ended,
        }  # fmt: skip

    async def _walk_every(self, seconds: float, carried: int) -> None:
        while True:
            await asyncio.sleep(seconds)
            if carried and not self._counts():
                continue
            try:
                self.ended += await asyncio.to_thread(self._age, carried)
            except PortcullisError as error:
                self._say(f"fates of UDP flows could not be ended: {error}")
