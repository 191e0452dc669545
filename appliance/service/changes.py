# SPDX-License-Identifier: Apache-2.0
"""Changes, put in force one after the other; what comes meanwhile is taken together.

Gathering ─▶ note() ─▶ small enough? ─▶ Live makes a step ─▶ PolicyInForce.take
                            └ no ─────▶ calculate ─────────▶ PolicyInForce.publish ─▶ slow path, kernel
"""

import asyncio
import gc
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from appliance.config import Config
from appliance.domains.control import DomainControl
from appliance.service.calculation import (
    Desired,
    Inputs,
    Resources,
    asks_requests,
    calculate,
    change,
    lists_otherwise,
    other_signatures,
)
from appliance.service.feeds import left_out
from appliance.service.gathering import Gathering
from appliance.service.inforce import PolicyInForce
from appliance.service.kernelpolicy import KernelPolicy
from appliance.service.notify import Notifier
from appliance.service.relisting import relist
from appliance.service.slowpath import SlowPath
from appliance.service.stats import Reloads
from fastpath.errors import PortcullisError
from rules.policy import Step


class Changes:
    """`desired` is what was calculated last, `reloads` counts. renamed: called when words of events may have changed.

    Everything runs in the event loop; what blocks goes to threads.
    """

    def __init__(
        self,
        config: Config,
        *,
        gathering: Gathering,
        in_force: PolicyInForce,
        domains: DomainControl,
        slowpath: SlowPath,
        kernel: KernelPolicy,
        notifier: Notifier,
        renamed: Callable[[], None],
        say: Callable[[str], None],
    ) -> None:
        self._config = config
        self._gathering = gathering
        self._in_force = in_force
        self._domains = domains
        self._slowpath = slowpath
        self._kernel = kernel
        self._notifier = notifier
        self._renamed = renamed
        self._say = say
        self.reloads = Reloads()
        self.desired: Desired | None = None
        self._applied: Inputs | None = None  # what the policy in force was calculated from, learned names apart
        self._left_out: list[str] = []  # what feeds list and nobody blocks, as it was told last
        self._whole = False  # somebody needs all of it calculated again
        self._changed = asyncio.Event()
        self._idle = asyncio.Event()  # every change so far is in force, or was refused
        self._idle.set()

    async def first(self) -> Desired:
        """What shall be in force at the start. Raises StartError, SourcesError."""
        inputs = await self._gathering.first()
        desired = await asyncio.to_thread(calculate, self._config, inputs)
        await asyncio.to_thread(self._domains.load)
        self._applied, self.desired = inputs, desired
        self._warn(desired)
        gc.freeze()
        return desired

    def resources(self) -> Resources:
        """What the policy in force was made of."""
        return self._applied.resources if self._applied is not None else ()

    def note(self) -> None:
        """The inputs are others."""
        self._idle.clear()
        self._changed.set()

    def recalculate(self) -> None:
        self._whole = True
        self._changed.set()

    def count_refusal(self) -> None:
        self.reloads = replace(self.reloads, failed=self.reloads.failed + 1)

    async def resync(self) -> None:
        """Reads everything again; returns when it is in force."""
        await self._gathering.resync()
        await self._idle.wait()

    async def settled(self) -> None:
        """Every change so far is in force, or was refused."""
        await self._idle.wait()

    async def run(self) -> None:
        while True:
            if not self._changed.is_set():
                self._idle.set()
            await self._changed.wait()
            self._changed.clear()
            started = time.perf_counter()
            inputs = self._gathering.inputs
            if not self._whole and await self._step(inputs, started):
                continue
            self._whole = False
            await self._all(inputs, started)

    async def _all(self, inputs: Inputs, started: float) -> None:
        """Everything calculated again."""
        learned = inputs is self._applied  # nothing but names: no flow that is open is decided otherwise
        try:
            desired = await asyncio.to_thread(calculate, self._config, inputs, self._domains.expected())
            calculated = time.perf_counter() - started
            version = self._slowpath.version
            prepare = partial(self._prepare, desired)
            published = await self._in_force.publish(desired.program, keep=learned, prepare=prepare)
            self._applied, self.desired = inputs, desired
            await self._in_force.tell_workloads()
            await self._kernel.enforce(desired.program)
            self._domains.settled()
            await self._slowpath.publish(desired)
        except PortcullisError as error:
            self._domains.settled(refused=True)
            self.count_refusal()
            self._say(f"{error} (the last good state stays in force)")
            return
        if published is not None:
            self._renamed()
            gc.freeze()  # hundreds of thousands of objects that stay: not to be looked at again and again
        if published is not None and not learned:
            self._warn(desired)
            seconds = self._count(started)
            self._say(
                f"policy generation {published.generation} in force after {ms(seconds)} (calculated in"
                f" {ms(calculated)}, built in {ms(published.build)}, kernel {ms(published.kernel)})"
            )
        if self._slowpath.version != version:
            self._say(f"inspection ruleset {self._slowpath.version} in force")
        self._kernel.offload_soon(desired)
        self._notifier.status(f"{self._config.mode}: generation {self._in_force.generation}")

    async def _prepare(self, desired: Desired, generation: int) -> None:
        """What decisions under a new generation stand on."""
        await self._slowpath.prepare(desired, generation)
        await self._kernel.enforce(desired.program)

    async def _step(self, inputs: Inputs, started: float) -> bool:
        """What came, went or changed, in force by itself. False: everything must be calculated again."""
        before, desired = self._applied, self.desired
        if before is None or desired is None or inputs is before:
            return False
        if inputs.signatures != before.signatures:
            return await self._sign(inputs, before, desired, started)
        if lists_otherwise(before, inputs):
            return await self._relist(inputs, before, desired, started)
        return await self._take(inputs, before, desired, started)

    async def _take(self, inputs: Inputs, before: Inputs, desired: Desired, started: float) -> bool:
        """Endpoints, sets, policies, interfaces."""
        if not self._slowpath.holds_requests and asks_requests(before, inputs):
            try:
                await self._slowpath.introduce(desired)
            except PortcullisError as error:
                self._say(f"warning: inspectors could not be given the policy: {error}")
                return False
        step = change(self._config, desired, before, inputs)
        self.desired = replace(desired, live=None)  # spent, unless all goes well
        if step is None or (step.requests and not self._slowpath.holds_requests):
            return False
        try:
            self._in_force.take(step)
            if step.names:
                self._domains.renew(step.program)
        except PortcullisError as error:
            self._say(f"warning: a change could not be taken by itself: {error}")
            return False
        self._applied, self.desired = inputs, replace(desired, program=step.program)
        await self._took(step, desired, started)
        return True

    async def _sign(self, inputs: Inputs, before: Inputs, desired: Desired, started: float) -> bool:
        """The same for signatures, before whatever else is different. No flow that is open is decided otherwise;
        inspectors hold those that they still read against the new ones."""
        signed = other_signatures(self._config, desired, inputs)
        if signed is None:
            return False
        try:
            await self._tell_inspectors(signed)
        except PortcullisError as error:
            self.count_refusal()
            self._say(f"{error} (the last good state stays in force)")
            return True
        told = replace(before, signatures=inputs.signatures)
        alone = told == inputs
        self._applied, self.desired = inputs if alone else told, signed
        return alone or await self._step(inputs, started)

    async def _relist(self, inputs: Inputs, before: Inputs, desired: Desired, started: float) -> bool:
        """The same for what feeds list and the allowlist leaves of it, before the rest."""
        self.desired = replace(desired, live=None)
        try:
            found = await relist(self._config, self._in_force, self._tell_inspectors, desired, inputs)
        except PortcullisError as error:
            self._say(f"warning: feeds could not be changed by themselves: {error}")
            return False
        if found is None:
            return False
        listed, step = found
        now = replace(before, feeds=inputs.feeds, resolvers=inputs.resolvers)
        alone = now == inputs
        self._applied, self.desired = inputs if alone else now, replace(listed, program=step.program)
        await self._took(step, desired, started)
        self._warn_left_out(self.desired)
        self._kernel.offload_soon(self.desired)
        return alone or await self._take(inputs, now, self.desired, started)

    async def _took(self, step: Step, before: Desired, started: float) -> None:
        """A step is in force for new flows."""
        done = time.perf_counter() - started
        await self._in_force.tell_workloads()
        self._renamed()
        known = frozenset(before.program.warnings)
        for warning in step.program.warnings:
            if warning not in known:
                self._say(f"warning: {warning}")
        await self._kernel.follow(step, self._in_force.snapshot)
        if step.names and self.desired is not None:
            await self._watch(self.desired)
        rechecked = ""
        if step.voids or step.redecide:
            published = await self._in_force.decide_again(() if step.voids else step.redecide)
            rechecked = f", flows of {published.rechecked} addresses alone" if published.rechecked else ""
        seconds = self._count(started)
        self._say(
            f"policy generation {self._in_force.generation} in force after {ms(seconds)} (a change: for new flows after"
            f" {ms(done)}{rechecked})"
        )

    async def _watch(self, desired: Desired) -> None:
        """Inspectors look for other names."""
        try:
            await self._tell_inspectors(desired)
        except PortcullisError as error:
            self.count_refusal()
            self._say(f"{error} (inspectors go on with the names that they know)")

    async def _tell_inspectors(self, desired: Desired) -> None:
        """Of signatures and names. Raises InspectionError."""
        version = self._slowpath.version
        await self._slowpath.publish(desired)
        if self._slowpath.version != version:
            self._say(f"inspection ruleset {self._slowpath.version} in force")

    def _count(self, started: float) -> float:
        """Seconds that the change took."""
        seconds = time.perf_counter() - started
        self.reloads = replace(self.reloads, done=self.reloads.done + 1, seconds=seconds, time=time.time())
        return seconds

    def _warn_left_out(self, desired: Desired) -> None:
        unenforced = [*left_out(desired.merged), *desired.sought.warnings]
        for text in unenforced:
            if text not in self._left_out:
                self._say(f"warning: {text}")
        self._left_out = unenforced

    def _warn(self, desired: Desired) -> None:
        self._warn_left_out(desired)
        for warning in desired.program.warnings:
            self._say(f"warning: {warning}")


def ms(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms"
