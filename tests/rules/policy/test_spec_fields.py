# SPDX-License-Identifier: Apache-2.0
"""Policies, tiers, sets, profiles and what every kind's metadata has: accepted, or refused in which field and how."""

from typing import Any

import pytest

from rules.policy import validate_object
from tests.rules.policy.tables import Experiment, Refused, check, resource

GLOBAL = "global() can only be used in an EntityRule namespaceSelector"
RULE = {"action": "Allow"}
TYPES = 'supported values: "Ingress", "Egress"'

EVERY_POLICY: list[Experiment] = [
    ({}, None),
    (None, None),
    ({"tier": "eng"}, None),
    ({"tier": "a.b"}, None),
    ({"tier": "Eng"}, ("tier", "is not a tier's name")),
    ({"tier": 5}, ("tier", "expected a string")),
    ({"order": 0}, None),
    ({"order": -1.5}, None),
    ({"order": 1e300}, None),
    ({"order": "100"}, ("order", "expected a number")),
    ({"order": True}, ("order", "expected a number")),
    ({"order": float("inf")}, ("order", "expected a number")),
    ({"selector": "", "serviceAccountSelector": ""}, None),
    ({"selector": "a == '" + "x" * 1017 + "'"}, None),
    ({"selector": "a == '" + "x" * 1018 + "'"}, ("selector", "Too long: may not be more than 1024 bytes")),
    ({"serviceAccountSelector": "x" * 1025}, ("serviceAccountSelector", "Too long")),
    ({"selector": "a = 'b'"}, ("selector", "invalid selector")),
    ({"selector": "all()\n"}, ("selector", "invalid selector")),
    ({"selector": "global()"}, ("selector", GLOBAL)),
    ({"selector": "!global( )"}, ("selector", GLOBAL)),
    ({"serviceAccountSelector": "global()"}, ("serviceAccountSelector", GLOBAL)),
    ({"types": ["Ingress"]}, None),
    ({"types": ["Egress", "Ingress"]}, None),
    ({"types": ["Egress"], "ingress": [RULE]}, None),
    ({"types": ["Ingress"], "egress": [RULE]}, None),
    ({"types": []}, ("types", "should have at least 1 items")),
    ({"types": ["Ingress", "Ingress"]}, ("types[1]", "Duplicate value")),
    ({"types": ["Ingress", "Egress", "Egress"]}, ("types", "Too many: 3: must have at most 2 items")),
    ({"types": ["ingress"]}, ("types[0]", TYPES)),
    ({"types": [5]}, ("types[0]", TYPES)),
    ({"types": "Ingress"}, ("types", "expected a list")),
    ({"performanceHints": []}, None),
    ({"performanceHints": ["AssumeNeededOnEveryNode"]}, None),
    ({"performanceHints": ["junk"]}, ("performanceHints[0]", 'supported values: "AssumeNeededOnEveryNode"')),
    ({"performanceHints": ["AssumeNeededOnEveryNode"] * 2}, ("performanceHints[1]", "Duplicate value")),
    ({"ingress": [RULE] * 1024, "egress": [RULE] * 1024}, None),
    ({"ingress": [RULE] * 1025}, ("ingress", "Too many: 1025: must have at most 1024 items")),
    ({"egress": [RULE] * 1025}, ("egress", "Too many: 1025: must have at most 1024 items")),
    ({"ingress": {}}, ("ingress", "expected a list")),
    ({"ingress": [5]}, ("ingress[0]", "expected a mapping")),
    ({"ingres": []}, ("ingres", "did you mean 'ingress'")),
    ([], ("spec", "expected a mapping")),
]  # fmt: skip

