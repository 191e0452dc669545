# SPDX-License-Identifier: Apache-2.0
"""`portcullis containers`: endpoints of containers, for a person or for the service (portcullis-containers.service)."""

import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path

from appliance.config import Config, load_config
from appliance.service.notify import Notifier
from appliance.service.settings import container_engines
from appliance.sources.base import SourceError, SourceSnapshot
from appliance.sources.container_file import touch, write
from appliance.sources.containers import RELIST, Containers
from fastpath.errors import PortcullisError
from rules.policy import Resource
from rules.policy.model import WorkloadEndpointSpec


class ContainersError(PortcullisError):
    """There is nothing to follow, or nowhere to say what was found."""


def list_endpoints(path: Path | None) -> int:
    """One line for each endpoint; status 1 if an engine did not answer. Raises ContainersError."""
    snapshot = asyncio.run(_source(load_config(path)).snapshot())
    for resource in snapshot.all():
        spec = resource.spec
        assert isinstance(spec, WorkloadEndpointSpec)
        labels = " ".join(f"{key}={value}" for key, value in sorted(resource.metadata.labels.items()))
        addresses = " ".join(str(net).partition("/")[0] for net in spec.addresses) or "-"
        print(f"{resource.title}  {addresses}  {spec.interface or '(interface not known)'}  {labels}")
    _tell(snapshot, ())
    return 1 if snapshot.errors else 0


def serve(path: Path | None) -> int:
    """Until SIGTERM or SIGINT. Raises ContainersError when it cannot start."""
    config = load_config(path)
    source = _source(config)
    state = Path(config.containers.state)
    if not os.access(state.parent, os.W_OK):
        raise ContainersError("the folder is not there, or cannot be written to", file=str(state.parent))
    return asyncio.run(_serve(source, state))


async def _serve(source: Containers, state: Path) -> int:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    notifier = Notifier()
    following = asyncio.create_task(_follow(source, state, notifier))
    waiting = asyncio.create_task(stopping.wait())
    try:
        done, _ = await asyncio.wait([following, waiting], return_when=asyncio.FIRST_COMPLETED)
        if following in done:
            following.result()
    except OSError as error:
        raise ContainersError(f"cannot be written: {error.strerror}", file=str(state)) from error
    finally:
        notifier.stopping()
        for task in (following, waiting):
            task.cancel()
        await asyncio.gather(following, waiting, return_exceptions=True)
    return 0


async def _follow(source: Containers, state: Path, notifier: Notifier) -> None:
    snapshot = await source.snapshot()
    told = _tell(snapshot, ())
    await asyncio.to_thread(write, state, snapshot)
    notifier.ready(f"{len(snapshot.all())} endpoints")
    alive = asyncio.create_task(_keep_alive(state))
    try:
        async for snapshot in source.watch():
            await asyncio.to_thread(write, state, snapshot)
            told = _tell(snapshot, told)
            notifier.status(f"{len(snapshot.all())} endpoints")
    finally:
        alive.cancel()


async def _keep_alive(state: Path) -> None:
    while True:
        await asyncio.sleep(RELIST)
        with contextlib.suppress(OSError):  # the next change writes it anew, or says why it cannot
            await asyncio.to_thread(touch, state)


def _source(config: Config) -> Containers:
    engines = container_engines(config)
    if not engines:
        raise ContainersError('no engine is configured: [containers] docker = "/run/docker.sock", or podman')
    return Containers(engines, config.node)


def _tell(snapshot: SourceSnapshot[Resource], told: tuple[SourceError, ...]) -> tuple[SourceError, ...]:
    """Says what is new among the errors; returns all of them."""
    for error in snapshot.errors:
        if error not in told:
            print(f"portcullis: {error}", file=sys.stderr, flush=True)
    return snapshot.errors
