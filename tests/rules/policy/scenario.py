# SPDX-License-Identifier: Apache-2.0
"""Small worlds for scenario tests: documents by few words, and the explainer that answers from them."""

import json
from typing import Any

from rules.policy import CompileOptions, load_documents
from rules.policy.explain import DirectoryExplainer

Doc = dict[str, Any]
V3 = "projectcalico.org/v3"
ALLOW, DENY, PASS, LOG = ({"action": action} for action in ("Allow", "Deny", "Pass", "Log"))


def doc(kind: str, name: str, spec: Any, labels: Doc | None = None, *, api: str = V3) -> Doc:
    """`name`: `namespace/name` of what is namespaced."""
    namespace, _, plain = name.rpartition("/")
    metadata: Doc = {"name": plain, "labels": labels or {}}
    if namespace:
        metadata["namespace"] = namespace
    made: Doc = {"apiVersion": api, "kind": kind, "metadata": metadata}
    if spec is not None:
        made["spec"] = spec
    return made


def workload(name: str, *addresses: str, labels: Doc | None = None, **spec: Any) -> Doc:
    """Of node n, in namespace ns where `name` has none; allowed by its profile where no policy applies."""
    plain = name.rpartition("/")[2]
    full = name if "/" in name else f"ns/{name}"
    nets = [f"{address}/{128 if ':' in address else 32}" for address in addresses]
    base = {
        "node": "n", "interfaceName": f"cali{plain}", "orchestrator": "k8s", "ipNetworks": nets,
        "profiles": ["projectcalico-default-allow"],
    }  # fmt: skip
    return doc("WorkloadEndpoint", full, base | spec, {"name": plain} | (labels or {}))


def host(name: str = "h", **spec: Any) -> Doc:
    """Of node n; interface eth0 unless `spec` says otherwise."""
    where = {} if "expectedIPs" in spec and "interfaceName" not in spec else {"interfaceName": "eth0"}
    return doc("HostEndpoint", name, {"node": "n", **where, **spec}, {"host": name})


def policy(name: str = "p", **spec: Any) -> Doc:
    """Global, or of the namespace in `name`; of workload a unless `spec` says otherwise."""
    kind = "NetworkPolicy" if "/" in name else "GlobalNetworkPolicy"
    return doc(kind, name, {"selector": "name == 'a'", **spec})


def staged(made: Doc, action: str | None = None) -> Doc:
    spec = made["spec"] | ({"stagedAction": action} if action else {})
    return made | {"kind": f"Staged{made['kind']}", "spec": spec}


def tier(name: str, order: float | None = None, action: str = "Deny") -> Doc:
    return doc("Tier", name, {"order": order, "defaultAction": action})


def namespace(name: str, **labels: str) -> Doc:
    return doc("Namespace", name, None, labels, api="v1")


def account(name: str, **labels: str) -> Doc:
    return doc("ServiceAccount", name, None, labels, api="v1")


def pods_policy(name: str, **spec: Any) -> Doc:
    """Kubernetes' own kind."""
    return doc("NetworkPolicy", name, {"podSelector": {}, **spec}, api="networking.k8s.io/v1")


def network_set(name: str, *nets: str, **labels: str) -> Doc:
    return doc("NetworkSet" if "/" in name else "GlobalNetworkSet", name, {"nets": list(nets)}, labels)


def slice_of(service: str, name: str, *addresses: str, ports: tuple[tuple[str, int], ...]) -> Doc:
    labels = {"kubernetes.io/service-name": service}
    made = doc("EndpointSlice", name, None, labels, api="discovery.k8s.io/v1")
    made["addressType"] = "IPv6" if ":" in addresses[0] else "IPv4"
    made["endpoints"] = [{"addresses": [address]} for address in addresses]
    made["ports"] = [{"protocol": proto, "port": port} for proto, port in ports]
    return made


A, B, OUT = "10.0.0.1", "10.0.0.2", "203.0.113.9"
A6, B6, OUT6 = "fd00::1", "fd00::2", "2001:db8::9"


class Scenario:
    """Asks for TCP to port 80 from outside to workload a, unless the question says otherwise."""

    def __init__(self, *documents: Doc, node: str | None = "n") -> None:
        loaded = [load_documents(json.dumps(document), "scenario.yaml") for document in documents]
        assert [str(error) for result in loaded for error in result.errors if not result.understood] == []
        resources = [r for result in loaded for r in (*result.resources, *result.understood)]
        self.explainer = DirectoryExplainer(resources, CompileOptions(), node)

    def answer(self, **question: Any) -> Any:
        base = {"src": OUT, "dst": A, "proto": 6, "sport": 40000, "dport": 80}
        return self.explainer.answer(base | question)

    def __call__(self, **question: Any) -> str:
        return str(self.answer(**question).verdict)

    def staged(self, **question: Any) -> str:
        return str(self.answer(**question).staged)
