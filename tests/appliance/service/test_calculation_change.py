# SPDX-License-Identifier: Apache-2.0
"""Which changes of the inputs are compiled by themselves."""

import ipaddress
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.config import Config
from appliance.config.model import Identities
from appliance.service import calculation
from appliance.service.calculation import Inputs, calculate, change, differences
from appliance.service.interfaces import Interfaces
from appliance.sources.base import Parts
from fastpath import IdentityMap
from rules.policy import Program, Resource, compile_policy, load_documents

CONFIG = Config(node="n1")
OWN = Config(node="n1", identities=Identities(host_endpoints="auto"))


def resource(kind: str, name: str, spec: dict[str, object], **labels: str) -> Resource:
    metadata = {"name": name, "labels": labels}
    if kind == "WorkloadEndpoint":
        metadata["namespace"] = "ns"
    document = {"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": metadata, "spec": spec}
    (loaded,) = load_documents(json.dumps(document), "f").resources
    return loaded


def endpoint(name: str, address: str, app: str, interface: str = "cali1") -> Resource:
    return resource(
        "WorkloadEndpoint", name, {"node": "n1", "interfaceName": interface, "ipNetworks": [address]}, app=app
    )


POLICY = resource("GlobalNetworkPolicy", "p", {"selector": "app == 'a'", "ingress": [{"action": "Allow"}]})
NAMED = resource(
    "GlobalNetworkPolicy", "n", {"selector": "has(app)", "egress": [
        {"action": "Allow", "destination": {"domains": ["www.example.com"]}}]},
)  # fmt: skip
BASE = (POLICY, endpoint("a", "10.0.0.1", "a"), endpoint("b", "10.0.0.2", "b"))


@given(st.lists(st.integers(0, 9), unique=True), st.lists(st.integers(0, 9), unique=True), st.booleans())
def test_differences_lead_from_one_to_the_other(before: list[int], now: list[int], by_origin: bool) -> None:
    pool = [endpoint(f"e{i}", f"10.0.0.{i}", "a") for i in range(10)]
    other = [endpoint(f"e{i}", f"10.0.1.{i}", "a") for i in range(10)]
    old = tuple(pool[i] for i in before)
    new = tuple((pool if i % 3 else other)[i] for i in now)
    if by_origin:  # files of three resources; one that stays is the same object
        files = [tuple(old[at : at + 3]) for at in range(0, len(old), 3)]
        fresh = [tuple(new[at : at + 3]) for at in range(0, len(new), 3)]
        kept = [next((file for file in files if file == part), part) for part in fresh]
        removed, changed = differences(Parts(files), Parts(kept))
        assert Parts(files) == old and len(Parts(files)) == len(old) and (Parts(fresh) == Parts(files)) == (old == new)
    else:
        removed, changed = differences(old, new)
    state = {item.key: item for item in old}
    for item in removed:
        del state[item.key]
    state.update((item.key, item) for item in changed)
    assert state == {item.key: item for item in new}


def test_an_endpoint_more_is_a_change_by_itself() -> None:
    before = Inputs(resources=BASE)
    desired = calculate(CONFIG, before)
    now = replace(before, resources=(*BASE, endpoint("c", "10.0.0.3", "a")))
    step = change(CONFIG, desired, before, now)
    assert step is not None and step.change is None and not step.voids
    identities = IdentityMap.build(desired.program.entries).update(set=step.delta.set)
    assert identities.lookup(ipaddress.ip_address("10.0.0.3")) == identities.lookup(ipaddress.ip_address("10.0.0.1"))


def test_a_changed_policy_voids_what_was_decided() -> None:
    before = Inputs(resources=BASE)
    desired = calculate(CONFIG, before)
    other = resource("GlobalNetworkPolicy", "p", {"selector": "app == 'a'", "ingress": [{"action": "Deny"}]})
    step = change(CONFIG, desired, before, replace(before, resources=(other, *BASE[1:])))
    assert step is not None and step.change is not None and step.voids


