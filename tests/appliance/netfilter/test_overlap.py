# SPDX-License-Identifier: Apache-2.0
"""Which foreign rules collide with our mark bits and queues."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.netfilter import overlap
from appliance.netfilter.marks import MarkLayout

MARKS = MarkLayout()
META, CT = {"meta": {"key": "mark"}}, {"ct": {"key": "mark"}}


def verdicts(*statements: Any, table: str = "filter") -> list[bool]:
    """fatal of each finding in one rule."""
    rule = {"family": "ip", "table": table, "chain": "c", "handle": 7, "expr": list(statements)}
    return [finding.fatal for finding in overlap.nft_findings([{"rule": rule}], MARKS, "inet portcullis")]


def match(left: Any, right: Any) -> dict[str, Any]:
    return {"match": {"op": "==", "left": left, "right": right}}


def mangle(key: Any, value: Any) -> dict[str, Any]:
    return {"mangle": {"key": key, "value": value}}


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        (match({"&": [META, 0xFF]}, 1), []),
        (match({"&": [META, 0x01000000]}, 0), [True]),
        (match({"&": [CT, 0xFFFF0000]}, 1), [True]),
        (match(META, 1), []),
        (match(META, 0x80000000), [True]),
        (match(CT, 1), [True]),  # never equal while our bits stand there
        (mangle(META, 1), []),
        (mangle(META, 0x10000000), [True]),
        (mangle(CT, 1), [True]),
        (mangle(META, {"|": [META, 0x1]}), []),
        (mangle(META, {"|": [META, 0x01000000]}), [True]),
        (mangle(META, {"|": [{"&": [META, 0xFFFFFF00]}, 0x1]}), []),
        (mangle(META, {"^": [{"&": [META, 0x00FFFFFF]}, 0x1]}), [True]),
        (mangle(META, CT), [False]),
        (mangle(CT, META), [False]),
        (mangle(META, {"&": [CT, 0xFFFF0000]}), [True]),
        (mangle(META, {"&": [CT, 0x0000FFFF]}), []),
        (mangle(CT, {"&": [META, 0x0000FFFF]}), [False]),
        (mangle(META, {"map": {"key": {"payload": {}}, "data": {"set": []}}}), [False]),
        ({"vmap": {"key": {"&": [CT, 0x0F000000]}, "data": "@x"}}, [True]),
        ({"accept": None}, []),
        (mangle({"meta": {"key": "priority"}}, 0xFF000000), []),
    ],
)
def test_nft_rules(statement: Any, expected: list[bool]) -> None:
    assert verdicts(statement) == expected


def test_our_table_and_rules_of_iptables_are_left_out() -> None:
    own = {"rule": {"family": "inet", "table": "portcullis", "chain": "c", "expr": [match(CT, 1)]}}
    assert overlap.nft_findings([own], MARKS, "inet portcullis") == []
    assert verdicts(match(CT, 1), {"xt": {"type": "target", "name": "NFQUEUE"}}) == []


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("-m mark --mark 0x1/0xff -j ACCEPT", []),
        ("-m mark ! --mark 0x1000000/0x1000000 -j ACCEPT", [True]),
        ("-m mark --mark 0x1 -j ACCEPT", []),
        ("-m connmark --mark 0x1 -j ACCEPT", [True]),
        ("-m connmark --mark 0x1/0xffff -j ACCEPT", []),
        ("-j MARK --set-xmark 0x4000/0x4000", []),  # kube-proxy
        ("-j MARK --set-xmark 0x0/0xffff0000", [True]),  # calico
        ("-j MARK --set-xmark 0x1/0xffffffff", []),
        ("-j MARK --set-xmark 0xff000000/0x0", [True]),
        ("-j MARK --or-mark 0x80000000", [True]),
        ("-j MARK --and-mark 0xffffff", [True]),
        ("-j CONNMARK --set-xmark 0x1/0xffffffff", [True]),
        ("-j CONNMARK --save-mark --nfmask 0xffffffff --ctmask 0xffffffff", [False]),
        ("-j CONNMARK --restore-mark", [False]),
        ("-j CONNMARK --restore-mark --nfmask 0xff0000 --ctmask 0xff0000", []),  # tailscale
        ("-j CONNMARK --save-mark --nfmask 0xffff0000 --ctmask 0xffff0000", [True]),
        ("-m mark --mark 0x80000000/0x83000000 -m comment --comment portcullis -j NFQUEUE --queue-num 0", []),
    ],
)
def test_xt_rules(rule: str, expected: list[bool]) -> None:
    findings = overlap.xt_findings([f"mangle -A FORWARD {rule}"], MARKS, "portcullis")
    assert [finding.fatal for finding in findings] == expected
    assert all(rule in str(finding) for finding in findings)


def test_queues_of_others() -> None:
    def rule(queue: Any) -> dict[str, Any]:
        return {"rule": {"family": "ip", "table": "t", "chain": "c", "handle": 1, "expr": [{"queue": queue}]}}

    found = overlap.nft_queues([rule({"num": 5}), rule(None), rule({"num": {"range": [2, 4]}})], "inet portcullis")
    assert [numbers for _, numbers in found] == [range(5, 6), range(1), range(2, 5)]
    lines = [
        "filter -A INPUT -j NFQUEUE --queue-num 3 --queue-bypass",
        "filter -A INPUT -j NFQUEUE --queue-balance 8:9",
        "security -A INPUT -m comment --comment portcullis -j NFQUEUE --queue-num 0",
    ]
    assert [numbers for _, numbers in overlap.xt_queues(lines, "portcullis")] == [range(3, 4), range(8, 10)]


def test_ip_rules_by_their_mask() -> None:
    rules = [(100, 1, 0xFFFFFFFF), (101, 0x40000, 0xFF0000), (102, 0x80000000, 0x80000000)]
    assert [str(finding).split(":")[0] for finding in overlap.ip_rule_findings(rules, MARKS)] == [
        "ip rule 100",
        "ip rule 102",
    ]


EXPRESSIONS = st.recursive(
    st.sampled_from([META, CT]) | st.integers(0, 0xFFFFFFFF) | st.text(max_size=3),
    lambda inner: (
        st.builds(lambda operator, left, right: {operator: [left, right]}, st.sampled_from("&|^"), inner, inner)
        | st.dictionaries(st.sampled_from(["meta", "map", "&", "set"]), inner, max_size=2)
    ),
    max_leaves=6,
)


@given(EXPRESSIONS, EXPRESSIONS)
def test_no_expression_breaks_the_scan(left: Any, right: Any) -> None:
    verdicts(match(left, right), mangle(META, right), mangle(left, META), {"vmap": {"key": left}}, {"counter": left})
