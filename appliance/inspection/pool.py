# SPDX-License-Identifier: Apache-2.0
"""Supervises the inspectors: one child process for each slow queue."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import msgspec

from appliance.inspection import messages
from appliance.inspection.channel import Channel
from appliance.inspection.messages import InspectionEvent, InspectionRuleset, InspectorSettings
from appliance.inspection.requests import RequestChange
from fastpath.errors import PortcullisError

EventHandler = Callable[[InspectionEvent, int], None]
AnswerHandler = Callable[[messages.Answer | messages.NamesAsked, int], None]
Encoder = Callable[[], bytes]
_PARTS = 4  # of the time in which an inspector must answer a call
State = Literal["starting", "ready", "waiting", "stopped"]


class InspectionError(PortcullisError):
    """The pool cannot start, or a ruleset was refused."""


class PoolSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Times in seconds."""

    queue_first: int = 64
    queue_count: int = 1
    queue_length: int = 4096
    """Packets that may wait in a queue."""
    receive_buffer: int = 8 * 1024 * 1024
    """Bytes of socket buffer."""
    fail_open: bool = False
    """Packets that do not fit into a queue pass; the kernel counts none of them."""
    worker_queues: tuple[int, int] = (0, 0)
    """The first, and how many there are: packets come from them."""
    mark_mask: int = 0xFF000000
    reader: Literal["fastpath", "netfilterqueue"] = "fastpath"
    confined: bool = True
    inspector: InspectorSettings = InspectorSettings()
    start_timeout: float = 60.0
    heartbeat_timeout: float = 15.0
    call_timeout: float = 1.0
    """An inspector that says nothing for so long when a ruleset comes is stuck: nobody waits for it any longer."""
    backoff_first: float = 0.1
    backoff_most: float = 10.0
    healthy_after: float = 30.0
    """An inspector that has run so long starts again without waiting."""


class RulesetDelayed(InspectionError):
    """A ruleset was not accepted in time; it will be, or the inspector starts again with it."""


@dataclass(frozen=True, slots=True)
class InspectorStatus:
    """`counters` since the process started; see the worker for their names. `version`: the ruleset in force."""

    queue: int
    state: State
    pid: int
    restarts: int
    version: int
    signatures: int
    names: int
    signature_errors: tuple[str, ...]
    signature_errors_total: int
    refused: str
    heartbeat_age: float
    counters: dict[str, int]


