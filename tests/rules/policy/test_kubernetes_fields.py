# SPDX-License-Identifier: Apache-2.0
"""Kubernetes' NetworkPolicy, as its API server validates it, its staged form, Namespace and ServiceAccount."""

from typing import Any

import pytest

from tests.rules.policy.tables import Experiment, Refused, check, resource

CIDR = {"cidr": "10.0.0.0/8"}

SPECS: list[Experiment] = [
    ({"podSelector": {}}, None),
    ({}, None),
    (None, None),
    ({"podSelector": {"matchLabels": {"a": "b", "example.com/c": ""}}}, None),
    ({"podSelector": {"matchLabels": {"a b": "c"}}}, ("podSelector.matchLabels.a b", "is not a label name")),
    ({"podSelector": {"matchLabels": {"a": "b c"}}}, ("podSelector.matchLabels.a", "is not a label value")),
    ({"podSelector": {"matchLabel": {}}}, ("podSelector.matchLabel", "did you mean 'matchLabels'")),
    ({"podSelector": "a"}, ("podSelector", "expected a mapping")),
    ({"podSelector": {"matchLabels": {"a": None}}}, ("podSelector.matchLabels.a", "expected a string, found nothing")),
    ({"ingress": [None]}, ("ingress[0]", "expected a mapping, found nothing")),
    ({"egress": [{"ports": [None]}]}, ("egress[0].ports[0]", "expected a mapping, found nothing")),
    ({"policyTypes": ["Ingress", "Egress"]}, None),
    ({"policyTypes": ["Both"]}, ("policyTypes[0]", 'supported values: "Ingress", "Egress"')),
    ({"policyTypes": ["Ingress", "Egress", "Ingress"]}, ("policyTypes", "must have at most 2 items")),
    ({"ingress": [{}], "egress": [{}]}, None),
    ({"ingress": [], "egress": []}, None),
    ({"ingress": [{"to": []}]}, ("ingress[0].to", "unknown field")),
    ({"egress": [{"from": []}]}, ("egress[0].from", "unknown field")),
    ({"selector": {}}, ("selector", "unknown field")),
]  # fmt: skip

EXPRESSIONS: list[Experiment] = [
    ({"key": "a", "operator": "In", "values": ["x", ""]}, None),
    ({"key": "a", "operator": "NotIn", "values": ["x"]}, None),
    ({"key": "a", "operator": "Exists"}, None),
    ({"key": "a", "operator": "DoesNotExist", "values": []}, None),
    ({"key": "a", "operator": "In"}, ("values", "must be specified when `operator` is 'In' or")),
    ({"key": "a", "operator": "NotIn", "values": []}, ("values", "Required value")),
    ({"key": "a", "operator": "Exists", "values": ["x"]}, ("values", "may not be specified when `operator` is")),
    ({"key": "a", "operator": "DoesNotExist", "values": ["x"]}, ("values", "may not be specified")),
    ({"key": "a", "operator": "In", "values": ["x y"]}, ("values", "is not a label value")),
    ({"key": "a", "operator": "Equals", "values": ["x"]}, ("operator", 'supported values: "In", "NotIn", "Exists"')),
    ({"key": "a"}, ("operator", "Required value")),
    ({"operator": "Exists"}, ("key", "is not a label name")),
    ({"key": "a/b/c", "operator": "Exists"}, ("key", "is not a label name")),
]  # fmt: skip

