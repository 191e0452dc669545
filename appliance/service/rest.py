# SPDX-License-Identifier: Apache-2.0
"""A moment of rest: what can wait, waits until changes have come to an end, or for so long and no longer."""

import asyncio


async def rest(changed: asyncio.Event, quiet: float, longest: float) -> None:
    """Returns when `changed` is not set for `quiet` seconds, or after `longest` of them; it is clear then."""
    loop = asyncio.get_running_loop()
    due = loop.time() + longest
    while changed.is_set() and loop.time() < due:
        changed.clear()
        await asyncio.sleep(quiet)
    changed.clear()
