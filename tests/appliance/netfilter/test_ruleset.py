# SPDX-License-Identifier: Apache-2.0
"""The text of the ruleset, both backends."""

import re
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.netfilter import elements, ruleset
from appliance.netfilter.ruleset import NetfilterSettings

DEFAULT = NetfilterSettings()


def rules_of(script: str, chain: str) -> list[str]:
    prefix = f"add rule inet portcullis {chain} "
    return [line.removeprefix(prefix) for line in script.splitlines() if line.startswith(prefix)]


def test_nft_backend_queues_by_the_to_queue_bit() -> None:
    script = ruleset.install_script(DEFAULT, "nft", 1)
    assert rules_of(script, "queue_forward") == [
        "meta mark & 0x83000000 == 0x80000000 queue num 0-1",
        "meta mark & 0xa3000000 == 0x20000000 queue num 32 bypass",
    ]
    assert "queue_forward { type filter hook forward priority 150; policy accept; }" in script


def test_nft_backend_with_one_queue_and_bypass() -> None:
    settings = NetfilterSettings(queue_first=7, queue_count=1, look_queue=None, bypass=True)
    assert rules_of(ruleset.install_script(settings, "nft", 1), "queue_input") == [
        "meta mark & 0x83000000 == 0x80000000 queue num 7 bypass"
    ]


def test_nft_backend_spreads_by_the_whole_tuple_where_it_can() -> None:
    settings = NetfilterSettings(queue_first=7, queue_count=4, by_tuple=True, bypass=True)
    assert rules_of(ruleset.install_script(settings, "nft", 1), "queue_forward")[0] == (
        "meta mark & 0x83000000 == 0x80000000 queue flags bypass to symhash mod 4 offset 7"
    )
    one = NetfilterSettings(queue_count=1, by_tuple=True)
    assert rules_of(ruleset.install_script(one, "nft", 1), "queue_forward")[0].endswith("queue num 0")


def test_xt_backend_has_its_rules_in_security_and_no_queue_chain() -> None:
    assert "queue_forward" not in ruleset.install_script(DEFAULT, "xt", 1)
    rules = ruleset.xt_rules(DEFAULT)
    assert rules[0] == (
        "FORWARD -m mark --mark 0x80000000/0x83000000 -m comment --comment portcullis -j NFQUEUE --queue-balance 0:1"
    )
    assert len(rules) == 5  # forward shows nothing to the look queue
    assert all(rule.endswith("--queue-num 32 --queue-bypass") for rule in rules if "0xa3000000" in rule)


@pytest.mark.parametrize("backend", ["nft", "xt"])
def test_three_consecutive_priorities(backend: ruleset.Backend) -> None:
    chains = ruleset.base_chains(NetfilterSettings(priority=120), backend)
    assert chains["classify_input"] == ("input", 119)
    assert chains["obey_input"] == ("input", 121)
    assert chains.get("queue_input") == (("input", 120) if backend == "nft" else None)


def test_install_never_deletes_a_hook() -> None:
    script = ruleset.install_script(DEFAULT, "xt", 1, [("base", "queue_forward"), ("chain", "old"), ("counter", "c")])
    deletions = [line for line in script.splitlines() if "delete" in line]
    assert deletions == ["delete chain inet portcullis old", "delete counter inet portcullis c"]
    assert "\nflush table inet portcullis\n" in script


def test_a_change_of_generation_replaces_all_fates_and_nothing_else() -> None:
    assert elements.text(ruleset.TABLE, ruleset.generation_change(DEFAULT.marks, 31)) == [
        "flush map inet portcullis fates",
        "flush set inet portcullis allowed",
        "add element inet portcullis fates { 0x7d000000 : jump fate_allow }",
        "add element inet portcullis fates { 0x7e000000 : jump fate_drop }",
        "add element inet portcullis fates { 0x7f000000 : jump fate_reject }",
        "add element inet portcullis allowed { 0x7d000000 }",
    ]


