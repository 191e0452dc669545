# SPDX-License-Identifier: Apache-2.0
"""Which endpoints' traffic this node can see, and why not. Pure.

A packet is seen where a hook that is on meets it: forwarding, input and output of the IP layer. Frames that a bridge
passes from one of its ports to another stay below that layer unless br_netfilter lifts them up to it.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from appliance.config.model import Hooks
from appliance.service.interfaces import Interfaces
from appliance.sources.node import EVERY
from rules.policy import Resource
from rules.policy.model import LOOPBACK, HostEndpointSpec, WorkloadEndpointSpec

Level = Literal["all", "part", "none", "elsewhere"]
NAMED = 20  # endpoints that one line of `lines` names


@dataclass(frozen=True)
class Sight:
    """What the node sees of an endpoint's traffic: all, part or none of it; elsewhere: the endpoint is on another node.

    reasons: why it is not all, in words.
    """

    endpoint: str
    level: Level
    reasons: tuple[str, ...] = ()


def sights(
    resources: Iterable[Resource],
    *,
    node: str,
    hooks: Hooks,
    interfaces: Interfaces,
    lifted: Collection[str] = (),
) -> tuple[Sight, ...]:
    """One for each endpoint among the resources, in their order. lifted: bridges that show what they forward."""
    found = []
    for resource in resources:
        spec = resource.spec
        if isinstance(spec, HostEndpointSpec | WorkloadEndpointSpec):
            level, reasons = _sight(spec, node, hooks, interfaces, lifted)
            found.append(Sight(resource.title, level, tuple(reasons)))
    return tuple(found)


def lines(found: Sequence[Sight]) -> list[str]:
    """What to say at start: the endpoints whose traffic is not seen, by reason. Endpoints elsewhere are no trouble."""
    groups: dict[tuple[Level, tuple[str, ...]], list[str]] = {}
    for sight in found:
        if sight.level in ("none", "part"):
            groups.setdefault((sight.level, sight.reasons), []).append(sight.endpoint)
    said = []
    for (level, reasons), names in sorted(groups.items(), key=lambda group: (group[0][0], group[0][1])):
        shown = ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
        amount = "the traffic" if level == "none" else "all traffic"
        said.append(f"cannot see {amount} of {shown}: {'; '.join(reasons)}")
    return said


def state(found: Sequence[Sight]) -> dict[str, object]:
    """For `status`: how many endpoints there are, and every one that is not seen whole."""
    return {
        "known": len(found),
        "elsewhere": sum(sight.level == "elsewhere" for sight in found),
        "unseen": [
            {"endpoint": sight.endpoint, "seen": sight.level, "reasons": list(sight.reasons)}
            for sight in found
            if sight.level in ("none", "part")
        ],
    }


Seen = tuple[Level, list[str]]


def _sight(
    spec: HostEndpointSpec | WorkloadEndpointSpec,
    node: str,
    hooks: Hooks,
    interfaces: Interfaces,
    lifted: Collection[str],
) -> Seen:
    if spec.node != node:
        where = f"it is on node {spec.node}" if spec.node else "its node is not known"
        return "elsewhere", [f"{where}: seen is what crosses this node"]
    if isinstance(spec, HostEndpointSpec):
        return _host(spec, hooks, interfaces)
    return _workload(spec, hooks, interfaces, lifted)


def _host(spec: HostEndpointSpec, hooks: Hooks, interfaces: Interfaces) -> Seen:
    name = spec.interface
    if name and name != EVERY and name not in interfaces.indexes:
        return "none", [f"interface {name} does not exist"]
    if name in interfaces.ports:
        # The address of a bridge port is never reached: the bridge takes its frames.
        return "none", [f"{name} is a port of bridge {interfaces.ports[name]}: name the bridge"]
    off = [hook for hook in ("input", "output") if not getattr(hooks, hook)]
    if not off:
        return "all", []
    reason = f"hook {' and '.join(off)} {'is' if len(off) == 1 else 'are'} off"
    return "part" if hooks.names() else "none", [reason]


def _workload(spec: WorkloadEndpointSpec, hooks: Hooks, interfaces: Interfaces, lifted: Collection[str]) -> Seen:
    name = spec.interface
    if not hooks.names():
        return "none", ["every hook is off"]
    if not name:
        return "part", ["its interface is not known: nor can its address be bound to it"]
    if name not in interfaces.indexes:
        return "none", [f"interface {name} does not exist"]
    reasons = []
    if not hooks.forward and name != LOOPBACK:  # that of local sockets, whose packets are not forwarded
        reasons.append("hook forward is off: seen is only what it exchanges with this node")
    if not (hooks.input and hooks.output):
        off = " and ".join(hook for hook in ("input", "output") if not getattr(hooks, hook))
        reasons.append(f"hook {off} off: what it exchanges with this node is not seen in full")
    bridge = name if name in interfaces.bridges else interfaces.ports.get(name)
    missing = {4 if address.is_v4 else 6 for address in spec.addresses} - interfaces.bridge_filter
    if bridge is not None and bridge not in lifted and missing:
        families = " and ".join(f"IPv{family}" for family in sorted(missing))
        reasons.append(f"br_netfilter is off for {families}: not seen is what stays on bridge {bridge}")
    return "part" if reasons else "all", reasons
