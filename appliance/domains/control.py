# SPDX-License-Identifier: Apache-2.0
"""Domain policy in the control process: answers come from inspectors, addresses go into the engine, answers go on.

Answer ─▶ NameTable ─▶ LearnedNames ─▶ engine's identity map ─▶ Release
                             └ no identity for these names together ─▶ calculation ─▶ engine ─▶ Release
"""

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

from appliance.config.model import Domains
from appliance.domains.addresses import REASONS, Address, acceptable, address_of, why_not
from appliance.domains.agreement import Agreement, Aliases
from appliance.domains.resolution import Resolution
from appliance.domains.state import StateError, read_state, write_state
from appliance.domains.table import Lifetimes, NameTable, Pair
from appliance.inspection.messages import Answer, DomainWatch, Names, NamesAsked, Release
from fastpath import IdentityMap, Policy
from rules.policy import Delta, LearnedNames, NameIndex, Program

TICK = 0.5  # seconds between looks for what has expired
SAVE = 10.0  # seconds between writes of the state file
RECENT = 16384  # pairs of names that policy does not ask for
GROUPS = 1024  # names that met at one address and are remembered


@dataclass(frozen=True, slots=True)
class ExpectedNames:
    """What the next program has to know in advance: see CompileOptions.names and name_groups."""

    names: Mapping[str, Sequence[str]] = field(default_factory=dict)
    groups: tuple[tuple[str, ...], ...] = ()


