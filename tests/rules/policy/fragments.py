# SPDX-License-Identifier: Apache-2.0
"""Parts of resources, each in the least resource that it can be part of."""

from typing import Any

Doc = dict[str, Any]


def whole(kind: str, part: Any) -> Doc:
    """`kind` is the name of Calico's Go type."""
    return _WHOLE[kind](part)


def _resource(kind: str, spec: Doc, **metadata: str) -> Doc:
    return {
        "apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": {"name": "fragment", **metadata}, "spec": spec
    }  # fmt: skip


def _rule(rule: Doc) -> Doc:
    return _resource("GlobalNetworkPolicy", {"ingress": [rule]})


def _entity(entity: Doc) -> Doc:
    numeric = any(isinstance(port, int) for port in (*entity.get("ports", ()), *entity.get("notPorts", ())))
    return _rule({"action": "Allow", "source": entity, **({"protocol": "TCP"} if numeric else {})})


def _icmp(fields: Doc) -> Doc:
    return _rule({"action": "Allow", "protocol": "ICMP", "icmp": fields})


def _workload(spec: Doc) -> Doc:
    return _resource("WorkloadEndpoint", spec, namespace="default")


def _nat(nat: Doc) -> Doc:
    internal = nat.get("internalIP", "")
    own = f"{internal}/{128 if ':' in internal else 32}"
    return _workload({"interfaceName": "eth0", "ipNetworks": [own], "ipNATs": [nat]})


_WHOLE = {
    "Rule": _rule,
    "EntityRule": _entity,
    "HTTPMatch": lambda match: _rule({"action": "Allow", "http": match}),
    "ICMPFields": _icmp,
    "Protocol": lambda protocol: _rule({"action": "Allow", "protocol": protocol}),
    "WorkloadEndpointSpec": _workload,
    "WorkloadEndpointPort": lambda port: _workload({"interfaceName": "eth0", "ports": [port]}),
    "IPNAT": _nat,
    "HostEndpointSpec": lambda spec: _resource("HostEndpoint", spec),
    "NetworkSetSpec": lambda spec: _resource("NetworkSet", spec, namespace="default"),
    "GlobalNetworkSetSpec": lambda spec: _resource("GlobalNetworkSet", spec),
    "ProfileSpec": lambda spec: _resource("Profile", spec),
    "TierSpec": lambda spec: _resource("Tier", spec),
    "GlobalNetworkPolicySpec": lambda spec: _resource("GlobalNetworkPolicy", spec),
    "NetworkPolicySpec": lambda spec: _resource("NetworkPolicy", spec, namespace="default"),
}
