# SPDX-License-Identifier: Apache-2.0
"""What the kernel enforces by itself, beside the queues: doNotTrack and preDNAT policy, and feeds as sets."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any

from appliance.config import Config
from appliance.netfilter.hostpolicy import Counted, HostPolicy
from appliance.netfilter.nflog import Logged, NfLog
from appliance.netfilter.nft import NftError
from appliance.netfilter.offload import Offload
from appliance.service.calculation import Desired
from appliance.service.feeds import offload_feeds, offload_settings
from appliance.service.settings import netfilter_settings
from fastpath import IdentityMap, Policy, PolicyTables
from fastpath.errors import PortcullisError
from rules.policy import Program, RuleInfo, Step


class KernelPolicy:
    """refused: called when something could not be put in force. What was in force before stays then. denied: called in
    the event loop for packets that doNotTrack or preDNAT policy drops, at a bounded rate."""

    def __init__(
        self,
        config: Config,
        *,
        refused: Callable[[], None],
        denied: Callable[[Logged], None],
        say: Callable[[str], None],
    ) -> None:
        self._config = config
        self._refused = refused
        self._denied = denied
        self._log: NfLog | None = None
        self._quiet = config.netfilter.log_group == 0  # nobody asked for it, or it cannot be had
        self._say = say
        self._host_policy = HostPolicy(netfilter_settings(config))
        self._offload = Offload(offload_settings(config))
        self._wanted: Desired | None = None
        self._lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    async def enforce(self, program: Program) -> None:
        """Of doNotTrack and preDNAT policy."""
        wanted = program if self._config.mode == "enforce" else None
        if wanted is not None and (wanted.needs_raw_hook or wanted.needs_pre_dnat_hook):
            await self._listen()
        await self._put(lambda: self._host_policy.apply(wanted))

    async def follow(self, step: Step, snapshot: tuple[IdentityMap, Policy]) -> None:
        """The same for what a step changed, which is in force for new flows; snapshot: what the engine decides by."""
        program = step.program
        asked = self._config.mode == "enforce" and (program.needs_raw_hook or program.needs_pre_dnat_hook)
        if not asked and not self._host_policy.there:
            return
        if asked:
            await self._listen()
        identities, policy = snapshot

        def source() -> tuple[bytes, PolicyTables]:
            return bytes(identities.export()), policy.tables()

        await self._put(lambda: self._host_policy.follow(program, step.regions, source))
        self._spawn(self._settle())

    async def _settle(self) -> None:
        with contextlib.suppress(NftError):
            await asyncio.to_thread(self._host_policy.settle)

    async def _put(self, change: Callable[[], bool]) -> None:
        try:
            changed = await asyncio.to_thread(change)
        except PortcullisError as error:
            self._refused()
            self._say(f"warning: doNotTrack and preDNAT policy could not be put in force: {error}")
            return
        if changed:
            self._say("doNotTrack and preDNAT policy is in step")
        if self._log is not None and self._host_policy.group is None:
            self.close()
            self._say_quiet("the kernel has no nfnetlink_log")

    async def _listen(self) -> None:
        if self._log is not None or self._quiet:
            return
        group = self._config.netfilter.log_group
        try:
            self._log = await asyncio.to_thread(NfLog, group)
        except PortcullisError as error:
            self._say_quiet(str(error))
            return
        self._host_policy.group = group
        asyncio.get_running_loop().add_reader(self._log.fileno(), self._read)

    def _say_quiet(self, why: str) -> None:
        self._quiet = True
        self._say(f"warning: packets that doNotTrack and preDNAT policy drops are counted, but not told: {why}")

    def _read(self) -> None:
        assert self._log is not None
        for logged in self._log.read():
            self._denied(logged)

    def close(self) -> None:
        """Nothing is told any more."""
        if self._log is not None:
            asyncio.get_running_loop().remove_reader(self._log.fileno())
            self._log.close()
            self._log = None

    def rule(self, name: str) -> tuple[int, RuleInfo] | None:
        """What Logged.prefix names: the rule's number in the program, and the rule."""
        return self._host_policy.rule(name)

    def decided(self) -> list[Counted]:
        """By rules of doNotTrack and preDNAT policy. Blocking, a millisecond where there are some."""
        try:
            return self._host_policy.hits()
        except NftError:
            return []  # another program took the table away

    async def offload(self, desired: Desired) -> None:
        """Without its sets a feed is enforced as well, only slower. Of changes that wait the last one counts."""
        self._wanted = desired
        async with self._lock:
            if desired is self._wanted:
                await self._take(desired)

    def offload_soon(self, desired: Desired) -> None:
        """The kernel takes seconds for a large set, and nothing waits for it."""
        self._spawn(self.offload(desired))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _take(self, desired: Desired) -> None:
        try:
            changed = await asyncio.to_thread(self._offload.apply, offload_feeds(self._config, desired.merged))
        except NftError as error:
            self._say(f"warning: feeds could not be put into the kernel: {error}")
            return
        for name in changed:
            self._say(f"feed {name}: its addresses in the kernel are in step")

    def mend(self, elements: bool) -> list[str]:
        """Makes again what another program took away or changed; returns what it was. elements: also looks at those of
        sets. Blocking; raises NftError."""
        return [*self._host_policy.mend(elements), *self._offload.mend(elements)]

    def drops(self) -> dict[str, int]:
        """Packets by feed. Blocking, a millisecond where a feed is in the kernel."""
        try:
            return self._offload.hits()
        except NftError:
            return {}  # another program took the table away

    async def remove_feeds(self) -> None:
        async with self._lock:
            self._wanted = None
            with contextlib.suppress(NftError):
                await asyncio.to_thread(self._offload.remove)

    async def remove_rules(self) -> list[str]:
        """Returns what there is to say about it."""
        return await asyncio.to_thread(self._host_policy.remove)
