# SPDX-License-Identifier: Apache-2.0
"""Whether a running service can go on under another configuration: by starting again with its queues in its hands."""

import asyncio
import socket
from pathlib import Path

from appliance.config import Config, load_config
from appliance.netfilter import Netfilter
from appliance.service.calculation import calculate
from appliance.service.gathering import Gathering, StartError
from appliance.service.settings import netfilter_settings, worker_queues


async def successor_would_differ(config: Config, path: Path | None) -> bool:
    """Whether the file at `path` holds another configuration. Raises PortcullisError when a successor would not start
    with it."""
    fresh = await asyncio.to_thread(load_config, path)
    if fresh == config:
        return False
    if why := await refusal(config, fresh, path):
        raise StartError(why, file=str(path))
    return True


async def refusal(config: Config, fresh: Config, path: Path | None) -> str:
    """Why not, in words; "" if a successor would start. Raises what would keep it from starting, a PortcullisError."""
    if why := needs_a_stop(config, fresh):
        return why
    address = fresh.metrics.address()
    if address is not None and address != config.metrics.address():
        try:
            socket.create_server(address, family=socket.AF_INET6 if ":" in address[0] else socket.AF_INET).close()
        except OSError as error:
            return f"metrics.listen: {error.strerror}"
    await asyncio.to_thread(Netfilter(netfilter_settings(fresh)).preflight, check_queues=False)
    sources = Gathering(fresh, explicit=path is not None, changed=_nothing, refused=_nothing, say=_nobody)
    await asyncio.to_thread(calculate, fresh, await sources.first())
    return ""


def needs_a_stop(config: Config, fresh: Config) -> str:
    """What cannot be changed while packets wait in the queues, in words; "" for nothing."""
    for name, old, new in (
        ("mark.mask", config.mark.mask, fresh.mark.mask),
        ("netfilter.priority", config.netfilter.priority, fresh.netfilter.priority),
        ("netfilter.backend", config.netfilter.backend, fresh.netfilter.backend),
        ("control.socket", config.control.socket, fresh.control.socket),
    ):
        if old != new:
            return f"{name} cannot be changed while the service runs: stop it and start it again"
    old_queues, new_queues = set(worker_queues(config)), set(worker_queues(fresh))
    if not (old_queues <= new_queues or new_queues <= old_queues):
        return "queues can be added or taken away while the service runs, not moved: stop it and start it again"
    return ""


def _nothing() -> None:
    """Nobody waits for a change of what is only looked at."""


def _nobody(text: str) -> None:
    """Warnings are for the service that will run."""
