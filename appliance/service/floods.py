# SPDX-License-Identifier: Apache-2.0
"""Floods of denied flows, handed to the kernel: who is denied too often is answered there for a while.

    event of a denied flow ─▶ counted by tuple, or by source where a feed denies it whole
                              `threshold` within a second ─▶ Netfilter.deny, until `timeout` or until policy changes

Events that the ring lost are not counted: it overflows at rates at which the rest is enough. A denied flow's later
packets (one UDP socket, a SYN sent again) are answered by the flow table, which gives an event REPEATED for every
repeat_step() of them within a second; fewer are not counted.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv6Address
from typing import Protocol

from appliance.config.model import Flood
from appliance.events.names import rule_text
from appliance.netfilter import Netfilter
from appliance.netfilter.floods import PROTOCOLS, Denied, DeniedSource
from appliance.service.calculation import Resources, parts
from fastpath import Event
from fastpath.errors import PortcullisError
from fastpath.layout import NONE, REPEATS_TOLD, EventKind, Hook, Verdict
from rules.policy import Program, Resource
from rules.policy.model import PolicySpec, ProfileSpec
from rules.policy.program import FEED_TIER

COUNTED = 65536  # keys of one second
AT_ONCE = 512  # elements of one transaction
PAUSE = 0.02  # seconds in which others may join a transaction
TOLD = 3  # lines for one transaction
_SECOND = 10**9
_DENIALS = (Verdict.DROP, Verdict.REJECT)
_COUNTED_KINDS = (EventKind.FLOW, EventKind.REPEATED)

_Key = tuple[object, ...]


class InForce(Protocol):
    """What this needs of PolicyInForce."""

    @property
    def generation(self) -> int: ...
    @property
    def program(self) -> Program: ...


class Floods:
    """decided() and published() are called in the event loop, run() runs there."""

    def __init__(
        self,
        settings: Flood,
        netfilter: Netfilter,
        in_force: InForce,
        *,
        resources: Callable[[], Resources],
        say: Callable[[str], None],
        tell: Callable[[Event, int], None],
        owners: bool = False,
    ) -> None:
        """resources: what the policy in force was made of; tell(event, seconds): a denial that the kernel answers by
        itself from now on. owners: what the node's own sockets may do depends on whose they are, which is nothing
        that the kernel's maps know."""
        self._settings = settings
        self._netfilter = netfilter
        self._in_force = in_force
        self._resources = resources
        self._say = say
        self._tell = tell
        self._owners = owners
        self._second = 0
        self._counts: dict[_Key, int] = {}
        self._found: dict[_Key, Event] = {}
        self._going: tuple[_Key, ...] = ()  # in the transaction under way
        self._held: dict[_Key, float] = {}  # until when, monotonic
        self._since = 0  # ns since 1970: what was decided before does not count
        self._epoch = self._forgiven = 0  # of what is in force, and for which nothing older is left in the kernel
        self._wake = asyncio.Event()
        self._asked: dict[int, tuple[tuple[Resource, ...], frozenset[int]]] = {}  # by the part's id

    def decided(self, event: Event) -> None:
        """Any event of the engine."""
        if (
            event.verdict not in _DENIALS or event.kind not in _COUNTED_KINDS or event.flags
            or event.proto not in PROTOCOLS or event.time <= self._since
            or (self._owners and event.hook == Hook.OUTPUT)
        ):  # fmt: skip
            return
        second = event.time // _SECOND
        if second != self._second:
            self._second = second
            self._counts.clear()
        key = self._key(event)
        before = self._counts.get(key, 0)
        if not before and len(self._counts) >= COUNTED:
            return
        self._counts[key] = after = before + (event.repeats if event.kind == EventKind.REPEATED else 1)
        if before < self._settings.threshold <= after:
            self._found[key] = event
            self._wake.set()

    def published(self, addresses: frozenset[bytes] | None = None) -> None:
        """Something else is in force from now on: who was denied may be allowed; of these addresses alone, or any."""
        self._since = time.time_ns()
        self._counts.clear()
        if addresses is not None and not any(
            part in addresses for key in (*self._held, *self._found, *self._going) for part in key
        ):
            return
        self._epoch += 1
        self._found.clear()
        if self._held or self._going:
            self._held.clear()
            self._wake.set()

    def held(self) -> int:
        """Floods that the kernel answers now. Safe from any thread."""
        now = time.monotonic()
        return sum(until > now for until in list(self._held.values()))

    async def run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                if self._forgiven != self._epoch:
                    self._forgiven = self._epoch
                    await asyncio.to_thread(self._netfilter.forgive)
                if self._found:
                    await self._hand_over()
            except PortcullisError as error:
                self._say(f"warning: floods could not be handed to the kernel: {error}")
            await asyncio.sleep(PAUSE)
            if self._found:
                self._wake.set()

    def _key(self, event: Event) -> _Key:
        rules = self._in_force.program.rules
        rule = rules[event.rule] if event.rule < len(rules) else None
        if rule is not None and rule.tier == FEED_TIER and rule.direction == "ingress":
            return (event.src_bytes,)
        return event.hook, event.iif, event.oif, event.proto, event.src_bytes, event.dst_bytes, event.dport

    async def _hand_over(self) -> None:
        now = time.monotonic()
        self._held = {key: until for key, until in self._held.items() if until > now}
        keys = list(self._found)[: min(AT_ONCE, max(0, self._settings.size - len(self._held)))]
        if not keys:
            self._found.clear()  # no room: they go on coming up
            return
        events = {key: self._found.pop(key) for key in keys}
        epoch, generation, program = self._epoch, self._in_force.generation, self._in_force.program
        wanted: dict[_Key, Denied | DeniedSource] = {
            key: _element(key, event) for key, event in events.items() if event.generation == generation
        }

        def deny() -> bool:
            asked = self._ports_asked()
            for key, entry in list(wanted.items()):
                if isinstance(entry, Denied) and entry.protocol in asked:
                    del wanted[key]
            if not wanted:
                return False
            denied, seconds = list(wanted.values()), self._settings.timeout
            return self._netfilter.deny(denied, seconds, still=lambda: self._epoch == epoch)

        self._going = tuple(wanted)
        try:
            done = await asyncio.to_thread(deny)
        finally:
            self._going = ()
        if not done or self._epoch != epoch:
            return  # published() has asked for what was denied meanwhile to be forgiven
        fresh = [key for key in wanted if key not in self._held]
        self._held.update(dict.fromkeys(wanted, now + self._settings.timeout))
        for number, key in enumerate(fresh):
            self._tell(events[key], self._settings.timeout)
            if number < TOLD:
                rule = program.rules[events[key].rule] if events[key].rule != NONE else None
                self._say(
                    f"flood: {wanted[key]} was denied {self._settings.threshold} times in a second by"
                    f" {rule_text(rule)}: the kernel answers for {self._settings.timeout} s"
                )
        if len(fresh) > TOLD:
            self._say(f"flood: and {len(fresh) - TOLD} more")

    def _ports_asked(self) -> frozenset[int]:
        """As source_port_protocols(), of what is in force; of a hundred thousand resources those of origins that stay
        are not looked at again."""
        known = self._asked
        self._asked = {
            id(part): known.get(id(part)) or (part, source_port_protocols(part)) for part in parts(self._resources())
        }
        return frozenset().union(*(protocols for _, protocols in self._asked.values()))