@pytest.mark.parametrize(
    "now",
    [
        Inputs(resources=BASE, resolvers=("192.0.2.1",)),
        Inputs(resources=(*BASE, NAMED)),
        Inputs(resources=BASE, containers=(endpoint("a", "10.0.0.9", "a"),)),
    ],
    ids=["resolvers", "the first name", "one name twice"],
)
def test_other_changes_need_everything(now: Inputs) -> None:
    before = Inputs(resources=BASE)
    assert change(CONFIG, calculate(CONFIG, before), before, now) is None


def test_an_endpoint_on_an_interface_of_ours_takes_the_place_of_the_one_that_we_made() -> None:
    addresses = {"eth0": (ipaddress.ip_address("10.9.0.1"),)}
    before = Inputs(resources=BASE, interfaces=Interfaces({"eth0": 2}, addresses))
    desired = calculate(OWN, before)
    assert "n1-eth0-auto-hep" in desired.program.endpoints and 2 in desired.program.interface_chains
    now = replace(before, resources=(*BASE, endpoint("c", "10.0.0.3", "a", "eth0")))
    step = change(OWN, desired, before, now)
    assert step is not None and step.program.interface_chains == {} and step.voids
    assert dict(step.program.endpoints).keys() == dict(calculate(OWN, now).program.endpoints).keys()


def test_an_interface_that_comes_up_is_a_change_by_itself() -> None:
    lines = {"eth0": (ipaddress.ip_address("10.9.0.1"),)}
    before = Inputs(resources=BASE, interfaces=Interfaces({"eth0": 2}, lines))
    desired = calculate(OWN, before)
    # The end of a container's pair, that of an endpoint that is known, and one with an address.
    now = replace(before, interfaces=Interfaces({"eth0": 2, "veth7": 7}, lines))
    step = change(OWN, desired, before, now)
    assert step is not None and not step.delta.set and step.change is None and not step.redecide and not step.voids
    before, now = now, replace(now, interfaces=Interfaces({"eth0": 2, "veth7": 7, "cali1": 8}, lines))
    step = change(OWN, desired, before, now)
    assert step is not None and {entry[3] for entry in step.delta.set} == {8} and len(step.redecide) == 2
    lines = {**lines, "veth7": (ipaddress.ip_address("10.9.1.1"),)}
    before, now = now, replace(now, interfaces=replace(now.interfaces, addresses=lines))
    step = change(OWN, desired, before, now)
    assert step is not None and set(step.program.interface_chains) == {2, 7}


def test_rules_before_tracking_and_with_http_need_one_whole_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[int] = []

    def counted(*arguments: Any) -> Program:
        compiled.append(1)
        return compile_policy(*arguments)

    monkeypatch.setattr(calculation, "compile_policy", counted)
    host = resource("HostEndpoint", "line", {"node": "n1", "interfaceName": "eth0"}, line="yes")
    early = [
        resource("GlobalNetworkPolicy", name, {
            "selector": "has(line)", "applyOnForward": True, kind: True,
            "ingress": [{"action": "Deny", "source": {"selector": "app == 'b'"}}]})
        for name, kind in (("e", "preDNAT"), ("u", "doNotTrack"))
    ]  # fmt: skip
    requests = resource(
        "GlobalNetworkPolicy", "h", {"selector": "app == 'a'", "ingress": [
            {"action": "Allow", "http": {"methods": ["GET"]}}]},
    )  # fmt: skip
    before = Inputs(resources=(*BASE, host, *early, requests), interfaces=Interfaces({"eth0": 2}, {}))
    desired = calculate(CONFIG, before)
    for added in (endpoint("c", "10.0.0.3", "b"), endpoint("d", "10.0.0.4", "a"), endpoint("c", "10.0.0.5", "a")):
        kept = tuple(item for item in before.resources if item.key != added.key)
        now = replace(before, resources=(*kept, added))
        step = change(CONFIG, desired, before, now)
        assert step is not None and step.program.http and step.program.needs_pre_dnat_hook
        assert step.regions and all(region.having for region in step.regions)
        before = now
    assert len(compiled) == 1
