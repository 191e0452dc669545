# SPDX-License-Identifier: Apache-2.0
"""Calico v3 resources other than rules: one reader for each kind, defaults filled in as Calico's API server does."""

import math
from collections.abc import Callable
from typing import Any

from rules.policy.model import NetworkSetSpec, PolicySpec, ProfileSpec, Rule, Spec, TierSpec
from rules.policy.read_endpoints import read_host_endpoint, read_workload_endpoint
from rules.policy.read_rules import GLOBAL_ONLY, read_rules, says_global
from rules.policy.reader import DNS_SUBDOMAIN, Reader
from rules.policy.wording import Path, what

TIERS = {"kube-admin": ("Pass", 1000.0), "kube-baseline": ("Pass", 10_000_000.0), "default": ("Deny", 1_000_000.0)}
_POLICY_FIELDS = (
    "tier", "order", "ingress", "egress", "selector", "types", "serviceAccountSelector", "performanceHints",
)  # fmt: skip
_GLOBAL_FIELDS = (*_POLICY_FIELDS, "namespaceSelector", "doNotTrack", "preDNAT", "applyOnForward")
STAGED_ACTIONS = ("Set", "Delete", "Learn", "Ignore")
STAGED_DELETE = "should be zero-value if stagedAction is Delete, as all Spec fields, except Tier"
TYPES = ("Ingress", "Egress")
EMPTY_TYPES = "should have at least 1 items: leave it out, or name Ingress, Egress or both"


def read_tier(r: Reader, value: Any, path: Path, name: str) -> TierSpec:
    fields = r.mapping(value, path, ("order", "defaultAction"))
    spec = TierSpec(
        r.number(fields, "order", path, math.inf),
        r.choice(fields, "defaultAction", path, ("Pass", "Deny"), "Deny") or "Deny",
    )
    if name in TIERS:
        action, order = TIERS[name]
        if spec.default_action != action:
            r.fail((*path, "defaultAction"), f"The '{name}' tier must have default action '{action}'")
        if spec.order != order:
            r.fail((*path, "order"), f"{name} tier order must be {order:.0f}")
    return spec


def read_policy(r: Reader, value: Any, path: Path, *, everywhere: bool, staged: bool, root: Any) -> PolicySpec:
    """`everywhere`: a global kind."""
    known = _GLOBAL_FIELDS if everywhere else _POLICY_FIELDS
    fields = r.mapping(value, path, (*known, "stagedAction") if staged else known)
    tier = r.text(fields, "tier", path, default="default")
    if not DNS_SUBDOMAIN.match(tier or "default") or len(tier) > 253:
        r.fail((*path, "tier"), f"{what(tier)} is not a tier's name")
    types = r.choices(fields, "types", path, TYPES, 2)
    if fields.get("types") == []:
        r.fail((*path, "types"), EMPTY_TYPES)
    ingress = read_rules(r, fields, "ingress", path, root=root)
    egress = read_rules(r, fields, "egress", path, root=root)
    r.choices(fields, "performanceHints", path, ("AssumeNeededOnEveryNode",))
    spec = PolicySpec(
        tier or "default",
        r.number(fields, "order", path, math.inf),
        ingress,
        egress,
        r.selector(fields, "selector", path),
        r.selector(fields, "namespaceSelector", path),
        r.selector(fields, "serviceAccountSelector", path),
        types or inferred_types(bool(ingress), bool(egress)),
        r.flag(fields, "doNotTrack", path),
        r.flag(fields, "preDNAT", path),
        r.flag(fields, "applyOnForward", path),
        r.choice(fields, "stagedAction", path, STAGED_ACTIONS, "Set") if staged else None,
    )
    for key in ("selector", "namespaceSelector", "serviceAccountSelector"):
        if says_global(fields, key):
            r.fail((*path, key), GLOBAL_ONLY)
    _check_host_policy(r, spec, types, path)
    _check_services(r, spec, path, everywhere=everywhere)
    if spec.staged_action == "Delete":
        for key, item in fields.items():
            given = isinstance(item, float | int) and not isinstance(item, bool)  # an order of 0 is an order
            if key not in ("tier", "stagedAction") and (item or given):
                r.fail((*path, key), STAGED_DELETE)
    return spec


