# SPDX-License-Identifier: Apache-2.0
"""Notices when another program takes our rules away (`nft flush ruleset`, `iptables -F`) and has them made again.

The kernel tells of each change of any nftables table (linux/netfilter/nf_tables.h, group NFNLGRP_NFTABLES); what
deletes something of ours is looked into at once, and everything is looked into now and then, in case a message was
lost. Our own changes delete rules, too: nothing is missing after them, so they come to nothing.
"""

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable
from typing import Protocol

from appliance.netfilter.nfnetlink import NETLINK_NETFILTER, NFGEN, NLMSG, attributes
from appliance.netfilter.ruleset import TABLE
from fastpath.errors import PortcullisError

SUBSYS_NFTABLES = 10
GROUP_NFTABLES = 7
_DELETED = {SUBSYS_NFTABLES << 8 | message for message in (2, 5, 8)}  # NFT_MSG_DELTABLE, _DELCHAIN, _DELRULE
_TABLE_NAME = 1  # NFTA_TABLE_NAME, NFTA_CHAIN_TABLE, NFTA_RULE_TABLE
_TABLES = {TABLE.split()[1].encode(), b"security"}
_DEBOUNCE = 0.02  # seconds; the messages of one transaction come together
_POLL = 10.0  # seconds
_AGAIN = 0.5  # seconds until the next try after one that failed


class Mender(Protocol):
    """What this needs of appliance.netfilter.Netfilter. Blocks."""

    def mend(self) -> list[str]: ...


def concerns_us(data: bytes) -> bool:
    """Whether a datagram of the group tells of something deleted from a table of ours. Never raises."""
    offset = 0
    while offset + NLMSG.size + NFGEN.size <= len(data):
        length, kind = NLMSG.unpack_from(data, offset)[:2]
        if length < NLMSG.size + NFGEN.size or offset + length > len(data):
            return False
        if kind in _DELETED:
            body = data[offset + NLMSG.size + NFGEN.size : offset + length]
            name = dict(attributes(body)).get(_TABLE_NAME, b"")
            if name.rstrip(b"\0") in _TABLES:
                return True
        offset += length + (-length % 4)
    return False


class RulesetWatch:
    """Runs in the event loop and in the network namespace of `start()`.

    lost(what, seconds): what was missing, after it has been made again; failed(error): it could not be, the next try
    follows.
    """

    def __init__(
        self,
        netfilter: Mender,
        lost: Callable[[list[str], float], None],
        failed: Callable[[PortcullisError], None],
        *,
        poll: float = _POLL,
    ) -> None:
        self._netfilter = netfilter
        self._lost = lost
        self._failed = failed
        self._poll = poll
        self._wake = asyncio.Event()
        self._told = 0.0
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

    def _readable(self) -> None:
        assert self._socket is not None
        try:
            while data := self._socket.recv(1 << 18):
                if concerns_us(data):
                    self._awaken()
        except BlockingIOError:
            pass
        except OSError:  # overrun: what it was about is not known
            self._awaken()

    def _awaken(self) -> None:
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
            pause = self._poll
            try:
                if gone := await asyncio.shield(asyncio.to_thread(self._netfilter.mend)):
                    self._lost(gone, time.monotonic() - started)
            except PortcullisError as error:
                self._failed(error)
                pause = _AGAIN
