# SPDX-License-Identifier: Apache-2.0
"""A million listed prefixes, from the text of a list to the identity map. Runs as a process of its own: memory is its.

`python -m bench.feed_load ENTRIES` prints one JSON object: seconds by step, bytes of memory, entries in force.
"""

import json
import random
import resource
import sys
import time
from collections.abc import Callable
from typing import TypeVar

from appliance.service.feeds import feed_prefixes
from fastpath import IdentityMap
from rules.policy import CompileOptions, compile_policy
from threatfeeds import Allowlist, Feed, FeedConfig, merge, prefix, read_feed
from threatfeeds.binary import SetFeed, decode, encode

T = TypeVar("T")
_SEED = 20260801


def listed(entries: int, seed: int = _SEED) -> str:
    """Four in five are IPv4, most of them addresses; the rest are IPv6 networks of /48, /64 and /128."""
    random_ = random.Random(seed)
    lines: dict[str, None] = {}
    while len(lines) < entries:
        if random_.random() < 0.8:
            length = 32 if random_.random() < 0.7 else random_.randint(18, 31)
            # Neither 0/8 nor 127/8, which the allowlist would take out, nor 10/8, where the benchmark's own hosts are.
            entry = prefix.make(prefix.MAPPED | random_.randint(11, 126) << 24 | random_.getrandbits(24), 96 + length)
        else:
            entry = prefix.make(0x2001 << 112 | random_.getrandbits(112), random_.choice((48, 64, 128)))
        lines[prefix.text(entry)] = None
    return "\n".join(lines)


def load(data: bytes) -> dict[str, float]:
    """Seconds of each step from the bytes of a list to a map that can be published."""
    seconds: dict[str, float] = {}

    def step(name: str, work: Callable[[], T]) -> T:
        started = time.perf_counter()
        found = work()
        seconds[name] = time.perf_counter() - started
        return found

    config = FeedConfig(file="list", name="list", action="drop", max_entries=100_000_000, max_size=4 << 30)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    content = step("read", lambda: read_feed(config, data))
    packed = step("encode", lambda: encode([SetFeed("list", "list", content)]))
    (entry,) = step("decode", lambda: decode(packed))
    merged = step("merge", lambda: merge([Feed(config, entry.content)], Allowlist.build()))
    options = step("pack", lambda: CompileOptions(scope="gateway", feeds=feed_prefixes(merged)))
    program = step("compile", lambda: compile_policy((), options))
    identities = step("build", lambda: IdentityMap.build(program.entries))
    peak = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    load_seconds = sum(seconds[name] for name in ("decode", "merge", "pack", "compile", "build"))
    return {
        **seconds, "load": load_seconds, "entries": len(identities), "set_bytes": len(packed),
        "map_bytes": identities.memory, "peak_bytes": peak,
    }  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(load(listed(int(sys.argv[1])).encode())))