GLOBAL_POLICY: list[Experiment] = [
    ({"namespaceSelector": "has(a)"}, None),
    ({"namespaceSelector": "global()"}, ("namespaceSelector", GLOBAL)),
    ({"namespaceSelector": "x" * 1025}, ("namespaceSelector", "Too long")),
    ({"applyOnForward": True}, None),
    ({"applyOnForward": "yes"}, ("applyOnForward", "expected true or false")),
    ({"doNotTrack": True, "applyOnForward": True}, None),
    ({"preDNAT": True, "applyOnForward": True, "ingress": [RULE], "types": ["Ingress"]}, None),
    ({"preDNAT": True, "applyOnForward": True, "egress": []}, None),
    ({"doNotTrack": False, "preDNAT": False}, None),
    ({"doNotTrack": True}, ("applyOnForward", "applyOnForward must be true if either preDNAT or doNotTrack is true")),
    ({"preDNAT": True}, ("applyOnForward", "applyOnForward must be true if either preDNAT or doNotTrack is true")),
    ({"preDNAT": True, "applyOnForward": True, "egress": [RULE]}, ("egress", "cannot have any egress rules")),
    ({"preDNAT": True, "applyOnForward": True, "types": ["Egress"]}, ("types", "cannot have 'Egress' type")),
    ({"preDNAT": True, "doNotTrack": True, "applyOnForward": True},
     ("preDNAT", "preDNAT and doNotTrack cannot both be true")),
]  # fmt: skip

STAGED: list[Experiment] = [
    *(({"stagedAction": action}, None) for action in ("Set", "Delete", "Learn", "Ignore")),
    ({"stagedAction": "delete"}, ("stagedAction", 'supported values: "Set", "Delete", "Learn", "Ignore"')),
    ({"stagedAction": "Delete", "tier": "eng"}, None),
    ({"stagedAction": "Delete", "selector": "all()"}, ("selector", "zero-value if stagedAction is Delete")),
    ({"stagedAction": "Delete", "order": 0}, ("order", "zero-value if stagedAction is Delete")),
    ({"stagedAction": "Delete", "types": ["Ingress"]}, ("types", "zero-value if stagedAction is Delete")),
    ({"stagedAction": "Delete", "ingress": [RULE]}, ("ingress", "zero-value if stagedAction is Delete")),
    ({"stagedAction": "Delete", "egress": [RULE]}, ("egress", "zero-value if stagedAction is Delete")),
    ({"stagedAction": "Delete", "performanceHints": ["AssumeNeededOnEveryNode"]},
     ("performanceHints", "zero-value if stagedAction is Delete")),
    ({"stagedAction": "Learn", "selector": "all()", "order": 1, "ingress": [RULE]}, None),
]  # fmt: skip

TIERS: list[tuple[str, Any, Refused | None]] = [
    ("t", {}, None),
    ("t", {"order": 100.5, "defaultAction": "Pass"}, None),
    ("t", {"defaultAction": "Allow"}, ("defaultAction", 'supported values: "Pass", "Deny"')),
    ("t", {"order": "1"}, ("order", "expected a number")),
    ("t", {"oder": 1}, ("oder", "did you mean 'order'")),
    ("default", {"order": 1000000}, None),
    ("default", {"order": 1000000.0, "defaultAction": "Deny"}, None),
    ("default", {"defaultAction": "Deny"}, ("order", "default tier order must be 1000000")),
    ("default", {"order": 1000000, "defaultAction": "Pass"}, ("defaultAction", "The 'default' tier must have default")),
    ("kube-admin", {"order": 1000, "defaultAction": "Pass"}, None),
    ("kube-admin", {"order": 1000}, ("defaultAction", "must have default action 'Pass'")),
    ("kube-admin", {"order": 1, "defaultAction": "Pass"}, ("order", "kube-admin tier order must be 1000")),
    ("kube-baseline", {"order": 10000000, "defaultAction": "Pass"}, None),
    ("kube-baseline", {"order": 1, "defaultAction": "Pass"}, ("order", "kube-baseline tier order must be 10000000")),
    ("adminnetworkpolicy", {"order": 5, "defaultAction": "Deny"}, None),  # reserved no more
]  # fmt: skip

