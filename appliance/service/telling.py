# SPDX-License-Identifier: Apache-2.0
"""What the service tells: events with their words, the status line, what `status` and a scrape of metrics answer."""

import asyncio
import time
from typing import Any

from appliance.config import Config
from appliance.domains.control import DomainControl
from appliance.events import EventSink, Names, stats_record
from appliance.events.eve import feed_record
from appliance.inspection.messages import InspectionEvent
from appliance.metrics import RULE_LABELS, MetricsSnapshot
from appliance.netfilter.nflog import Logged
from appliance.release import version
from appliance.service import visibility
from appliance.service.calculation import resources
from appliance.service.changes import Changes, ms
from appliance.service.feeds import feed_health
from appliance.service.floods import Floods
from appliance.service.gathering import Gathering
from appliance.service.inforce import PolicyInForce
from appliance.service.journal import Console, Journal
from appliance.service.kernelpolicy import KernelPolicy
from appliance.service.localfeeds import LOCAL
from appliance.service.notify import Notifier
from appliance.service.redecisions import Redecisions
from appliance.service.resume import Resumed
from appliance.service.stats import Stats
from appliance.service.terminal import Terminal
from fastpath import Engine, Event
from fastpath.layout import NONE, QUEUE_NONE, EventKind, Fate, Verdict
from rules.policy import RuleInfo
from threatfeeds.since import first_listed

TICK = 0.25  # seconds between looks at what waits to be told
STATUS = 1.0  # seconds between status lines
STATS = 10  # status lines between stats events
GATHER = 0.01  # seconds that events may wait for others
EVENTS = 2048  # events read at a time: the loop does other things in between


