# SPDX-License-Identifier: Apache-2.0
"""Changes of endpoints without a new program end in the same answers as a new program."""

import ipaddress
import json
import random
from typing import Any

from fastpath import IdentityMap, Policy, Query
from rules.policy import CompileOptions, Delta, Live, Resource, compile_policy, load_documents

LABELS = ({"app": "a"}, {"app": "b"}, {"app": "c"})
OPTIONS = CompileOptions(node="n1", interfaces={"cali0": 5})


def load(*documents: dict[str, Any]) -> list[Resource]:
    result = [load_documents(json.dumps(document), "f") for document in documents]
    assert [str(error) for one in result for error in one.errors] == []
    return [resource for one in result for resource in one.resources]


def endpoint(name: str, address: str, labels: dict[str, str], node: str = "n1", interface: str = "cali1") -> Resource:
    (resource,) = load({
        "apiVersion": "projectcalico.org/v3", "kind": "WorkloadEndpoint",
        "metadata": {"name": name, "namespace": "ns", "labels": labels},
        "spec": {"node": node, "interfaceName": interface, "ipNetworks": [address]},
    })  # fmt: skip
    return resource


def world() -> list[Resource]:
    def document(kind: str, name: str, spec: dict[str, Any], **metadata: Any) -> dict[str, Any]:
        metadata["name"] = name
        return {"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": metadata, "spec": spec}

    return load(
        document("GlobalNetworkPolicy", "p", {"selector": "app == 'a'", "ingress": [
            {"action": "Allow", "source": {"selector": "app == 'b'"}},
            {"action": "Allow", "source": {"selector": "app == 's'", "notSelector": "app == 'c'"}}]}),
        document("GlobalNetworkPolicy", "q", {"selector": "app in {'b', 'c'}", "ingress": [
            {"action": "Allow", "source": {"nets": ["10.0.0.8/29"]}}]}),
        document("GlobalNetworkSet", "s", {"nets": ["10.0.0.4/30"]}, labels={"app": "s"}),
    )  # fmt: skip


def answers(policy: Policy, identities: IdentityMap) -> list[tuple[int, int]]:
    numbers = [identities.lookup(ipaddress.ip_address(f"10.0.0.{i}")) for i in range(16)]
    return [(int(policy.decide(Query(a[0], b[0])).verdict), a[1]) for a in numbers for b in numbers]


def apply(identities: IdentityMap, delta: Delta) -> IdentityMap:
    return identities.update(set=delta.set, remove=delta.remove)


def test_any_order_of_changes_ends_in_the_answers_of_a_new_program() -> None:
    rng = random.Random(5)
    fixed = [endpoint(f"f{i}", f"10.0.0.{11 + i}/32", LABELS[i]) for i in range(3)]
    fixed += [endpoint(f"o{i}", f"10.0.0.{i}/32", LABELS[i], "n2") for i in range(3)]
    base = world()
    now = {resource.key: resource for resource in fixed}
    program = compile_policy([*base, *now.values()], OPTIONS)
    identities, live = IdentityMap.build(program.entries), Live(program, [*base, *now.values()])
    policy = Policy(program.tables)
    for number in range(120):
        name, host = f"x{rng.randrange(4)}", rng.choice((3, 7, 14, 15))
        new = endpoint(name, f"10.0.0.{host}/32", rng.choice(LABELS), rng.choice(("n1", "n2")),
                       rng.choice(("cali0", "cali1")))  # fmt: skip
        if new.key in now and rng.random() < 0.4:
            step = live.apply([], [now.pop(new.key)])
        else:
            now[new.key] = new
            step = live.apply([new])
        assert step is not None, number
        identities = apply(identities, step.delta)
        policy = policy.update(step.change) if step.change is not None else policy
        again = compile_policy([*base, *now.values()], OPTIONS)
        expected = answers(Policy(again.tables), IdentityMap.build(again.entries))
        assert answers(policy, identities) == expected, number


def test_an_endpoint_that_is_new_voids_what_was_decided_about_its_address_alone() -> None:
    fixed = [endpoint("a", "10.0.0.1/32", {"app": "a"})]
    program = compile_policy([*world(), *fixed], OPTIONS)
    step = Live(program, [*world(), *fixed]).apply([endpoint("b", "10.0.0.2/32", {"app": "a"})])
    assert step is not None and [str(net) for net in step.redecide] == ["10.0.0.2/32"] and not step.voids
    assert [entry[:2] for entry in step.delta.set] == [(bytes(10) + b"\xff\xff\x0a\x00\x00\x02", 128)]


def test_policies_of_host_endpoints_change_by_themselves() -> None:
    def document(kind: str, name: str, spec: dict[str, Any], **labels: str) -> dict[str, Any]:
        metadata = {"name": name, "labels": labels}
        return {"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": metadata, "spec": spec}

    def policy_of(port: int, forward: bool) -> Resource:
        rules = [{"action": "Allow", "protocol": "TCP", "destination": {"ports": [port]}}]
        spec = {"selector": "role == 'edge'", "ingress": rules, "applyOnForward": forward}
        (resource,) = load(document("GlobalNetworkPolicy", "h", spec))
        return resource

    host = {"node": "n1", "interfaceName": "cali0"}
    base = load(document("HostEndpoint", "edge", host, role="edge"), document("GlobalNetworkSet", "s", {}))
    base.append(endpoint("w", "10.0.0.1/32", {"app": "a"}))
    program = compile_policy([*base, policy_of(80, False)], OPTIONS)
    live, policy = Live(program, [*base, policy_of(80, False)]), Policy(program.tables)
    for port, forward in ((80, False), (81, True), (82, False), (81, True), (80, True)):
        step = live.apply([policy_of(port, forward)])
        assert step is not None and step.change is not None
        assert step.voids is ((port, forward) != (80, False))  # what it says already
        policy = policy.update(step.change)
        again = Policy(compile_policy([*base, policy_of(port, forward)], OPTIONS).tables)
        for hook in (1, 2, 3):
            for dport in (80, 81, 82):
                query = Query(0, 0, 5, 5, 4000, dport, 6, 4, hook=hook)
                assert policy.decide(query)[:3] == again.decide(query)[:3], (port, forward, hook, dport)
