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


MemberSpec = NetworkSetSpec | HostEndpointSpec | WorkloadEndpointSpec


@dataclass(frozen=True, slots=True)
class Profile:
    name: str
    spec: ProfileSpec
    file: str = ""
    line: int = 0


_DEFAULT = Profile(DEFAULT_ALLOW, ProfileSpec(_ALLOW, _ALLOW))


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
        self.profiles: dict[str, Profile] = {DEFAULT_ALLOW: _DEFAULT}
        self.namespaces: dict[str, dict[str, str]] = {}
        self.accounts: dict[tuple[str, str], dict[str, str]] = {}
        self._written: dict[str, Profile] = {}
        self._implied: dict[str, Profile] = {DEFAULT_ALLOW: _DEFAULT}
        self._inherited: dict[tuple[tuple[str, ...], str, str], dict[str, str]] = {}

    def copy(self) -> "Labeller":
        other = Labeller()
        other.profiles, other.namespaces = dict(self.profiles), dict(self.namespaces)
        other.accounts = dict(self.accounts)
        other._written, other._implied = dict(self._written), dict(self._implied)
        return other

    def put(self, resource: Resource, *, leave: bool = False) -> str:
        """A Profile, Namespace or ServiceAccount came, or left. Returns the name of the profile that it makes."""
        self._inherited.clear()
        name, namespace, place = resource.name, resource.namespace, (resource.file, resource.line)
        if isinstance(resource.spec, ProfileSpec):
            profile, where = Profile(name, resource.spec, *place), self._written
        elif resource.kind == "Namespace":
            labels = {"kubernetes.io/metadata.name": name, **resource.metadata.labels, NAME_LABEL: name}
            self.namespaces[name] = {NAMESPACE_PREFIX + key: value for key, value in labels.items()}
            spec = ProfileSpec(_ALLOW, _ALLOW, self.namespaces[name])
            profile, where = Profile(profile_name(resource), spec, *place), self._implied
        else:
            labels = {**resource.metadata.labels, NAME_LABEL: name}
            self.accounts[namespace, name] = {SERVICE_ACCOUNT_PREFIX + key: v for key, v in labels.items()}
            spec = ProfileSpec(labels=self.accounts[namespace, name])
            profile, where = Profile(profile_name(resource), spec, *place), self._implied
        where[profile.name] = profile
        if leave:
            del where[profile.name]
            if resource.kind == "Namespace":
                del self.namespaces[name]
            elif resource.kind == "ServiceAccount":
                del self.accounts[namespace, name]
        known = self._written.get(profile.name) or self._implied.get(profile.name)
        if known is None:
            self.profiles.pop(profile.name, None)
        else:
            self.profiles[profile.name] = known
        return profile.name

    def base(self, resource: Resource) -> Mapping[str, str]:
        """The labels that an endpoint or network set inherits."""
        spec = resource.spec
        profiles = spec.profiles if isinstance(spec, HostEndpointSpec | WorkloadEndpointSpec) else ()
        return self._base(profiles, resource.namespace, account_of(resource))

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
            account = account_of(resource)
            if spec.orchestrator:
                own[ORCHESTRATOR_LABEL] = spec.orchestrator
            if account:
                own[SERVICE_ACCOUNT_LABEL] = account
        assert isinstance(spec, HostEndpointSpec | WorkloadEndpointSpec)
        labels = {**self._base(spec.profiles, resource.namespace, account), **own, **metadata.labels}
        kind = "host" if isinstance(spec, HostEndpointSpec) else "workload"
        return Member(resource, kind, labels, spec.addresses, spec.profiles, spec.ports, spec.node, spec.interface)


def profile_name(resource: Resource) -> str:
    """Of the profile that it is, or that Calico makes of a Namespace or ServiceAccount."""
    if resource.kind == "Namespace":
        return f"kns.{resource.name}"
    return f"ksa.{resource.namespace}.{resource.name}" if resource.kind == "ServiceAccount" else resource.name


def account_of(resource: Resource) -> str:
    """The service account of a workload."""
    spec = resource.spec
    if not isinstance(spec, WorkloadEndpointSpec):
        return ""
    return spec.service_account or resource.metadata.labels.get(SERVICE_ACCOUNT_LABEL, "")


@dataclass(frozen=True, slots=True)
class World:
    members: list[Member]
    services: dict[tuple[str, str], list[ServiceEndpointsSpec]]  # (namespace, name)
    labeller: Labeller

    @property
    def profiles(self) -> Mapping[str, Profile]:
        return self.labeller.profiles


def inherited_from(resource: Resource) -> bool:
    """Whether endpoints get labels or rules from it."""
    return isinstance(resource.spec, ProfileSpec) or resource.kind in ("Namespace", "ServiceAccount")


def collect(resources: Iterable[Resource]) -> World:
    labeller = Labeller()
    services: dict[tuple[str, str], list[ServiceEndpointsSpec]] = {}
    members: list[Resource] = []
    for resource in resources:
        spec = resource.spec
        if isinstance(spec, MemberSpec):
            members.append(resource)
        elif isinstance(spec, ServiceEndpointsSpec):
            services.setdefault((resource.namespace, spec.service), []).append(spec)
        elif inherited_from(resource):
            labeller.put(resource)
    return World([labeller.member(resource) for resource in members], services, labeller)
