# SPDX-License-Identifier: Apache-2.0
"""A node with our chains and a stand-in for the worker: decides by a Python function and remembers every packet."""

import contextlib
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from netfilterqueue import NetfilterQueue, Packet

from appliance.lab import Chain, Lab, Namespace
from appliance.netfilter import Fate, MarkLayout, Netfilter, NetfilterSettings
from appliance.netfilter.marks import Down, Up

# Another backend than the one the kernel prefers: for a second run on a kernel that has both.
BACKEND: Any = os.environ.get("PORTCULLIS_LAB_BACKEND", "auto")
SETTINGS = NetfilterSettings(queue_count=1, backend=BACKEND)


@dataclass(frozen=True)
class Seen:
    """A packet that came up. Ports are 0 where the protocol has none; ICMP type in sport."""

    queue: int
    mark: int
    up: Up
    src: str
    dst: str
    protocol: int
    sport: int
    dport: int
    flags: int  # TCP

    @classmethod
    def parse(cls, queue: int, mark: int, layout: MarkLayout, data: bytes) -> "Seen":
        if data[0] >> 4 == 4:
            protocol, start = data[9], (data[0] & 15) * 4
            src, dst = (socket.inet_ntop(socket.AF_INET, data[i : i + 4]) for i in (12, 16))
        else:
            protocol, start = data[6], 40
            src, dst = (socket.inet_ntop(socket.AF_INET6, data[i : i + 16]) for i in (8, 24))
        sport, dport = struct.unpack_from("!HH", data, start) if protocol in (6, 17) else (data[start], 0)
        flags = data[start + 13] if protocol == 6 else 0
        return cls(queue, mark, layout.decode_up(mark), src, dst, protocol, sport, dport, flags)


@dataclass
class Decider:
    """Bound to the queues of `settings`; a thread answers every packet with decide(packet)."""

    namespace: Namespace
    settings: NetfilterSettings = SETTINGS
    generation: int = 1
    decide: Callable[[Seen], Fate] = lambda seen: Fate.ALLOW
    packets: list[Seen] = field(default_factory=list)
    errors: list[BaseException] = field(default_factory=list)

    def __enter__(self) -> "Decider":
        self._stop = threading.Event()
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), daemon=True)
        self._thread.start()
        assert ready.wait(5), self.errors
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(5)
        assert not self.errors, self.errors

    def _run(self, ready: threading.Event) -> None:
        numbers = [*self.settings.queues]
        if self.settings.look_queue is not None:
            numbers.append(self.settings.look_queue)
        queues = []
        try:
            with self.namespace.enter():
                for number in numbers:
                    queue = NetfilterQueue()
                    queue.bind(number, lambda packet, number=number: self._answer(number, packet))
                    queues.append(queue)
            by_fd = {queue.get_fd(): queue for queue in queues}
            ready.set()
            while not self._stop.is_set():
                for fd in select.select(list(by_fd), [], [], 0.02)[0]:
                    by_fd[fd].run(block=False)
        except BaseException as error:
            self.errors.append(error)
        finally:
            for queue in queues:
                queue.unbind()

    def _answer(self, number: int, packet: Packet) -> None:
        layout = self.settings.marks
        mark = packet.get_mark()
        down = Down()
        try:
            seen = Seen.parse(number, mark, layout, packet.get_payload())
            self.packets.append(seen)
            if not seen.up.look_only:
                fate = self.decide(seen)
                if not seen.up.no_save:
                    down = Down(self.generation, fate)
                elif fate is not Fate.ALLOW:
                    down = Down(0, fate)
        except BaseException as error:
            self.errors.append(error)
        packet.set_mark(layout.merge(mark, layout.encode_down(down)))
        packet.accept()

    def take(self) -> list[Seen]:
        """What came up since the last call, after the queue has had a moment to settle."""
        time.sleep(0.05)
        taken, self.packets = self.packets, []
        return taken


