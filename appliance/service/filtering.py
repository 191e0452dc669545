# SPDX-License-Identifier: Apache-2.0
"""The rules in the kernel while the service runs: made at its start, made again when another program takes them away,
removed at its end. What becomes of packets without them is the setting `ruleset_error`."""

import asyncio
from collections.abc import Callable

from appliance.config import Config
from appliance.netfilter import Netfilter, NetfilterError, RulesetWatch
from appliance.netfilter.ruleset import HOST_TABLE
from appliance.service.changes import ms
from appliance.service.fulltable import FullTable
from appliance.service.kernelpolicy import KernelPolicy
from fastpath.errors import PortcullisError


class Filtering:
    """undecided: called when rules that flows were decided with were gone for a while."""

    def __init__(
        self,
        config: Config,
        netfilter: Netfilter,
        kernel: KernelPolicy,
        *,
        undecided: Callable[[], None],
        say: Callable[[str], None],
    ) -> None:
        self._closed = config.failures.ruleset_error == "drop"
        self._netfilter = netfilter
        self._kernel = kernel
        self._undecided = undecided
        self._say = say
        self._unfiltered = False  # started without rules
        self._watch = RulesetWatch(self._mend, self._lost, lambda error: say(f"ALARM: {error}"))
        self.full = FullTable(
            allow=config.failures.conntrack_full == "allow", own_queues=netfilter.settings.own_queues, say=say
        )

    async def install(self, generation: int, workloads: frozenset[int]) -> None:
        """workloads: interfaces of local ones. Raises NetfilterError where nothing may pass without rules."""
        try:
            self._netfilter.set_workloads(workloads)
            await asyncio.to_thread(self._netfilter.install, generation)
        except NetfilterError as error:
            if self._closed:
                raise
            self._unfiltered = True
            self._say(f"ALARM: ruleset_error: nothing is filtered: {error}")

    def start(self) -> None:
        """Watches them, after install()."""
        self._watch.start()
        if self._unfiltered:
            self._watch.look()

    async def stop(self) -> None:
        """From here on nothing is made again."""
        await self._watch.stop()

    async def remove(self) -> None:
        await self._kernel.remove_feeds()
        for line in (*await asyncio.to_thread(self._netfilter.remove), *await self._kernel.remove_rules()):
            self._say(line)
        await asyncio.to_thread(self.full.remove)

    def failed(self, error: PortcullisError) -> None:
        """A change of them did; it is tried again."""
        self._say(
            f"ALARM: ruleset_error: {error}; new flows are decided by the policy in force, open ones"
            f" {'lose what was decided, one by one' if self._closed else 'go on as they were decided'}"
        )
        self._watch.look()

    def _mend(self, elements: bool) -> list[str]:
        """Host policy first: what is decided under the main rules stands on it."""
        beside = self._kernel.mend(elements)
        ours = self._netfilter.mend()
        if beside and not ours:
            self._netfilter.lost += 1
        return [*ours, *beside]

    def _lost(self, gone: list[str], seconds: float) -> None:
        if self._unfiltered:
            self._unfiltered = False
            self._say("the rules are in the kernel now: packets are filtered")
            return
        self._say(
            f"ALARM: ruleset_lost: another program took away {len(gone)} parts of the rules ({gone[0]}, ...); made"
            f" again after {ms(seconds)}; what passed meanwhile was not filtered"
        )
        if any(name.startswith(HOST_TABLE) for name in gone):  # what it says of a flow is in the flow's fate
            self._undecided()
