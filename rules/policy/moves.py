# SPDX-License-Identifier: Apache-2.0
"""Which endpoints and network sets a change moves, beside those that it names: who inherits other labels, who is told
apart by a label that nobody asked for before, and whose interface has another number."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from rules.policy.asked import Ask, Asked, Atom
from rules.policy.endpoints import Labeller, MemberSpec, account_of, profile_name
from rules.policy.model import HostEndpointSpec, Resource, WorkloadEndpointSpec
from rules.policy.policies import ORCHESTRATOR_LABEL, SERVICE_ACCOUNT_LABEL
from rules.policy.selector import NAMESPACE_LABEL

_OWN = frozenset((NAMESPACE_LABEL, ORCHESTRATOR_LABEL, SERVICE_ACCOUNT_LABEL))  # labels made of other fields


@dataclass(slots=True)
class Inherited:
    """What is different in what members inherit."""

    namespaces: set[str] = field(default_factory=set)
    accounts: set[tuple[str, str]] = field(default_factory=set)
    profiles: set[str] = field(default_factory=set)

    def __bool__(self) -> bool:
        return bool(self.namespaces or self.accounts or self.profiles)

    def reaches(self, resource: Resource) -> bool:
        if resource.namespace in self.namespaces or (resource.namespace, account_of(resource)) in self.accounts:
            return True
        spec = resource.spec
        return isinstance(spec, WorkloadEndpointSpec | HostEndpointSpec) and not self.profiles.isdisjoint(spec.profiles)


def inherited(before: Labeller, now: Labeller, touched: Iterable[Resource]) -> Inherited:
    """`touched`: profiles, namespaces and service accounts that came, went or changed."""
    found = Inherited()
    for resource in touched:
        name, namespace = resource.name, resource.namespace
        if resource.kind == "Namespace" and before.namespaces.get(name) != now.namespaces.get(name):
            found.namespaces.add(name)
        account = (namespace, name)
        if resource.kind == "ServiceAccount" and before.accounts.get(account) != now.accounts.get(account):
            found.accounts.add(account)
        profile = profile_name(resource)
        old, new = before.profiles.get(profile), now.profiles.get(profile)
        if (old.spec.labels if old else {}) != (new.spec.labels if new else {}):
            found.profiles.add(profile)
    return found


def asked_anew(asked: Asked, atoms: Iterable[Atom]) -> dict[str, set[str | Ask]]:
    """By label, or by the name of a port."""
    found: dict[str, set[str | Ask]] = {}
    for atom in atoms:
        if not asked.knows(atom):
            found.setdefault(atom.label, set()).add(atom.what)
    return found


def told_apart(atoms: Mapping[str, set[str | Ask]], labeller: Labeller) -> Callable[[Resource], bool]:
    """Whether asking for `atoms` may make a member another than it was."""
    labels = {label: wanted - {Ask.PORT} for label, wanted in atoms.items() if wanted != {Ask.PORT}}
    ports = {name for name, wanted in atoms.items() if Ask.PORT in wanted}
    special = not _OWN.isdisjoint(labels)

    def carried(found: Mapping[str, str]) -> bool:
        for label, wanted in labels.items():
            value = found.get(label)
            if value is not None and (value in wanted or Ask.PRESENCE in wanted or Ask.VALUE in wanted):
                return True
        return False

    def moves(resource: Resource) -> bool:
        spec = resource.spec
        named = spec.ports if ports and isinstance(spec, WorkloadEndpointSpec | HostEndpointSpec) else ()
        if any(port.name in ports for port in named):
            return True
        if not labels:
            return False
        if carried(resource.metadata.labels) or carried(labeller.base(resource)):
            return True
        return special and carried(_own(resource))

    return moves


def _own(resource: Resource) -> Mapping[str, str]:
    found = {NAMESPACE_LABEL: resource.namespace} if resource.namespace else {}
    if isinstance(resource.spec, WorkloadEndpointSpec):
        if resource.spec.orchestrator:
            found[ORCHESTRATOR_LABEL] = resource.spec.orchestrator
        account = account_of(resource)
        if account:
            found[SERVICE_ACCOUNT_LABEL] = account
    return found


def renumbered(before: Mapping[str, int], now: Mapping[str, int], node: str) -> Callable[[Resource], bool]:
    """Whether a workload of the node speaks by an interface whose number is another now."""
    other = {name for name in before.keys() | now.keys() if before.get(name) != now.get(name)}

    def moves(resource: Resource) -> bool:
        spec = resource.spec
        return isinstance(spec, WorkloadEndpointSpec) and spec.node == node and spec.interface in other

    return moves


def members(resources: Iterable[Resource]) -> list[Resource]:
    return [resource for resource in resources if isinstance(resource.spec, MemberSpec)]


