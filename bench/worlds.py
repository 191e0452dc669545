# SPDX-License-Identifier: Apache-2.0
"""Policy worlds of a stated size, made of validated resources, always the same."""

import random
from typing import Any

from rules.policy import Resource, load_object
from rules.policy.model import V4_MAPPED, Metadata, Net, NetworkSetSpec, WorkloadEndpointSpec

V3 = "projectcalico.org/v3"
LABEL_SETS, TEAMS, ENVIRONMENTS = 2000, 100, 20
PORTS = (22, 53, 80, 443, 3306, 5432, 6379, 8080, 9090, 9200)


def net(number: int, bits: int = 32) -> Net:
    """`number` counts addresses from 10.0.0.0 on."""
    return Net(V4_MAPPED + (0x0A000000 + number).to_bytes(4, "big"), 96 + bits)


def labels(label_set: int) -> dict[str, str]:
    return {"app": f"a{label_set}", "team": f"t{label_set % TEAMS}", "env": f"e{label_set % ENVIRONMENTS}"}


def endpoint(number: int, label_set: int) -> Resource:
    spec = WorkloadEndpointSpec("elsewhere", f"cali{number}", (net(number),))
    metadata = Metadata(f"w{number}", "prod", labels(label_set), {})
    return Resource("WorkloadEndpoint", metadata, spec, "endpoints.yaml", number + 1)


def endpoint_document(
    name: str, labels: dict[str, str], address: str, *, node: str = "elsewhere", interface: str = ""
) -> dict[str, Any]:
    """As an operator writes it."""
    return {
        "apiVersion": V3, "kind": "WorkloadEndpoint",
        "metadata": {"name": name, "namespace": "prod", "labels": labels},
        "spec": {"node": node, "orchestrator": "bench", "workload": name, "endpoint": "eth0",
                 "interfaceName": interface or f"cali-{name}", "ipNetworks": [address]},
    }  # fmt: skip


def policy(number: int, version: int = 0) -> Resource:
    return load_object(policy_document(number, version), "policies.yaml", number + 1)


def policy_document(number: int, version: int = 0) -> dict[str, Any]:
    """Of a hundred policies 90 govern one label set, nine those of a team (20), one those of an environment (100)."""
    rng = random.Random(number * 1000 + version)
    kind = number % 100
    if kind < 90:
        selector = f"app == 'a{number * 7 % LABEL_SETS}'"
    elif kind < 99:
        selector = f"team == 't{number * 7 % TEAMS}'"
    else:
        selector = f"env == 'e{number // 100 % ENVIRONMENTS}' && has(team)"
    peers = [f"app == 'a{rng.randrange(LABEL_SETS)}'" for _ in range(3)]
    ingress = [
        {"action": "Allow", "protocol": "TCP", "source": {"selector": peer}, "destination": {"ports": [port]}}
        for peer, port in zip(peers, rng.sample(PORTS, 3), strict=True)
    ]
    ingress.append({
        "action": "Allow", "protocol": "TCP",
        "source": {"nets": [f"172.{16 + rng.randrange(16)}.{rng.randrange(256)}.0/24"]},
        "destination": {"ports": [443]},
    })  # fmt: skip
    egress = [{"action": "Allow", "protocol": "UDP", "destination": {"selector": peers[0], "ports": [53]}}]
    egress.append({"action": "Allow", "destination": {"selector": f"team == 't{rng.randrange(TEAMS)}'"}})
    return {
        "apiVersion": V3, "kind": "GlobalNetworkPolicy", "metadata": {"name": f"p{number}"},
        "spec": {"order": number % 50, "selector": selector, "ingress": ingress, "egress": egress,
                 "types": ["Ingress", "Egress"]},
    }  # fmt: skip


def early_and_http() -> list[Resource]:
    """A host endpoint of node `here` with preDNAT policy that asks for a team (1,000 of 100,000 endpoints), and a rule
    with http on one label set."""
    host = {"apiVersion": V3, "kind": "HostEndpoint", "metadata": {"name": "line", "labels": {"line": "yes"}},
            "spec": {"node": "here", "interfaceName": "eth0"}}  # fmt: skip
    early = {"apiVersion": V3, "kind": "GlobalNetworkPolicy", "metadata": {"name": "early"},
             "spec": {"selector": "has(line)", "preDNAT": True, "applyOnForward": True,
                      "ingress": [{"action": "Deny", "source": {"selector": "team == 't7'"}}]}}  # fmt: skip
    http = {"apiVersion": V3, "kind": "GlobalNetworkPolicy", "metadata": {"name": "http"},
            "spec": {"selector": "app == 'a7'", "ingress": [{"action": "Allow", "http": {"methods": ["GET"]}}]}}
    return [load_object(document, "more.yaml", 1) for document in (host, early, http)]


def fleet(policies: int, endpoints: int) -> list[Resource]:
    """Many endpoints with LABEL_SETS label sets, under many small policies."""
    made = [policy(number) for number in range(policies)]
    return made + [endpoint(number, number % LABEL_SETS) for number in range(endpoints)]


def production(policies: int = 294, rules: int = 68, sets: int = 3708, members: int = 256_000) -> list[Resource]:
    """One endpoint (10.0.0.0, app a0) with all policies, whose rules ask for the sets (from 10.1.0.0 on)."""
    rng = random.Random(1)
    first = 1 << 16
    found = [endpoint(0, 0)]
    each, more = divmod(members, sets)
    for number in range(sets):
        count = each + (number < more)
        spec = NetworkSetSpec(tuple(net(first + at) for at in range(count)))
        first += count
        metadata = Metadata(f"s{number}", "", {"set": f"s{number}"}, {})
        found.append(Resource("GlobalNetworkSet", metadata, spec, "sets.yaml", number))
    for number in range(policies):
        ingress = [
            {"action": "Allow", "protocol": "TCP", "source": {"selector": f"set == 's{rng.randrange(sets)}'"},
             "destination": {"ports": [rng.choice(PORTS)]}}
            for _ in range(rules)
        ]  # fmt: skip
        found.append(load_object({
            "apiVersion": V3, "kind": "GlobalNetworkPolicy", "metadata": {"name": f"p{number}"},
            "spec": {"order": number, "selector": "app == 'a0'", "ingress": ingress},
        }, "policies.yaml", number + 1))  # fmt: skip
    return found
