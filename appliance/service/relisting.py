# SPDX-License-Identifier: Apache-2.0
"""Feeds whose lists changed, or what is allowed of them: in force without a new program, in threads where there is much
to do."""

import asyncio
from collections.abc import Awaitable, Callable

from appliance.config import Config
from appliance.service.calculation import Desired, Inputs, other_feeds
from appliance.service.feeds import feed_prefixes
from appliance.service.inforce import PolicyInForce
from rules.policy import Step


async def relist(
    config: Config,
    in_force: PolicyInForce,
    tell: Callable[[Desired], Awaitable[None]],
    desired: Desired,
    now: Inputs,
) -> tuple[Desired, Step] | None:
    """What is desired now, and the step that is in force. None: everything must be calculated. `tell`: inspectors, of
    the names that feeds list, before anything is decided by the lists. Raises PortcullisError, and then, too, the
    `live` of `desired` is spent."""
    found = await asyncio.to_thread(other_feeds, config, desired, now)
    if found is None or found.live is None:
        return None
    plan = found.live.relist(feed_prefixes(found.merged))
    if plan is None:
        return None
    await tell(found)
    step = plan.few()
    if step is None and found.program.http:
        return None  # inspectors, which hold the program, would get all of the lists
    if step is None:
        step = await in_force.exchange(plan)
    else:
        in_force.take(step)
    return found, step
