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


class Labeller:
    """Members from resources: knows what endpoints inherit from profiles, namespaces and service accounts."""

    def __init__(self) -> None:
        self.profiles: dict[str, Profile] = {DEFAULT_ALLOW: Profile(DEFAULT_ALLOW, ProfileSpec(_ALLOW, _ALLOW))}
        self.namespaces: dict[str, dict[str, str]] = {}
        self.accounts: dict[tuple[str, str], dict[str, str]] = {}
        self._inherited: dict[tuple[tuple[str, ...], str, str], dict[str, str]] = {}

    def _base(self, profiles: tuple[str, ...], namespace: str, account: str) -> dict[str, str]:
        key = (profiles, namespace, account)
        base = self._inherited.get(key)
        if base is None:
            base = self._inherited[key] = {}
            for name in reversed(profiles):  # of two profiles the first one's label counts
                if name in self.profiles:
                    base.update(self.profiles[name].spec.labels)
            base.update(self.namespaces.get(namespace, {}))
            base.update(self.accounts.get((namespace, account), {}))
        return base

    def member(self, resource: Resource) -> Member:
        spec = resource.spec
        own: dict[str, str] = {NAMESPACE_LABEL: resource.namespace} if resource.namespace else {}
        metadata = resource.metadata
        if isinstance(spec, NetworkSetSpec):
            labels = {**self._base((), resource.namespace, ""), **own, **metadata.labels}
            return Member(resource, "set", labels, spec.nets, domains=spec.domains)
        account = ""
        if isinstance(spec, WorkloadEndpointSpec):
            account = spec.service_account or metadata.labels.get(SERVICE_ACCOUNT_LABEL, "")
            if spec.orchestrator:
                own[ORCHESTRATOR_LABEL] = spec.orchestrator
            if account:
                own[SERVICE_ACCOUNT_LABEL] = account
        assert isinstance(spec, HostEndpointSpec | WorkloadEndpointSpec)
        labels = {**self._base(spec.profiles, resource.namespace, account), **own, **metadata.labels}
        kind = "host" if isinstance(spec, HostEndpointSpec) else "workload"
        return Member(resource, kind, labels, spec.addresses, spec.profiles, spec.ports, spec.node, spec.interface)


@dataclass(frozen=True, slots=True)
class World:
    members: list[Member]
    services: dict[tuple[str, str], list[ServiceEndpointsSpec]]  # (namespace, name)
    labeller: Labeller

    @property
    def profiles(self) -> Mapping[str, Profile]:
        return self.labeller.profiles


def collect(resources: Iterable[Resource]) -> World:
    labeller = Labeller()
    services: dict[tuple[str, str], list[ServiceEndpointsSpec]] = {}
    holders: list[Resource] = []
    implied: list[Profile] = []
    for resource in resources:
        spec = resource.spec
        name, namespace, place = resource.name, resource.namespace, (resource.file, resource.line)
        if isinstance(spec, ProfileSpec):
            labeller.profiles[name] = Profile(name, spec, *place)
        elif isinstance(spec, ServiceEndpointsSpec):
            services.setdefault((namespace, spec.service), []).append(spec)
        elif isinstance(spec, NetworkSetSpec | HostEndpointSpec | WorkloadEndpointSpec):
            holders.append(resource)
        elif resource.kind == "Namespace":
            labels = {"kubernetes.io/metadata.name": name, **resource.metadata.labels, NAME_LABEL: name}
            labeller.namespaces[name] = {NAMESPACE_PREFIX + key: value for key, value in labels.items()}
            implied.append(Profile(f"kns.{name}", ProfileSpec(_ALLOW, _ALLOW), *place))
        elif resource.kind == "ServiceAccount":
            labels = {**resource.metadata.labels, NAME_LABEL: name}
            labeller.accounts[namespace, name] = {SERVICE_ACCOUNT_PREFIX + key: v for key, v in labels.items()}
            implied.append(Profile(f"ksa.{namespace}.{name}", ProfileSpec(), *place))
    for profile in implied:
        labeller.profiles.setdefault(profile.name, profile)
    return World([labeller.member(resource) for resource in holders], services, labeller)
