# SPDX-License-Identifier: Apache-2.0
"""Several sources as one."""

import asyncio
from collections.abc import AsyncIterator

from appliance.sources.base import SourceError, SourceSnapshot
from appliance.sources.joined import Joined


class Said:
    """A source that says what it is told to."""

    name = "said"

    def __init__(self, origin: str) -> None:
        self._origin = origin
        self._told = 0
        self._changed = asyncio.Event()

    def tell(self, number: int) -> None:
        self._told = number
        self._changed.set()

    async def snapshot(self) -> SourceSnapshot[int]:
        errors = (SourceError(f"{self._origin} is negative"),) if self._told < 0 else ()
        return SourceSnapshot({self._origin: (self._told,)}, errors, (self._origin,) if errors else ())

    async def resync(self) -> SourceSnapshot[int]:
        return await self.snapshot()

    async def watch(self) -> AsyncIterator[SourceSnapshot[int]]:
        while True:
            await self._changed.wait()
            self._changed.clear()
            if self._told == 13:
                raise OSError("unlucky")
            yield await self.snapshot()


def test_all_are_heard_and_what_one_raises_is_raised() -> None:
    async def run() -> None:
        a, b = Said("a"), Said("b")
        joined = Joined("both", [a, b])
        assert (await joined.snapshot()).all() == (0, 0)
        watch = joined.watch()
        for source, number, expected in ((a, 1, (1, 0)), (b, -2, (1, -2))):
            source.tell(number)
            heard = await asyncio.wait_for(anext(watch), 5)
            assert heard.all() == expected
        assert [str(error) for error in heard.errors] == ["b is negative"] and heard.kept == ("b",)
        assert await joined.resync() == heard
        a.tell(13)
        try:
            await asyncio.wait_for(anext(watch), 5)
        except OSError as error:
            assert str(error) == "unlucky"
        else:
            raise AssertionError("nothing was raised")

    asyncio.run(run())
