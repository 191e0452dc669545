# SPDX-License-Identifier: Apache-2.0
"""The service: starts the parts in the order in which nothing is lost, keeps them current, and takes them down again.

sources ─▶ calculation ─▶ PolicyInForce ─▶ engine, fate map        up:   queues, inspectors, then the rules
                       └▶ InspectorPool                            down: the rules, then inspectors, queues
"""

import asyncio
import contextlib
import gc
import os
import signal
import time
from collections.abc import Coroutine, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import uvloop

from appliance.config import Config, load_config
from appliance.control.server import ControlServer
from appliance.domains.control import DomainControl
from appliance.events import EventSink, Names, stats_record
from appliance.inspection.messages import InspectionEvent
from appliance.metrics import MetricsServer, MetricsSnapshot
from appliance.netfilter import Netfilter, RulesetWatch
from appliance.netfilter.hostpolicy import HostPolicy
from appliance.netfilter.manager import has_net_admin
from appliance.netfilter.nft import NftError
from appliance.netfilter.offload import Offload
from appliance.release import version
from appliance.service import handover, visibility
from appliance.service.calculation import Desired, Inputs, calculate, change, resources
from appliance.service.feeds import feed_health, left_out, offload_feeds, offload_settings
from appliance.service.gathering import Gathering, StartError
from appliance.service.generations import Generations
from appliance.service.inforce import PolicyInForce
from appliance.service.journal import Console, Journal
from appliance.service.notify import Notifier
from appliance.service.operator import Operator
from appliance.service.settings import engine_config, netfilter_settings, worker_queues
from appliance.service.slowpath import SlowPath
from appliance.service.stats import Reloads, Stats, baseline
from appliance.service.terminal import Terminal
from appliance.service.trial import TrialStore
from fastpath import Engine
from fastpath.errors import PortcullisError
from rules.policy import Program

TICK = 0.25  # seconds between looks at what waits to be told
STATUS = 1.0  # seconds between status lines
STATS = 10  # status lines between stats events
GATHER = 0.01  # seconds that events may wait for others
EVENTS = 2048  # events read at a time: the loop does other things in between


