# SPDX-License-Identifier: Apache-2.0
"""Endpoints and network sets with the labels that policies see: their own, then their profiles', their namespace's
(`pcns.`) and their service account's (`pcsa.`)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from rules.policy.model import (
    HostEndpointSpec,
    NamedPort,
    Net,
    NetworkSetSpec,
    ProfileSpec,
    Resource,
    Rule,
    ServiceEndpointsSpec,
    WorkloadEndpointSpec,
)
from rules.policy.policies import (
    NAME_LABEL,
    NAMESPACE_PREFIX,
    ORCHESTRATOR_LABEL,
    SERVICE_ACCOUNT_LABEL,
    SERVICE_ACCOUNT_PREFIX,
)
from rules.policy.selector import NAMESPACE_LABEL

_ALLOW = (Rule("Allow"),)
DEFAULT_ALLOW = "projectcalico-default-allow"


@dataclass(frozen=True, slots=True)
class Profile:
    name: str
    spec: ProfileSpec
    file: str = ""
    line: int = 0


@dataclass(frozen=True, slots=True)
class Member:
    """An endpoint or network set."""

    resource: Resource
    kind: str  # workload, host, set
    labels: Mapping[str, str]
    nets: tuple[Net, ...]
    profiles: tuple[str, ...] = ()
    ports: tuple[NamedPort, ...] = ()
    node: str = ""
    interface: str = ""
    domains: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        return self.resource.title


@dataclass(frozen=True, slots=True)
class World:
    members: list[Member]
    profiles: dict[str, Profile]
    services: dict[tuple[str, str], list[ServiceEndpointsSpec]]  # (namespace, name)


def collect(resources: Iterable[Resource]) -> World:
    profiles: dict[str, Profile] = {DEFAULT_ALLOW: Profile(DEFAULT_ALLOW, ProfileSpec(_ALLOW, _ALLOW))}
    namespaces: dict[str, dict[str, str]] = {}
    accounts: dict[tuple[str, str], dict[str, str]] = {}
    services: dict[tuple[str, str], list[ServiceEndpointsSpec]] = {}
    holders: list[Resource] = []
    implied: list[Profile] = []
    for resource in resources:
        spec = resource.spec
        if isinstance(spec, ProfileSpec):
            profiles[resource.name] = Profile(resource.name, spec, resource.file, resource.line)
        elif isinstance(spec, ServiceEndpointsSpec):
            services.setdefault((resource.namespace, spec.service), []).append(spec)
        elif isinstance(spec, NetworkSetSpec | HostEndpointSpec | WorkloadEndpointSpec):
            holders.append(resource)
        elif resource.kind == "Namespace":
            labels = {"kubernetes.io/metadata.name": resource.name, **resource.metadata.labels}
            labels[NAME_LABEL] = resource.name
            namespaces[resource.name] = {NAMESPACE_PREFIX + key: value for key, value in labels.items()}
            implied.append(Profile(f"kns.{resource.name}", ProfileSpec(_ALLOW, _ALLOW), resource.file, resource.line))
        elif resource.kind == "ServiceAccount":
            labels = {**resource.metadata.labels, NAME_LABEL: resource.name}
            accounts[resource.namespace, resource.name] = {
                SERVICE_ACCOUNT_PREFIX + key: value for key, value in labels.items()
            }
            implied.append(
                Profile(f"ksa.{resource.namespace}.{resource.name}", ProfileSpec(), resource.file, resource.line)
            )
    for profile in implied:
        profiles.setdefault(profile.name, profile)
    inherited: dict[tuple[tuple[str, ...], str, str], dict[str, str]] = {}
    members: list[Member] = []
    for resource in holders:
        members.append(_member(resource, profiles, namespaces, accounts, inherited))
    return World(members, profiles, services)


def _member(
    resource: Resource,
    profiles: Mapping[str, Profile],
    namespaces: Mapping[str, Mapping[str, str]],
    accounts: Mapping[tuple[str, str], Mapping[str, str]],
    inherited: dict[tuple[tuple[str, ...], str, str], dict[str, str]],
) -> Member:
    spec = resource.spec
    namespace = resource.namespace
    own: dict[str, str] = {}
    if namespace:
        own[NAMESPACE_LABEL] = namespace
    names: tuple[str, ...] = ()
    account = ""
    if isinstance(spec, WorkloadEndpointSpec):
        names = spec.profiles
        account = spec.service_account or resource.metadata.labels.get(SERVICE_ACCOUNT_LABEL, "")
        if spec.orchestrator:
            own[ORCHESTRATOR_LABEL] = spec.orchestrator
        if account:
            own[SERVICE_ACCOUNT_LABEL] = account
    elif isinstance(spec, HostEndpointSpec):
        names = spec.profiles
    key = (names, namespace, account)
    base = inherited.get(key)
    if base is None:
        base = {}
        for name in reversed(names):  # of two profiles the first one's label counts
            if name in profiles:
                base.update(profiles[name].spec.labels)
        base.update(namespaces.get(namespace, {}))
        base.update(accounts.get((namespace, account), {}))
        inherited[key] = base
    labels = {**base, **own, **resource.metadata.labels}
    if isinstance(spec, WorkloadEndpointSpec):
        return Member(resource, "workload", labels, spec.addresses, names, spec.ports, spec.node, spec.interface)
    if isinstance(spec, HostEndpointSpec):
        return Member(resource, "host", labels, spec.addresses, names, spec.ports, spec.node, spec.interface)
    assert isinstance(spec, NetworkSetSpec)
    return Member(resource, "set", labels, spec.nets, domains=spec.domains)
