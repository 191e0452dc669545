# SPDX-License-Identifier: Apache-2.0
"""The inspectors, seen from the service: which ruleset they have, and when they get the next one."""

import asyncio
from collections.abc import Callable

from appliance.config import Config
from appliance.inspection import messages
from appliance.inspection.messages import DomainWatch, InspectionEvent, InspectionRuleset
from appliance.inspection.pool import InspectionError, InspectorPool, InspectorStatus, RulesetDelayed
from appliance.inspection.requests import RequestPolicy, request_policy
from appliance.service.calculation import Desired
from appliance.service.overload import Overload, watch
from appliance.service.settings import inspector_pool
from fastpath import Engine
from rules.policy import Program

PATIENCE = 5.0  # seconds that inspectors may take over rules with http


class SlowPath:
    """`pool` is None where nothing is inspected; every call is one that does nothing then."""

    def __init__(
        self,
        config: Config,
        *,
        found: Callable[[InspectionEvent, int], None],
        asked: Callable[[messages.Answer | messages.NamesAsked, int], None],
        watched: Callable[[Program], DomainWatch],
        say: Callable[[str], None],
    ) -> None:
        self._config = config
        self._watched = watched
        self._say = say
        self._ruleset: InspectionRuleset | None = None
        self._requests: RequestPolicy | None = None
        self._announcing = 0  # rulesets to come that are sent because there were rules with http
        self.version = 0
        self.engine: Engine | None = None
        """Learns which inspectors ended."""
        self.pool: InspectorPool | None = inspector_pool(config, found, self._changed, asked)
        self.overloaded: Callable[[int, bool], None] = lambda inspector, overloaded: None
        """Called with an inspector's number, from 0, when it comes to be overloaded and when it is no more."""

    async def start(self, desired: Desired, generation: int) -> None:
        """Raises InspectionError."""
        if self.pool is None:
            return
        self._requests = request_policy(desired.program)
        self._announcing = 2 if self._requests is not None else 0
        await self.pool.start(self._next(desired, generation))
        for problem in {text for status in self.pool.status() for text in status.signature_errors}:
            self._say(f"warning: {problem}")

    async def stop(self) -> None:
        if self.pool is not None:
            await self.pool.stop()

    async def prepare(self, desired: Desired, generation: int) -> None:
        """Inspectors get the rules with http before a flow is decided under their generation. One that is late drops
        such packets until it has them, so nobody waits for it long."""
        requests = await asyncio.to_thread(request_policy, desired.program)
        if self.pool is None or (requests is None and not self._announcing):
            return
        # When there are none any more, inspectors forget them with the second ruleset after.
        self._announcing = 2 if requests is not None else self._announcing - 1
        before = self._ruleset, self._requests
        self._requests = requests
        try:
            problems = await self.pool.publish(self._next(desired, generation), PATIENCE)
            for problem in problems if before[0] is None or before[0].signatures != desired.signatures else ():
                self._say(f"warning: {problem}")
        except RulesetDelayed as error:
            self._say(f"warning: {error}")
        except InspectionError:
            self._ruleset, self._requests = before
            raise

    async def publish(self, desired: Desired, generation: int) -> bool:
        """Whether inspectors had to be told anything. Raises InspectionError."""
        before = self._ruleset
        if self.pool is None or before is None:
            return False
        found = desired.sought
        wanted = (desired.signatures, found.names, found.entries, found.allowed, self._watched(desired.program))
        if (before.signatures, before.names, before.entries, before.allowed, before.domains) == wanted:
            return False
        for problem in await self.pool.publish(self._next(desired, generation)):
            self._say(f"warning: {problem}")
        return True

    async def run(self) -> None:
        """Watches the queues; does not end by itself."""
        if self.pool is None:
            await asyncio.Event().wait()
        queues = self._config.queues
        numbers = range(queues.slow_first, queues.slow_first + self._config.inspection.inspectors)
        await watch(Overload(numbers, queues.length, self._config.inspection.patience / 1000), self._overload)

    def _overload(self, queue: int, overloaded: bool) -> None:
        self.overloaded(queue - self._config.queues.slow_first, overloaded)
        action = self._config.failures.inspector_overload
        what = f"is overloaded: its new flows: {action}" if overloaded else "keeps up again"
        self._say(f"the inspector of queue {queue} {what}")

    def tell(self, queue: int, message: messages.Release | messages.Names) -> None:
        if self.pool is not None:
            self.pool.tell(queue, message)

    def _next(self, desired: Desired, generation: int) -> InspectionRuleset:
        self.version += 1
        self._ruleset = InspectionRuleset(
            version=self.version,
            signatures=desired.signatures,
            names=desired.sought.names,
            entries=desired.sought.entries,
            allowed=desired.sought.allowed,
            domains=self._watched(desired.program),
            observe=self._config.mode == "observe",
            generation=generation,
            requests=self._requests,
        )
        return self._ruleset

    def _changed(self, status: InspectorStatus) -> None:
        if status.state == "waiting" and status.pid == 0 and status.heartbeat_age:
            action = self._config.failures.inspector_down
            if self.engine is not None:
                self.engine.inspector_lost(status.queue - self._config.queues.slow_first)
            self._say(f"the inspector of queue {status.queue} has ended and is started again; meanwhile: {action}")