def repeat_step(settings: Flood) -> int:
    """EngineConfig.repeat_step: the events that one flow may give in a second reach the threshold."""
    return -(-settings.threshold // REPEATS_TOLD)


def source_port_protocols(resources: Iterable[Resource]) -> frozenset[int]:
    """Protocols for which some rule asks about source ports, which a tuple does not have."""
    found: set[int] = set()
    for resource in resources:
        if not isinstance(resource.spec, PolicySpec | ProfileSpec):
            continue
        for rule in (*resource.spec.ingress, *resource.spec.egress):
            if rule.source.ports or rule.source.not_ports:
                found.update(PROTOCOLS if rule.proto is None else (rule.proto,))
    return frozenset(found)


def _element(key: _Key, event: Event) -> Denied | DeniedSource:
    reject = event.verdict == Verdict.REJECT
    source = _address(event.src_bytes, event.family)
    if len(key) == 1:
        return DeniedSource(source, reject)
    destination = _address(event.dst_bytes, event.family)
    hook = Hook(event.hook).name.lower()
    return Denied(hook, event.iif, event.oif, event.proto, source, destination, event.dport, reject)


def _address(packed: bytes, family: int) -> IPv4Address | IPv6Address:
    return IPv4Address(packed[-4:]) if family == 4 else IPv6Address(packed)
