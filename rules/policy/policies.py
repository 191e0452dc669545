# SPDX-License-Identifier: Apache-2.0
"""Policies in the order in which they are asked: tiers, ties, effective selectors (felix/calc/policy_sorter.go and
libcalico-go's update processors define both)."""

import math
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass

from rules.policy.model import EntityRule, PolicySpec, Resource, TierSpec
from rules.policy.read_resources import TIERS
from rules.policy.selector import (
    NAMESPACE_LABEL,
    All,
    And,
    Equal,
    Global,
    Has,
    In,
    Node,
    Not,
    both,
    prefix_labels,
    rewrite,
)

SERVICE_ACCOUNT_LABEL = "projectcalico.org/serviceaccount"
ORCHESTRATOR_LABEL = "projectcalico.org/orchestrator"
NAME_LABEL = "projectcalico.org/name"
NAMESPACE_PREFIX = "pcns."
SERVICE_ACCOUNT_PREFIX = "pcsa."
DENY_ACTION = "portcullis.dev/deny-action"
INSPECT = "portcullis.dev/inspect"

_STAGED = {
    "StagedGlobalNetworkPolicy": ("calico", "GlobalNetworkPolicy"),
    "StagedNetworkPolicy": ("calico", "NetworkPolicy"),
    "StagedKubernetesNetworkPolicy": ("kubernetes", "NetworkPolicy"),
}


@dataclass(frozen=True, slots=True)
class Tier:
    name: str
    order: float
    default_action: str  # Deny or Pass
    exists: bool


Place = tuple[bool, bool, float, str, float, str]


@dataclass(frozen=True, slots=True)
class ActivePolicy:
    number: int  # nobody else's
    tier: Tier
    resource: Resource
    spec: PolicySpec
    selector: Node
    staged: bool  # asked only in the pending view
    superseded: bool  # asked only in the view in force: a staged policy wants to delete it
    place: Place  # in the order in which policies are asked

    @property
    def title(self) -> str:
        return self.resource.title

    @property
    def kind(self) -> str:
        kubernetes = self.resource.api == "kubernetes"
        return "Kubernetes" + self.resource.kind if kubernetes else self.resource.kind

    def annotated(self, key: str) -> str:
        return self.resource.metadata.annotations.get(key, "")


def _everything_in(label: str, node: Node) -> Node:
    """all() means every namespace (or service account), which is not every endpoint."""

    def leaf(part: Node) -> Node:
        if isinstance(part, All):
            return Has(label)
        return Not(Has(label)) if isinstance(part, Global) else part

    return rewrite(node, leaf)


def policy_selector(spec: PolicySpec, namespace: str) -> Node:
    """Which endpoints the policy applies to, in terms of their labels."""
    node = spec.selector
    # Calico rewrites all() in the joined text, so a plain all() beside a namespaceSelector is rewritten, too.
    for extra, prefix, label in (
        (spec.namespace_selector, NAMESPACE_PREFIX, NAMESPACE_LABEL),
        (spec.service_account_selector, SERVICE_ACCOUNT_PREFIX, SERVICE_ACCOUNT_LABEL),
    ):
        if extra is not None:
            prefixed = prefix_labels(extra, prefix)
            node = _everything_in(label, prefixed if node is None else And((node, prefixed)))
    if node is None:
        node = All()
    if namespace:
        node = both(node, Equal(NAMESPACE_LABEL, namespace))
    return node


def peer_selector(entity: EntityRule, namespace: str) -> Node | None:
    """The effective selector of a rule's side; None: anything. A namespaced policy's rule is limited to its namespace
    as soon as any selector is used, notSelector included."""
    scope: Node | None = None
    if entity.namespace_selector is not None:
        scope = _everything_in(NAMESPACE_LABEL, prefix_labels(entity.namespace_selector, NAMESPACE_PREFIX))
    elif namespace:
        scope = Equal(NAMESPACE_LABEL, namespace)
    accounts: Node | None = None
    if entity.service_accounts is not None:
        names, selector = entity.service_accounts
        parts: list[Node] = []
        if selector is not None:
            parts.append(prefix_labels(selector, SERVICE_ACCOUNT_PREFIX))
        if names:
            parts.append(In(SERVICE_ACCOUNT_LABEL, frozenset(names)))
        accounts = both(*parts) if parts else None
    own = [node for node in (accounts, entity.selector) if node is not None]
    if scope is not None and (own or entity.not_selector is not None or entity.namespace_selector is not None):
        own.insert(0, scope)
    return both(*own) if own else None


def tier_names(resources: Iterable[Resource]) -> frozenset[str]:
    """Of tiers that exist, the built-in ones included."""
    return frozenset(TIERS) | {resource.name for resource in resources if isinstance(resource.spec, TierSpec)}


def all_tiers(resources: Iterable[Resource]) -> dict[str, Tier]:
    tiers = {name: Tier(name, order, action, True) for name, (action, order) in TIERS.items()}
    for resource in resources:
        if isinstance(resource.spec, TierSpec):
            tiers[resource.name] = Tier(resource.name, resource.spec.order, resource.spec.default_action, True)
    return tiers


def placed(
    policy: "ActivePolicy", tiers: Mapping[str, Tier], gone: Container[tuple[str, str, str, str]]
) -> "ActivePolicy":
    """The same policy where tiers, or what is to be deleted, are others."""
    made = activate(policy.number, policy.resource, tiers, gone, policy.selector)
    assert made is not None
    return made


def activate(
    number: int,
    resource: Resource,
    tiers: Mapping[str, Tier],
    gone: Container[tuple[str, str, str, str]] = (),
    selector: Node | None = None,
) -> ActivePolicy | None:
    """None for a staged policy that adds no rules. `gone`: what staged policies want to delete."""
    spec = resource.spec
    assert isinstance(spec, PolicySpec)
    if spec.staged_action in ("Delete", "Ignore"):
        return None
    # A tier that does not exist comes after all others and ends in deny, as in Felix.
    tier = tiers.get(spec.tier) or Tier(spec.tier, math.inf, "Deny", False)
    kind = "Kubernetes" + resource.kind if resource.api == "kubernetes" else resource.kind
    place = (
        not tier.exists, math.isinf(tier.order), tier.order, tier.name,
        spec.order, f"{resource.name}/{resource.namespace}/{kind}",
    )  # fmt: skip
    return ActivePolicy(
        number, tier, resource, spec, selector or policy_selector(spec, resource.namespace),
        resource.kind in _STAGED, (resource.api, resource.kind, resource.namespace, resource.name) in gone, place,
    )  # fmt: skip


def deletes(resource: Resource) -> tuple[str, str, str, str] | None:
    """The policy that a staged policy wants to delete."""
    if resource.kind in _STAGED and isinstance(resource.spec, PolicySpec) and resource.spec.staged_action == "Delete":
        return (*_STAGED[resource.kind], resource.namespace, resource.name)
    return None


def sort_policies(resources: Sequence[Resource]) -> list[ActivePolicy]:
    """All policies, staged ones among the others, in the order in which they are asked."""
    tiers = all_tiers(resources)
    policies = [resource for resource in resources if isinstance(resource.spec, PolicySpec)]
    policies.sort(key=lambda resource: resource.kind in _STAGED)
    gone = {target for resource in policies if (target := deletes(resource)) is not None}
    found = [activate(number, resource, tiers, gone) for number, resource in enumerate(policies)]
    return sorted((policy for policy in found if policy is not None), key=lambda policy: policy.place)


def view(policies: Sequence[ActivePolicy], *, pending: bool) -> list[ActivePolicy]:
    return [p for p in policies if not (p.superseded if pending else p.staged)]
