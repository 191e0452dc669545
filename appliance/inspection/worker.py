# SPDX-License-Identifier: Apache-2.0
"""The inspector process: `python -m appliance.inspection.worker --queue N --mark-mask M --fd FD`.

Start: the first ruleset comes over the control socket, the queue is bound, the process confines itself, says Ready.
Then every wake-up is one cycle of the packet path (appliance.inspection.cycle).
"""

import argparse
import contextlib
import os
import queue
import selectors
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence

import msgspec

from appliance.inspection import messages
from appliance.inspection.confine import ConfineError, confine, die_with_parent
from appliance.inspection.cycle import Cycle
from appliance.inspection.inspector import Inspector
from appliance.inspection.marks import MarkBits
from appliance.inspection.messages import InspectorSettings, ProtocolError
from appliance.inspection.queue import QueueError, QueueSettings, SlowQueue, open_queue
from appliance.inspection.requests import RequestChange
from appliance.inspection.ruleset import CompiledRuleset, compile_ruleset
from appliance.inspection.upstream import Upstream
from fastpath.errors import PortcullisError
from rules.signatures import preload

HEARTBEAT = 1.0  # seconds
OUTBOX = 4 * 1024 * 1024  # bytes of events that may wait for the control process
ERRORS_TOLD = 1000  # signatures errors listed in one message
FIRST_RULESET = 60.0  # seconds


