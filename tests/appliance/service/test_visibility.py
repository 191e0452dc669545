# SPDX-License-Identifier: Apache-2.0
"""What the node says of endpoints that it cannot see."""

import pytest

from appliance.config.model import Hooks
from appliance.service.interfaces import Interfaces
from appliance.service.visibility import NAMED, Sight, lines, sights, state
from rules.policy import Resource
from rules.policy.model import HostEndpointSpec, Metadata, WorkloadEndpointSpec, parse_net

HERE = Interfaces(
    indexes={"eth0": 2, "docker0": 3, "veth1": 4, "veth2": 5},
    ports={"veth1": "docker0"},
    bridges=frozenset({"docker0"}),
)
EVERYWHERE = Hooks()
FILTERED = Interfaces(HERE.indexes, ports=HERE.ports, bridges=HERE.bridges, bridge_filter=frozenset({4, 6}))


def endpoint(
    interface: str, *, kind: str = "workload", node: str = "node", addresses: tuple[str, ...] = ()
) -> Resource:
    nets = tuple(parse_net(address)[0] for address in addresses or ("10.0.0.2/32",))
    if kind == "host":
        return Resource("HostEndpoint", Metadata("web", "shop", {}, {}), HostEndpointSpec(node, interface, nets), "", 0)
    spec = WorkloadEndpointSpec(node, interface, nets)
    return Resource("WorkloadEndpoint", Metadata("web", "shop", {}, {}), spec, "", 0)


def see(one: Resource, hooks: Hooks = EVERYWHERE, interfaces: Interfaces = HERE) -> Sight:
    (sight,) = sights([one], node="node", hooks=hooks, interfaces=interfaces)
    return sight


def test_a_routed_endpoint_is_seen_whole() -> None:
    assert see(endpoint("veth2")) == Sight("shop/web", "all")


@pytest.mark.parametrize("interface", ["docker0", "veth1"])
def test_what_stays_on_a_bridge_is_seen_with_br_netfilter_only(interface: str) -> None:
    sight = see(endpoint(interface))
    assert sight.level == "part"
    assert sight.reasons == ("br_netfilter is off for IPv4: not seen is what stays on bridge docker0",)
    assert see(endpoint(interface), interfaces=FILTERED).level == "all"


def test_br_netfilter_counts_for_the_ip_versions_that_the_endpoint_has() -> None:
    only4 = Interfaces(HERE.indexes, ports=HERE.ports, bridges=HERE.bridges, bridge_filter=frozenset({4}))
    assert see(endpoint("docker0"), interfaces=only4).level == "all"
    both = see(endpoint("docker0", addresses=("10.0.0.2/32", "fd00::2/128")), interfaces=only4)
    assert both.reasons == ("br_netfilter is off for IPv6: not seen is what stays on bridge docker0",)


def test_an_interface_that_is_missing_or_unknown() -> None:
    assert see(endpoint("veth9")) == Sight("shop/web", "none", ("interface veth9 does not exist",))
    assert see(endpoint("")).level == "part"
    assert see(endpoint("eth9", kind="host")).level == "none"


def test_hooks_that_are_off() -> None:
    assert see(endpoint("veth2"), Hooks(forward=False)).level == "part"
    assert see(endpoint("veth2"), Hooks(input=False)).level == "part"
    assert see(endpoint("veth2"), Hooks(forward=False, input=False, output=False)).level == "none"
    assert see(endpoint("eth0", kind="host"), Hooks(forward=False)).level == "all"
    assert see(endpoint("eth0", kind="host"), Hooks(output=False)).reasons == ("hook output is off",)


def test_a_host_endpoint_on_a_bridge_port_sees_nothing() -> None:
    assert see(endpoint("veth1", kind="host")).level == "none"
    assert see(endpoint("*", kind="host")).level == "all"


def test_an_endpoint_of_another_node_is_no_trouble() -> None:
    sight = see(endpoint("veth9", node="other"))
    assert sight.level == "elsewhere"
    assert lines([sight]) == []
    assert state([sight]) == {"known": 1, "elsewhere": 1, "unseen": []}


def test_start_names_endpoints_by_reason_and_status_names_every_one() -> None:
    missing = [Sight(f"shop/web-{i}", "none", ("interface veth9 does not exist",)) for i in range(NAMED + 3)]
    said = lines([*missing, Sight("db", "part", ("hook input is off",)), Sight("ok", "all")])
    assert len(said) == 2
    assert said[0].startswith("cannot see the traffic of shop/web-0, shop/web-1,")
    assert said[0].endswith("and 3 more: interface veth9 does not exist")
    assert said[1] == "cannot see all traffic of db: hook input is off"
    unseen = state(missing)["unseen"]
    assert isinstance(unseen, list) and len(unseen) == NAMED + 3
