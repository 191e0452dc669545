# SPDX-License-Identifier: Apache-2.0
"""The policy in force: one program in the C engine, one generation in the kernel's fate map.

    program ─▶ engine.publish(new) ─▶ fate map replaced ─▶ sweep of numbers that come next
                 new packets               every open flow            no connection carries a
                 decided by it             comes back once            number before it is used

Between the first two steps a flow that was decided by the new program is not known to the fate map yet:
it comes back once more. The other order would cost the same; no order opens anything.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar, TypeVarTuple

from appliance.netfilter.recheck import Address
from appliance.service.generations import Generations
from appliance.service.rest import rest
from appliance.service.sweeping import Sweeping
from appliance.sources.local_owners import is_owner
from fastpath import Engine, IdentityMap, Policy
from fastpath._binding import address_from_bytes
from fastpath.engine import short_slices
from fastpath.errors import PortcullisError
from fastpath.layout import GENERATION_MAX, GENERATION_MIN
from rules.policy import Delta, Program, Step
from rules.policy.model import Net
from rules.policy.relist import Relisting

FEW = 64  # addresses that are rechecked by themselves; for more all flows are decided again
REST = 0.5  # seconds without a recheck before silent flows are walked behind
LONGEST = 30.0  # seconds that rechecks may keep them from it
PATIENCE = 0.02  # seconds for workers to take up what was published
MOMENT = 1e-4  # seconds between looks whether they have
_REMEMBERED = 4  # programs whose rule numbers may still be in an event on its way


Ts = TypeVarTuple("Ts")
T = TypeVar("T")


class FateMap(Protocol):
    """What this needs of the ruleset (appliance.netfilter.Netfilter); every call blocks."""

    def set_generation(self, new: int) -> None: ...
    def set_workloads(self, interfaces: frozenset[int]) -> None: ...
    def sweep(self, generations: Collection[int], *, gently: bool = False) -> int: ...
    def recheck(self, addresses: Collection[Address]) -> None: ...
    def recheck_done(self, addresses: Collection[Address]) -> None: ...


@dataclass(frozen=True)
class Publication:
    """One change: its generation and how long its parts took, in seconds."""

    generation: int
    build: float
    kernel: float
    rechecked: int = 0  # addresses whose flows alone are decided again; 0: all flows are


class PolicyInForce:
    """Changes engine and kernel together. All methods run in the event loop; blocking parts go to threads."""

    def __init__(
        self, generations: Generations, *, observe: bool, log: Callable[[str], None], open_flows_stay: bool = False
    ) -> None:
        """open_flows_stay: as they were decided, where the kernel's rules cannot be changed (ruleset_error)."""
        self._generations = generations
        self._observe = observe
        self._log = log
        self._open_flows_stay = open_flows_stay
        self._programs: dict[int, Program] = {}
        self.adopt: Callable[[Program, IdentityMap], IdentityMap] = lambda program, identities: identities
        """Completes the identity map of a program by what is known at the moment it comes into force."""
        self.rules_failed: Callable[[PortcullisError], None] = lambda error: log(f"ALARM: ruleset_error: {error}")
        """Called when the kernel's rules could not be changed."""
        self.published: Callable[[frozenset[bytes] | None], None] = lambda addresses: None
        """Called when packets, of these addresses (16 bytes) or any, are decided by something else from now on."""
        self.changing: Callable[[bool], None] = lambda voids: None
        """Called before the engine decides otherwise; voids: what it decided so far does not count any more."""
        self.deciding: Callable[[int, Step | None], None] = lambda generation, step: None
        """Called before the engine decides under `generation` by a step, or (None) by what it has."""
        self._snapshot: tuple[IdentityMap, Policy] | None = None
        self._engine: Engine | None = None
        self._fates: FateMap | None = None
        self._workloads: frozenset[int] | None = None  # interfaces that the ruleset knows
        self._sweeping = Sweeping(generations, log)
        self._rechecked: list[list[Address]] = []  # whose flows were not walked yet
        self._again = asyncio.Event()  # one more
        self._walk: asyncio.Task[None] | None = None
        self._lock = asyncio.Lock()
        self._prompt = ThreadPoolExecutor(1, "fates", short_slices)
        self.on_their_way: Callable[[], int] = lambda: 0
        """Packets that inspectors have not answered yet: their fates may still come, with the current generation."""

    @property
    def generation(self) -> int:
        return self._generations.current

    @property
    def program(self) -> Program:
        return self._programs[self._generations.current]

    @property
    def snapshot(self) -> tuple[IdentityMap, Policy]:
        """What the engine decides by."""
        assert self._snapshot is not None, "nothing is in force yet"
        return self._snapshot

    def program_of(self, generation: int) -> Program:
        """The program that an event of `generation` speaks of."""
        return self._programs.get(generation, self.program)

    def first(self, program: Program) -> tuple[IdentityMap, Policy]:
        """Takes the first program, before there is an engine. Blocking (a large map takes a while)."""
        self._programs[self._generations.current] = program
        identities, policy = _build(program)
        self._snapshot = self.adopt(program, identities), policy
        return self._snapshot

    def succeed(self, generation: int) -> None:
        """Before first(): a predecessor's last generation, under which packets may be decided until attach()."""
        self._generations.current = generation
        self._generations.advance()

    def attach(self, engine: Engine) -> None:
        """What the engine decided by until now is replaced."""
        self._engine = engine
        self._put(*self.snapshot, voids=True)

    def follow(self, fates: FateMap) -> None:
        """The rules are there, with the current generation."""
        self._fates = fates
        self._sweeping.begin(fates.sweep)

    def update(self, delta: Delta) -> None:
        """Puts a change of addresses in force at once, for what is decided from now on."""
        identities, policy = self.snapshot
        entries = (*delta.set, *delta.remove)
        single = all(entry[1] == 128 for entry in entries)
        self._put(
            identities.update(set=delta.set, remove=[entry[:2] for entry in delta.remove]),
            policy,
            addresses=frozenset(entry[0] for entry in entries) if single else None,
        )

    def take(self, step: Step) -> None:
        """Puts a change in force at once, for what is decided from now on. Call it as soon as the step is made: other
        changes of addresses may already speak of its identities."""
        self.deciding(self.generation, step)
        identities, policy = self.snapshot
        if step.delta.set or step.delta.remove:
            identities = identities.update(set=step.delta.set, remove=[entry[:2] for entry in step.delta.remove])
        if step.change is not None:
            policy = policy.update(step.change)
        self._programs[self._generations.current] = step.program
        self._put(identities, policy, voids=step.voids or bool(step.redecide))

    async def exchange(self, plan: Relisting) -> Step:
        """Lists with many changes, in force for what is decided from now on. Large maps are made in threads; what is
        learned meanwhile is in force at once, and stays. Raises FastpathError, and the program's Live is spent then."""
        plan.begin()
        try:
            await asyncio.to_thread(plan.merge)
            change = plan.name()
            policy = self.snapshot[1] if change is None else self.snapshot[1].update(change)
            identities = await asyncio.to_thread(plan.finish, self.snapshot[0])
        finally:
            plan.give_up()
        step = plan.settle()
        self._snapshot = identities, policy
        self.take(step)
        return step

    def held(self) -> asyncio.Lock:
        """While it is locked no whole program comes into force, and no generation."""
        return self._lock

    async def decide_again(self, nets: Sequence[Net] = ()) -> Publication:
        """Whatever was decided so far is void: each open flow comes up once more. nets: only flows of these have to. If
        they are few addresses, and nobody can write a fate by what was in force before, the generation stays what it
        is, and with it what was decided of all other flows."""
        async with self._lock:
            assert self._engine is not None and self._fates is not None
            few = _addresses(nets)
            started = time.perf_counter()
            if few and await self._workers_follow() and await self._promptly(self._recheck, few):
                self._rechecked.append(few)
                self._again.set()
                if self._walk is None or self._walk.done():
                    self._walk = asyncio.create_task(self._walk_behind())
                return Publication(self.generation, 0.0, time.perf_counter() - started, len(few))
            await self._sweeping.ready()
            started = time.perf_counter()
            self.deciding(self._generations.next, None)
            generation = self._advance(self.program)
            self._put(*self.snapshot, voids=True)
            await self._void(generation)
            self._engine.reclaim()
            self._sweeping.advanced()
            return Publication(generation, 0.0, time.perf_counter() - started)

    async def _promptly(self, call: Callable[[*Ts], T], *arguments: *Ts) -> T:
        """In a thread that has the core as soon as it gets the call: open flows wait for it."""
        return await asyncio.get_running_loop().run_in_executor(self._prompt, call, *arguments)

    async def _walk_behind(self) -> None:
        """Flows of rechecked addresses that stay silent lose their fates, too: nobody waits for that. Until then their
        addresses stand in the set, and who speaks is decided anew."""
        assert self._fates is not None
        while self._rechecked:
            await rest(self._again, REST, LONGEST)
            addresses = [address for few in self._rechecked for address in few]
            self._rechecked.clear()
            try:
                await asyncio.to_thread(self._fates.recheck_done, addresses)
            except PortcullisError as error:
                self.rules_failed(error)

    async def _void(self, generation: int) -> None:
        """Decisions under other generations. A ruleset that cannot be changed is told, and tried again by others."""
        assert self._fates is not None
        try:
            await self._promptly(self._fates.set_generation, generation)
        except PortcullisError as error:
            self.rules_failed(error)
            if not self._open_flows_stay:
                await self._sweep_others(generation)

    async def _sweep_others(self, generation: int) -> None:
        """One by one what the fate map should have made void at once."""
        assert self._fates is not None
        try:
            others = [other for other in range(GENERATION_MIN, GENERATION_MAX + 1) if other != generation]
            await asyncio.to_thread(self._fates.sweep, others)
        except PortcullisError as error:
            self._log(f"ALARM: ruleset_error: open flows go on as they were decided before: {error}")

    def _put(
        self,
        identities: IdentityMap,
        policy: Policy,
        *,
        voids: bool = False,
        addresses: frozenset[bytes] | None = None,
    ) -> None:
        """The engine decides by these from here on, under the current generation. addresses: all that is decided
        otherwise (16 bytes each); None: anything may be."""
        self.changing(voids)
        self._snapshot = identities, policy
        if self._engine is not None:
            self._engine.publish(identities, policy, self.generation, self._observe)
            self.published(addresses)

    async def _workers_follow(self) -> bool:
        """Every worker decides by what is in force now."""
        assert self._engine is not None
        due = time.perf_counter() + PATIENCE
        while self._engine.reclaim():
            if time.perf_counter() > due:
                return False
            await self._promptly(time.sleep, MOMENT)  # the loop's own clock counts milliseconds
        return True

    def _recheck(self, addresses: Collection[Address]) -> bool:
        """False: inspectors have not answered all that they got before. Blocking."""
        assert self._fates is not None
        if self.on_their_way():
            return False
        self._fates.recheck(addresses)
        return True

    def _advance(self, program: Program) -> int:
        """The next generation, decided by `program`. Of those before it only their words are still needed."""
        before = self._generations.current
        self._programs[before] = replace(
            self._programs[before], parts={}, entries=(), endpoints={}, state=None,
            options=replace(self._programs[before].options, feeds=()),
        )  # fmt: skip
        generation = self._generations.advance()
        self._programs[generation] = program
        while len(self._programs) > _REMEMBERED:
            del self._programs[next(iter(self._programs))]
        return generation

    async def publish(
        self, program: Program, *, keep: bool = False, prepare: Callable[[int], Awaitable[None]] | None = None
    ) -> Publication | None:
        """Puts `program` in force; None if it decides exactly as the one before. keep: it denies nothing that the one
        before allows, so what is decided stays decided and the generation what it is. prepare(generation): what must
        be done before a flow is decided by it, under that generation; if it raises, nothing changes."""
        async with self._lock:
            assert self._engine is not None and self._fates is not None
            before = self.program
            same_requests = program.http == before.http
            if same_requests and program.tables == before.tables and program.entries == before.entries:
                # Same tables, but what follows the new program knows nothing of what came since.
                self._programs[self._generations.current] = program
                identities, policy = self.snapshot
                adopted = self.adopt(program, identities)
                if adopted is not identities:
                    self._put(adopted, policy)
                return None
            if not keep:
                await self._sweeping.ready()
            started = time.perf_counter()
            identities, policy = await asyncio.to_thread(_build, program)
            built = time.perf_counter()
            if prepare is not None:
                await prepare(self.generation if keep else self._generations.next)
            generation = self._generations.current
            if keep:
                self._programs[generation] = program
            else:
                generation = self._advance(program)
            self._put(self.adopt(program, identities), policy, voids=not keep)
            if keep:
                return Publication(generation, built - started, 0.0)
            await self._void(generation)
            self._engine.reclaim()
            self._sweeping.advanced()
            return Publication(generation, built - started, time.perf_counter() - built)

    async def tell_workloads(self) -> None:
        """The ruleset knows by which interfaces packets of local workloads come in."""
        assert self._fates is not None
        interfaces = self.program.workload_interfaces
        if interfaces == self._workloads:
            return
        try:
            await asyncio.to_thread(self._fates.set_workloads, interfaces)
            self._workloads = interfaces
        except PortcullisError as error:
            self.rules_failed(error)

    async def settle(self) -> None:
        """Waits for the sweep that is under way."""
        await self._sweeping.settle()


def _build(program: Program) -> tuple[IdentityMap, Policy]:
    return IdentityMap.build(program.entries), Policy(program.tables)


def _addresses(nets: Sequence[Net]) -> list[Address]:
    """Of nets that are one address each; [] where one is not, or stands for the owner of a socket, whose flows do not
    have it, or where they are many."""
    if len(nets) > FEW or any(net.length != 128 or is_owner(net.addr) for net in nets):
        return []
    return [address_from_bytes(net.addr) for net in nets]