class Gate:
    """The chain of the lab with our ruleset on its node."""

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        self.client, self.node, self.server = chain
        self._open = contextlib.ExitStack()

    def install(self, settings: NetfilterSettings = SETTINGS, *, decider: bool = True, **changes: object) -> Decider:
        """Ruleset of generation 1, and the decider (not started without `decider`)."""
        self.settings = replace(settings, **changes)  # type: ignore[arg-type]
        self.netfilter = Netfilter(self.settings)
        made = Decider(self.node, self.settings)
        with self.node.enter():
            self.netfilter.preflight(check_queues=decider)
            self.netfilter.install(1)
        if decider:
            self._open.enter_context(made)
        return made

    def set_generation(self, decider: Decider, generation: int) -> None:
        decider.generation = generation
        with self.node.enter():
            self.netfilter.set_generation(generation)

    def counters(self) -> dict[str, int]:
        with self.node.enter():
            return self.netfilter.counters()

    def marks(self) -> list[int]:
        """Connection marks on the node."""
        text = "".join(self.node.run(["conntrack", "-L", "-f", family]).stdout for family in ("ipv4", "ipv6"))
        return [int(word.removeprefix("mark=")) for word in text.split() if word.startswith("mark=")]

    def ends(self, hook: str) -> tuple[Namespace, Namespace]:
        """(who connects, who listens) so that the packets cross the node's hook."""
        pairs = {
            "forward": (self.client, self.server),
            "input": (self.client, self.node),
            "output": (self.node, self.server),
        }
        return pairs[hook]

    def address(self, hook: str, family: int) -> str:
        """Of the listening side."""
        return self.node.address(family, "cli0") if hook == "input" else self.server.address(family)

    def serve(self, namespace: Namespace, port: int, family: int = 4) -> None:
        """A TCP server: answers data that ends with "?" with the number of bytes so far and "!"."""
        kind = socket.AF_INET if family == 4 else socket.AF_INET6
        with namespace.enter():
            listener = socket.create_server(("", port), family=kind)
        self._open.callback(listener.close)
        threading.Thread(target=_accept, args=(listener,), daemon=True).start()

    def connect(
        self,
        namespace: Namespace,
        address: str,
        port: int,
        *,
        timeout: float = 2.0,
        mark: int = 0,
        source_port: int = 0,
    ) -> socket.socket:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with namespace.enter():
            made = socket.socket(family, socket.SOCK_STREAM)
        self._open.callback(made.close)
        made.settimeout(timeout)
        if mark:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, struct.pack("=I", mark))
        if source_port:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind(("", source_port))
        made.connect((address, port))
        return made

    def datagram(self, namespace: Namespace, address: str = "", port: int = 0, family: int = 4) -> socket.socket:
        """A UDP socket, bound or (with address) connected."""
        kind = socket.AF_INET6 if family == 6 or ":" in address else socket.AF_INET
        with namespace.enter():
            made = socket.socket(kind, socket.SOCK_DGRAM)
        self._open.callback(made.close)
        made.settimeout(1.0)
        if kind == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if address:
            made.connect((address, port))
        else:
            made.bind(("", port))
        return made

    def defer(self, function: Callable[[], object]) -> None:
        self._open.callback(function)

    def close(self) -> None:
        self._open.close()


def ask(connection: socket.socket, data: bytes = b"?") -> int:
    """Send, and return how many bytes the server has had. TimeoutError when cut off."""
    connection.sendall(data)
    answer = b""
    while not answer.endswith(b"!"):
        chunk = connection.recv(100)
        if not chunk:
            raise ConnectionResetError("closed")
        answer += chunk
    return int(answer[:-1].split(b"!")[-1])


def _accept(listener: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=_converse, args=(connection,), daemon=True).start()


def _converse(connection: socket.socket) -> None:
    total = 0
    with connection, contextlib.suppress(OSError):
        while data := connection.recv(1 << 16):
            total += len(data)
            if data.endswith(b"?"):
                connection.sendall(b"%d!" % total)


@pytest.fixture
def gate() -> Iterator[Gate]:
    with Lab() as lab:
        made = Gate(lab.chain(network=91))
        try:
            yield made
        finally:
            made.close()


@pytest.fixture
def ask_server() -> Callable[..., int]:
    return ask
