# SPDX-License-Identifier: Apache-2.0
"""Supervision of inspectors that answer, are slow, stand still or refuse: processes that only speak the messages."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable

import pytest

from appliance.inspection.messages import InspectionRuleset
from appliance.inspection.pool import InspectionError, InspectorPool, PoolSettings

pytestmark = pytest.mark.timeout(60)

SLOW, REFUSED = 50, 60  # versions that take a second: to be accepted, to be refused
_INSPECTOR = """
import os, socket, sys, time
from appliance.inspection import messages
sock = socket.socket(fileno=int(sys.argv[sys.argv.index("--fd") + 1]))
frames = messages.Frames()
ready = False
def say(message):
    sock.sendall(messages.encode(message))
while data := sock.recv(65536):
    for body in frames.feed(data):
        message = messages.decode_to_inspector(body)
        if isinstance(message, messages.Call):
            say(messages.Echo(message.number))
            continue
        if message.version >= 50:
            time.sleep(1.0)
        if message.version == 60:
            say(messages.Refused(message.version, "bad"))
            continue
        if not ready:
            say(messages.Ready(os.getpid(), 0))
            ready = True
        say(messages.Accepted(message.version, 0, 0))
"""


def run(scenario: Callable[[InspectorPool], Awaitable[None]], call_timeout: float) -> None:
    """With two inspectors that have ruleset 1."""

    async def main() -> None:
        settings = PoolSettings(queue_count=2, call_timeout=call_timeout)
        pool = InspectorPool(settings, lambda _event, _queue: None, command=(sys.executable, "-c", _INSPECTOR))
        await pool.start(InspectionRuleset(version=1))
        try:
            await scenario(pool)
        finally:
            await pool.stop()

    asyncio.run(main())


async def until_all_have(pool: InspectorPool, version: int) -> None:
    for _ in range(2000):
        if all(status.state == "ready" and status.version == version for status in pool.status()):
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"not all inspectors have ruleset {version}: {pool.status()}")


def test_one_that_stands_still_is_not_waited_for_and_starts_again_with_the_new_ruleset() -> None:
    async def scenario(pool: InspectorPool) -> None:
        first, second = pool.status()
        os.kill(first.pid, signal.SIGSTOP)
        started = time.monotonic()
        await pool.publish(InspectionRuleset(version=2))
        assert time.monotonic() - started < 5.0  # and not the 15 s of a heart that stopped
        now, other = pool.status()
        # Whoever goes on from here finds that none can answer by the old ruleset.
        assert now.pid != first.pid and not (now.state == "ready" and now.version == 1)
        assert (other.pid, other.version) == (second.pid, 2)
        await until_all_have(pool, 2)
        assert pool.status()[0].restarts == 1 and pool.status()[1].restarts == 0

    run(scenario, 0.4)


def test_one_that_compiles_for_long_is_not_stuck() -> None:
    async def scenario(pool: InspectorPool) -> None:
        before = [status.pid for status in pool.status()]
        await pool.publish(InspectionRuleset(version=SLOW))
        assert [(status.pid, status.version) for status in pool.status()] == [(pid, SLOW) for pid in before]

    run(scenario, 0.4)


def stand_still() -> None:
    time.sleep(1.0)


def test_a_moment_in_which_the_control_process_stands_still_is_not_held_against_inspectors() -> None:
    async def scenario(pool: InspectorPool) -> None:
        before = [status.pid for status in pool.status()]
        publishing = asyncio.create_task(pool.publish(InspectionRuleset(version=2)))
        for _ in range(3):
            await asyncio.sleep(0)
        stand_still()
        await publishing
        assert [(status.pid, status.version) for status in pool.status()] == [(pid, 2) for pid in before]

    run(scenario, 0.8)


def test_one_that_was_started_with_a_ruleset_which_is_then_refused_gets_the_one_before() -> None:
    async def scenario(pool: InspectorPool) -> None:
        os.kill(pool.status()[1].pid, signal.SIGKILL)
        with pytest.raises(InspectionError, match="bad"):
            await pool.publish(InspectionRuleset(version=REFUSED))
        await until_all_have(pool, 1)

    run(scenario, 5.0)
