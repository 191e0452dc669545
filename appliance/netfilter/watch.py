# SPDX-License-Identifier: Apache-2.0
"""Notices when another program takes our rules away (`nft flush ruleset`, `iptables -F`) and has them made again.

The kernel tells of each change of any nftables table (linux/netfilter/nf_tables.h, group NFNLGRP_NFTABLES); what
deletes something of ours is looked into at once, in the tables of host policy and of feeds also what adds something,
and everything is looked into now and then, in case a message was lost. Our own changes are told, too, some of them many
times a second: each transaction ends with a message that names the thread that made it, and ours come to nothing.
"""

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from enum import IntEnum
from pathlib import Path

from appliance.netfilter.nfnetlink import NETLINK_NETFILTER, attributes, messages
from appliance.netfilter.offload import TABLE as FEED_TABLE
from appliance.netfilter.ruleset import HOST_TABLE, TABLE
from fastpath.errors import PortcullisError

SUBSYS_NFTABLES = 10
GROUP_NFTABLES = 7
# NFT_MSG_DELTABLE, _DELCHAIN, _DELRULE
_DELETED = frozenset(SUBSYS_NFTABLES << 8 | message for message in (2, 5, 8))
# NFT_MSG_NEWCHAIN, _NEWRULE, _DELSET
_CHANGED = _DELETED | {SUBSYS_NFTABLES << 8 | message for message in (3, 6, 11)}
_ELEMENTS = frozenset(SUBSYS_NFTABLES << 8 | message for message in (12, 14))  # NFT_MSG_NEWSETELEM, _DELSETELEM
_NEWGEN = SUBSYS_NFTABLES << 8 | 15
_PROCESS, _PROCESS_NAME = 2, 3  # NFTA_GEN_PROC_PID, NFTA_GEN_PROC_NAME
_TABLE_NAME = 1  # NFTA_TABLE_NAME, NFTA_CHAIN_TABLE, NFTA_RULE_TABLE, NFTA_SET_ELEM_LIST_TABLE
_LIVELY = {TABLE.split()[1].encode(), b"security"}  # with elements that come and go, and rules of others
_STILL = {HOST_TABLE.split()[1].encode(), FEED_TABLE.encode()}
_DEBOUNCE = 0.02  # seconds; the messages of one transaction come together
_AT_ONCE = 32  # datagrams of some 40 messages each, about a millisecond; others have the event loop in between
_POLL = 10.0  # seconds
_AGAIN = 0.5  # seconds until the next try after one that failed


class Concern(IntEnum):
    """What a datagram of the group is to us."""

    NONE = 0
    RULES = 1  # of a table of ours
    ELEMENTS = 2  # of sets of a table in which only we change some, too


def concern(data: bytes, found: Concern = Concern.NONE) -> Concern:
    """Never raises. found: what the transaction is known to be. Of elements of our own, ten thousands come in one: the
    first says all that the others do."""
    for kind, body in messages(data):
        if found is Concern.ELEMENTS:
            break
        if kind in _CHANGED or kind in _ELEMENTS:
            name = dict(attributes(body)).get(_TABLE_NAME, b"").rstrip(b"\0")
            if name in _STILL:
                found = max(found, Concern.ELEMENTS if kind in _ELEMENTS else Concern.RULES)
            elif name in _LIVELY and kind in _DELETED:
                found = max(found, Concern.RULES)
    return found


def authors(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(thread, its name) of each transaction that ends in this datagram. Never raises."""
    for kind, body in messages(data):
        if kind == _NEWGEN:
            found = dict(attributes(body))
            yield int.from_bytes(found.get(_PROCESS, b""), "big"), found.get(_PROCESS_NAME, b"").rstrip(b"\0")


def is_own(thread: int, name: bytes) -> bool:
    """The name, too: in a process namespace of its own a service knows its threads by other numbers than the kernel."""
    try:
        return Path(f"/proc/self/task/{thread}/comm").read_bytes().rstrip(b"\n") == name
    except OSError:
        return False


class RulesetWatch:
    """Runs in the event loop and in the network namespace of `start()`.

    mend(elements): makes again what is missing, blocking, and returns what it was; elements: sets may have others.
    lost(what, seconds): what was missing, after it has been made again; failed(error): it could not be, the next try
    follows.
    """

    def __init__(
        self,
        mend: Callable[[bool], list[str]],
        lost: Callable[[list[str], float], None],
        failed: Callable[[PortcullisError], None],
        *,
        poll: float = _POLL,
    ) -> None:
        self._mend = mend
        self._lost = lost
        self._failed = failed
        self._poll = poll
        self._wake = asyncio.Event()
        self._told = 0.0
        self._elements = False
        self._pending = Concern.NONE  # of a transaction that has not ended
        self._task: asyncio.Task[None] | None = None
        self._socket: socket.socket | None = None

    def start(self) -> None:
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, NETLINK_NETFILTER)
        sock.bind((0, 1 << GROUP_NFTABLES - 1))
        self._socket = sock
        asyncio.get_running_loop().add_reader(sock.fileno(), self._readable)
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """When it returns, nothing is made again any more."""
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    def look(self) -> None:
        """Something may have to be made again."""
        self._awaken(elements=False)

    def _readable(self) -> None:
        assert self._socket is not None
        try:
            for _ in range(_AT_ONCE):
                data = self._socket.recv(1 << 18)
                self._pending = concern(data, self._pending)
                for thread, name in authors(data):
                    found, self._pending = self._pending, Concern.NONE
                    if found is not Concern.NONE and not is_own(thread, name):
                        self._awaken(elements=found is Concern.ELEMENTS)
        except BlockingIOError:
            pass
        except OSError:  # overrun: what it was about is not known
            self._awaken(elements=True)

    def _awaken(self, *, elements: bool) -> None:
        self._elements = self._elements or elements
        if not self._wake.is_set():
            self._told = time.monotonic()
            self._wake.set()

    async def _run(self) -> None:
        pause = self._poll
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), pause)
                await asyncio.sleep(_DEBOUNCE)
            started = self._told if self._wake.is_set() else time.monotonic()
            self._wake.clear()
            elements, self._elements = self._elements, False
            pause = self._poll
            try:
                if gone := await asyncio.shield(asyncio.to_thread(self._mend, elements)):
                    self._lost(gone, time.monotonic() - started)
            except PortcullisError as error:
                self._failed(error)
                pause = _AGAIN
