# SPDX-License-Identifier: Apache-2.0
"""How a figure is made: interleaved samples, median, bootstrap interval, ratios of pairs.

A machine drifts (other tenants, caches, frequency): two programs measured one after the other differ by the drift.
So the peers of a row take turns within a round, in an order that changes from round to round, and a ratio
is the median of the ratios within rounds. The interval is the 95 % bootstrap interval of that median (Efron's
percentile method, fixed seed: the same samples give the same interval).
"""

import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

RESAMPLES = 2000
SEED = 20260


@dataclass(frozen=True)
class Estimate:
    """Median and the bounds of its 95 % interval."""

    value: float
    low: float
    high: float
    n: int


def median_of(samples: Sequence[float], *, seed: int = SEED) -> Estimate:
    """Estimate of the median. One sample has an interval of no width. Raises ValueError without samples."""
    if not samples:
        raise ValueError("no samples")
    rng = random.Random(seed)
    n = len(samples)
    medians = sorted(statistics.median(rng.choices(samples, k=n)) for _ in range(RESAMPLES))
    return Estimate(
        statistics.median(samples), medians[int(RESAMPLES * 0.025)], medians[int(RESAMPLES * 0.975) - 1], n
    )


def ratio_of(samples: Sequence[float], peer: Sequence[float]) -> Estimate:
    """Median of samples[i] / peer[i], both of round i. Raises ValueError where the lengths differ or a peer is 0."""
    if len(samples) != len(peer):
        raise ValueError(f"{len(samples)} samples against {len(peer)}")
    if not all(peer):
        raise ValueError("a sample of the peer is 0")
    return median_of([mine / other for mine, other in zip(samples, peer, strict=True)])


def turns(names: Sequence[str], round_number: int) -> list[str]:
    """The order of one round: over 2 x len(names) rounds every peer is first equally often."""
    shift = (round_number // 2) % len(names)
    order = [*names[shift:], *names[:shift]]
    return order if round_number % 2 == 0 else order[::-1]


def measure_round(
    measure: Mapping[str, Callable[[], float]], round_number: int, samples: dict[str, list[float]]
) -> None:
    """One sample of every peer, appended to `samples`."""
    for name in turns(list(measure), round_number):
        samples.setdefault(name, []).append(measure[name]())


def cpu_seconds(pid: int, *, thread_prefix: str = "") -> float:
    """Time on a CPU of a process's threads whose name begins so, since they started. Raises OSError when it is gone.

    First field of /proc/<pid>/task/*/schedstat, nanoseconds: finer than the ticks of `stat`.
    """
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        if (task / "comm").read_text().startswith(thread_prefix):
            total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9