def inferred_types(ingress: bool, egress: bool) -> tuple[str, ...]:
    if egress:
        return ("Ingress", "Egress") if ingress else ("Egress",)
    return ("Ingress",)


def _check_host_policy(r: Reader, spec: PolicySpec, types: tuple[str, ...], path: Path) -> None:
    if spec.pre_dnat and spec.do_not_track:
        r.fail((*path, "preDNAT"), "preDNAT and doNotTrack cannot both be true")
    if spec.pre_dnat and spec.egress:
        r.fail((*path, "egress"), "preDNAT policy cannot have any egress rules")
    if spec.pre_dnat and "Egress" in types:
        r.fail((*path, "types"), "preDNAT policy cannot have 'Egress' type")
    if (spec.pre_dnat or spec.do_not_track) and not spec.apply_on_forward:
        r.fail((*path, "applyOnForward"), "applyOnForward must be true if either preDNAT or doNotTrack is true")


def _check_services(r: Reader, spec: PolicySpec, path: Path, *, everywhere: bool) -> None:
    for key, rules, good, bad in (
        ("ingress", spec.ingress, "source", "destination"),
        ("egress", spec.egress, "destination", "source"),
    ):
        for i, rule in enumerate(rules):
            sides = {"source": rule.source, "destination": rule.destination}
            services = sides[good].services
            if sides[bad].services is not None:
                r.fail((*path, key, i, bad, "services"), f"not allowed in {key} rule {bad}, only in {good}")
            if everywhere and services is not None and not services.namespace:
                r.fail((*path, key, i, good, "services", "namespace"), "must specify a namespace")
            if key == "egress" and rule.http is not None:
                r.fail((*path, key, i, "http"), "HTTP match is not allowed in egress rules")
            _check_domains(r, rule, key, (*path, key, i))


def _check_domains(r: Reader, rule: Rule, direction: str, path: Path) -> None:
    if rule.source.domains:
        r.fail((*path, "source", "domains"), "domains belong into the destination of an egress rule")
    if rule.destination.domains and (direction != "egress" or rule.action != "Allow"):
        r.fail((*path, "destination", "domains"), "domains are for egress Allow rules only")
    if rule.destination.domains and (rule.destination.nets or rule.destination.selector):
        r.fail((*path, "destination", "domains"), "domains exclude nets and selector on the same rule")


def read_profile(r: Reader, value: Any, path: Path, *, root: Any) -> ProfileSpec:
    fields = r.mapping(value, path, ("ingress", "egress", "labelsToApply"))
    labels = r.labels(fields, "labelsToApply", path)
    return ProfileSpec(
        read_rules(r, fields, "ingress", path, root=root), read_rules(r, fields, "egress", path, root=root), labels
    )


def read_network_set(r: Reader, value: Any, path: Path) -> NetworkSetSpec:
    fields = r.mapping(value, path, ("nets", "allowedEgressDomains"))
    return NetworkSetSpec(
        r.nets(fields, "nets", path, strict=False),
        r.domains(fields, "allowedEgressDomains", path),
    )


Read = Callable[[Reader, Any, Path, str, Any], Spec]

CALICO: dict[str, Read] = {
    "Tier": lambda r, v, p, name, root: read_tier(r, v, p, name),
    "GlobalNetworkPolicy": lambda r, v, p, name, root: read_policy(r, v, p, everywhere=True, staged=False, root=root),
    "NetworkPolicy": lambda r, v, p, name, root: read_policy(r, v, p, everywhere=False, staged=False, root=root),
    "StagedGlobalNetworkPolicy": lambda r, v, p, name, root: read_policy(
        r, v, p, everywhere=True, staged=True, root=root
    ),
    "StagedNetworkPolicy": lambda r, v, p, name, root: read_policy(r, v, p, everywhere=False, staged=True, root=root),
    "GlobalNetworkSet": lambda r, v, p, name, root: read_network_set(r, v, p),
    "NetworkSet": lambda r, v, p, name, root: read_network_set(r, v, p),
    "HostEndpoint": lambda r, v, p, name, root: read_host_endpoint(r, v, p),
    "WorkloadEndpoint": lambda r, v, p, name, root: read_workload_endpoint(r, v, p),
    "Profile": lambda r, v, p, name, root: read_profile(r, v, p, root=root),
}