@dataclass(slots=True)
class _Child:
    queue: int
    state: State = "waiting"
    pid: int = 0
    starts: int = 0
    heartbeat: float = 0.0
    echoed: int = 0  # the last Call that it answered
    accepted: messages.Accepted | None = None
    refused: messages.Refused | None = None
    failed: messages.Failed | None = None
    counters: dict[str, int] = field(default_factory=dict)
    channel: Channel | None = None
    backlog: list[bytes] | None = None  # what is for it, while its first ruleset is being encoded
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def tell(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()

    def send(self, data: bytes) -> None:
        if self.backlog is not None:
            self.backlog.append(data)
        elif self.channel is not None:
            self.channel.send(data)


class InspectorPool:
    """`on_event(event, queue)` is called in the event loop for everything that inspectors report, `on_answer(message,
    queue)` for every DNS answer and every flow that waits for tell(); they must not block. `whole(ruleset)` is called
    for an inspector that starts: what it returns encodes, in a thread, the ruleset with all changes until then.
    `command` is what starts a child, up to its options."""

    def __init__(
        self,
        settings: PoolSettings,
        on_event: EventHandler,
        *,
        on_change: Callable[[InspectorStatus], None] | None = None,
        on_answer: AnswerHandler | None = None,
        whole: Callable[[InspectionRuleset], Encoder] = lambda ruleset: partial(messages.encode, ruleset),
        command: Sequence[str] = (sys.executable, "-m", "appliance.inspection.worker"),
    ) -> None:
        self._settings = settings
        self._on_event = on_event
        self._on_change = on_change
        self._on_answer = on_answer
        self._whole = whole
        self._command = tuple(command)
        first = settings.queue_first
        self._children = [_Child(number) for number in range(first, first + settings.queue_count)]
        self._tasks: list[asyncio.Task[None]] = []
        self._ruleset = InspectionRuleset(version=0)
        self._calls = 0
        self._asking: asyncio.Task[None] | None = None  # whether inspectors are alive
        self._stopping = False

    async def start(self, ruleset: InspectionRuleset) -> None:
        """Start every inspector and wait until each has bound its queue with this ruleset. Raises InspectionError,
        naming the queue, when one cannot; nothing runs then."""
        self._stopping = False
        self._ruleset = ruleset
        self._tasks = [asyncio.create_task(self._supervise(child)) for child in self._children]
        try:
            async with asyncio.timeout(self._settings.start_timeout):
                for child in self._children:
                    while child.state != "ready" or child.accepted is None:
                        if child.failed is not None:
                            raise InspectionError(child.failed.message, field=f"queue {child.queue}")
                        if child.refused is not None:
                            raise InspectionError(child.refused.message, field="ruleset")
                        await child.changed.wait()
        except TimeoutError:
            await self.stop()
            raise InspectionError(f"no inspector within {self._settings.start_timeout:g} s") from None
        except BaseException:
            await self.stop()
            raise

    async def publish(self, ruleset: InspectionRuleset, patience: float = 60.0) -> tuple[str, ...]:
        """Send a ruleset and wait until every running inspector uses it. Returns the signatures that could not be
        used, as `file:line: message`. Raises InspectionError when it is refused (inspectors keep the old one, and a
        new process gets the old one) or not accepted in time. One that is being restarted gets it when it starts.

        One that does not even answer a call within `call_timeout` is killed before this returns, so it gives nobody a
        fate under a generation whose ruleset it has not got; it starts again with this ruleset, and nobody waits."""
        previous, self._ruleset = self._ruleset, ruleset
        encoded = await asyncio.to_thread(messages.encode, ruleset)
        running = [child for child in self._children if child.state == "ready"]
        self._calls += 1
        call = messages.encode(messages.Call(self._calls))
        for child in self._children:
            child.refused = None
            # One that is starting may have been given the ruleset before this one. The call goes first: a ruleset may
            # take long to compile, and that is not to be stuck.
            child.send(call + encoded)
        try:
            async with asyncio.timeout(patience):
                await self._all_answered()
                for child in running:
                    await self._accepted(child, ruleset.version)
        except TimeoutError:
            raise RulesetDelayed(f"ruleset {ruleset.version} was not accepted within {patience:g} s") from None
        except InspectionError:
            self._ruleset = previous
            encode = self._whole(previous)
            for child in self._children:
                if child.state == "starting":
                    child.send(encode())  # it may have been given the one that was refused
            raise
        accepted = (child.accepted for child in running)
        return next((each.errors for each in accepted if each is not None and each.version == ruleset.version), ())

    async def stop(self) -> None:
        """End every inspector; packets that were read are answered, those still queued are dropped by the kernel."""
        self._stopping = True
        if self._asking is not None:
            self._asking.cancel()
        for child in self._children:
            _signal(child.pid, signal.SIGTERM)
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=5.0)
            for child in self._children:
                _signal(child.pid, signal.SIGKILL)
            for task in late:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    def tell(self, queue: int, message: messages.Release | messages.Names) -> None:
        """The answer to what `on_answer` was called with; nothing happens if nobody waits for it any more."""
        self._children[queue - self._settings.queue_first].send(messages.encode(message))

    def change(self, change: RequestChange) -> None:
        """Every inspector judges by it what comes to it from now on, also one that is busy: nobody waits, but one that
        says nothing within `call_timeout` is killed. Blocks for a moment where a change is larger than what a socket
        holds, which one that is stuck does not survive either."""
        self._ruleset = msgspec.structs.replace(self._ruleset, requests=None)  # `whole` knows the newest
        self._calls += 1
        encoded = messages.encode(change) + messages.encode(messages.Call(self._calls))
        for child in self._children:
            child.send(encoded)
            if child.channel is not None and not child.channel.insist(self._settings.call_timeout):
                _signal(child.pid, signal.SIGKILL)
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._all_answered())

    def status(self) -> tuple[InspectorStatus, ...]:
        return tuple(self._status(child) for child in self._children)

    def _resting(self) -> State:
        return "stopped" if self._stopping else "waiting"

    async def _answered(self, child: _Child, call: int) -> None:
        """Returns when the inspector has answered the call, or is gone. The time is given in parts, so that a moment in
        which this process itself stood still is not held against the inspector."""
        for _ in range(_PARTS):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings.call_timeout / _PARTS):
                    while child.state == "ready" and child.echoed < call:
                        await child.changed.wait()
                    return
        _signal(child.pid, signal.SIGKILL)
        while child.state == "ready":
            await child.changed.wait()

    async def _all_answered(self) -> None:
        """Every call so far, by those that live on."""
        calls = self._calls
        await asyncio.gather(*(self._answered(child, calls) for child in self._children if child.state == "ready"))

    async def _accepted(self, child: _Child, version: int) -> None:
        while child.state == "ready" and (child.accepted is None or child.accepted.version != version):
            if child.refused is not None:
                raise InspectionError(child.refused.message, field="ruleset")
            await child.changed.wait()

    async def _supervise(self, child: _Child) -> None:
        """Run the child again and again, ever more slowly while it does not live long."""
        delay = self._settings.backoff_first
        while not self._stopping:
            started = time.monotonic()
            try:
                await self._run(child)
            except OSError as error:
                child.failed = messages.Failed(f"inspector cannot be started: {error}")
            except Exception as error:
                # Whoever hears of its events has failed: it is started again, supervision goes on.
                child.failed = messages.Failed(f"{type(error).__name__}: {error}")
            child.pid = 0
            self._enter(child, self._resting())
            if child.state == "stopped":
                return
            if time.monotonic() - started > self._settings.healthy_after:
                delay = self._settings.backoff_first
            await asyncio.sleep(delay)
            delay = min(delay * 2, self._settings.backoff_most)

    async def _run(self, child: _Child) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                *self._options(child, theirs),
                pass_fds=(theirs.fileno(),),
                stdin=asyncio.subprocess.DEVNULL,
            )
        child.pid = process.pid
        child.starts += 1
        child.accepted = child.refused = child.failed = None
        child.heartbeat = time.monotonic()
        self._enter(child, "starting")
        watchdog = asyncio.create_task(self._watch(child, process.pid))
        channel = Channel(ours)
        child.backlog = []
        try:
            reader, writer = await asyncio.open_connection(sock=ours)
            channel.send(await asyncio.to_thread(self._whole(self._ruleset)))
            for data in child.backlog:
                channel.send(data)
            child.channel, child.backlog = channel, None
            await self._listen(child, reader)
            writer.close()
            await process.wait()
        finally:
            child.channel, child.backlog = None, None
            channel.close()
            watchdog.cancel()
            if process.returncode is None:
                process.kill()
                await process.wait()

    def _options(self, child: _Child, control: socket.socket) -> list[str]:
        settings = self._settings
        options = ["--queue", str(child.queue), "--mark-mask", hex(settings.mark_mask), "--fd", str(control.fileno())]
        options += ["--parent", str(os.getpid()), "--queue-length", str(settings.queue_length)]
        options += ["--receive-buffer", str(settings.receive_buffer), "--reader", settings.reader]
        options += ["--settings", msgspec.json.encode(settings.inspector).decode()]
        options += ["--worker-queues", "{}:{}".format(*settings.worker_queues)]
        options += ["--fail-open"] if settings.fail_open else []
        return options if settings.confined else [*options, "--unconfined"]

    async def _listen(self, child: _Child, reader: asyncio.StreamReader) -> None:
        """Until the child closes its end. One that talks nonsense is not listened to any more."""
        frames = messages.Frames()
        while True:
            try:
                data = await reader.read(262144)
                if not data:
                    return
                for body in frames.feed(data):
                    self._handle(child, messages.decode_from_inspector(body))
            except (OSError, messages.ProtocolError):
                _signal(child.pid, signal.SIGKILL)
                return

    def _handle(self, child: _Child, message: messages.FromInspector) -> None:
        child.heartbeat = time.monotonic()
        if isinstance(message, messages.Events):
            for event in message.events:
                self._on_event(event, child.queue)
            return
        if isinstance(message, messages.Answer | messages.NamesAsked):
            if self._on_answer is not None:
                self._on_answer(message, child.queue)
            return
        if isinstance(message, messages.Heartbeat):
            child.counters = message.counters
            return
        if isinstance(message, messages.Echo):
            child.echoed = message.number
        elif isinstance(message, messages.Ready):
            self._enter(child, "ready")
        elif isinstance(message, messages.Accepted):
            child.accepted = message
        elif isinstance(message, messages.Refused):
            child.refused = message
        else:
            child.failed = message
        child.tell()

    async def _watch(self, child: _Child, pid: int) -> None:
        """Kill an inspector that has not been heard of: its queue fills up meanwhile."""
        while True:
            limit = self._settings.heartbeat_timeout if child.state == "ready" else self._settings.start_timeout
            await asyncio.sleep(min(1.0, limit / 5))
            if time.monotonic() - child.heartbeat > limit:
                _signal(pid, signal.SIGKILL)
                return

    def _enter(self, child: _Child, state: State) -> None:
        child.state = state
        child.tell()
        if self._on_change is not None:
            self._on_change(self._status(child))

    def _status(self, child: _Child) -> InspectorStatus:
        accepted = child.accepted
        return InspectorStatus(
            queue=child.queue,
            state=child.state,
            pid=child.pid,
            restarts=max(0, child.starts - 1),
            version=accepted.version if accepted else 0,
            signatures=accepted.signatures if accepted else 0,
            names=accepted.names if accepted else 0,
            signature_errors=accepted.errors if accepted else (),
            signature_errors_total=accepted.errors_total if accepted else 0,
            refused=child.refused.message if child.refused else "",
            heartbeat_age=time.monotonic() - child.heartbeat if child.heartbeat else 0.0,
            counters=dict(child.counters),
        )


def _signal(pid: int, number: signal.Signals) -> None:
    if pid:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