class Service:
    """One run of the appliance. Everything but `run()` happens in the event loop."""

    def __init__(self, config: Config, *, explicit: bool, takeover: bool = False) -> None:
        self._config = config
        self._takeover = takeover
        self._stays = False  # rules and queues are left to a successor
        self._terminal = Terminal()
        self._say = self._terminal.say
        self._notifier = Notifier()
        self._gathering = Gathering(
            config, explicit=explicit, changed=self._change, refused=self._count_refusal, say=self._say
        )
        self._left_out: list[str] = []  # what feeds list and nobody blocks, as it was told last
        self._reloads = Reloads()
        self._stopping = asyncio.Event()
        self._changed = asyncio.Event()
        self._idle = asyncio.Event()  # every change so far is in force, or was refused
        self._idle.set()
        self._in_force = PolicyInForce(Generations(), observe=config.mode == "observe", log=self._say)
        self._domains = DomainControl(
            config.domains,
            update=self._in_force.update,
            tell=lambda queue, message: self._slowpath.tell(queue, message),
            snapshot=lambda: self._in_force.snapshot,
            recalculate=self._recalculate,
            own=lambda: self._gathering.inputs.interfaces.own,
            say=self._say,
        )
        self._in_force.adopt = self._domains.adopt
        self._desired: Desired | None = None  # what that made
        self._whole = False  # somebody needs all of it calculated again
        self._applied: Inputs | None = None  # what the policy in force was calculated from, learned names apart
        self._netfilter = Netfilter(netfilter_settings(config))
        self._host_policy = HostPolicy(netfilter_settings(config))
        self._offload = Offload(offload_settings(config))
        self._slowpath = SlowPath(
            config,
            found=self._found,
            asked=self._domains.asked,
            watched=lambda program: self._domains.watch(program, self._gathering.inputs.resolvers),
            say=self._say,
        )
        self._names: dict[int, Names] = {}
        self._spawned: set[asyncio.Task[None]] = set()
        self._reading: asyncio.TimerHandle | None = None
        # What the console shows goes to standard output unless the events do.
        show = config.events.file != "-"
        self._console = Console(self._terminal.line) if show else None

    async def run(self) -> int:
        """Until SIGTERM or SIGINT. Raises PortcullisError when it cannot start."""
        async with contextlib.AsyncExitStack() as down:
            await self._start(down)
            tasks = [asyncio.create_task(work) for work in self._work()]
            down.push_async_callback(_cancel, tasks)
            stopping = asyncio.create_task(self._stopping.wait())
            done, _ = await asyncio.wait([stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)
            self._stays = self._stays or await asyncio.to_thread(handover.restart_is_asked)
            self._notifier.stopping()
            self._terminal.clear()
            for task in done - {stopping}:
                task.result()  # a part that ended by itself has failed: its exception is ours
        return 0

    # ---- start and end ---------------------------------------------------------------------------

    async def _start(self, down: contextlib.AsyncExitStack) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        loop.add_signal_handler(signal.SIGHUP, self._ask_reload)
        if os.geteuid() != 0 and not has_net_admin():
            raise StartError("filtering packets needs CAP_NET_ADMIN: run as root or as the systemd service")
        desired = await self._first_state()
        taken = handover.from_manager()
        check = not (taken or self._takeover)
        preflight = await asyncio.to_thread(self._netfilter.preflight, check_queues=check)
        for warning in preflight.warnings:
            self._say(f"warning: {warning}")

        self._sink = EventSink(self._config.events.file, self._config.events.types)
        down.callback(self._sink.close)
        self._journal = Journal(self._sink, self._console, self._names_of, colour=self._terminal.interactive)
        down.callback(self._journal.close)
        identities, policy = await asyncio.to_thread(self._in_force.first, desired.program)
        predecessor = 0
        if self._takeover:
            taken, predecessor = await asyncio.to_thread(handover.from_process, Path(self._config.control.socket))
        before = await asyncio.to_thread(baseline, self._netfilter)
        self._engine = Engine(engine_config(self._config, taken), identities, policy, self._in_force.generation)
        down.push_async_callback(self._stop_engine)
        loop.add_reader(self._engine.event_fd, self._events_waiting)
        down.callback(self._stop_reading)
        self._engine.start()
        taken.close_others(worker_queues(self._config))
        self._notifier.store(handover.NAME, self._engine.fds())
        if predecessor:
            await asyncio.to_thread(handover.wait_for_end, predecessor)
        down.push_async_callback(self._slowpath.stop)
        await self._slowpath.start(desired, self._in_force.generation)
        self._stats = Stats(self._config, self._engine, self._netfilter, self._slowpath.pool, self._sink, before)
        if address := self._config.metrics.address():
            metrics = MetricsServer(address, self._metrics)
            down.push_async_callback(asyncio.to_thread, metrics.close)
        down.push_async_callback(self._remove_rules)
        # A connection that was decided in an earlier run may carry this generation.
        await asyncio.to_thread(self._netfilter.sweep, self._in_force.generation)
        await asyncio.to_thread(self._netfilter.install, self._in_force.generation)
        await self._enforce_host_policy(desired.program)
        await self._offload_feeds(desired)
        self._in_force.attach(self._engine, self._netfilter)
        self._domains.settled()
        rules = RulesetWatch(self._netfilter, self._rules_lost, lambda error: self._say(f"ALARM: {error}"))
        rules.start()
        down.push_async_callback(rules.stop)
        self._gathering.watch_interfaces()
        down.callback(self._gathering.stop)
        self._announce(desired, preflight.backend)
        await self._open_control(down)
        self._notifier.ready(f"{self._config.mode}: policy is in force")

    async def _open_control(self, down: contextlib.AsyncExitStack) -> None:
        control = self._config.control
        if not control.socket:
            return
        operator = Operator(
            self._in_force,
            next(map(Path, self._config.policy.paths), None),
            TrialStore(Path(control.state)),
            resync=self._resync,
            state=self._state,
            say=self._say,
        )
        handlers = {**operator.handlers(), "handover": self._hand_over, "release": self._let_go}
        server = ControlServer(Path(control.socket), handlers)
        await server.start()
        down.push_async_callback(server.close)
        operator.start()
        down.callback(operator.stop)

    async def _first_state(self) -> Desired:
        inputs = await self._gathering.first()
        desired = await asyncio.to_thread(calculate, self._config, inputs)
        await asyncio.to_thread(self._domains.load)
        self._applied, self._desired = inputs, desired
        self._warn(desired)
        gc.freeze()
        return desired

    async def _stop_engine(self) -> None:
        if self._stays:
            await asyncio.to_thread(self._engine.release)
            return
        await asyncio.to_thread(self._engine.stop)
        self._notifier.forget(handover.NAME)

    async def _hand_over(self, request: Mapping[str, Any]) -> dict[str, Any]:
        return {"pid": os.getpid(), "fds": list(self._engine.fds())}

    async def _let_go(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The successor has the queues: nothing is read from here on, and everything in the kernel stays."""
        self._stays = True
        await asyncio.to_thread(self._engine.release)
        self._say("the queues are handed over")
        self._stopping.set()
        return {}

    async def _remove_rules(self) -> None:
        if self._stays:
            return
        with contextlib.suppress(NftError):
            await asyncio.to_thread(self._offload.remove)
        for remove in (self._netfilter.remove, self._host_policy.remove):
            for line in await asyncio.to_thread(remove):
                self._say(line)

    def _kernel_drops(self) -> dict[str, int]:
        """By feed. Blocking, a millisecond where a feed is in the kernel."""
        try:
            return self._offload.hits()
        except OSError:
            return {}  # another program took the table away

    async def _enforce_host_policy(self, program: Program, *, again: bool = False) -> None:
        """Of doNotTrack and preDNAT policy. Where that fails, what was in force before stays."""
        wanted = program if self._config.mode == "enforce" else None
        try:
            changed = await asyncio.to_thread(self._host_policy.apply, wanted, again=again)
        except PortcullisError as error:
            self._count_refusal()
            self._say(f"warning: doNotTrack and preDNAT policy could not be put in force: {error}")
            return
        if changed:
            self._say("doNotTrack and preDNAT policy is in step")

    async def _offload_feeds(self, desired: Desired) -> None:
        """Without its sets a feed is enforced as well, only slower."""
        try:
            changed = await asyncio.to_thread(self._offload.apply, offload_feeds(self._config, desired.merged))
        except NftError as error:
            self._say(f"warning: feeds could not be put into the kernel: {error}")
            return
        for name in changed:
            self._say(f"feed {name}: its addresses in the kernel are in step")

    # ---- what goes on while it runs --------------------------------------------------------------

    def _work(self) -> list[Coroutine[Any, Any, None]]:
        return [
            self._apply(),
            *self._gathering.work(),
            self._domains.run(),
            self._tick(),
        ]

    def _change(self) -> None:
        self._idle.clear()
        self._changed.set()

    def _count_refusal(self) -> None:
        self._reloads = replace(self._reloads, failed=self._reloads.failed + 1)

    async def _apply(self) -> None:
        """One change after the other; what came meanwhile is taken together."""
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
            learned = inputs is self._applied  # nothing but names: no flow that is open is decided otherwise
            try:
                desired = await asyncio.to_thread(calculate, self._config, inputs, self._domains.expected())
                calculated = time.perf_counter() - started
                prepare = partial(self._slowpath.prepare, desired)
                published = await self._in_force.publish(desired.program, keep=learned, prepare=prepare)
                self._applied, self._desired = inputs, desired
                await self._enforce_host_policy(desired.program)
                self._domains.settled()
                inspected = await self._slowpath.publish(desired, self._in_force.generation)
            except PortcullisError as error:
                self._domains.settled(refused=True)
                self._count_refusal()
                self._say(f"{error} (the last good state stays in force)")
                continue
            if published is not None:
                self._names.clear()
                gc.freeze()  # hundreds of thousands of objects that stay: not to be looked at again and again
            if published is not None and not learned:
                self._warn(desired)
                seconds = time.perf_counter() - started
                self._reloads = replace(self._reloads, done=self._reloads.done + 1, seconds=seconds, time=time.time())
                self._say(
                    f"policy generation {published.generation} in force after {_ms(seconds)} (calculated in"
                    f" {_ms(calculated)}, built in {_ms(published.build)}, kernel {_ms(published.kernel)})"
                )
            if inspected:
                self._say(f"inspection ruleset {self._slowpath.version} in force")
            await self._offload_feeds(desired)
            self._notifier.status(f"{self._config.mode}: generation {self._in_force.generation}")

    async def _step(self, inputs: Inputs, started: float) -> bool:
        """Endpoints, sets and policies that came, went or changed, in force by themselves. False: everything must be
        calculated again."""
        before, desired = self._applied, self._desired
        if before is None or desired is None or inputs is before:
            return False
        step = change(self._config, desired, before, inputs)
        self._desired = replace(desired, live=None)  # spent, unless all goes well
        if step is None:
            return False
        try:
            self._in_force.take(step)
        except PortcullisError as error:
            self._say(f"warning: a change could not be taken by itself: {error}")
            return False
        known = frozenset(desired.program.warnings)
        self._applied, self._desired = inputs, replace(desired, program=step.program)
        done = time.perf_counter() - started
        self._names.clear()
        for warning in step.program.warnings:
            if warning not in known:
                self._say(f"warning: {warning}")
        generation = self._in_force.generation
        if step.voids or step.redecide:
            generation = (await self._in_force.decide_again()).generation
        seconds = time.perf_counter() - started
        self._reloads = replace(self._reloads, done=self._reloads.done + 1, seconds=seconds, time=time.time())
        self._say(
            f"policy generation {generation} in force after {_ms(seconds)} (a change: for new flows after {_ms(done)})"
        )
        return True

    def _recalculate(self) -> None:
        self._whole = True
        self._changed.set()

    def _found(self, event: InspectionEvent, queue: int) -> None:
        self._journal.found(event)

    def _rules_lost(self, gone: list[str], seconds: float) -> None:
        self._say(
            f"ALARM: ruleset_lost: another program took away {len(gone)} parts of the rules ({gone[0]}, ...); made"
            f" again after {_ms(seconds)}; what passed meanwhile was not filtered"
        )
        if self._desired is not None:
            self._spawn(self._enforce_host_policy(self._desired.program, again=True))

    def _ask_reload(self) -> None:
        self._notifier.reloading()
        self._sink.reopen()
        self._spawn(self._reload())

    async def _resync(self) -> None:
        """Reads everything again; returns when it is in force."""
        await self._gathering.resync()
        await self._idle.wait()

    async def _reload(self) -> None:
        await self._resync()
        self._say("reloaded")
        self._notifier.ready(f"{self._config.mode}: reloaded")

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._spawned.add(task)
        task.add_done_callback(self._spawned.discard)

    def _events_waiting(self) -> None:
        """Events come one by one and are taken together, a moment later: waking up costs more than an event."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._engine.event_fd)
        self._reading = loop.call_later(GATHER, self._read_events)

    def _read_events(self) -> None:
        self._reading = None
        for event in self._engine.read_events(EVENTS):
            self._journal.decided(event)
        asyncio.get_running_loop().add_reader(self._engine.event_fd, self._events_waiting)

    def _stop_reading(self) -> None:
        """Takes what is there; the engine has stopped, or is about to."""
        if self._reading is not None:
            self._reading.cancel()
        asyncio.get_running_loop().remove_reader(self._engine.event_fd)
        for event in self._engine.read_events(EVENTS):
            self._journal.decided(event)

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        next_status = loop.time()
        ticks = 0
        while True:
            self._journal.tick()
            self._engine.reclaim()
            if loop.time() >= next_status:
                next_status += STATUS
                self._tell_status()
                if ticks % STATS == 0 and self._sink.wants("stats"):
                    self._sink.write(stats_record(time.time_ns(), await asyncio.to_thread(self._stats.collect)))
                ticks += 1
            await asyncio.sleep(TICK)

    def _tell_status(self) -> None:
        self._notifier.watchdog()
        line = self._stats.line(
            generation=self._in_force.generation,
            policies=len(self._gathering.inputs.resources),
            errors=sum(len(errors) for errors in self._gathering.errors().values()),
        )
        if self._console is not None and self._terminal.interactive:
            self._terminal.status(line)
        elif self._console is not None and self._stats.due():
            self._terminal.line(line)

    # ---- words -----------------------------------------------------------------------------------

    def _names_of(self, generation: int) -> Names:
        if generation not in self._names:
            program = self._in_force.program_of(generation)
            interfaces = {index: name for name, index in self._gathering.inputs.interfaces.indexes.items()}
            directions = {feed.config.name: feed.config.direction for feed in self._gathering.inputs.feeds}
            self._names[generation] = Names(program.rules, program.identities, interfaces, directions)
        return self._names[generation]

    def _state(self) -> dict[str, Any]:
        """What `status` tells. Blocking (netlink)."""
        return {
            "version": version(),
            "mode": self._config.mode,
            "node": self._config.node,
            "generation": self._in_force.generation,
            "resources": len(self._gathering.inputs.resources),
            "identities": len(self._in_force.program.identities),
            "endpoints": visibility.state(self._sights()),
            "feeds": {feed.config.name: len(feed.content) for feed in self._gathering.inputs.feeds},
            "errors": [str(error) for errors in self._gathering.errors().values() for error in errors],
            "reloads": {"done": self._reloads.done, "failed": self._reloads.failed, "seconds": self._reloads.seconds},
            "domains": self._domains.status(),
            **self._stats.collect(),
        }

    def _metrics(self) -> MetricsSnapshot:
        """Called by the thread of a scrape: reads what is replaced whole, never changed in place."""
        return self._stats.metrics(
            generation=self._in_force.generation,
            policies=len(self._gathering.inputs.resources),
            identities=len(self._in_force.program.identities),
            reloads=self._reloads,
            sources={name: len(errors) for name, errors in self._gathering.errors().items()},
            feeds={feed.config.name: len(feed.content) for feed in self._gathering.inputs.feeds},
            feed_health=feed_health(
                self._gathering.inputs.feeds,
                self._gathering.feeds.health,
                self._journal.feed_hits,
                self._kernel_drops(),
            ),
            version=version(),
        )

    def _announce(self, desired: Desired, backend: str) -> None:
        config = self._config
        hooks = ", ".join(config.hooks.names())
        self._say(
            f"mode {config.mode}; hooks {hooks}; {len(self._gathering.inputs.resources)} policy resources,"
            f" {len(desired.merged.feeds)} feeds, {len(self._gathering.inputs.signatures)} signature files;"
            f" {backend} queue rules"
        )
        if config.mode == "observe":
            self._say("nothing is denied: what would be denied is said; loopback and failsafe ports are left alone")
        for line in self._netfilter.changes():
            self._say(line)
        for line in visibility.lines(self._sights()):
            self._say(f"warning: {line}")

    def _sights(self) -> tuple[visibility.Sight, ...]:
        config, inputs = self._config, self._gathering.inputs
        return visibility.sights(
            resources(config, inputs), node=config.node, hooks=config.hooks, interfaces=inputs.interfaces
        )

    def _warn(self, desired: Desired) -> None:
        for text in left_out(desired.merged):
            if text not in self._left_out:
                self._say(f"warning: {text}")
        self._left_out = left_out(desired.merged)
        for warning in desired.program.warnings:
            self._say(f"warning: {warning}")


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms"


def run(path: Path | None, *, takeover: bool = False) -> int:
    """The `run` command. takeover: from the service that runs here, without a packet lost.

    Raises PortcullisError when the service cannot start.
    """
    config = load_config(path)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(config, explicit=path is not None, takeover=takeover))


async def _run(config: Config, *, explicit: bool, takeover: bool) -> int:
    return await Service(config, explicit=explicit, takeover=takeover).run()
