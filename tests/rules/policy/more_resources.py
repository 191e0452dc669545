# SPDX-License-Identifier: Apache-2.0
"""Resources that the naive evaluator does not know: host endpoints, services, names, staged deletion."""

import json
import random
from collections.abc import Iterable
from typing import Any

from rules.policy import Resource, load_documents

NAMES = ("www.example.com", "api.example.com", "example.com", "other.test")
PATTERNS = ("www.example.com", "*.example.com", "other.test")
LEARNABLE = ("203.0.113.1", "203.0.113.2", "10.9.1.1", "10.0.0.1", "2001:db8::1")
_V3 = "projectcalico.org/v3"


def resources_of(documents: Iterable[Any]) -> list[Resource]:
    found = [load_documents(json.dumps(document), "generated.yaml") for document in documents]
    assert [str(error) for result in found for error in result.errors] == []
    return [resource for result in found for resource in result.resources]


def more_resources(rng: random.Random) -> list[Resource]:
    """Of the same names at every call, with other contents."""
    return resources_of([
        *(_host(rng, name) for name in ("h1", "h2")),
        *(_slice(rng, name) for name in ("s1", "s2", "s3")),
        *(_policy(rng, name) for name in ("extra1", "extra2", "extra3")),
        _named_set(rng), _staged(rng), _profile(rng),
    ])  # fmt: skip


def _document(kind: str, name: str, spec: Any, namespace: str = "", **labels: str) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": name, "labels": labels}
    if namespace:
        metadata["namespace"] = namespace
    return {"apiVersion": _V3, "kind": kind, "metadata": metadata, "spec": spec}


def _labels(rng: random.Random) -> dict[str, str]:
    return {key: rng.choice(("x", "y", "z")) for key in "abc" if rng.random() < 0.6}


def _host(rng: random.Random, name: str) -> dict[str, Any]:
    spec: dict[str, Any] = {"node": rng.choice(("node", "node", "node2"))}
    spec["interfaceName"] = rng.choice(("eth0", "eth1", "*", "*", "gone0"))
    if rng.random() < 0.4:
        del spec["interfaceName"]
        spec["expectedIPs"] = ["10.0.0.2"]
    elif rng.random() < 0.5:
        spec["expectedIPs"] = [rng.choice(("10.0.0.1", "203.0.113.2", "10.0.0.3"))]
    spec["profiles"] = rng.choice(([], ["p1"], ["open"], ["extra"]))
    return _document("HostEndpoint", name, spec, "", **_labels(rng))


def _slice(rng: random.Random, name: str) -> dict[str, Any]:
    addresses = rng.sample(("10.0.0.1", "10.0.0.2", "10.0.1.3", "10.9.1.1"), rng.randrange(3))
    return {
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": name, "namespace": "n1",
                     "labels": {"kubernetes.io/service-name": rng.choice(("svc", "svc", "other"))}},
        "endpoints": [{"addresses": [address]} for address in addresses],
        "ports": [{"port": rng.choice((80, 81)), "protocol": rng.choice(("TCP", "UDP"))}],
    }  # fmt: skip


def _policy(rng: random.Random, name: str) -> dict[str, Any]:
    service = {"name": rng.choice(("svc", "other", "nobody")), "namespace": "n1"}
    domains = rng.sample(PATTERNS, rng.randrange(1, 3))
    egress: list[dict[str, Any]] = [
        {"action": "Allow", "destination": {"services": service}},
        {"action": "Allow", "protocol": "TCP", "destination": {"domains": domains, "ports": [80, 443]}},
        {"action": "Allow", "destination": {"selector": rng.choice(("names == 'yes'", "has(names)", "a == 'x'"))}},
        {"action": "Deny", "destination": {"nets": ["10.9.0.0/16"]}},
        {"action": "Allow", "destination": {"nets": ["0.0.0.0/0"]}},
        {"action": "Deny", "destination": {"notSelector": "b == 'y'"}},
    ]
    ingress: list[dict[str, Any]] = [
        {"action": "Allow", "source": {"services": service}},
        {"action": "Deny", "source": {"selector": "c == 'z'"}},
        {"action": "Allow"},
    ]
    spec: dict[str, Any] = {
        "tier": rng.choice(("default", "t1", "gone")), "order": rng.choice((1, 5)),
        "selector": rng.choice(("all()", "a == 'x'", "has(b)")),
        "ingress": rng.sample(ingress, rng.randrange(3)), "egress": rng.sample(egress, rng.randrange(4)),
        "types": ["Ingress", "Egress"],
    }  # fmt: skip
    if rng.random() < 0.4:
        spec["applyOnForward"] = True
        if rng.random() < 0.4:
            spec["doNotTrack"] = True
        elif rng.random() < 0.5:
            spec |= {"preDNAT": True, "types": ["Ingress"], "egress": []}
    return _document("GlobalNetworkPolicy", name, spec)


def _named_set(rng: random.Random) -> dict[str, Any]:
    spec = {"nets": rng.choice(([], ["10.0.1.0/30"])), "allowedEgressDomains": rng.sample(PATTERNS, rng.randrange(3))}
    return _document("GlobalNetworkSet", "names", spec, "", names=rng.choice(("yes", "no")), **_labels(rng))


def _staged(rng: random.Random) -> dict[str, Any]:
    target = rng.choice(("extra1", "same"))
    spec: dict[str, Any] = {"stagedAction": rng.choice(("Delete", "Set", "Ignore"))}
    if spec["stagedAction"] != "Delete":
        spec |= {"selector": "has(a)", "ingress": [{"action": rng.choice(("Allow", "Deny"))}]}
    return _document("StagedGlobalNetworkPolicy", target, spec)


def _profile(rng: random.Random) -> dict[str, Any]:
    spec = {
        "ingress": [{"action": rng.choice(("Allow", "Deny")), "source": {"selector": "a == 'x'"}}],
        "egress": [{"action": "Allow"}], "labelsToApply": _labels(rng),
    }  # fmt: skip
    return _document("Profile", rng.choice(("extra", "kns.n1")), spec)
