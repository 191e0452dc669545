# SPDX-License-Identifier: Apache-2.0
"""Whom a policy governs where several selectors are given: all of them must match (Calico joins them by &&)."""

import itertools
from typing import Any

import pytest

from rules.policy import CompileOptions, Resource, compile_policy
from tests.rules.policy.test_policy_asked import OPEN, load

NAMESPACES = (
    load("Namespace", "red", api="v1", labels={"team": "a"}), load("Namespace", "blue", api="v1", labels={"team": "b"}),
)  # fmt: skip
ACCOUNTS = tuple(
    load("ServiceAccount", name, api="v1", namespace=namespace, labels={"role": role})
    for namespace in ("red", "blue") for name, role in (("reader", "ro"), ("writer", "rw"))
)  # fmt: skip


def endpoint(number: int, namespace: str, account: str, **labels: str) -> Resource:
    spec: dict[str, Any] = {"node": "n", "interfaceName": "cali1", "ipNetworks": [f"10.0.0.{number}/32"]}
    if account:
        spec["serviceAccountName"] = account
    return load("WorkloadEndpoint", f"w{number}", spec, namespace=namespace, labels=labels)


ENDPOINTS = tuple(
    endpoint(number, namespace, account, app=app)
    for number, (namespace, account, app) in enumerate(
        itertools.product(("red", "blue"), ("reader", "writer", ""), ("web", "db"))
    )
)
HOST = load("HostEndpoint", "host", {"node": "n", "interfaceName": "eth0"}, labels={"app": "web"})


def governed(**selectors: str) -> set[str]:
    """Titles of the endpoints that the policy denies something."""
    policy = load("GlobalNetworkPolicy", "p", {**selectors, "ingress": [{"action": "Deny"}], "types": ["Ingress"]})
    resources = (OPEN, *NAMESPACES, *ACCOUNTS, *ENDPOINTS, HOST, policy)
    options = CompileOptions(scope="gateway", node="n", interfaces={"eth0": 2})
    compiler: Any = compile_policy(resources, options).state
    applied = {**compiler.compiler.applied_workloads, **compiler.compiler.applied_hosts}
    found = set()
    for member in compiler.compiler.world.members:
        if applied[compiler.compiler.holders.add(member.labels, member.ports)]:
            found.add(member.title)
    return found


def expected(
    *, app: str = "", namespace: str = "", account: str = "", host: bool = False, accounts: bool = False
) -> set[str]:
    found = {"host"} if host else set()
    for item in ENDPOINTS:
        has = getattr(item.spec, "service_account", "")
        if (app and item.metadata.labels["app"] != app) or (namespace and item.namespace != namespace):
            continue
        if (account and has != account) or (accounts and not has):
            continue
        found.add(item.title)
    return found


@pytest.mark.parametrize(
    ("selectors", "whom"),
    [
        ({"selector": "all()"}, expected(host=True)),
        ({"selector": "all()", "namespaceSelector": "team == 'a'"}, expected(namespace="red")),
        ({"selector": "all()", "serviceAccountSelector": "role == 'ro'"}, expected(account="reader")),
        ({"selector": "all()", "namespaceSelector": "team == 'a'", "serviceAccountSelector": "role == 'ro'"},
         expected(namespace="red", account="reader")),
        ({"selector": "app == 'web'", "namespaceSelector": "team == 'a'", "serviceAccountSelector": "role == 'ro'"},
         expected(app="web", namespace="red", account="reader")),
        ({"namespaceSelector": "all()"}, expected()),
        ({"serviceAccountSelector": "all()"}, expected(accounts=True)),
        ({"selector": "all()", "namespaceSelector": "all()", "serviceAccountSelector": "all()"},
         expected(accounts=True)),
    ],
)  # fmt: skip
def test_selectors_of_a_policy_are_joined(selectors: dict[str, str], whom: set[str]) -> None:
    assert governed(**selectors) == whom
