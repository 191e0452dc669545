# SPDX-License-Identifier: Apache-2.0
"""Host and workload endpoints: accepted, or refused in which field and how."""

import json
from typing import Any

import pytest

from rules.policy import load_documents, load_object
from rules.policy.read_endpoints import is_mac
from tests.rules.policy.tables import Experiment, Refused, check, resource

PORT = {"name": "http", "protocol": "TCP", "port": 80}
ONE_OF = "at least one of interfaceName or expectedIPs must be specified"

HOSTS: list[Experiment] = [
    ({"interfaceName": "eth0"}, None),
    ({"interfaceName": "*"}, None),
    ({"interfaceName": "Valid_If.0-9"}, None),
    ({"interfaceName": "x" * 15}, None),
    ({"interfaceName": "x" * 16}, ("interfaceName", "Too long: may not be more than 15 bytes")),
    ({"interfaceName": "eth0:1"}, ("interfaceName", "not an interface's name")),
    ({"interfaceName": "eth*"}, ("interfaceName", "not an interface's name")),
    ({"expectedIPs": ["192.0.2.1", "2001:db8::1"]}, None),
    ({"expectedIPs": ["192.0.2.1/32"]}, ("expectedIPs[0]", "is not an address")),
    ({"expectedIPs": ["192.0.2.256"]}, ("expectedIPs[0]", "not an address")),
    ({"expectedIPs": ["192.0.2.1", "192.0.2.1"]}, ("expectedIPs[1]", "Duplicate value")),
    ({}, ("spec", ONE_OF)),
    ({"interfaceName": "", "expectedIPs": []}, ("spec", ONE_OF)),
    ({"interfaceName": "eth0", "node": ""}, ("node", "node must be specified")),
    ({"interfaceName": "eth0", "node": None}, ("node", "node must be specified")),
    ({"interfaceName": "eth0", "node": "a.b-c"}, None),
    ({"interfaceName": "eth0", "node": "n" * 253}, None),
    ({"interfaceName": "eth0", "node": "n" * 254}, ("node", "may not be more than 253 bytes")),
    ({"interfaceName": "eth0", "node": "Node_1"}, ("node", "is not a name")),
    ({"interfaceName": "eth0", "profiles": ["kns.a", "knp.default.fun.11234-a"]}, None),
    ({"interfaceName": "eth0", "profiles": ["a", "a"]}, ("profiles[1]", "Duplicate value")),
    ({"interfaceName": "eth0", "profiles": ["A"]}, ("profiles[0]", "is not a profile's name")),
    ({"interfaceName": "eth0", "ports": [PORT, {**PORT, "protocol": 17}]}, None),
    ({"interfaceName": "eth0", "ports": [{**PORT, "port": 0}]}, ("ports[0].port", "greater than or equal to 1")),
    ({"interfaceName": "eth0", "ports": [{**PORT, "port": 65536}]}, ("ports[0].port", "less than or equal to 65535")),
    ({"interfaceName": "eth0", "ports": [{**PORT, "port": "80"}]}, ("ports[0].port", "expected a whole number")),
    ({"interfaceName": "eth0", "ports": [{**PORT, "port": None}]}, ("ports[0].port", "Required value")),
    ({"interfaceName": "eth0", "ports": [{**PORT, "protocol": None}]}, ("ports[0].protocol", "Required value")),
    ({"interfaceName": "eth0", "ports": [{**PORT, "protocol": "ICMP"}]},
     ("ports[0].protocol", "protocol does not support ports")),
    ({"interfaceName": "eth0", "ports": [{**PORT, "protocol": "tcp"}]}, ("ports[0].protocol", "did you mean 'TCP'")),
    ({"interfaceName": "eth0", "ports": [{**PORT, "name": ""}]}, ("ports[0].name", "Required value")),
    ({"interfaceName": "eth0", "ports": [{**PORT, "name": "a" * 16}]}, ("ports[0].name", "is not a port name")),
    ({"interfaceName": "eth0", "ports": [{**PORT, "hostPort": 1}]}, ("ports[0].hostPort", "unknown field")),
    ({"interface": "eth0"}, None),
]  # fmt: skip

