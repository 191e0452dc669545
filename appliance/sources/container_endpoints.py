# SPDX-License-Identifier: Apache-2.0
"""From containers to WorkloadEndpoint resources. Pure.

One endpoint for each network of a container, since each has an interface of its own on the node. The namespace is the
Compose project, else `default`. Labels are the container's, with Calico's beside them:
`projectcalico.org/orchestrator`, `projectcalico.org/namespace`, `projectcalico.org/name`. Labels come from images too,
so those that say who an endpoint is are not taken from a container. Until a policy selects a container it may talk, as
a pod in Kubernetes may.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from appliance.sources.engine_api import Attachment, Container
from rules.policy import Resource, ResourceError, load_object
from rules.policy.endpoints import DEFAULT_ALLOW
from rules.policy.model import WorkloadEndpointSpec
from rules.policy.reader import QUALIFIED

COMPOSE_PROJECTS = ("com.docker.compose.project", "io.podman.compose.project")
MAX_VALUE = 4096  # characters of a label's value; images carry whole sentences
_RESERVED = ("projectcalico.org/", "pcns.", "pcsa.")
_UNNAMED = "."  # stands for an interface that is not known, until the resource is made: no interface can have this name

InterfaceOf = Callable[[Container, Attachment], str]
"""The node's interface by which packets of a container come in from a network; "" if that is not known."""


@dataclass(frozen=True)
class Endpoints:
    """Endpoints in the order of their names; `problems`: what of the containers could not be taken over, in words."""

    resources: tuple[Resource, ...]
    problems: tuple[str, ...] = ()


def endpoints(
    containers: Iterable[Container], *, engine: str, node: str, origin: str, interface_of: InterfaceOf
) -> Endpoints:
    """engine: "docker" or "podman"; origin: where this was read, for messages about the resources."""
    found: dict[tuple[str, str], Resource] = {}
    problems: list[str] = []
    skipped: Counter[str] = Counter()
    for container in containers:
        problems += (f"container {container.name}: {problem}" for problem in container.problems)
        labels = _labels(container, skipped)
        namespace = _namespace(container.labels)
        for attachment in container.attachments:
            name = _name(container, attachment)
            if (namespace, name) in found:
                name = f"{name[:240]}-{container.id[:12]}"
            value = {
                "apiVersion": "projectcalico.org/v3",
                "kind": "WorkloadEndpoint",
                "metadata": {
                    "name": name,
                    "namespace": namespace,
                    "labels": {
                        **labels,
                        "projectcalico.org/orchestrator": engine,
                        "projectcalico.org/namespace": namespace,
                        "projectcalico.org/name": _dns(container.name)[:63].rstrip("-.") or container.id[:12],
                    },
                },
                "spec": {
                    "orchestrator": engine,
                    "workload": container.name,
                    "node": node,
                    "containerID": container.id,
                    "endpoint": attachment.network,
                    "interfaceName": interface_of(container, attachment) or _UNNAMED,
                    "ipNetworks": [f"{address}/{address.max_prefixlen}" for address in attachment.addresses],
                    "profiles": [DEFAULT_ALLOW],
                },
            }
            try:
                found[namespace, name] = _known(load_object(value, origin))
            except ResourceError as error:
                problems.append(f"container {container.name}: {error.message}")
    problems += (f"{count} labels {why}" for why, count in sorted(skipped.items()))
    return Endpoints(tuple(found[key] for key in sorted(found)), tuple(problems))


def document(resource: Resource) -> dict[str, Any]:
    """A resource that endpoints() made, as plain values; read_document() makes an equal one of it. TypeError for
    resources of other kinds."""
    spec = resource.spec
    if not isinstance(spec, WorkloadEndpointSpec):
        raise TypeError(f"{resource.title} is no workload endpoint")
    return {
        "apiVersion": "projectcalico.org/v3",
        "kind": "WorkloadEndpoint",
        "metadata": {
            "name": resource.name, "namespace": resource.metadata.namespace, "labels": dict(resource.metadata.labels),
        },
        "spec": {
            "orchestrator": spec.orchestrator, "workload": spec.workload, "node": spec.node, "endpoint": "eth0",
            "interfaceName": spec.interface or _UNNAMED, "ipNetworks": [str(net) for net in spec.addresses],
            "profiles": list(spec.profiles),
        },
    }  # fmt: skip


def read_document(value: Any, origin: str) -> Resource:
    """Raises ResourceError for what is no valid workload endpoint."""
    resource = load_object(value if isinstance(value, dict) else {}, origin)
    if not isinstance(resource.spec, WorkloadEndpointSpec):
        raise ResourceError(f"a {resource.kind} is no workload endpoint", file=origin, field="kind")
    return _known(resource)


def join(containers: Sequence[Container]) -> tuple[Container, ...]:
    """Containers with a network of their own, with the labels of those that use it beside theirs: behind one address
    nobody can tell them apart (a pod, a sidecar). What both say, the owner says."""
    owners = [container for container in containers if not container.joined]
    ids = {owner.name: owner.id for owner in owners} | {owner.id: owner.id for owner in owners}
    lent: dict[str, dict[str, str]] = {}
    for guest in containers:
        if guest.joined in ids:
            owner_id = ids[guest.joined]
            lent[owner_id] = {**guest.labels, **lent.get(owner_id, {})}
    return tuple(
        replace(owner, labels={**lent[owner.id], **owner.labels}) if owner.id in lent else owner for owner in owners
    )


def unique(resources: Iterable[Resource], others: Iterable[Resource]) -> tuple[Resource, ...]:
    """`others` behind `resources`, without those that have the name of one before them."""
    found = list(resources)
    seen = {resource.key for resource in found}
    for resource in others:
        if resource.key not in seen:
            seen.add(resource.key)
            found.append(resource)
    return tuple(found)


def _known(resource: Resource) -> Resource:
    """Calico wants an interface of every endpoint; one that is not known binds the addresses to none."""
    spec = resource.spec
    if isinstance(spec, WorkloadEndpointSpec) and spec.interface == _UNNAMED:
        return replace(resource, spec=replace(spec, interface=""))
    return resource


def _labels(container: Container, skipped: Counter[str]) -> dict[str, str]:
    labels = {}
    for key, value in container.labels.items():
        if key.startswith(_RESERVED):
            skipped["of containers are reserved (projectcalico.org/, pcns., pcsa.): not used"] += 1
        elif not QUALIFIED.match(key) or len(value) > MAX_VALUE:
            skipped[f"of containers have invalid keys or more than {MAX_VALUE} characters: not used"] += 1
        else:
            labels[key] = value
    return labels


def _namespace(labels: dict[str, str]) -> str:
    project = next((labels[key] for key in COMPOSE_PROJECTS if labels.get(key)), "")
    return _dns(project).replace(".", "-")[:63].strip("-") or "default"


def _name(container: Container, attachment: Attachment) -> str:
    """The container's name; with its network's where it is in several."""
    parts = [container.name] if len(container.attachments) == 1 else [container.name, attachment.network]
    words = [_dns(part)[:120].strip("-.") for part in parts]
    return ".".join(word for word in words if word) or container.id[:12]


def _dns(text: str) -> str:
    """The nearest DNS name (RFC 1123): lower case, anything else a hyphen, no empty label."""
    text = re.sub(r"[^a-z0-9.]+", "-", text.lower())
    return re.sub(r"-*\.[-.]*", ".", text).strip("-.")
