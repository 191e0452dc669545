# SPDX-License-Identifier: Apache-2.0
"""The node's own interfaces as host endpoints."""

import ipaddress

from appliance.sources.node import host_endpoints
from rules.policy import CompileOptions, Resource, compile_policy, load_object
from rules.policy.model import HostEndpointSpec

ADDRESSES = {
    "lo": (ipaddress.ip_address("127.0.0.1"),),
    "eth0": (ipaddress.ip_address("192.0.2.1"), ipaddress.ip_address("2001:db8::1"), ipaddress.ip_address("fe80::1")),
    "eth1": (ipaddress.ip_address("198.51.100.1"),),
    "docker0": (ipaddress.ip_address("172.17.0.1"),),
    "tap0": (ipaddress.ip_address("fe80::2"),),
}


def resource(kind: str, **spec: object) -> Resource:
    return load_object(
        {
            "apiVersion": "projectcalico.org/v3",
            "kind": kind,
            "metadata": {"name": "given"},
            "spec": {"node": "gate", **spec},
        }
    )


def specs(*known: Resource) -> dict[str, HostEndpointSpec]:
    found = {}
    for made in host_endpoints("gate", ADDRESSES, known):
        assert isinstance(made.spec, HostEndpointSpec)
        found[made.spec.interface] = made.spec
    return found


def test_one_for_each_interface_with_an_address_of_its_own() -> None:
    found = specs()
    assert sorted(found) == ["docker0", "eth0", "eth1"]
    assert [str(net) for net in found["eth0"].addresses] == ["192.0.2.1/32", "2001:db8::1/128"]


def test_labels_and_names() -> None:
    made = {resource.name: dict(resource.metadata.labels) for resource in host_endpoints("Gate", ADDRESSES)}
    assert made["gate-eth0-auto-hep"] == {
        "node": "Gate",
        "interface": "eth0",
        "kubernetes.io/hostname": "Gate",
        "projectcalico.org/created-by": "portcullis",
    }


def test_interfaces_that_somebody_speaks_for_are_left_out() -> None:
    named = resource("HostEndpoint", interfaceName="eth0")
    by_address = resource("HostEndpoint", expectedIPs=["198.51.100.1"])
    bridge = resource("WorkloadEndpoint", orchestrator="docker", workload="w", endpoint="e", interfaceName="docker0",
                      ipNetworks=["172.17.0.2/32"])  # fmt: skip
    assert sorted(specs(named, by_address, bridge)) == []
    elsewhere = load_object(
        {
            "apiVersion": "projectcalico.org/v3",
            "kind": "HostEndpoint",
            "metadata": {"name": "far"},
            "spec": {"node": "other", "interfaceName": "eth0"},
        }
    )
    assert "eth0" in specs(elsewhere)


def test_none_beside_an_endpoint_for_all_interfaces() -> None:
    assert specs(resource("HostEndpoint", interfaceName="*")) == {}


def test_names_do_not_collide() -> None:
    addresses = {"eth_0": ADDRESSES["eth0"], "eth-0": ADDRESSES["eth1"]}
    assert len({made.name for made in host_endpoints("gate", addresses)}) == 2


def test_nothing_is_denied_until_a_policy_selects_them() -> None:
    made = host_endpoints("gate", ADDRESSES)
    program = compile_policy(made, CompileOptions(node="gate", interfaces={"eth0": 2, "eth1": 3, "docker0": 4}))
    assert [warning.message for warning in program.warnings] == []
    assert {endpoint.kind for endpoint in program.endpoints.values()} == {"host"}
