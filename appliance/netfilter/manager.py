# SPDX-License-Identifier: Apache-2.0
"""Netfilter: install our ruleset, change its generation, empty it, remove it. Blocking: call it from a thread.

Works in the network namespace of the calling thread. Other programs' tables, chains and rules are read, never changed.
"""

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace

from appliance.netfilter import backend as backends
from appliance.netfilter import bridge, closed, conntrack, elements, floods, installed, nft, recheck, ruleset, tables
from appliance.netfilter.backend import FAMILIES, NetfilterError
from appliance.netfilter.elements import Operation
from appliance.netfilter.floods import Denied, DeniedSource
from appliance.netfilter.installed import CREATED
from appliance.netfilter.marks import GENERATION_SHIFT
from appliance.netfilter.preflight import Preflight, check_queue_numbers, overlap_warnings, require_permission
from appliance.netfilter.recheck import Address
from appliance.netfilter.ruleset import TABLE, Backend, NetfilterSettings
from appliance.netfilter.surroundings import bound_queues, bridge_warnings, conntrack_in_use, table_exists
from fastpath.errors import FastpathError

DRAIN = 1.0  # seconds that packets in our queues have to get their verdicts before obey goes


class Netfilter:
    """The kernel side of one appliance. All methods raise NetfilterError.

    Order of use: preflight() before the queues are bound, install(), then set_generation(), recheck() and sweep() at
    will, remove().
    Threads may call mend(), recheck(), deny() and forgive() while another calls any of these.
    """

    def __init__(self, settings: NetfilterSettings) -> None:
        self.settings = settings
        self._backend: Backend | None = None
        self._changes: list[str] = []
        self._lock = threading.RLock()  # of what changes the ruleset
        self._flooded = False  # something may stand in the maps of floods
        self._rechecking: Counter[Address] = Counter()
        self._workloads: frozenset[int] = frozenset()  # interfaces
        self._standing = False  # these are in the sets, and the fates lead to them
        self._elements = elements.Exchange()
        self._lifted: set[str] = set()  # bridges that did not show us what they forward
        self._generation: int | None = None  # that shall be in force; None: no ruleset shall be there
        self._behind = False  # the fates in the kernel are of an older generation
        self.lost = 0  # how often another program took rules of ours away
        self.errors = 0  # how often rules could not be made or changed

    def preflight(self, *, check_queues: bool = True) -> Preflight:
        """Changes nothing. check_queues: refuse queue numbers that are bound (False: taken over from a predecessor)."""
        require_permission()
        self._backend = None
        self._choose()
        warnings = (*overlap_warnings(self.settings), *bridge_warnings())
        check_queue_numbers(self.settings, bound=check_queues)
        return Preflight(self._choose(), warnings)

    def install(self, generation: int) -> None:
        """Idempotent. Takes over a table that a killed predecessor left, without a moment in which no rule stands."""
        backend = self._choose()
        with self._lock, self._counted("install"):
            self._generation = generation
            for name in bridge.lift(self.settings.bridges):
                self._lifted.add(name)
                self._changes.append(f"bridge {name}: what it forwards comes to the hooks of the IP layer from now on")
            present = installed.own_objects()
            if not present and not conntrack_in_use():
                self._changes.append(
                    "connection tracking was off and is on now: every packet of this network namespace is tracked, "
                    "which costs about 8 % of small-packet throughput"
                )
            markers = []
            if backend == "xt":
                for family in FAMILIES:
                    if not table_exists(f"{family} security"):
                        markers.append(f"{CREATED}{family}_security")
                    # First: without the chains no packet carries the to-queue bit.
                    if backends.xt_set(family, ruleset.xt_rules(self.settings)):
                        self._changes.append(f"queue rules added to {family} security (iptables-nft)")
            stale, moved = installed.stale(self.settings, present, backend)
            script = "".join(f"flush chain {TABLE} {name}\ndelete chain {TABLE} {name}\n" for name in moved)
            script += ruleset.install_script(
                self.settings, backend, generation, stale, self._rechecking, self._workloads
            )
            script += "".join(f"add chain {TABLE} {name}\n" for name in markers)
            nft.run(script)
            self._behind = False
            if table_exists(closed.TABLE):
                nft.run(closed.open_script())
            if backend == "nft":
                for family in FAMILIES:
                    backends.xt_set(family, ())
            if moved:
                self._changes.append(
                    f"chains {', '.join(moved)} moved to another priority; packets that waited are lost"
                )

    def set_generation(self, generation: int) -> None:
        """From now on only fates of this generation hold: all other flows come up once. One transaction, v4 and v6.

        Where it raises, fates of before hold on, and mend() tries it again."""
        with self._lock, self._counted("set_generation"):
            if self._generation is not None:
                self._generation = generation
                self._behind = True
            flooded = self.settings.hooks if self._flooded else ()
            self._exchange(
                ruleset.generation_change(
                    self.settings.marks, generation, flooded=flooded, rechecking=bool(self._rechecking)
                )
            )
            self._flooded = self._behind = False

    def set_workloads(self, interfaces: frozenset[int]) -> None:
        """By these come packets of local workloads: their failsafe ports come up, too. Before install() it is only
        remembered."""
        with self._lock, self._counted("set_workloads"):
            self._workloads = interfaces
            if self._generation is not None:
                self._exchange(ruleset.workloads_change(interfaces))

    def deny(self, denied: Sequence[Denied | DeniedSource], seconds: int, *, still: Callable[[], bool]) -> bool:
        """New flows of these are answered in the kernel for so long, or until the next generation. still(): whether
        they are denied by what is in force; asked while nothing can change. One transaction; False: not done."""
        with self._lock, _explained("deny"):
            if self._generation is None or not still():
                return False
            self._flooded = True
            nft.run(floods.add(TABLE, denied, seconds))
            return True

    def forgive(self) -> None:
        """What deny() denied comes up again."""
        with self._lock, _explained("forgive"):
            if self._flooded and self._generation is not None:
                self._exchange(floods.flush(self.settings.hooks))
                self._flooded = False

    def recheck(self, addresses: Collection[Address]) -> None:
        """Flows from or to these addresses come up at once, in spite of their fates, each once; all others keep theirs.

        Call it when the workers decide by what changed; then recheck_done().
        """
        with self._lock, _explained("recheck"):
            standing = frozenset(self._rechecking)
            self._rechecking.update(addresses)
            if self._standing and not self._behind and self._generation is not None:
                self._standing = False
                self._exchange(recheck.join(self._rechecking.keys() - standing))
                self._standing = True
            else:
                self._recheck(self._rechecking)

    def recheck_done(self, addresses: Collection[Address]) -> None:
        """After one or more recheck() with these: no flow of theirs has a fate of before. Walks conntrack behind those
        that did not come up, which may take seconds: nothing waits for that. A flow that comes up in the moment in
        which the walk reaches it may come up twice.
        """
        with _explained("recheck"):
            try:
                conntrack.void(self.settings.marks, frozenset(addresses), _rechecked)
            finally:
                with self._lock:  # others may be rechecked meanwhile, or these again
                    self._rechecking -= Counter(addresses)
                    rest = self._rechecking
                    if self._generation is not None:
                        self._recheck(rest, again=not rest)

    def _recheck(self, addresses: Collection[Address], *, again: bool = True) -> None:
        if self._generation is None:
            raise nft.NftError("no rules are installed")
        self._standing = False
        self._exchange(ruleset.recheck_change(self.settings.marks, self._generation, addresses, again=again))
        self._standing = bool(addresses)

    def _exchange(self, change: Sequence[Operation]) -> None:
        """Elements of our sets and maps, in one transaction."""
        try:
            self._elements.commit(TABLE, change)
        except nft.NftError:
            if not self._remake():  # the table is gone, and is there again as it shall be now
                raise

    def mend(self) -> list[str]:
        """Makes again what another program took away, with the generation in force; returns what was missing. Where
        that fails, and close_on_loss says so, nothing passes until it succeeds. Changes wait only where there is
        something to mend: to look takes tens of milliseconds."""
        if self._generation is None or not (self._behind or self.missing()):
            return []
        with self._lock:
            gone = self._remake()
            if not gone and self._behind and self._generation is not None:
                self.set_generation(self._generation)
            return gone

    def _remake(self) -> list[str]:
        if self._generation is None or not (gone := self.missing()):
            return []
        changes = self.changes()
        try:
            self.install(self._generation)
        except NetfilterError:
            if self.settings.close_on_loss:
                self._close()
            raise
        self._changes = changes
        self.lost += 1
        return gone

    def _close(self) -> None:
        with _explained("close"):
            nft.run(closed.close_script(self.settings))

    @contextlib.contextmanager
    def _counted(self, what: str) -> Iterator[None]:
        try:
            with _explained(what):
                yield
        except NetfilterError:
            self.errors += 1
            raise

    def generation(self) -> int | None:
        """The generation that the installed fates are of; None when nothing is installed."""
        marks = self.settings.marks
        if not table_exists(TABLE):
            return None
        for entry in nft.query(f"list set {TABLE} allowed"):
            for element in entry.get("set", {}).get("elem", ()):
                return marks.byte(element) >> GENERATION_SHIFT
        return None

    def sweep(self, generations: Collection[int], *, gently: bool = False) -> int:
        """Clear our bits from connection marks of these generations; returns how many. Do it before the numbers return.
        gently: it takes longer, and leaves the processor to others."""
        with _explained("sweep"):
            return conntrack.sweep(self.settings.marks, generations, idle=int(gently))

    def age(self, carried: int = 0) -> int:
        """Allowed UDP flows are decided anew with their next packet: all, or those whose connection has carried so many
        bytes; returns how many. It takes longer, and leaves the processor to others."""
        with _explained("age"):
            return conntrack.age(self.settings.marks, carried)

    def count_flows(self, generation: int) -> int:
        """Conntrack entries that carry a fate of this generation."""
        with _explained("count_flows"):
            return conntrack.count(self.settings.marks, (generation,))

    def missing(self) -> list[str]:
        """What another program took away (`nft flush ruleset`, `iptables -F`): [] when all is in place."""
        backend = self._choose()
        with _explained("missing"):
            return installed.missing(self.settings, backend)

    def remove(self) -> list[str]:
        """Stop filtering, then take everything of ours away; returns what had to stay and why ([]: nothing).

        The chains are emptied first. Deleting a chain drops what waits in any queue of the namespace, so tables go
        only when no queue but ours is bound.
        """
        with self._lock, _explained("remove"):
            self._generation = None
            self._elements.close()
            if table_exists(closed.TABLE):
                nft.run(closed.open_script())
            bridge.lift(self._lifted, on=False)
            self._lifted.clear()
            objects = installed.own_objects()
            chains = {entry["chain"]["name"]: entry["chain"] for entry in objects if "chain" in entry}
            if chains:
                nft.run(ruleset.empty_script(name for name in chains if name.startswith("classify_")))
                self._drain()
            for family in FAMILIES:
                backends.xt_set(family, ())
            if not chains:
                return []
            nft.run(ruleset.empty_script(name for name, chain in chains.items() if "hook" in chain))
            conntrack.sweep(self.settings.marks, conntrack.ANY)
            foreign = [queue for queue in bound_queues() if queue.number not in self.settings.own_queues]
            if foreign:
                # The chains without a hook keep their rules: the last rule that uses conntrack would take the hooks
                # of conntrack with it, which drops what waits just the same.
                names = ", ".join(f"{queue.number} (netlink port {queue.port})" for queue in foreign)
                return [
                    f"table {TABLE} stays, with empty chains, and connection tracking stays on: deleting it would drop "
                    f"what waits in queue {names}; when that program has ended: nft delete table {TABLE}"
                ]
            created = [name.removeprefix(CREATED).replace("_", " ") for name in chains if name.startswith(CREATED)]
            nft.run(f"delete table {TABLE}\n")
            if table_exists(closed.TABLE):
                nft.run(closed.remove_script())
            left = []
            for table in created:
                if table_exists(table):
                    if any("rule" in entry for entry in nft.query(f"list table {table}")):
                        left.append(f"table {table} stays: it has rules of another program by now")
                    else:
                        nft.run(f"delete table {table}\n")
            return left

    def counters(self) -> dict[str, int]:
        """Packets by counter; {}: not installed.

        queued, look, bypassed, look_bypassed, allowed, dropped, rejected: totals, and per hook as `queued_forward`;
        fate_allowed, fate_dropped, fate_rejected: decided in the kernel alone.
        """
        try:
            found = tables.counters(TABLE)
        except nft.NftError:
            return {}
        for name, packets in list(found.items()):
            kind, _, hook = name.rpartition("_")
            if hook in ruleset.HOOKS:
                found[kind] = found.get(kind, 0) + packets
        return found

    def changes(self) -> list[str]:
        """What install() turned on or changed beyond our own table."""
        return list(self._changes)

    # -- parts -------------------------------------------------------------------------------------

    def _choose(self) -> Backend:
        """What works here, and with it how packets are spread over the queues; found out once."""
        if self._backend is None:
            self._backend = backends.choose(self.settings.backend, self.settings.priority)
            spread = ruleset.spread(self.settings.queue_first, self.settings.queue_count)
            by_tuple = self._backend == "nft" and self.settings.queue_count > 1 and backends.has_nft_queue(spread)
            self.settings = replace(self.settings, by_tuple=by_tuple)
        return self._backend

    def _drain(self) -> None:
        deadline = time.monotonic() + DRAIN
        while time.monotonic() < deadline:
            if not any(queue.waiting for queue in bound_queues() if queue.number in self.settings.own_queues):
                return
            time.sleep(0.01)


@contextlib.contextmanager
def _explained(what: str) -> Iterator[None]:
    try:
        yield
    except nft.NftError as error:
        raise NetfilterError(f"{what}: nft: {error}") from error
    except (OSError, FastpathError) as error:
        raise NetfilterError(f"{what}: netlink: {error}") from error


def _rechecked() -> Collection[int]:
    return recheck.ids(nft.query(f"list set {TABLE} {recheck.RECHECKED}"))