SETS: list[Experiment] = [
    ({}, None),
    ({"nets": []}, None),
    ({"nets": ["10.0.0.1", "11.0.0.1/8", "dead:beef::", "dead:beef::1/96"]}, None),
    ({"nets": [f"10.{i // 256}.{i % 256}.0/24" for i in range(2000)]}, None),
    ({"nets": ["10.0.0.0/33"]}, ("nets[0]", "prefix length")),
    ({"nets": ["a", "10.0.0.0/8", "b"]}, ("nets[0]", "not an address")),
    ({"nets": ["10.0.0.1", "10.0.0.1"]}, ("nets[1]", "Duplicate value")),
    ({"allowedEgressDomains": ["example.com", "*.example.com"]}, None),
    ({"allowedEgressDomains": ["*"]}, ("allowedEgressDomains[0]", "is not a name")),
    ({"net": []}, ("net", "did you mean 'nets'")),
]  # fmt: skip

PROFILES: list[Experiment] = [
    ({}, None),
    ({"ingress": [RULE] * 1024, "egress": [RULE], "labelsToApply": {"a.b/c": "d", "e": ""}}, None),
    ({"ingress": [RULE] * 1025}, ("ingress", "must have at most 1024 items")),
    ({"labelsToApply": {"my!nvalid-label": "value"}}, ("labelsToApply.my!nvalid-label", "is not a label name")),
    ({"labelsToApply": {"a": "my!nvalid"}}, ("labelsToApply.a", "is not a label value")),
    ({"labelsToApply": {"a": 5}}, ("labelsToApply.a", "put it in quotes")),
    ({"labelsToApply": ["a"]}, ("labelsToApply", "expected a mapping")),
    ({"egress": [{"action": "Allow", "http": {"methods": ["GET"]}}]}, None),
]  # fmt: skip

LABEL = "a" * 63
NAMES: list[tuple[str, str, bool]] = [
    *((kind, name, True) for kind in ("GlobalNetworkPolicy", "StagedGlobalNetworkPolicy")
      for name in ("a", "a-b", "0", "a.b", "x" * 253, "default.a", "x" * 126 + "." + "y" * 126)),
    *((kind, name, False) for kind in ("GlobalNetworkPolicy", "StagedGlobalNetworkPolicy")
      for name in ("a.b.c", "knp.default.a", "A", "-a", "a-", "a_b", "a..b", ".a", "a.", "x" * 254, "a b", "ä")),
    *((kind, name, True) for kind in ("NetworkPolicy", "StagedNetworkPolicy")
      for name in ("a", "a.b", "knp.default.a", "ossg.default.a.b.c", "x" * 253)),
    *((kind, name, False) for kind in ("NetworkPolicy", "StagedNetworkPolicy")
      for name in ("a.b.c", "knp.a.b", "knp.default.", "knp.default.A", "x" * 254, "a\n")),
    *((kind, name, True) for kind in ("GlobalNetworkSet", "NetworkSet", "Profile", "StagedKubernetesNetworkPolicy")
      for name in ("a", "a.b.c.d", "kns.default", "x" * 253)),
    *((kind, name, False) for kind in ("GlobalNetworkSet", "NetworkSet", "Profile", "StagedKubernetesNetworkPolicy")
      for name in ("test$set", "A", "a..b", "x" * 254)),
    ("Tier", "x" * 63, True), ("Tier", "x" * 64, False), ("Tier", "a.b", False), ("Tier", "A", False),
]  # fmt: skip