PEERS: list[Experiment] = [
    ({"podSelector": {}}, None),
    ({"namespaceSelector": {}}, None),
    ({"podSelector": {}, "namespaceSelector": {"matchLabels": {"a": "b"}}}, None),
    ({"ipBlock": CIDR}, None),
    ({"ipBlock": {"cidr": "10.0.0.1/8"}}, None),
    ({"ipBlock": {"cidr": "2001:db8::/32", "except": ["2001:db8:1::/48"]}}, None),
    ({"ipBlock": {**CIDR, "except": ["10.1.0.0/16", "10.2.0.0/16"]}}, None),
    ({"ipBlock": {**CIDR, "except": ["10.1.0.0/16", "10.1.0.0/16"]}}, None),
    ({"ipBlock": {**CIDR, "except": ["10.0.0.0/8"]}}, ("ipBlock.except", "must be a strict subset of `cidr`")),
    ({"ipBlock": {**CIDR, "except": ["0.0.0.0/0"]}}, ("ipBlock.except", "must be a strict subset of `cidr`")),
    ({"ipBlock": {**CIDR, "except": ["11.0.0.0/16"]}}, ("ipBlock.except", "must be a strict subset of `cidr`")),
    ({"ipBlock": {**CIDR, "except": ["fd00::/16"]}}, ("ipBlock.except", "must be a strict subset of `cidr`")),
    ({"ipBlock": {**CIDR, "except": ["10.1.0.0"]}}, ("ipBlock.except[0]", "no prefix length")),
    ({"ipBlock": {**CIDR, "except": ["x/8"]}}, ("ipBlock.except[0]", "not an address or a network")),
    ({"ipBlock": {"cidr": "10.0.0.1"}}, ("ipBlock.cidr", "no prefix length")),
    ({"ipBlock": {"cidr": "10.0.0.0/33"}}, ("ipBlock.cidr", "prefix length")),
    ({"ipBlock": {"cidr": 10}}, ("ipBlock.cidr", "expected an address or a network")),
    ({"ipBlock": {}}, ("ipBlock.cidr", "Required value")),
    ({"ipBlock": {"except": ["10.0.0.0/8"]}}, ("ipBlock.cidr", "Required value")),
    ({}, ("", "must specify a peer")),
    ({"ipBlock": CIDR, "podSelector": {}}, ("", "may not specify both ipBlock and another peer")),
    ({"ipBlock": CIDR, "namespaceSelector": {}}, ("", "may not specify both ipBlock and another peer")),
]  # fmt: skip

PORTS: list[Experiment] = [
    ({}, None),
    ({"protocol": "SCTP"}, None),
    ({"port": 1, "endPort": 65535, "protocol": "UDP"}, None),
    ({"port": 80, "endPort": 80}, None),
    ({"port": "http"}, None),
    ({"protocol": "ICMP"}, ("protocol", 'supported values: "TCP", "UDP", "SCTP"')),
    ({"protocol": "tcp"}, ("protocol", "did you mean 'TCP'")),
    ({"protocol": 6}, ("protocol", "Unsupported value")),
    ({"port": 0}, ("port", "greater than or equal to 1")),
    ({"port": 65536}, ("port", "less than or equal to 65535")),
    ({"port": True}, ("port", "expected a whole number")),
    ({"port": "HTTP"}, ("port", "is not a port name")),
    ({"port": "80"}, ("port", "is not a port name")),
    ({"port": ""}, ("port", "is not a port name")),
    ({"port": 80, "endPort": 79}, ("endPort", "must be greater than or equal to `port`")),
    ({"port": 80, "endPort": 65536}, ("endPort", "less than or equal to 65535")),
    ({"port": "http", "endPort": 80}, ("endPort", "may not be specified when `port` is non-numeric")),
    ({"endPort": 80}, ("endPort", "may not be specified when `port` is not specified")),
    ({"ports": [1]}, ("ports", "unknown field")),
]  # fmt: skip

STAGED: list[Experiment] = [
    *(({"stagedAction": action}, None) for action in ("Set", "Delete", "Learn", "Ignore")),
    ({"stagedAction": "Remove"}, ("stagedAction", "supported values")),
    ({"stagedAction": "Delete", "podSelector": {}, "ingress": []}, None),
    ({"stagedAction": "Delete", "ingress": [{}]}, ("ingress", "zero-value if stagedAction is Delete")),
    ({"stagedAction": "Delete", "policyTypes": ["Ingress"]}, ("policyTypes", "zero-value if stagedAction is Delete")),
    ({"stagedAction": "Delete", "podSelector": {"matchLabels": {"a": "b"}}}, ("podSelector", "zero-value")),
    ({"policyTypes": []}, ("policyTypes", "should have at least 1 items")),
    ({"policyTypes": ["Ingress", "Ingress"]}, ("policyTypes[1]", "Duplicate value")),
    ({"tier": "a"}, ("tier", "unknown field")),
]  # fmt: skip


def both(spec: Any, refused: Refused | None) -> None:
    check(resource("NetworkPolicy", spec, api="networking.k8s.io/v1"), refused)
    check(resource("StagedKubernetesNetworkPolicy", spec), refused)


