# SPDX-License-Identifier: Apache-2.0
"""From the configuration to the settings of the parts: the one place where a name in the file meets a part."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

from appliance.config import Config
from appliance.inspection.messages import InspectionEvent, InspectionRuleset, InspectorSettings
from appliance.inspection.pool import AnswerHandler, Encoder, InspectorPool, InspectorStatus, PoolSettings
from appliance.netfilter import NetfilterSettings
from appliance.service.floods import repeat_step
from appliance.service.handover import Taken
from appliance.sources.base import Source
from appliance.sources.container_file import ContainerFile
from appliance.sources.containers import Containers
from appliance.sources.feed_copies import COPIES
from appliance.sources.feed_directory import FeedDirectory
from appliance.sources.joined import Joined
from appliance.sources.local_owners import LocalOwners
from appliance.sources.policy_directory import PolicyDirectory
from appliance.sources.signature_files import SignatureFiles
from fastpath import EngineConfig
from fastpath.layout import FAILURE_POLICY, Failure, Verdict
from rules.policy import Resource, load_documents
from rules.policy.explain import Failsafes
from rules.policy.questions import read_protocol

_DEFAULTS = Config()
_VERDICTS = {"allow": Verdict.ALLOW, "drop": Verdict.DROP, "reject": Verdict.REJECT, "policy": FAILURE_POLICY}
SMALL_PACKET = 832  # bytes that the copy of a small packet takes of a socket buffer
_NETLINK_NETFILTER, _SO_RCVBUFFORCE = 12, 33
# The failures that an inspector meets.
_INSPECTOR_FAILURES = ("decode_error", "truncated_packet", "stream_memory")


def workers(config: Config) -> int:
    return config.queues.workers(len(os.sched_getaffinity(0)))


def failsafes(config: Config) -> tuple[Failsafes, Failsafes]:
    """Of input and of output, as `explain` knows them."""
    ports = (config.failsafe.inbound_ports(), config.failsafe.outbound_ports())
    inbound, outbound = (frozenset((read_protocol(name), port) for name, port in each) for each in ports)
    return inbound, outbound


def look_queue(config: Config) -> int | None:
    """Failsafe DNS exists in input and output only."""
    return config.queues.look if config.hooks.input or config.hooks.output else None


def sources(config: Config, explicit: bool) -> tuple[PolicyDirectory, FeedDirectory, SignatureFiles]:
    """explicit: a configuration file was named, so what it says must be there."""
    policy_required = explicit and config.policy.paths != _DEFAULTS.policy.paths
    feeds_required = explicit and config.feeds.paths != _DEFAULTS.feeds.paths
    return (
        PolicyDirectory([Path(path) for path in config.policy.paths], load_documents, required=policy_required),
        FeedDirectory(
            [Path(path) for path in config.feeds.paths],
            required=feeds_required,
            state=Path(config.feeds.state),
            copies=Path(config.control.state) / COPIES,
        ),
        SignatureFiles(config.inspection.signatures if config.inspection.inspectors else ()),
    )


def endpoint_source(config: Config) -> Source[Resource]:
    """Endpoints that the node finds out: containers, and owners of its own sockets."""
    containers = container_source(config)
    if not config.identities.owners:
        return containers
    owners = LocalOwners(config.node, config.identities.users, config.identities.units)
    return Joined(containers.name, [containers, owners])


def container_source(config: Config) -> Containers | ContainerFile:
    engines = container_engines(config)
    if engines and config.containers.unit:
        return ContainerFile(Path(config.containers.state))
    return Containers(engines, config.node)


def container_engines(config: Config) -> dict[str, str]:
    """ "docker" and "podman" → path of the socket, of those that are configured."""
    engines = {"docker": config.containers.docker, "podman": config.containers.podman}
    return {engine: path for engine, path in engines.items() if path}


def worker_queues(config: Config) -> tuple[int, ...]:
    """The queues of the workers, the look-only one last."""
    look = look_queue(config)
    first = config.queues.first
    return (*range(first, first + workers(config)), *(() if look is None else (look,)))


def engine_config(config: Config, taken: Taken) -> EngineConfig:
    count = workers(config)
    fds, last_ids = taken.in_order(worker_queues(config))
    cpus = config.fastpath.cpus
    return EngineConfig(
        queue_first=config.queues.first,
        queue_count=count,
        look_queue=look_queue(config),
        slow_first=config.queues.slow_first,
        slow_count=config.inspection.inspectors,
        queue_length=config.queues.length,
        copy_range=config.queues.copy_range,
        receive_buffer=config.queues.receive_buffer,
        mark_mask=config.mark.mask,
        flow_entries=config.fastpath.flow_entries,
        flow_idle=config.fastpath.flow_idle,
        event_entries=config.fastpath.event_entries,
        fail_open=config.failures.queue_full == "allow",
        gso=config.fastpath.gso,
        observe=config.mode == "observe",
        fates=config.fastpath.fates,
        failure_action={failure: _VERDICTS[config.failures.action(failure.name.lower())] for failure in Failure},
        fds=fds if taken else None,
        last_ids=last_ids if taken else None,
        resumed=bool(taken),
        takeover_action=Verdict.ALLOW if config.failures.queue_takeover == "allow" else Verdict.DROP,
        cpus=tuple(cpus[i % len(cpus)] for i in range(count)) if cpus else None,
        owners=config.identities.owners,
        repeat_step=repeat_step(config.flood) if floods_are_handed_over(config) else 0,
    )


def floods_are_handed_over(config: Config) -> bool:
    return config.flood.enabled and config.mode == "enforce"


def socket_warnings(config: Config) -> list[str]:
    """What the kernel does not allow of `queues.receive_buffer`."""
    wanted = config.queues.receive_buffer
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER) as probe:
        try:
            probe.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, wanted)
        except PermissionError:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, wanted)
        given = probe.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2  # the kernel doubles it for its own use
    warnings = []
    if given < wanted:
        warnings.append(
            f"queues.receive_buffer is {wanted} bytes and the kernel allows {given}: without CAP_NET_ADMIN in the"
            " initial user namespace net.core.rmem_max must be raised"
        )
    if 2 * given < config.queues.length * SMALL_PACKET:
        warnings.append(
            f"{config.queues.length} packets may wait in a queue (queues.length), and {given} bytes"
            f" (queues.receive_buffer) hold {2 * given // SMALL_PACKET}: the others are lost when nobody reads"
        )
    return warnings


def inspector_queues(config: Config) -> range:
    first = config.queues.slow_first
    return range(first, first + config.inspection.inspectors)


def netfilter_settings(config: Config) -> NetfilterSettings:
    failures = config.failures
    closed = "allow" not in (
        failures.queue_full, failures.no_listener, failures.inspector_down, failures.inspector_overload
    )  # fmt: skip
    slow = inspector_queues(config)
    return NetfilterSettings(
        hooks=config.hooks.names(),
        priority=config.netfilter.priority,
        mark_mask=config.mark.mask,
        queue_first=config.queues.first,
        queue_count=workers(config),
        look_queue=look_queue(config),
        other_queues=tuple(slow),
        bypass=failures.no_listener == "allow",
        unanswered="drop" if closed else "accept",
        failsafe_in=config.failsafe.inbound_ports(),
        failsafe_out=config.failsafe.outbound_ports(),
        backend=config.netfilter.backend,
        allow_mark_overlap=config.mark.allow_overlap,
        bridges=config.bridge.interfaces,
        close_on_loss=failures.ruleset_lost == "drop",
        flood_size=config.flood.size if floods_are_handed_over(config) else 0,
    )


def inspector_pool(
    config: Config,
    found: Callable[[InspectionEvent, int], None],
    changed: Callable[[InspectorStatus], None],
    answered: AnswerHandler,
    whole: Callable[[InspectionRuleset], Encoder],
) -> InspectorPool | None:
    """None where nothing is to be inspected."""
    if not config.inspection.inspectors:
        return None
    return InspectorPool(
        PoolSettings(
            queue_first=config.queues.slow_first,
            queue_count=config.inspection.inspectors,
            queue_length=config.queues.length,
            worker_queues=(config.queues.first, workers(config)),
            fail_open=config.failures.inspector_overload == "allow",
            mark_mask=config.mark.mask,
            reader=config.inspection.reader,
            inspector=InspectorSettings(
                depth=config.inspection.depth,
                stream_total_bytes=config.inspection.memory,
                flow_entries=config.inspection.flow_entries,
                flow_idle=config.inspection.flow_idle,
                udp_fates_end=config.fastpath.udp_fates_end,
                failures={name: config.failures.action(name) for name in _INSPECTOR_FAILURES},
            ),
        ),
        found,
        on_change=changed,
        on_answer=answered,
        whole=whole,
    )
