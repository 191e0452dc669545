# SPDX-License-Identifier: Apache-2.0
"""Answers of container engines, well-formed and not; and the endpoints that come of them."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.sources.container_endpoints import Endpoints, endpoints, join, unique
from appliance.sources.container_links import Links, Veth
from appliance.sources.engine_api import (
    ApiError,
    Attachment,
    Container,
    Details,
    concerns,
    read_containers,
    read_details,
)
from rules.policy import load_object
from rules.policy.model import WorkloadEndpointSpec
from tests.appliance.sources.engine_stand_in import container_id, event, listed

LABELS = {
    "projectcalico.org/orchestrator": "docker",
    "projectcalico.org/namespace": "default",
    "projectcalico.org/name": "web",
}  # fmt: skip


def made(*entries: dict[str, Any], interface: str = "docker0") -> Endpoints:
    containers = read_containers(json.dumps(entries).encode())
    return endpoints(containers, engine="docker", node="gate", origin="sock", interface_of=lambda c, a: interface)


def test_a_container_becomes_an_endpoint() -> None:
    (found,) = made(listed(1, "web", {"front": ("10.91.0.2", "fd00:92::2")}, role="web")).resources
    assert (found.namespace, found.name, found.file) == ("default", "web", "sock")
    assert dict(found.metadata.labels) == {**LABELS, "role": "web"}
    spec = found.spec
    assert isinstance(spec, WorkloadEndpointSpec)
    assert [str(net) for net in spec.addresses] == ["10.91.0.2/32", "fd00:92::2/128"]
    assert (spec.node, spec.interface, spec.orchestrator, spec.workload) == ("gate", "docker0", "docker", "web")
    assert spec.profiles == ("projectcalico-default-allow",)


def test_every_network_has_an_endpoint_of_its_own() -> None:
    found = made(listed(1, "web", {"front": "10.91.0.2", "Back_End": "10.92.0.2"})).resources
    assert [resource.name for resource in found] == ["web.back-end", "web.front"]
    assert len({tuple(resource.metadata.labels.items()) for resource in found}) == 1


def test_a_compose_project_is_the_namespace() -> None:
    labels = {"com.docker.compose.project": "My_Shop", "com.docker.compose.service": "web"}
    (found,) = made(listed(1, "my_shop-web-1", {"front": "10.91.0.2"}, **labels)).resources
    assert found.title == "my-shop/my-shop-web-1"
    assert found.metadata.labels["com.docker.compose.service"] == "web"
    assert found.metadata.labels["projectcalico.org/namespace"] == "my-shop"


def test_labels_that_say_who_it_is_do_not_come_from_a_container() -> None:
    found = made(listed(1, "web", {"front": "10.91.0.2"}, **{
        "projectcalico.org/namespace": "kube-system", "projectcalico.org/serviceaccount": "admin", "pcns.x": "y",
        "pcsa.x": "y", "bad key": "x", "-": "x", "long": "x" * 5000, "text": "any words, really",
    }))  # fmt: skip
    assert dict(found.resources[0].metadata.labels) == {**LABELS, "text": "any words, really"}
    assert len(found.problems) == 2
    assert found.problems[0].startswith("4 labels of containers are reserved")
    assert found.problems[1].startswith("3 labels of containers have invalid keys")


def test_containers_without_an_address_of_their_own_have_no_endpoint() -> None:
    stopped = {**listed(2, "off", {"front": "10.91.0.3"}), "State": "exited"}
    host = listed(1, "host", {})
    unaddressed = listed(3, "none", {"front": ""})
    assert made(stopped, host, unaddressed) == Endpoints(())


def test_what_uses_the_network_of_another_lends_it_its_labels() -> None:
    entries = [
        listed(1, "app", {"front": "10.91.0.2"}, role="app", tier="web"),
        {**listed(2, "vpn", {}, role="vpn", exit="nl"), "HostConfig": {"NetworkMode": f"container:{container_id(1)}"}},
        {**listed(3, "log", {}, exit="de", log="yes"), "HostConfig": {"NetworkMode": "container:app"}},
        listed(4, "alone", {"front": "10.91.0.3"}),
        {**listed(5, "lost", {}), "HostConfig": {"NetworkMode": "container:none"}},
    ]
    found = endpoints(
        join(read_containers(json.dumps(entries).encode())), engine="docker", node="gate", origin="",
        interface_of=lambda c, a: "docker0",
    ).resources  # fmt: skip
    assert [resource.name for resource in found] == ["alone", "app"]
    labels = found[1].metadata.labels
    assert {key: labels[key] for key in ("role", "tier", "exit", "log")} == {
        "role": "app", "tier": "web", "exit": "nl", "log": "yes",
    }  # fmt: skip
    assert "role" not in found[0].metadata.labels


def test_a_bad_address_hides_nothing_else() -> None:
    addresses = ("invalid IP", "0.0.0.0", "127.0.0.1", "10.1.0.9")
    entries = [listed(number, f"c{number}", {"front": address}) for number, address in enumerate(addresses)]
    found = made(*entries)
    assert [resource.name for resource in found.resources] == ["c3"]
    assert len(found.problems) == 3
    assert found.problems[0] == "container c0: 'invalid IP' is not an address of a container"


def test_names_that_become_the_same_stay_apart() -> None:
    found = made(listed(1, "a_b", {"front": "10.91.0.2"}), listed(2, "a-b", {"front": "10.91.0.3"})).resources
    assert [resource.name for resource in found] == ["a-b", f"a-b-{container_id(2)[:12]}"]


@given(st.text(max_size=300), st.text(max_size=300), st.dictionaries(st.text(max_size=80), st.text(max_size=80)))
def test_any_name_and_label_is_taken_or_told(name: str, network: str, labels: dict[str, str]) -> None:
    try:
        body = json.dumps([listed(1, name, {network: "10.91.0.2"}, **labels)]).encode()
        containers = read_containers(body)
    except ApiError:  # a lone surrogate
        return
    found = endpoints(containers, engine="docker", node="gate", origin="", interface_of=lambda c, a: "docker0")
    assert len(found.resources) == 1, found.problems


def test_an_unknown_interface_binds_nothing() -> None:
    (found,) = made(listed(1, "web", {"front": "10.91.0.2"}), interface="").resources
    assert isinstance(found.spec, WorkloadEndpointSpec)
    assert found.spec.interface == ""


def test_what_the_operator_wrote_counts_before_what_is_found() -> None:
    (found,) = made(listed(1, "web", {"front": "10.91.0.2"})).resources
    written = load_object(
        {
            "apiVersion": "projectcalico.org/v3",
            "kind": "WorkloadEndpoint",
            "metadata": {"name": "web"},
            "spec": {"orchestrator": "x", "node": "gate", "interfaceName": "eth1", "workload": "w", "endpoint": "e"},
        }
    )
    assert unique((written,), (found, found)) == (written,)
    assert unique((), (found, found)) == (found,)


@pytest.mark.parametrize("body", [
    b"", b"{}", b"null", b'[{"Id": 5}]', b'[{"Id": "../../x"}]', b'[{"Id": "' + b"a" * 64 + b'", "Labels": {"a": 1}}]',
    json.dumps([listed(1, "web", {"front": "10.91.0.2"})]).encode()[:-20], b"[" * 100_000, b'["\xff"]',
])  # fmt: skip
def test_a_list_that_is_none(body: bytes) -> None:
    with pytest.raises(ApiError):
        read_containers(body)


@given(st.binary(max_size=300))
def test_any_bytes_are_an_answer_or_an_error(body: bytes) -> None:
    for read in (read_containers, read_details, concerns):
        try:
            read(body)
        except ApiError as error:
            assert error.message


def test_details() -> None:
    assert read_details(b'{"Id":"a","State":{"Pid":7},"HostConfig":{"NetworkMode":"bridge"}}') == Details(7)
    joined = b'{"Id":"a","State":{"Pid":7},"HostConfig":{"NetworkMode":"container:abc"}}'
    assert read_details(joined) == Details(7, "abc")


def test_events_that_matter() -> None:
    assert all(concerns(event("container", action, 1)) for action in ("start", "die", "died", "rename", "remove"))
    assert all(concerns(event("network", action, 1)) for action in ("connect", "disconnect"))
    assert not concerns(event("container", "exec_create: sh", 1))
    assert not concerns(event("container", "health_status: healthy", 1))
    assert not concerns(event("image", "remove", 1))


GATEWAY = Attachment("front", "0" * 64, (), tuple(read_containers(
    json.dumps([listed(1, "x", {"front": "10.91.0.2"})]).encode()
)[0].attachments[0].gateways))  # fmt: skip


def within(*attachments: Attachment) -> Container:
    return Container(container_id(1), "web", {}, attachments)


def test_the_interface_is_the_bridge_with_the_gateway() -> None:
    links = Links(owners={GATEWAY.gateways[0]: "podman1"})
    assert links.interface_of(within(GATEWAY), GATEWAY, None) == "podman1"


def test_a_network_without_gateway_is_found_by_the_name_of_its_bridge() -> None:
    closed = Attachment("closed", "abcdef012345" + "0" * 52, ())
    named = Links(names=frozenset({"br-abcdef012345"}))
    assert named.interface_of(within(closed), closed, None) == "br-abcdef012345"
    assert Links().interface_of(within(closed), closed, None) == ""


def test_elsewhere_it_is_the_veth_of_the_container() -> None:
    links = Links(
        owners={GATEWAY.gateways[0]: "br0"},
        veths=(Veth("veth1", 3), Veth("veth2", 4), Veth("veth3", 4, "br0"), Veth("veth4", 5, "br1")),
        namespaces={100: 3, 101: 4, 102: 5, 103: 6},
    )
    routed = Attachment("ptp", "", ())
    found = [links.interface_of(within(routed), routed, Details(pid)) for pid in (100, 101, 102, 103, 104)]
    assert found == ["veth1", "", "br1", "", ""]
    assert links.interface_of(within(routed), routed, None) == ""
    # In two networks: what is left when the other one's interface is known.
    assert links.interface_of(within(routed, GATEWAY), routed, Details(101)) == "veth2"
    assert links.interface_of(within(routed, GATEWAY, Attachment("third", "", ())), routed, Details(101)) == ""


def test_a_container_is_named_by_its_own_name_not_by_a_link_to_it() -> None:
    entry = {**listed(1, "x", {"front": "10.91.0.2"}), "Names": ["/other/alias", "/web"]}
    assert read_containers(json.dumps([entry]).encode())[0] == Container(
        container_id(1), "web", {}, read_containers(json.dumps([entry]).encode())[0].attachments
    )