def within(path: str, refused: Refused | None) -> Refused | None:
    return None if refused is None else (f"{path}.{refused[0]}".rstrip("."), refused[1])


@pytest.mark.parametrize(("spec", "refused"), SPECS)
def test_the_spec(spec: Any, refused: Refused | None) -> None:
    both(spec, refused)


@pytest.mark.parametrize(("expression", "refused"), EXPRESSIONS)
def test_an_expression(expression: dict[str, Any], refused: Refused | None) -> None:
    selector = {"matchExpressions": [expression]}
    both({"podSelector": selector}, within("podSelector.matchExpressions[0]", refused))
    both({"egress": [{"to": [{"namespaceSelector": selector}]}]},
         within("egress[0].to[0].namespaceSelector.matchExpressions[0]", refused))  # fmt: skip


@pytest.mark.parametrize(("peer", "refused"), PEERS)
def test_a_peer(peer: dict[str, Any], refused: Refused | None) -> None:
    both({"ingress": [{"from": [peer]}]}, within("ingress[0].from[0]", refused))
    both({"egress": [{"to": [peer]}]}, within("egress[0].to[0]", refused))


@pytest.mark.parametrize(("port", "refused"), PORTS)
def test_a_port(port: dict[str, Any], refused: Refused | None) -> None:
    both({"ingress": [{"ports": [port]}]}, within("ingress[0].ports[0]", refused))


@pytest.mark.parametrize(("spec", "refused"), STAGED)
def test_the_staged_form(spec: dict[str, Any], refused: Refused | None) -> None:
    check(resource("StagedKubernetesNetworkPolicy", spec), refused)


@pytest.mark.parametrize("types", [[], ["Egress", "Egress"]])
def test_policy_types_of_kubernetes_are_a_list_and_not_a_set(types: list[str]) -> None:
    check(resource("NetworkPolicy", {"policyTypes": types}, api="networking.k8s.io/v1"), None)


@pytest.mark.parametrize(
    ("kind", "more", "refused"),
    [
        ("Namespace", {"spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}}, None),
        ("Namespace", {"labels": {"a": "b"}}, ("labels", "unknown field 'labels'")),
        ("Namespace", {"Spec": {}}, ("Spec", "did you mean 'spec'")),
        ("ServiceAccount", {"secrets": [{"name": "a"}], "imagePullSecrets": []}, None),
        ("ServiceAccount", {"automountServiceAccountToken": False}, None),
        ("ServiceAccount", {"labels": {}}, ("labels", "unknown field 'labels'")),
    ],
)
def test_fields_of_what_is_read_for_its_labels(kind: str, more: dict[str, Any], refused: Refused | None) -> None:
    check({"apiVersion": "v1", "kind": kind, "metadata": {"name": "a"}, **more}, refused)


def test_a_label_without_a_value_is_refused() -> None:
    document = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a", "labels": {"a": None}}}
    check(document, ("metadata.labels.a", "expected a string, found nothing"))


@pytest.mark.parametrize(
    ("kind", "name", "ok"),
    [("Namespace", "a-b", True), ("Namespace", "a.b", False), ("Namespace", "x" * 63, True),
     ("Namespace", "x" * 64, False), ("ServiceAccount", "a.b", True), ("ServiceAccount", "x" * 253, True),
     ("ServiceAccount", "x" * 254, False), ("ServiceAccount", "A", False), ("Namespace", "", False)],
)  # fmt: skip
def test_names_of_namespaces_and_service_accounts(kind: str, name: str, ok: bool) -> None:
    document = {"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "labels": {"a": "b"}}}
    check(document, None if ok else ("metadata.name", ""))


@pytest.mark.parametrize("namespace", ["a.b", "A", "x" * 64, "a b"])
@pytest.mark.parametrize("kind", ["NetworkPolicy", "NetworkSet", "StagedNetworkPolicy", "WorkloadEndpoint"])
def test_names_of_namespaces_in_other_resources(kind: str, namespace: str) -> None:
    spec = {"interfaceName": "eth0"} if kind == "WorkloadEndpoint" else {}
    check(resource(kind, spec, namespace=namespace), ("metadata.namespace", "is not a namespace's name"))
