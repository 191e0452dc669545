# SPDX-License-Identifier: Apache-2.0
"""The service: starts the parts in the order in which nothing is lost, keeps them current, and takes them down again.

sources ─▶ calculation ─▶ PolicyInForce ─▶ engine, fate map        up:   queues, inspectors, then the rules
                       └▶ InspectorPool                            down: the rules, then inspectors, queues
"""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

import uvloop

from appliance.config import Config, load_config
from appliance.control.server import ControlServer
from appliance.domains.control import DomainControl
from appliance.metrics import MetricsServer
from appliance.netfilter import Netfilter
from appliance.netfilter.surroundings import has_net_admin
from appliance.service import handover, snapshot
from appliance.service.changes import Changes
from appliance.service.feeddesk import FeedDesk
from appliance.service.filtering import Filtering
from appliance.service.floods import Floods
from appliance.service.gathering import Gathering, StartError
from appliance.service.generations import Generations
from appliance.service.inforce import PolicyInForce
from appliance.service.instance import Claim
from appliance.service.keeping import Keeper
from appliance.service.kernelpolicy import KernelPolicy
from appliance.service.notify import Notifier
from appliance.service.operator import Operator
from appliance.service.predecessor import Predecessor, restart_is_asked
from appliance.service.reconfiguration import successor_would_differ
from appliance.service.resume import Resumed
from appliance.service.settings import (
    engine_config,
    failsafes,
    floods_are_handed_over,
    netfilter_settings,
    socket_warnings,
)
from appliance.service.slowpath import SlowPath
from appliance.service.stats import Stats, first_reading
from appliance.service.succession import command, drain, give_memory_back, open_engine
from appliance.service.telling import Telling
from appliance.service.terminal import Terminal
from appliance.service.trial import TrialStore
from appliance.service.udpfates import UdpFates
from fastpath.engine import short_slices
from fastpath.errors import PortcullisError

SWITCH = 5e-4  # seconds that another thread may keep the interpreter from the event loop (Python's own: 5 ms)