class Control:
    """The inspector's side of the control socket. Sending never waits: what does not fit is counted and lost."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._frames = messages.Frames()
        self._out = bytearray()
        self.lost = 0

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def waiting(self) -> bool:
        return bool(self._out)

    def send(self, message: msgspec.Struct) -> None:
        if isinstance(message, messages.Events) and len(self._out) > OUTBOX:
            self.lost += len(message.events)
            return
        self._out += messages.encode(message)
        self.flush()

    def flush(self) -> None:
        while self._out:
            try:
                sent = self._socket.send(self._out[:65536])
            except BlockingIOError:
                return
            except OSError:
                # The control process is gone; reading says so too, and ends this process.
                self._out.clear()
                return
            del self._out[:sent]

    def receive(self) -> list[bytes] | None:
        """Complete message bodies; None: the control process is gone. Raises ProtocolError."""
        bodies: list[bytes] = []
        for _ in range(64):
            try:
                data = self._socket.recv(262144)
            except BlockingIOError:
                return bodies
            except OSError:
                return None
            if not data:
                return None
            bodies += self._frames.feed(data)
        return bodies


class Loader(threading.Thread):
    """Compiles rulesets beside the packet path, in the order in which they came."""

    def __init__(self, wake: socket.socket) -> None:
        super().__init__(name="ruleset-loader", daemon=True)
        self._wake = wake
        self._bodies: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self.results: queue.SimpleQueue[CompiledRuleset | messages.Refused] = queue.SimpleQueue()

    def submit(self, body: bytes) -> None:
        self._bodies.put(body)

    def run(self) -> None:
        newest: CompiledRuleset | None = None
        while True:
            result = load(self._bodies.get(), newest)
            newest = result if isinstance(result, CompiledRuleset) else newest
            self.results.put(result)
            self._wake.send(b"r")


def load(body: bytes, before: CompiledRuleset | None = None) -> CompiledRuleset | messages.Refused:
    """A ruleset message made ready, or why it is refused. `before`: the ruleset that was made ready last."""
    version = 0
    try:
        ruleset = messages.decode_to_inspector(body)
        if not isinstance(ruleset, messages.InspectionRuleset):
            raise ProtocolError("not a ruleset")
        version = ruleset.version
        return compile_ruleset(ruleset, before)
    except PortcullisError as error:
        return messages.Refused(version, str(error))
    except Exception as error:
        return messages.Refused(version, f"{type(error).__name__}: {error}")


class Worker:
    """The process's loop around a Cycle."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._settings = msgspec.json.decode(options.settings, type=InspectorSettings)
        self._marks = MarkBits(options.mark_mask)
        self._control = Control(socket.socket(fileno=options.fd))
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)
        self._loader = Loader(self._wake_out)
        self._early: list[RequestChange] = []  # that came before there was an inspector
        self._stopping = False

    def run(self) -> int:
        """Exit status: 0 after a stop, 1 if the inspector could not start."""
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.set_wakeup_fd(self._wake_out.fileno(), warn_on_full_buffer=False)
        self._loader.start()
        preload()
        ruleset = self._first_ruleset()
        if ruleset is None:
            return 0 if self._stopping else 1
        try:
            options = self._options
            settings = QueueSettings(
                options.queue, options.queue_length, options.receive_buffer, fail_open=options.fail_open
            )
            packets = open_queue(settings, options.reader)
            upstream = Upstream(options.worker_queues)
            if not self._options.unconfined:
                confine()
        except (QueueError, ConfineError) as error:
            self._control.send(messages.Failed(str(error), getattr(error, "taken", False)))
            return 1
        inspector = Inspector(self._settings, ruleset)
        for change in self._early:
            inspector.change_requests(change)
        self._control.send(messages.Ready(os.getpid(), self._options.queue))
        self._accept(ruleset)
        try:
            self._loop(packets, upstream, inspector)
        finally:
            packets.close()
            upstream.close()
        return 0

    def _stop(self, _signal: int, _frame: object) -> None:
        self._stopping = True

    def _first_ruleset(self) -> CompiledRuleset | None:
        """Packets wait for nobody before the first ruleset: the queue is not bound yet."""
        deadline = time.monotonic() + FIRST_RULESET
        with selectors.PollSelector() as selector:
            selector.register(self._control, selectors.EVENT_READ)
            selector.register(self._wake_in, selectors.EVENT_READ)
            while not self._stopping and time.monotonic() < deadline:
                selector.select(1.0)
                if not self._read_control():
                    return None
                result = self._loaded()
                if result is not None:
                    return result
        return None

    def _loop(self, packets: SlowQueue, upstream: Upstream, inspector: Inspector) -> None:
        cycle = Cycle(
            packets,
            inspector,
            self._marks,
            catch_up=lambda: self._catch_up(cycle),
            on_the_way=upstream.waiting,
        )
        try:
            self._serve(packets, inspector, cycle)
        finally:
            cycle.release_all()

    def _catch_up(self, cycle: Cycle) -> None:
        if not self._read_control(cycle):
            self._stopping = True

    def _serve(self, packets: SlowQueue, inspector: Inspector, cycle: Cycle) -> None:
        beat = 0.0
        with selectors.PollSelector() as selector:
            selector.register(packets, selectors.EVENT_READ)
            selector.register(self._control, selectors.EVENT_READ)
            selector.register(self._wake_in, selectors.EVENT_READ)
            while not self._stopping:
                interest = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._control.waiting else 0)
                selector.modify(self._control, interest)
                ready = {key.fileobj for key, _ in selector.select(cycle.patience(HEARTBEAT))}
                if packets in ready:
                    cycle.run(time.time())
                    self._send_events(cycle)
                if self._control in ready:
                    self._control.flush()
                    if not self._read_control(cycle):
                        return
                    self._send_events(cycle)
                cycle.release_due()
                if self._wake_in in ready:
                    self._use_loaded(inspector)
                now = time.monotonic()
                if now - beat >= HEARTBEAT:
                    beat = now
                    inspector.flows.expire(time.time(), 4096)
                    self._control.send(messages.Heartbeat(inspector.ruleset.version, self._counters(cycle, packets)))
        self._control.send(messages.Heartbeat(inspector.ruleset.version, self._counters(cycle, packets)))

    def _send_events(self, cycle: Cycle) -> None:
        for answer in cycle.answers:
            self._control.send(answer)
        cycle.answers.clear()
        for question in cycle.questions:
            self._control.send(question)
        cycle.questions.clear()
        if cycle.events:
            self._control.send(messages.Events(tuple(cycle.events)))
            cycle.events.clear()

    def _read_control(self, cycle: Cycle | None = None) -> bool:
        """False: the control process is gone, or says what makes no sense here."""
        try:
            bodies = self._control.receive()
            for body in bodies or ():
                if messages.is_ruleset(body):
                    self._loader.submit(body)
                    continue
                message = messages.decode_to_inspector(body)
                if isinstance(message, messages.Call):
                    self._control.send(messages.Echo(message.number))
                elif isinstance(message, RequestChange):
                    if cycle is None:
                        self._early.append(message)
                    else:
                        cycle.change_requests(message)
                elif cycle is not None and isinstance(message, messages.Release):
                    cycle.release(message.number)
                elif cycle is not None and isinstance(message, messages.Names):
                    cycle.told(message, time.time())
        except (PortcullisError, ValueError):
            return False  # the next process gets the whole
        return bodies is not None

    def _loaded(self) -> CompiledRuleset | None:
        """The newest ruleset that the loader has finished."""
        with contextlib.suppress(BlockingIOError):
            self._wake_in.recv(4096)
        newest = None
        while True:
            try:
                result = self._loader.results.get_nowait()
            except queue.Empty:
                return newest
            if isinstance(result, messages.Refused):
                self._control.send(result)
            else:
                newest = result

    def _use_loaded(self, inspector: Inspector) -> None:
        ruleset = self._loaded()
        if ruleset is not None:
            inspector.use(ruleset)
            self._accept(ruleset)

    def _accept(self, ruleset: CompiledRuleset) -> None:
        self._control.send(
            messages.Accepted(
                ruleset.version,
                len(ruleset.signatures),
                len(ruleset.names) + len(ruleset.indicators),
                ruleset.errors[:ERRORS_TOLD],
                len(ruleset.errors),
            )
        )

    def _counters(self, cycle: Cycle, packets: SlowQueue) -> dict[str, int]:
        inspector = cycle._inspector
        queued = packets.counters()
        return {
            **cycle.counters,
            "verdict_errors": cycle.counters["verdict_errors"] + queued.pop("refused", 0),
            **{f"failure_{name}": count for name, count in inspector.failures.items()},
            **queued,
            "events_lost": self._control.lost,
            "signatures_backtracking": inspector.ruleset.signatures.backtracking,
            "signatures_timeouts": inspector.ruleset.signatures.timeouts,
            "flows": len(inspector.flows),
            "flows_evicted": inspector.flows.evicted,
            "flows_aged": inspector.flows.aged,
            "stream_bytes": inspector.budget.used,
        }


