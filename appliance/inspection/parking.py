# SPDX-License-Identifier: Apache-2.0
"""DNS answers that wait until their addresses are known to policy. No clock, no I/O."""

from collections import OrderedDict
from typing import Generic, TypeVar

T = TypeVar("T")
MOST = 1024  # packets; each is one of the queue's length


class Parking(Generic[T]):
    """What is parked, by number, each until it is taken or its time is over; first in, first due."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._parked: OrderedDict[int, tuple[float, float, T]] = OrderedDict()
        self._numbers = 0

    def __len__(self) -> int:
        return len(self._parked)

    def park(self, item: T, now: float, wait: float) -> int | None:
        """The number under which `item` is parked for `wait` seconds at most; None: there is no room."""
        if len(self._parked) >= self._most:
            return None
        self._numbers += 1
        self._parked[self._numbers] = (now, now + wait, item)
        return self._numbers

    def take(self, number: int, now: float) -> tuple[T, float] | None:
        """What is parked under `number` and for how many seconds it was; None: nothing."""
        found = self._parked.pop(number, None)
        return None if found is None else (found[2], now - found[0])

    def due(self, now: float) -> list[T]:
        """Takes what has waited long enough."""
        numbers = [number for number, (_, until, _) in self._parked.items() if until <= now]
        return [self._parked.pop(number)[2] for number in numbers]

    def patience(self, now: float, most: float) -> float:
        """Seconds until something is due, at most `most`."""
        soonest = min((until - now for _, until, _ in self._parked.values()), default=most)
        return min(max(0.0, soonest), most)