METADATA: list[Experiment] = [
    ({"labels": {"a": "b", "example.com/a": "", LABEL: LABEL}}, None),
    ({"labels": {LABEL + "a": ""}}, (f"metadata.labels.{LABEL}a", "is not a label name")),
    ({"labels": {"a": LABEL + "a"}}, ("metadata.labels.a", "is not a label value")),
    ({"labels": {"a": 1}}, ("metadata.labels.a", "expected a string")),
    ({"labels": {"projectcalico.org/namespace": "n"}},
     ("metadata.labels.projectcalico.org/namespace", "not a valid label name")),
    ({"annotations": {"Example.COM/A": "any\nthing"}}, None),
    ({"annotations": {"a/b/c": ""}}, ("metadata.annotations.a/b/c", "is not an annotation's name")),
    ({"annotations": {"a": "x" * (256 << 10)}}, ("metadata.annotations", "256 kB")),
    ({"uid": "u", "resourceVersion": "1", "creationTimestamp": None, "finalizers": []}, None),
    ({"lables": {}}, ("metadata.lables", "did you mean 'labels'")),
]  # fmt: skip


@pytest.mark.parametrize("kind", ["GlobalNetworkPolicy", "NetworkPolicy", "StagedGlobalNetworkPolicy",
                                  "StagedNetworkPolicy"])  # fmt: skip
@pytest.mark.parametrize(("spec", "refused"), EVERY_POLICY)
def test_every_kind_of_policy(kind: str, spec: Any, refused: Refused | None) -> None:
    check(resource(kind, spec), refused)


@pytest.mark.parametrize("kind", ["GlobalNetworkPolicy", "StagedGlobalNetworkPolicy"])
@pytest.mark.parametrize(("spec", "refused"), GLOBAL_POLICY)
def test_what_only_global_policy_has(kind: str, spec: Any, refused: Refused | None) -> None:
    check(resource(kind, spec), refused)
    namespaced = kind.replace("Global", "")
    for key in spec.keys() - {"ingress", "egress", "types"}:
        check(resource(namespaced, {key: spec[key]}), (key, "unknown field"))


@pytest.mark.parametrize("kind", ["StagedGlobalNetworkPolicy", "StagedNetworkPolicy"])
@pytest.mark.parametrize(("spec", "refused"), STAGED)
def test_staged_policy(kind: str, spec: Any, refused: Refused | None) -> None:
    check(resource(kind, spec), refused)
    check(resource(kind.removeprefix("Staged"), {"stagedAction": "Set"}), ("stagedAction", "unknown field"))


@pytest.mark.parametrize(("name", "spec", "refused"), TIERS)
def test_a_tier(name: str, spec: Any, refused: Refused | None) -> None:
    check(resource("Tier", spec, name=name), refused)


@pytest.mark.parametrize("kind", ["GlobalNetworkSet", "NetworkSet"])
@pytest.mark.parametrize(("spec", "refused"), SETS)
def test_a_network_set(kind: str, spec: Any, refused: Refused | None) -> None:
    if spec.get("nets") == ["a", "10.0.0.0/8", "b"]:
        assert [error.at_field for error in validate_object(resource(kind, spec))] == ["spec.nets[0]", "spec.nets[2]"]
        return
    check(resource(kind, spec), refused)


@pytest.mark.parametrize(("spec", "refused"), PROFILES)
def test_a_profile(spec: Any, refused: Refused | None) -> None:
    check(resource("Profile", spec), refused)


@pytest.mark.parametrize(("kind", "name", "ok"), NAMES)
def test_the_name(kind: str, name: str, ok: bool) -> None:
    check(resource(kind, {}, name=name), None if ok else ("metadata.name", ""))


@pytest.mark.parametrize(("metadata", "refused"), METADATA)
def test_metadata(metadata: Any, refused: Refused | None) -> None:
    check(resource("GlobalNetworkSet", {}, **metadata), refused)


def test_a_resource_needs_no_spec() -> None:
    for kind in ("Tier", "GlobalNetworkPolicy", "NetworkPolicy", "GlobalNetworkSet", "Profile", "NetworkSet"):
        check({"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": {"name": "x"}}, None)


def test_errors_of_one_document_are_told_up_to_a_hundred() -> None:
    errors = validate_object(resource("Profile", {"egress": [{"action": "x"}] * 1000}))
    assert [str(error) for error in errors[-1:]] == ["and 900 more errors"]
    assert len(errors) == 101
