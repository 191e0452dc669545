# SPDX-License-Identifier: Apache-2.0
"""The inspectors, seen from the service: which ruleset they have, and when they get the next one."""

import asyncio
from collections.abc import Callable
from functools import partial

from msgspec.structs import replace

from appliance.config import Config
from appliance.inspection import messages
from appliance.inspection.messages import DomainWatch, InspectionEvent, InspectionRuleset
from appliance.inspection.pool import Encoder, InspectionError, InspectorPool, InspectorStatus, RulesetDelayed
from appliance.inspection.requests import (
    RequestChange,
    RequestPolicy,
    early_hosts,
    request_policy,
    request_policy_of,
    request_rules,
)
from appliance.netfilter.surroundings import bound_queues
from appliance.service.calculation import Desired
from appliance.service.inforce import PolicyInForce
from appliance.service.overload import Overload, watch
from appliance.service.settings import inspector_pool, inspector_queues
from fastpath import Engine
from rules.policy import Program, Step
from rules.policy.listed import packed

PATIENCE = 5.0  # seconds that inspectors may take over a ruleset
MORE_PATIENCE = 60.0  # the same with other signatures, of which there may be tens of thousands


class SlowPath:
    """`pool` is None where nothing is inspected; every call is one that does nothing then."""

    def __init__(
        self,
        config: Config,
        in_force: PolicyInForce,
        *,
        found: Callable[[InspectionEvent, int], None],
        asked: Callable[[messages.Answer | messages.NamesAsked, int], None],
        watched: Callable[[Program], DomainWatch],
        say: Callable[[str], None],
    ) -> None:
        self._config = config
        self._in_force = in_force
        self._watched = watched
        self._say = say
        self._ruleset: InspectionRuleset | None = None
        self._announcing = 0  # 2: inspectors hold rules with http; 1: they are to be told once more that they do not
        self._base = 0  # version of the last ruleset with request policy
        self.version = 0
        self.queues = inspector_queues(config)
        self.engine: Engine | None = None
        """Learns which inspectors ended."""
        self.pool: InspectorPool | None = inspector_pool(config, found, self._changed, asked, self._whole)
        self.overloaded: Callable[[int, bool], None] = lambda inspector, overloaded: None
        """Called with an inspector's number, from 0, when it comes to be overloaded and when it is no more."""

    async def start(self, desired: Desired, generation: int) -> None:
        """Raises InspectionError."""
        if self.pool is None:
            return
        requests = request_policy(desired.program)
        self._announcing = 2 if requests is not None else 0
        self._ruleset = self._next(desired, generation, requests)
        await self.pool.start(self._ruleset)
        for problem in {text for status in self.pool.status() for text in status.signature_errors}:
            self._say(f"warning: {problem}")

    async def stop(self) -> None:
        if self.pool is not None:
            await self.pool.stop()

    # Whatever is told here is with the inspectors before a flow is decided accordingly.

    async def prepare(self, desired: Desired, generation: int) -> None:
        """All that inspectors need for another program, under `generation`. Raises InspectionError."""
        if self.pool is None:
            return
        requests = await asyncio.to_thread(request_policy, desired.program)
        if requests is None and not self._announcing and not self._differs(desired):
            return
        # When there are no rules with http any more, inspectors forget them with the second ruleset after.
        await self._send(self._next(desired, generation, requests))
        self._announcing = 2 if requests is not None else max(self._announcing - 1, 0)

    async def publish(self, desired: Desired) -> None:
        """Signatures and names, where they are others. Raises InspectionError."""
        if self._differs(desired):
            await self._send(replace(self._next(desired, self._in_force.generation, None), keeps_requests=True))

    @property
    def holds_requests(self) -> bool:
        """Inspectors, if there are any, follow the program for rules with http."""
        return self.pool is None or self._announcing == 2

    async def introduce(self, desired: Desired) -> None:
        """The first rules with http are about to come: inspectors get the program in force, and follow what changes.
        Raises InspectionError."""
        in_force = self._in_force
        async with in_force.held():
            identities, policy = in_force.snapshot
            requests = await asyncio.to_thread(request_policy_of, policy, identities, in_force.program)
            await self._send(self._next(desired, in_force.generation, requests))
            self._announcing = 2

    def deciding(self, generation: int, step: Step | None) -> None:
        """Before the engine decides by a step, or by what it has under another generation."""
        if self.pool is None or not self._announcing or (self._announcing == 1 and step is not None):
            return
        ends = self._announcing == 1
        if step is not None and self._in_force.program.http and not step.program.http:
            ends = True
        if ends:
            self._announcing -= 1
        self.pool.change(request_change(generation, self._base, step, ends=ends))

    async def _send(self, ruleset: InspectionRuleset) -> None:
        """Inspectors use it when this returns. What they are late with is told, and comes into use as soon as it can:
        packets of a generation whose rules with http they lack are dropped meanwhile. Raises InspectionError."""
        assert self.pool is not None
        before, self._ruleset = self._ruleset, ruleset
        other_signatures = before is None or before.signatures != ruleset.signatures
        try:
            problems = await self.pool.publish(ruleset, MORE_PATIENCE if other_signatures else PATIENCE)
        except RulesetDelayed as error:
            self._say(f"warning: {error}")
            problems = ()
        except InspectionError:
            self._ruleset = before
            self._watched(self._in_force.program)
            raise
        if not ruleset.keeps_requests:
            self._base = ruleset.version
        for problem in problems if other_signatures else ():
            self._say(f"warning: {problem}")

    def _differs(self, desired: Desired) -> bool:
        before, found = self._ruleset, desired.sought
        if self.pool is None or before is None:
            return False
        wanted = (desired.signatures, found.names, found.entries, found.allowed, self._watched(desired.program))
        return (before.signatures, before.names, before.entries, before.allowed, before.domains) != wanted

    def _whole(self, ruleset: InspectionRuleset) -> Encoder:
        """For an inspector that starts: its ruleset with the request policy as it is now."""
        if ruleset.requests is not None or self._announcing < 2:
            return partial(messages.encode, ruleset)
        in_force = self._in_force
        generation, program, (identities, policy) = in_force.generation, in_force.program, in_force.snapshot

        def encode() -> bytes:
            requests = request_policy_of(policy, identities, program)
            return messages.encode(replace(ruleset, requests=requests, generation=generation, keeps_requests=False))

        return encode

    async def run(self) -> None:
        """Watches the queues; does not end by itself."""
        if self.pool is None:
            await asyncio.Event().wait()
        patience = self._config.inspection.patience / 1000
        await watch(Overload(self.queues, self._config.queues.length, patience), self._overload)

    def _overload(self, queue: int, overloaded: bool) -> None:
        self.overloaded(queue - self._config.queues.slow_first, overloaded)
        action = self._config.failures.inspector_overload
        what = f"is overloaded: its new flows: {action}" if overloaded else "keeps up again"
        self._say(f"the inspector of queue {queue} {what}")

    def waiting(self) -> int:
        """Packets in their queues. Blocking."""
        return sum(queue.waiting for queue in bound_queues() if queue.number in self.queues) if self.queues else 0

    def tell(self, queue: int, message: messages.Release | messages.Names) -> None:
        if self.pool is not None:
            self.pool.tell(queue, message)

    def _next(self, desired: Desired, generation: int, requests: RequestPolicy | None) -> InspectionRuleset:
        self.version += 1
        return InspectionRuleset(
            version=self.version,
            signatures=desired.signatures,
            names=desired.sought.names,
            entries=desired.sought.entries,
            allowed=desired.sought.allowed,
            domains=self._watched(desired.program),
            observe=self._config.mode == "observe",
            generation=generation,
            requests=requests,
        )

    def _changed(self, status: InspectorStatus) -> None:
        if status.state == "waiting" and status.pid == 0 and status.heartbeat_age:
            action = self._config.failures.inspector_down
            if self.engine is not None:
                self.engine.inspector_lost(status.queue - self._config.queues.slow_first)
            self._say(f"the inspector of queue {status.queue} has ended and is started again; meanwhile: {action}")


def request_change(generation: int, base: int, step: Step | None, *, ends: bool) -> RequestChange:
    """What inspectors are told of a step; of None that there is another generation."""
    if step is None or ends:
        return RequestChange(generation=generation, base=base, ends=ends)
    return RequestChange(
        generation=generation,
        base=base,
        change=step.change,
        set=packed(step.delta.set),
        remove=packed(step.delta.remove),
        requests=request_rules(step.requests),
        early=early_hosts(step.program),
    )
