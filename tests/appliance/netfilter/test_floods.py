# SPDX-License-Identifier: Apache-2.0
"""The text of the maps of denied floods."""

import re
from ipaddress import IPv4Address, IPv6Address

import pytest

from appliance.netfilter import floods, ruleset
from appliance.netfilter.elements import Flush
from appliance.netfilter.floods import Denied, DeniedSource
from appliance.netfilter.ruleset import NetfilterSettings

V4 = (IPv4Address("10.0.0.1"), IPv4Address("10.0.0.2"))
V6 = (IPv6Address("fd00::1"), IPv6Address("fd00::2"))


@pytest.mark.parametrize(
    ("denied", "name", "key"),
    [
        (Denied("forward", 2, 3, 6, *V4, 80), "flood_forward_tcp_4", "2 . 3 . 10.0.0.1 . 10.0.0.2 . 80"),
        (Denied("input", 2, 0, 17, *V6, 80), "flood_input_udp_6", "2 . fd00::1 . fd00::2 . 80"),
        (Denied("output", 0, 3, 6, *V6, 80), "flood_output_tcp_6", "3 . fd00::1 . fd00::2 . 80"),
        (DeniedSource(V4[0]), "flood_source_4", "10.0.0.1"),
    ],
)
def test_elements_have_the_key_that_the_rules_look_for(denied: Denied | DeniedSource, name: str, key: str) -> None:
    assert denied.element() == (name, key)
    rules = [rule for body in floods.chains(ruleset.HOOKS, count=True).values() for rule in body if f"@{name}" in rule]
    assert {len(rule.split(" vmap ")[0].split(" . ")) for rule in rules} == {key.count(" . ") + 1}
    (made,) = [line for line in floods.maps("t", ruleset.HOOKS, 9) if f" {name} " in line]
    assert made.count(" . ") == key.count(" . ")
    assert "size 9;" in made


def test_one_line_for_each_map_with_the_verdict_and_the_timeout() -> None:
    denied = [Denied("forward", 2, 3, 6, *V4, port, port == 81) for port in (80, 81)]
    assert floods.add("t", [*denied, DeniedSource(V6[0])], 7).splitlines() == [
        "add element t flood_forward_tcp_4 { 2 . 3 . 10.0.0.1 . 10.0.0.2 . 80 timeout 7s : goto flood_drop, "
        "2 . 3 . 10.0.0.1 . 10.0.0.2 . 81 timeout 7s : goto flood_reject }",
        "add element t flood_source_6 { fd00::1 timeout 7s : goto flood_drop }",
    ]


def test_without_a_size_nothing_of_it_is_installed() -> None:
    assert not re.search(r"flood_(?!dropped|rejected)", ruleset.install_script(NetfilterSettings(), "xt", 1))


def test_maps_that_are_there_are_made_again() -> None:
    lines = ruleset.install_script(
        NetfilterSettings(flood_size=9), "xt", 1, [("map", "flood_source_4"), ("chain", "old")]
    ).splitlines()
    order = [
        lines.index(line)
        for line in (
            "flush table inet portcullis",
            "delete map inet portcullis flood_source_4",
            "add map inet portcullis flood_source_4 { type ipv4_addr : verdict; flags timeout; size 9; }",
            "delete chain inet portcullis old",
        )
    ]
    assert order == sorted(order)


def test_a_generation_empties_every_map_of_floods() -> None:
    change = ruleset.generation_change(NetfilterSettings().marks, 2, flooded=("input",))
    emptied = {one.name for one in change if one == Flush("map", one.name)} - {"fates"}
    assert emptied == {f"flood_input_{p}_{f}" for p in ("tcp", "udp") for f in (4, 6)} | {
        "flood_source_4",
        "flood_source_6",
    }