class Service:
    """One run of the appliance. Everything but `run()` happens in the event loop."""

    def __init__(self, config: Config, *, path: Path | None, takeover: bool, left: Resumed) -> None:
        self._config = config
        self._path = path
        self._takeover = takeover
        self._left = left
        self._started = time.monotonic()
        self._stays = False  # rules and queues are left to a successor
        self._released = False  # a successor has the queues already
        self._offset: Callable[[], int | None] = lambda: None  # of the ledger
        self._kept: int | None = None  # the successor is this process again, with this snapshot
        self._terminal = Terminal()
        self._say = self._terminal.say
        self._notifier = Notifier()
        self._claim = Claim()
        self._stopping = asyncio.Event()
        self._spawned: set[asyncio.Task[Any]] = set()
        self._netfilter = Netfilter(netfilter_settings(config))
        self._udp_fates = UdpFates(config.fastpath, self._netfilter.age, say=self._say)
        self._kernel = KernelPolicy(
            config,
            refused=lambda: self._changes.count_refusal(),
            denied=lambda packet: self._telling.denied(packet),
            say=self._say,
        )
        self._filtering = Filtering(
            config,
            self._netfilter,
            self._kernel,
            undecided=lambda: self._spawn(self._in_force.decide_again()),
            say=self._say,
        )
        self._gathering = Gathering(
            config,
            explicit=path is not None,
            changed=lambda: self._changes.note(),
            refused=lambda: self._changes.count_refusal(),
            say=self._say,
            alert=lambda feed, state, text: self._telling.feed_alert(feed, state, text),
        )
        self._desk = self._gathering.desk = FeedDesk(
            Path(config.control.state),
            changed=self._gathering.set_feeds,
            configured=lambda: self._gathering.feeds.names,
            settled=lambda: self._changes.settled(),
            merged=lambda: self._changes.desired.merged if self._changes.desired is not None else None,
            say=self._say,
            alert=lambda feed, state, text: self._telling.feed_alert(feed, state, text),
        )
        self._in_force = PolicyInForce(
            Generations(), observe=config.mode == "observe", log=self._say,
            open_flows_stay=config.failures.ruleset_error == "allow",
        )  # fmt: skip
        self._in_force.rules_failed = self._filtering.failed
        self._keeper = Keeper(self._in_force, self._notifier, observe=config.mode == "observe", say=self._say)
        self._in_force.changing = self._changing
        self._domains = DomainControl(
            config.domains,
            update=self._in_force.update,
            tell=lambda queue, message: self._slowpath.tell(queue, message),
            snapshot=lambda: self._in_force.snapshot,
            recalculate=lambda: self._changes.recalculate(),
            own=lambda: self._gathering.inputs.interfaces.own,
            say=self._say,
        )
        self._in_force.adopt = self._domains.adopt
        self._slowpath = SlowPath(
            config,
            self._in_force,
            found=lambda event, queue: self._telling.found(event, queue),
            asked=self._domains.asked,
            watched=lambda program: self._domains.watch(program, self._gathering.inputs.resolvers),
            say=self._say,
        )
        self._in_force.deciding = self._slowpath.deciding
        self._in_force.on_their_way = self._slowpath.waiting
        self._changes = Changes(
            config,
            gathering=self._gathering,
            in_force=self._in_force,
            domains=self._domains,
            slowpath=self._slowpath,
            kernel=self._kernel,
            notifier=self._notifier,
            renamed=lambda: self._telling.forget_names(),
            say=self._say,
        )
        self._floods = Floods(
            config.flood, self._netfilter, self._in_force,
            resources=self._changes.resources, say=self._say,
            tell=lambda event, seconds: self._telling.flooded(event, seconds),
            owners=config.identities.owners,
        ) if floods_are_handed_over(config) else None  # fmt: skip
        if self._floods is not None:
            self._in_force.published = self._floods.published
        self._telling = Telling(
            config,
            gathering=self._gathering,
            in_force=self._in_force,
            domains=self._domains,
            changes=self._changes,
            kernel=self._kernel,
            notifier=self._notifier,
            terminal=self._terminal,
            floods=self._floods,
        )

    async def run(self) -> int:
        """Until SIGTERM or SIGINT. Raises PortcullisError when it cannot start. leave() comes after it."""
        async with contextlib.AsyncExitStack() as down:
            await self._start(down)
            tasks = [asyncio.create_task(work) for work in self._work()]
            down.push_async_callback(_cancel, tasks)
            stopping = asyncio.create_task(self._stopping.wait())
            done, _ = await asyncio.wait([stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)
            self._stays = self._stays or await asyncio.to_thread(restart_is_asked)
            self._terminal.clear()
            for task in done - {stopping}:
                task.result()  # a part that ended by itself has failed: its exception is ours
            if self._kept is None:
                self._notifier.stopping()
            if self._stays:
                await _cancel(tasks)
                await self._bequeath()
        return 0

    def leave(self, status: int) -> int:
        """The last thing: whoever comes next answers from here on. Returns if there is no such thing."""
        if not self._stays:
            return status
        sys.stdout.flush()
        engine, kept = self._engine, self._kept
        if not self._released:
            self.__dict__.clear()
            give_memory_back()
        if kept is not None:
            handover.execute(command(), engine.release(), kept)
        engine.release()
        os._exit(status)  # taking the interpreter down would be waited for by packets

    # ---- start and end ---------------------------------------------------------------------------

    async def _start(self, down: contextlib.AsyncExitStack) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        loop.add_signal_handler(signal.SIGHUP, self._ask_reload)
        if os.geteuid() != 0 and not has_net_admin():
            raise StartError("filtering packets needs CAP_NET_ADMIN: run as root or as the systemd service")
        down.callback(self._claim.close)
        if not self._takeover:
            self._claim.claim()
        desired = await self._changes.first()
        check = not (self._left.taken or self._takeover)
        preflight = await asyncio.to_thread(self._netfilter.preflight, check_queues=check)
        for warning in (*preflight.warnings, *socket_warnings(self._config)):
            self._say(f"warning: {warning}")

        sink = self._telling.open()
        down.callback(self._telling.close)
        predecessor = None
        if self._takeover:
            predecessor = await asyncio.to_thread(Predecessor, Path(self._config.control.socket))
        if before := predecessor.generation if predecessor else self._left.generation:
            self._in_force.succeed(before)
        identities, policy = await asyncio.to_thread(self._in_force.first, desired.program)
        taken = await asyncio.to_thread(predecessor.take) if predecessor else self._left.taken
        self._engine = await asyncio.to_thread(
            open_engine, self._config, self._left, taken, self._netfilter, identities, policy, self._in_force.generation
        )
        down.callback(self._telling.detach)
        down.push_async_callback(self._stop_engine)
        self._telling.attach(self._engine)
        left_offset = predecessor.offset if predecessor else self._left.offset
        base = await asyncio.to_thread(
            first_reading, self._config, self._netfilter, self._engine, taken, left_offset
        )
        self._keeper.begin(engine_config(self._config, taken))
        self._notifier.store(handover.NAME, self._engine.fds())
        if predecessor:
            await asyncio.to_thread(predecessor.wait_for_end)
            self._claim.claim()
        self._slowpath.engine = self._engine
        down.push_async_callback(self._slowpath.stop)
        await self._slowpath.start(desired, self._in_force.generation)
        self._slowpath.overloaded = self._engine.overload
        full = self._filtering.full
        stats = Stats(
            self._config, self._engine, self._netfilter, self._slowpath.pool, sink, base, full, self._udp_fates
        )  # fmt: skip
        self._telling.count(stats)
        self._offset = lambda: stats.offset
        self._keeper.offset = self._offset
        if address := self._config.metrics.address():
            metrics = MetricsServer(address, self._telling.metrics)
            down.push_async_callback(asyncio.to_thread, metrics.close)
        down.push_async_callback(self._remove_rules)
        await asyncio.to_thread(full.start)
        down.callback(self._kernel.close)
        # A connection that was decided in an earlier run may carry this generation.
        await asyncio.to_thread(self._netfilter.sweep, (self._in_force.generation,))
        self._in_force.attach(self._engine)
        await self._kernel.enforce(desired.program)
        await self._filtering.install(self._in_force.generation, self._in_force.program.workload_interfaces)
        self._engine.inspectors_wait(False)
        await self._kernel.offload(desired)
        self._in_force.follow(self._netfilter)
        self._domains.settled()
        self._filtering.start()
        down.push_async_callback(self._filtering.stop)
        self._gathering.watch_interfaces()
        down.callback(self._gathering.stop)
        self._telling.announce(preflight.backend, self._netfilter.changes())
        self._telling.succeeded(self._left, time.monotonic() - self._started)
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
            failsafes(self._config),
            resync=self._changes.resync,
            state=self._telling.state,
            say=self._say,
        )
        handlers = {
            **operator.handlers(), **self._desk.handlers(), "handover": self._hand_over, "release": self._let_go,
        }  # fmt: skip
        server = ControlServer(Path(control.socket), handlers)
        await server.start()
        down.push_async_callback(server.close)
        operator.start()
        down.callback(operator.stop)

    async def _stop_engine(self) -> None:
        if not self._stays:
            await asyncio.to_thread(self._engine.stop)
            self._notifier.forget(handover.NAME)
            self._notifier.forget(snapshot.NAME)

    async def _bequeath(self) -> None:
        """What a successor answers by; then inspectors come to an end with what they have."""
        if self._kept is not None:
            self._kept = await self._keeper.make()
        await self._keeper.store()
        self._engine.inspectors_wait(True)
        await asyncio.to_thread(drain, self._slowpath.queues)

    async def _hand_over(self, request: Mapping[str, Any]) -> dict[str, Any]:
        generation, offset = self._in_force.generation, self._offset()
        return {"pid": os.getpid(), "fds": list(self._engine.fds()), "generation": generation, "offset": offset}

    async def _let_go(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The successor has the queues: nothing is read from here on, and everything in the kernel stays."""
        self._stays = self._released = True
        await asyncio.to_thread(self._engine.release)
        self._say("the queues are handed over")
        self._stopping.set()
        return {}

    async def _remove_rules(self) -> None:
        if not self._stays:
            await self._filtering.remove()

    # ---- what goes on while it runs --------------------------------------------------------------

    def _work(self) -> list[Coroutine[Any, Any, None]]:
        return [
            self._changes.run(),
            self._keeper.run(),
            *self._gathering.work(),
            self._slowpath.run(),
            self._domains.run(),
            self._telling.run(),
            self._filtering.full.run(),
            *self._udp_fates.work(),
            self._desk.run(),
            *([self._floods.run()] if self._floods is not None else []),
        ]

    def _changing(self, voids: bool) -> None:
        self._keeper.changing(voids)
        if voids:
            self._telling.redecisions.begin(time.time_ns())

    def _ask_reload(self) -> None:
        self._notifier.reloading()
        self._telling.reopen()
        self._spawn(self._reload())

    async def _reload(self) -> None:
        await self._changes.resync()
        if await self._reconfigured():
            self._say("the configuration is another one: this process starts again and keeps the queues")
            self._stays, self._kept = True, -1
            signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until the successor listens
            self._stopping.set()
            return
        self._say("reloaded")
        self._notifier.ready(f"{self._config.mode}: reloaded")

    async def _reconfigured(self) -> bool:
        """Whether there is a new configuration with which a successor would start."""
        try:
            return await successor_would_differ(self._config, self._path)
        except PortcullisError as error:
            self._changes.count_refusal()
            self._say(f"{error} (the configuration that is in force stays)")
            return False

    def _spawn(self, work: Coroutine[Any, Any, object]) -> None:
        task = asyncio.create_task(work)
        self._spawned.add(task)
        task.add_done_callback(self._spawned.discard)


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def run(path: Path | None, *, takeover: bool = False, left: Resumed) -> int:
    """The `run` command. takeover: from the service that runs here, without a packet lost. left: of a predecessor.

    Raises PortcullisError when the service cannot start.
    """
    config = load_config(path)
    short_slices()
    sys.setswitchinterval(SWITCH)
    service = Service(config, path=path, takeover=takeover, left=left)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        status = runner.run(service.run())
    return service.leave(status)