def _queues(text: str) -> range:
    first, count = map(int, text.split(":"))
    return range(first, first + count)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m appliance.inspection.worker", description=__doc__.split("\n")[0])
    parser.add_argument("--queue", type=int, required=True)
    parser.add_argument("--mark-mask", type=lambda text: int(text, 0), default=0xFF000000)
    parser.add_argument("--fd", type=int, required=True, help="control socket")
    parser.add_argument("--parent", type=int, default=os.getppid())
    parser.add_argument("--queue-length", type=int, default=4096, help="packets")
    parser.add_argument("--receive-buffer", type=int, default=8 * 1024 * 1024, help="bytes")
    parser.add_argument("--fail-open", action="store_true", help="what does not fit into the queue passes")
    parser.add_argument("--worker-queues", type=_queues, default=range(0), help="FIRST:COUNT; packets come from them")
    parser.add_argument("--reader", choices=("fastpath", "netfilterqueue"), default="fastpath")
    parser.add_argument("--settings", default="{}", help="InspectorSettings as JSON")
    parser.add_argument("--unconfined", action="store_true", help="no seccomp filter")
    options = parser.parse_args(arguments)
    if not die_with_parent(signal.SIGTERM, options.parent):
        return 1
    return Worker(options).run()


if __name__ == "__main__":
    sys.exit(main())