class Telling:
    """open() makes the files, attach() begins to read the engine's events, close() ends both."""

    def __init__(
        self,
        config: Config,
        *,
        gathering: Gathering,
        in_force: PolicyInForce,
        domains: DomainControl,
        changes: Changes,
        kernel: KernelPolicy,
        notifier: Notifier,
        terminal: Terminal,
        floods: Floods | None,
    ) -> None:
        self._config = config
        self._gathering = gathering
        self._in_force = in_force
        self._domains = domains
        self._changes = changes
        self._kernel = kernel
        self._notifier = notifier
        self._terminal = terminal
        self._floods = floods
        self._say = terminal.say
        # What the console shows goes to standard output unless the events do.
        self._console = Console(terminal.line) if config.events.file != "-" else None
        self._names: dict[int, Names] = {}
        self.redecisions = Redecisions()
        self._reading: asyncio.TimerHandle | None = None
        self._engine: Engine | None = None
        self._opened = False
        self._early: list[dict[str, Any]] = []  # alerts from before the file was open

    def open(self) -> EventSink:
        """Raises SinkError."""
        self._sink = sink = EventSink(self._config.events.file, self._config.events.types)
        self._opened = True
        self._journal = Journal(
            sink, self._console, self.names_of, since=self._listed_since, colour=self._terminal.interactive
        )
        if self._gathering.desk is not None:
            self._journal.traffic = self._gathering.desk.traffic
        for record in self._early:
            sink.write(record)
        self._early.clear()
        return sink

    def feed_alert(self, feed: str, state: str, text: str) -> None:
        """Something is wrong with a feed, maybe before there is a file to write it to."""
        record = feed_record(time.time_ns(), feed, state, text)
        if not self._opened:
            self._early.append(record)
        else:
            self._sink.write(record)

    def _listed_since(self, feed: str, kind: str, entry: str) -> int:
        found = next((one for one in self._gathering.inputs.feeds if one.config.name == feed), None)
        return first_listed(found, kind, entry) if found is not None else 0

    def attach(self, engine: Engine) -> None:
        self._engine = engine
        asyncio.get_running_loop().add_reader(engine.event_fd, self._events_waiting)

    def count(self, stats: Stats) -> None:
        """From here on there are numbers to tell."""
        self._stats = stats

    def close(self) -> None:
        self._journal.close()
        self._sink.close()

    def reopen(self) -> None:
        self._sink.reopen()

    def flooded(self, event: Event, seconds: int) -> None:
        """The kernel answers for this long what the event denied."""
        self._journal.flooded(event, seconds)

    def found(self, event: InspectionEvent, queue: int) -> None:
        self._journal.found(event)

    def denied(self, packet: Logged) -> None:
        """A packet that doNotTrack or preDNAT policy dropped: told like one that a worker dropped."""
        generation = self._in_force.generation
        identities = self._in_force.snapshot[0]
        number, rule = self._kernel.rule(packet.prefix) or (NONE, None)
        if number != NONE and self.names_of(generation).rule(number) != rule:
            number = NONE  # the kernel is ahead by a change
        source, destination = (identities.lookup(address)[0] for address in (packet.src, packet.dst))
        event = Event(
            time.time_ns(), 0, packet.src, packet.dst, packet.sport, packet.dport, packet.proto, packet.family,
            packet.hook, EventKind.PACKET, packet.iif, packet.oif, source, destination, number, number,
            packet.length, NONE, Verdict.DROP, Verdict.DROP, Fate.NONE, 0, generation, 0, packet.icmp_type,
            packet.icmp_code, QUEUE_NONE, 0,
        )  # fmt: skip
        self._journal.decided(event)

    # ---- events ----------------------------------------------------------------------------------

    def _events_waiting(self) -> None:
        """Events come one by one and are taken together, a moment later: waking up costs more than an event."""
        assert self._engine is not None
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._engine.event_fd)
        self._reading = loop.call_later(GATHER, self._read_events)

    def _read_events(self) -> None:
        assert self._engine is not None
        self._reading = None
        self._take_events()
        asyncio.get_running_loop().add_reader(self._engine.event_fd, self._events_waiting)

    def detach(self) -> None:
        """Takes what is there; the engine has stopped, or is about to."""
        assert self._engine is not None
        if self._reading is not None:
            self._reading.cancel()
        asyncio.get_running_loop().remove_reader(self._engine.event_fd)
        self._take_events()

    def _take_events(self) -> None:
        assert self._engine is not None
        for event in self._engine.read_events(EVENTS):
            if event.kind != EventKind.REPEATED:  # else the decision was told
                self._journal.decided(event)
                self.redecisions.take(event)
            if self._floods is not None:
                self._floods.decided(event)

    def forget_names(self) -> None:
        self._names.clear()

    def names_of(self, generation: int) -> Names:
        if generation not in self._names:
            program = self._in_force.program_of(generation)
            interfaces = {index: name for name, index in self._gathering.inputs.interfaces.indexes.items()}
            directions = {feed.config.name: feed.config.direction for feed in self._gathering.inputs.feeds}
            self._names[generation] = Names(program.rules, program.identities, interfaces, directions, program.owners)
        return self._names[generation]

    # ---- now and then ----------------------------------------------------------------------------

    async def run(self) -> None:
        assert self._engine is not None
        loop = asyncio.get_running_loop()
        next_status = loop.time()
        ticks = 0
        while True:
            self._journal.tick()
            if words := self.redecisions.words(time.time_ns()):
                self._say(words)
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

    def announce(self, backend: str, rules: list[str]) -> None:
        """Says what begins now. rules: what was done to the kernel's."""
        config, inputs = self._config, self._gathering.inputs
        merged = self._changes.desired.merged.feeds if self._changes.desired is not None else ()
        feeds = sum(feed.name != LOCAL for feed in merged)  # that one is always there
        self._say(
            f"mode {config.mode}; hooks {', '.join(config.hooks.names())}; {len(inputs.resources)} policy resources,"
            f" {feeds} feeds, {len(inputs.signatures)} signature files; {backend} queue rules"
        )
        if config.mode == "observe":
            self._say("nothing is denied: what would be denied is said; loopback and failsafe ports are left alone")
        for line in rules:
            self._say(line)
        for line in visibility.lines(self._sights()):
            self._say(f"warning: {line}")

    def succeeded(self, left: Resumed, seconds: float) -> None:
        """Says what a predecessor left, if it left something; seconds: from the start until now."""
        if left.refused:
            self._say(f"warning: the snapshot that the last process left is of no use: {left.refused}")
        if left.engine is not None:
            self._say(
                f"answered by the snapshot of generation {left.generation} after {ms(left.seconds)}, by all that is"
                f" configured after {ms(seconds)}"
            )

    # ---- answers ---------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """What `status` tells. Blocking (netlink)."""
        inputs, reloads = self._gathering.inputs, self._changes.reloads
        return {
            "version": version(),
            "mode": self._config.mode,
            "node": self._config.node,
            "generation": self._in_force.generation,
            "resources": len(inputs.resources),
            "identities": len(self._in_force.program.identities),
            "endpoints": visibility.state(self._sights()),
            "feeds": {feed.config.name: len(feed.content) for feed in inputs.feeds},
            "feeds_quarantined": self._quarantined(),
            "errors": [str(error) for errors in self._gathering.errors().values() for error in errors],
            "reloads": {"done": reloads.done, "failed": reloads.failed, "seconds": reloads.seconds},
            "redecided": {"flows": self.redecisions.last.flows, "seconds": self.redecisions.last.seconds},
            "domains": self._domains.status(),
            "flood": {"held": self._floods.held() if self._floods is not None else 0},
            "host_policy": [{**_words(found.rule), "packets": found.packets} for found in self._kernel.decided()],
            **self._stats.collect(),
        }

    def metrics(self) -> MetricsSnapshot:
        """Called by the thread of a scrape: reads what is replaced whole, never changed in place."""
        inputs = self._gathering.inputs
        return self._stats.metrics(
            generation=self._in_force.generation,
            policies=len(inputs.resources),
            identities=len(self._in_force.program.identities),
            reloads=self._changes.reloads,
            redecided=self.redecisions.last,
            sources={name: len(errors) for name, errors in self._gathering.errors().items()},
            domains=self._domains.status(),
            flood_held=self._floods.held() if self._floods is not None else 0,
            feeds={feed.config.name: len(feed.content) for feed in inputs.feeds},
            feed_health=feed_health(
                inputs.feeds,
                self._gathering.feeds.health,
                self._journal.feed_hits,
                self._kernel.drops(),
                self._journal.feed_saved,
                self._quarantined(),
            ),
            host_policy={tuple(_words(found.rule).values()): found.packets for found in self._kernel.decided()},
            version=version(),
        )

    def _quarantined(self) -> dict[str, str]:
        return self._gathering.desk.quarantined if self._gathering.desk is not None else {}

    def _sights(self) -> tuple[visibility.Sight, ...]:
        config, inputs = self._config, self._gathering.inputs
        return visibility.sights(
            resources(config, inputs),
            node=config.node,
            hooks=config.hooks,
            interfaces=inputs.interfaces,
            lifted=config.bridge.interfaces,
        )


def _words(rule: RuleInfo) -> dict[str, str]:
    """Names and values of appliance.metrics.RULE_LABELS."""
    words = (rule.tier, rule.policy, rule.direction, str(rule.rule_index), rule.action)
    return dict(zip(RULE_LABELS, words, strict=True))