class DomainControl:
    """All methods run in the event loop but load(), which blocks, and adopt(), which may run before there is a loop.

    `update` puts a delta in force in the engine before it returns, `snapshot` is what the engine decides by, `tell`
    answers an inspector (its queue), `recalculate` asks for a program made with expected(), after which settled() is
    to be called."""

    def __init__(
        self,
        settings: Domains,
        *,
        update: Callable[[Delta], None],
        snapshot: Callable[[], tuple[IdentityMap, Policy]],
        tell: Callable[[int, Release | Names], None],
        recalculate: Callable[[], None],
        own: Callable[[], Container[Address]],
        say: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._update = update
        self._snapshot = snapshot
        self._tell = tell
        self._recalculate = recalculate
        self._own = own
        self._say = say
        self._path = Path(settings.state) if settings.state else None
        lifetimes = Lifetimes(settings.ttl_floor, settings.ttl_cap)
        self._table = NameTable(lifetimes)
        # What nobody asks for yet: a policy that comes later knows it at once.
        self._recent = NameTable(lifetimes, most_pairs=RECENT)
        self._private = NameIndex(settings.allow_private)
        self._asked = NameIndex(())
        self._learned: LearnedNames | None = None
        self._agreement: Agreement | None = None
        self._aliases = Aliases()
        self._recent_aliases = Aliases()
        self._unknown: set[str] = set()  # addresses that wait for a program
        self._baked: set[str] = set()  # addresses that no program knows what to do with in advance
        self._groups: OrderedDict[tuple[str, ...], None] = OrderedDict()
        self._waiting: list[tuple[int, int]] = []
        self._unsaved = False
        self._complaint = ""
        self.counters = dict.fromkeys(
            ("answers", "learned", "refused", "recalled", "expired", "recalculated", "flows_asked"), 0
        )
        self.refused = dict.fromkeys(REASONS, 0)  # addresses that entered no name of policy

    # ---- names in and out --------------------------------------------------------------------------

    def watch(self, program: Program, resolvers: Sequence[str]) -> DomainWatch:
        """What inspectors look for when `program` is in force. `resolvers`: those of this node, where none is
        configured."""
        self._asked = NameIndex(program.domains)
        trusted = self._settings.trusted or resolvers
        packed = {address.packed for text in trusted if (address := _address(text)) is not None}
        settings = self._settings
        return DomainWatch(tuple(program.domains), tuple(sorted(packed)), settings.wait / 1000, settings.agree)

    def expected(self) -> ExpectedNames:
        names: dict[str, list[str]] = {}
        self._baked = {address for address in self._baked if self._table.names_of(address)}
        for address in self._baked | self._unknown:
            for name in self._table.names_of(address):
                names.setdefault(name, []).append(address)
        return ExpectedNames(names, tuple(self._groups))

    def adopt(self, program: Program, identities: IdentityMap) -> IdentityMap:
        """The identity map of a program that is about to be in force, with every address that is known."""
        self._learned = LearnedNames(program)
        self._ask(program)
        compiled_in = {address: () for addresses in program.options.names.values() for address in addresses}
        delta, unknown = self._learned.apply({**compiled_in, **self._table.by_address()})
        self._unknown = set(unknown)
        self._expect(unknown)
        if not delta.set and not delta.remove:
            return identities
        return identities.update(set=delta.set, remove=[entry[:2] for entry in delta.remove])

    def renew(self, program: Program) -> None:
        """A change by itself made `program` of the one in force, and other names are asked for now."""
        if self._learned is None:
            return
        self._ask(program)
        self._apply(set(self._table.by_address()))

    def _ask(self, program: Program) -> None:
        """For names that are asked for now, and were not, what answers said lately counts."""
        assert self._learned is not None
        self._asked = NameIndex(program.domains)
        self._agreement = Agreement(self._learned, program.domains)
        own = self._own()
        known = [
            pair for pair in self._recent
            if self._asked.matching(pair.name)
            and acceptable(ip_address(pair.address), own, private=bool(self._private.matching(pair.name)))
        ]  # fmt: skip
        for pair in known:
            for alias in self._recent_aliases.of(pair.name):
                self._aliases.add(alias, pair.name)
        self.counters["recalled"] += len(self._table.restore(known, time.monotonic()))
        self._unsaved = self._unsaved or bool(known)

    def settled(self, *, refused: bool = False) -> None:
        """A program that was calculated with expected() is in force, or was refused."""
        waiting, self._waiting = self._waiting, []
        for queue, number in waiting:
            self._tell(queue, Release(number))
        if self._unknown and not refused:
            self._calculate()

    def asked(self, message: Answer | NamesAsked, queue: int) -> None:
        """An inspector waits for tell()."""
        if isinstance(message, Answer):
            self.answered(message, queue)
            return
        self.counters["flows_asked"] += 1
        dst = address_of(message.dst)
        if self._agreement is None or dst is None:
            self._tell(queue, Names(message.flow, None))
            return
        has = self._table.names_of(str(dst))
        self._tell(queue, self._agreement.names(message, has, self._aliases, self._snapshot()))

    def answered(self, answer: Answer, queue: int) -> None:
        """An inspector holds a DNS answer back; one with number 0 went on already."""
        self.counters["answers"] += 1
        now = time.monotonic()
        changed: set[str] = set()
        addresses: set[str] = set()
        for resolution in answer.resolutions:
            for at, name in enumerate(resolution.names):
                if not self._asked.matching(name):
                    self._remember(name, resolution.names[:at], resolution, now)
                else:
                    for alias in resolution.names[:at]:
                        self._aliases.add(alias, name)
                    given = self._acceptable(name, resolution)
                    addresses.update(address for address, _ in given)
                    changed |= self._table.learn((name,), given, now)
        self.counters["learned"] += len(changed)
        self._unsaved = self._unsaved or bool(addresses)
        self._apply(changed)
        if not self._unknown.isdisjoint(addresses):
            self._waiting.append((queue, answer.number))
        elif answer.number:
            self._tell(queue, Release(answer.number))

    def _remember(self, name: str, aliases: Sequence[str], resolution: Resolution, now: float) -> None:
        for alias in aliases:
            self._recent_aliases.add(alias, name)
        found = [(address_of(packed), ttl) for packed, ttl in resolution.addresses]
        self._recent.learn((name,), [(str(address), ttl) for address, ttl in found if address is not None], now)

    def _acceptable(self, name: str, resolution: Resolution) -> list[tuple[str, float]]:
        private = bool(self._private.matching(name))
        own = self._own()
        found: list[tuple[str, float]] = []
        for packed, ttl in resolution.addresses:
            address = address_of(packed)
            reason = "malformed" if address is None else why_not(address, own, private=private)
            if not reason:
                found.append((str(address), ttl))
            else:
                self.counters["refused"] += 1
                self.refused[reason] += 1
        return found

    def _apply(self, changed: set[str]) -> None:
        if self._learned is None or not changed:
            return
        delta, unknown = self._learned.apply({address: self._table.names_of(address) for address in changed})
        self._unknown -= changed
        if delta.set or delta.remove:
            self._update(delta)
        if unknown:
            self._unknown.update(unknown)
            self._expect(unknown)
            self._calculate()

    def _expect(self, addresses: Sequence[str]) -> None:
        self._baked.update(addresses)
        for address in addresses:
            names = tuple(
                sorted({pattern for name in self._table.names_of(address) for pattern in self._asked.matching(name)})
            )
            self._groups[names] = None
            self._groups.move_to_end(names)
        while len(self._groups) > GROUPS:
            self._groups.popitem(last=False)

    def _calculate(self) -> None:
        self.counters["recalculated"] += 1
        self._recalculate()

    # ---- time and the state file -------------------------------------------------------------------

    def load(self) -> None:
        """What an earlier run had learned. A file that is damaged is left out, and said."""
        if self._path is None:
            return
        try:
            pairs, aliases = read_state(self._path)
        except StateError as error:
            self._say(f"warning: {error}; names are learned anew")
            return
        # The file has the time of day, the table a clock that nobody sets.
        shift = time.monotonic() - time.time()
        own = self._own()
        for alias, name in aliases:
            self._aliases.add(alias, name)
        self._table.restore(
            (
                Pair(pair.name, pair.address, pair.expires + shift)
                for pair in pairs
                if acceptable(ip_address(pair.address), own, private=bool(self._private.matching(pair.name)))
            ),
            time.monotonic(),
        )

    async def run(self) -> None:
        """Expires names and saves them, for ever; what is not saved yet is saved at the end."""
        saved = time.monotonic()
        try:
            while True:
                await asyncio.sleep(TICK)
                now = time.monotonic()
                self._recent.expire(now)
                expired = self._table.expire(now)
                self.counters["expired"] += len(expired)
                self._unsaved = self._unsaved or bool(expired)
                self._apply(expired)
                if self._unsaved and now - saved >= SAVE:
                    saved = now
                    self._unsaved = False
                    await asyncio.to_thread(self._save, list(self._table), self._aliases.pairs())
        finally:
            if self._unsaved:
                self._save(list(self._table), self._aliases.pairs())

    def _save(self, pairs: Sequence[Pair], aliases: Sequence[tuple[str, str]]) -> None:
        if self._path is None:
            return
        shift = time.time() - time.monotonic()
        try:
            fresh = (Pair(pair.name, pair.address, pair.expires + shift) for pair in pairs)
            write_state(self._path, fresh, aliases)
            self._complaint = ""
        except StateError as error:
            if str(error) != self._complaint:
                self._complaint = str(error)
                self._say(f"warning: {error}")

    def status(self) -> dict[str, int]:
        """Counters since the start, and how much is known now."""
        table = self._table
        return {
            **self.counters,
            **{f"refused_{reason}": count for reason, count in self.refused.items()},
            "names": table.names,
            "addresses": table.addresses,
            "pairs": len(table),
            "recent": len(self._recent),
            "evicted": table.evicted,
        }


def _address(text: str) -> Address | None:
    """None for what is none: resolv.conf may have an interface behind the address."""
    with contextlib.suppress(ValueError):
        return ip_address(text.partition("%")[0])
    return None