NAT = {"internalIP": "192.0.2.1", "externalIP": "203.0.113.1"}
MANY = "is more than one address"
WORKLOADS: list[Experiment] = [
    ({}, None),
    ({"interfaceName": ""}, ("interfaceName", "not an interface's name")),
    ({"interfaceName": "*"}, None),
    ({"ipNetworks": ["192.0.2.1", "192.0.2.2/32", "2001:db8::1/128"]}, None),
    ({"ipNetworks": ["192.0.2.1", "192.0.2.1"], "allowSpoofedSourcePrefixes": ["10.0.0.0/8", "10.0.0.0/8"]}, None),
    ({"ipNetworks": ["192.0.2.0/31"]}, ("ipNetworks", MANY)),
    ({"ipNetworks": ["2001:db8::/127"]}, ("ipNetworks", MANY)),
    ({"ipNetworks": ["x"]}, ("ipNetworks[0]", "not an address")),
    ({"ipNetworks": ["192.0.2.1"], "ipNATs": [NAT]}, None),
    ({"ipNetworks": ["192.0.2.2"], "ipNATs": [NAT]}, ("ipNATs[0].internalIP", "NAT is not in the endpoint networks")),
    ({"ipNATs": [NAT]}, ("ipNATs[0].internalIP", "NAT is not in the endpoint networks")),
    ({"ipNetworks": ["192.0.2.1"], "ipNATs": [{**NAT, "externalIP": "::1"}]}, ("ipNATs[0]", "mismatched IP versions")),
    ({"ipNetworks": ["192.0.2.1"], "ipNATs": [{**NAT, "externalIP": "203.0.113.1/32"}]},
     ("ipNATs[0].externalIP", "is not an address")),
    ({"ipNATs": [{"externalIP": "192.0.2.1"}]}, ("ipNATs[0].internalIP", "Required value")),
    ({"ipv4Gateway": "192.0.2.254", "ipv6Gateway": "fe80::1"}, None),
    ({"ipv4Gateway": ""}, None),
    ({"ipv4Gateway": "192.0.2.0/24"}, ("ipv4Gateway", "is not an address")),
    ({"ipv4Gateway": "fe80::1"}, ("ipv4Gateway", "other IP version")),
    ({"ipv6Gateway": "192.0.2.1"}, ("ipv6Gateway", "other IP version")),
    ({"mac": "ee:ee:ee:ee:ee:ee"}, None),
    ({"mac": "ee:ee"}, ("mac", "is not a MAC address")),
    ({"containerID": "Cath01234-G"}, None),
    ({"containerID": "abcde-j.g"}, ("containerID", "is not a container's id")),
    ({"containerID": "a-"}, ("containerID", "is not a container's id")),
    ({"orchestrator": "k8s", "workload": "w.x", "node": "n", "pod": "p-1", "endpoint": "eth0",
      "serviceAccountName": "s"}, None),
    *(({key: "A_b"}, (key, "is not a name"))
      for key in ("orchestrator", "workload", "node", "pod", "endpoint", "serviceAccountName")),
    ({"profiles": ["kns.a", "kns.a"]}, None),
    ({"profiles": ["a/b"]}, ("profiles[0]", "is not a profile's name")),
    ({"allowSpoofedSourcePrefixes": ["10.0.0.1", "192.168.0.1/16"]}, None),
    ({"allowSpoofedSourcePrefixes": ["10.abcd"]}, ("allowSpoofedSourcePrefixes[0]", "not an address")),
    ({"ports": [PORT, {**PORT, "protocol": "UDP"}]}, None),
    ({"ports": [{"protocol": "TCP", "port": 1, "name": "", "hostPort": 80, "hostIP": ""}]}, None),
    ({"ports": [{"protocol": "TCP", "port": 1, "name": "", "hostPort": 0}]}, ("ports[0].name", "Required value")),
    ({"ports": [{**PORT, "hostPort": 65536}]}, ("ports[0].hostPort", "less than or equal to 65535")),
    ({"ports": [{**PORT, "hostIP": "10.0.0.0/8"}]}, None),
    ({"ports": [{**PORT, "hostIP": "10.0.0.1/8"}]}, ("ports[0].hostIP", "host bits")),
    ({"ports": [{**PORT, "protocol": "ICMP"}]}, ("ports[0].protocol", "protocol does not support ports")),
    ({"qosControls": {"ingressPacketRate": 10_000, "egressBandwidth": 0, "dscp": "AF11"}}, None),
    ({"qosControls": {"ingressPacketRate": 10_001}}, ("qosControls.ingressPacketRate", "less than or equal to 10000")),
    ({"qosControls": {"egressBandwidth": 999}}, ("qosControls.egressBandwidth", "greater than or equal to 1000")),
    ({"qosControls": {"dscp": 63}}, None),
    ({"qosControls": {"dscp": 64}}, ("qosControls.dscp", "0..63")),
    ({"qosControls": {"dscp": "AF44"}}, ("qosControls.dscp", "0..63")),
]  # fmt: skip


@pytest.mark.parametrize(("spec", "refused"), HOSTS)
def test_a_host_endpoint(spec: dict[str, Any], refused: Refused | None) -> None:
    if "interface" in spec:
        check(resource("HostEndpoint", {"node": "n", "expectedIPs": ["::1"], **spec}), ("interface", "unknown field"))
        return
    check(resource("HostEndpoint", {"node": "n", **spec}), refused)


@pytest.mark.parametrize(("spec", "refused"), WORKLOADS)
def test_a_workload_endpoint(spec: dict[str, Any], refused: Refused | None) -> None:
    check(resource("WorkloadEndpoint", {"interfaceName": "cali1", **spec}), refused)


@pytest.mark.parametrize(
    ("text", "ok"),
    [("00:00:5e:00:53:01", True), ("02:00:5e:10:00:00:00:01", True), ("00-00-5E-00-53-01", True),
     ("0000.5e00.5301", True), ("0200.5e10.0000.0001", True), (":".join(["00"] * 20), True),
     ("00:00:5e-00:53:01", False), ("00:00:5e:00:53", False), ("00005e005301", False), ("0:0:5e:0:53:1", False),
     ("00:00:5e:00:53:01\n", False), ("0000:5e00:5301", False), ("00:00:5e:00:53:01:02", False)],
)  # fmt: skip
def test_mac_addresses_as_go_reads_them(text: str, ok: bool) -> None:
    assert is_mac(text) is ok


def test_what_a_container_engine_calls_its_things_need_not_be_a_name() -> None:
    document = resource("WorkloadEndpoint", {"interfaceName": "x", "node": "Node_1", "pod": "my_pod"})
    assert load_object(document).name == "x"
    result = load_documents(json.dumps(document), "f")
    assert (len(result.resources), len(result.understood)) == (0, 1)