def test_a_fate_looks_for_rechecked_addresses_only_while_there_are_some() -> None:
    idle = ruleset.install_script(DEFAULT, "xt", 1)
    busy = ruleset.install_script(DEFAULT, "xt", 1, rechecking=[IPv4Address("10.0.0.1"), IPv6Address("fd00::1")])
    for script in (idle, busy):
        assert rules_of(script, "fate_drop") == ["counter name fate_dropped drop"]
        assert rules_of(script, "anew_drop") == [
            "jump recheck",
            "ct mark & 0x7c000000 == 0x00000000 return",
            "goto fate_drop",
        ]
    assert "fates { 0x06000000 : jump fate_drop }" in idle
    assert "fates { 0x06000000 : jump anew_drop }" in busy
    assert "add element inet portcullis recheck_4 { 10.0.0.1 }" in busy
    assert "add element inet portcullis recheck_6 { fd00::1 }" in busy
    forget = elements.Flush("set", "rechecked")
    assert forget in ruleset.recheck_change(DEFAULT.marks, 1, [])
    assert forget not in ruleset.recheck_change(DEFAULT.marks, 1, [], again=False)


def test_failsafe_dns_goes_to_the_look_queue_only_where_there_is_one() -> None:
    with_queue = ruleset.install_script(DEFAULT, "xt", 1)
    without = ruleset.install_script(NetfilterSettings(look_queue=None), "xt", 1)
    assert "look_out { udp . 53 }" in with_queue
    assert "udp . 53" not in re.findall(r"failsafe_out \{ (.*) \}", with_queue)[-1]
    assert "udp . 53" in re.findall(r"failsafe_out \{ (.*) \}", without)[-1]


def test_failsafes_are_not_asked_in_forward() -> None:
    script = ruleset.install_script(DEFAULT, "xt", 1)
    assert "failsafe" not in " ".join(rules_of(script, "classify_forward"))
    assert "failsafe" in " ".join(rules_of(script, "classify_input"))


def test_the_fate_is_saved_after_the_generation_and_its_high_bit_first() -> None:
    """So that another CPU never reads an allow that was not meant."""
    saved = rules_of(ruleset.install_script(DEFAULT, "xt", 1), "save")
    assert saved[0] == "ct mark set ct mark & 0x00ffffff"
    assert [rule.split()[-1] for rule in saved[-2:]] == ["0x02000000", "0x01000000"]


@settings(deadline=None)
@given(st.integers(0, 24), st.integers(1, 31), st.sampled_from(["nft", "xt"]))
def test_no_constant_leaves_the_mask(shift: int, generation: int, backend: ruleset.Backend) -> None:
    settings = NetfilterSettings(mark_mask=0xFF << shift)
    script = ruleset.install_script(settings, backend, generation) + "\n".join(ruleset.xt_rules(settings))
    others = settings.marks.others
    for word in re.findall(r"0x[0-9a-f]+", script):
        assert int(word, 16) & others in (0, others)  # a value of ours, or a mask that keeps what is not


def test_counters_can_be_left_out() -> None:
    assert "counter" not in ruleset.install_script(NetfilterSettings(count=False), "nft", 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hooks": ("prerouting",)}, "prerouting"),
        ({"hooks": ()}, "expected some of"),
        ({"mark_mask": 0xFFF}, "eight adjacent"),
        ({"queue_count": 0}, "queues"),
        ({"queue_first": 65534, "queue_count": 2}, "queues"),
        ({"look_queue": 1}, "look_queue"),
        ({"failsafe_in": (("icmp", 1),)}, "icmp/1"),
        ({"failsafe_out": (("tcp", 0),)}, "tcp/0"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NetfilterSettings(**changes)  # type: ignore[arg-type]


def test_the_reset_that_a_servers_packet_became_goes_on_and_its_flow_is_rejected() -> None:
    """The mark's own bit is no part of what is saved."""
    script = ruleset.install_script(DEFAULT, "xt", 1)
    rules = rules_of(script, "obey_forward")
    saved = next(i for i, rule in enumerate(rules) if "jump save" in rule)
    reset = next(i for i, rule in enumerate(rules) if rule.startswith("meta mark & 0x83000000 == 0x83000000"))
    refused = next(i for i, rule in enumerate(rules) if rule.endswith("goto refuse"))
    assert saved < reset < refused and rules[reset].endswith("accept")
    assert not any("0x80000000" in rule for rule in rules_of(script, "save"))
