# SPDX-License-Identifier: Apache-2.0
"""YAML with lines, limits, and one bad document beside good ones."""

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rules.policy import load_documents, merge
from rules.policy.documents import MAX_BYTES, read_documents

GOOD = """\
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata:
  name: good
spec:
  selector: all()
"""


def values(text: str) -> list[Any]:
    documents, errors = read_documents(text, "f")
    assert [str(error) for error in errors] == []
    return [document.value for document in documents]


def only_error(text: str) -> str:
    documents, errors = read_documents(text, "f.yaml")
    assert documents == []
    assert len(errors) == 1
    return str(errors[0])


def test_scalars_are_what_kubernetes_makes_of_them() -> None:
    assert values("a: 10:20\nb: on\nc: 010\nd: '1'\ne: 1e3") == [{"a": "10:20", "b": True, "c": 8, "d": "1", "e": 1e3}]
    assert values("a: ~\nb: 2001-01-01\nc: 0x10\nd: +5\ne: .5") == [
        {"a": None, "b": "2001-01-01", "c": 16, "d": 5, "e": 0.5}
    ]


@pytest.mark.parametrize("text", ["0x_", "-0o__", "+0b_", "0x", "0b2", "._", "1e", "+", "0_x"])
def test_what_begins_as_a_number_and_is_none_is_a_string(text: str) -> None:
    assert values(f"a: {text}") == [{"a": text}]


def test_underscores_in_numbers() -> None:
    assert values("a: 0x_f_\nb: 0_17\nc: 0b_1\nd: 1_0\ne: 0_") == [{"a": 15, "b": 15, "c": 1, "d": 10, "e": 0}]


@given(st.text("0123456789xob_.eE+-af", max_size=8))
def test_any_scalar_is_read(text: str) -> None:
    read_documents(f"a: {text}", "f")


def test_merge_keys_give_way_to_own_keys() -> None:
    assert values("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}")[0]["b"] == {"x": 1, "y": 3}


def test_a_broken_document_hides_no_other() -> None:
    result = load_documents(f"{GOOD}---\na: [\n---\n# only a comment\n---\n{GOOD.replace('good', 'two')}", "f.yaml")
    assert [resource.name for resource in result.resources] == ["good", "two"]
    assert [resource.line for resource in result.resources] == [1, 12]
    assert [str(error).split(": ")[0] for error in result.errors] == ["f.yaml:8"]


def test_an_error_names_file_line_field_and_a_suggestion() -> None:
    text = GOOD + "  order: 1\n  ingress:\n  - action: Allow\n    protocl: TCP\n"
    (error,) = load_documents(text, "dir/f.yaml").errors
    assert str(error) == ("dir/f.yaml:10: spec.ingress[0].protocl: unknown field 'protocl'; did you mean 'protocol'?")


def test_an_error_stays_on_its_line_whatever_a_field_is_called() -> None:
    (error,) = load_documents(GOOD + '  "a\\nb\\e[2J": 1\n', "f").errors
    assert str(error) == r"f:7: spec.a\nb\x1b[2J: unknown field 'a\nb\x1b[2J'"


def test_every_error_of_a_document_is_reported() -> None:
    text = GOOD.replace("selector: all()", "selector: 'a =='\n  order: high\n  types: [Ingres]")
    fields = {error.field for error in load_documents(text, "f").errors}
    assert fields == {"spec.types[0]", "spec.order", "spec.selector"}


@pytest.mark.parametrize("text", ["[" * 100_000, "{a: " * 100_000, "- " * 100_000, "a: " + "[" * 65 + "]" * 65])
def test_depth_is_limited(text: str) -> None:
    assert "nested more than 64 deep" in only_error(text)


def test_alias_bombs_are_refused() -> None:
    bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(12)
    )
    assert "aliases stand for more than" in only_error(bomb)


def test_an_alias_inside_its_own_anchor_is_refused() -> None:
    assert "has no anchor" in only_error("a: &a [*a]")


def test_large_files_are_refused_with_the_limit() -> None:
    assert only_error("#" * (MAX_BYTES + 1)) == "f.yaml:1: file is larger than 16 MiB"
    assert only_error("ä" * (MAX_BYTES // 2 + 1)) == "f.yaml:1: file is larger than 16 MiB"


@pytest.mark.parametrize(
    ("text", "why"),
    [("a: 1\na: 2", "stands twice"), ("? [a]\n: b", "a key must be a string"),
     ("a: !!python/object:os.system {}", "not supported"),
     ("a: !!binary aGk=", "is not supported"), ("a: \x00", "control characters"), ("a: b: c", "invalid YAML")],
)  # fmt: skip
def test_what_is_no_plain_yaml_is_one_error(text: str, why: str) -> None:
    assert why in only_error(text)


def test_lists_as_kubectl_prints_them_are_unpacked() -> None:
    document = {"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}} for name in ("a", "b")]}  # fmt: skip
    assert [resource.name for resource in load_documents(json.dumps(document), "f").resources] == ["a", "b"]


def test_an_array_of_resources_is_unpacked_with_the_lines_of_its_items() -> None:
    text = '[\n{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}},\n5,\n'
    text += '{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "b"}}]'
    result = load_documents(text, "f")
    assert [(resource.name, resource.line) for resource in result.resources] == [("a", 2), ("b", 4)]
    assert [str(error) for error in result.errors] == ["f:3: expected a resource, found 5"]


def test_items_of_a_list_of_one_kind_need_not_say_it() -> None:
    text = "apiVersion: projectcalico.org/v3\nkind: TierList\nitems:\n- metadata: {name: a}\n- metadata: {name: B}\n"
    result = load_documents(text, "f")
    assert [(resource.kind, resource.name) for resource in result.resources] == [("Tier", "a")]
    assert [(error.line, error.kind) for error in result.errors] == [(5, "Tier")]


def test_what_follows_a_document_without_a_separator_is_not_lost() -> None:
    tier = '{"apiVersion": "projectcalico.org/v3", "kind": "Tier", "metadata": {"name": "%s"}}\n'
    for between in ("", "...\n"):
        result = load_documents(tier % "a" + between + tier % "b" + "---\n" + tier % "c", "f")
        assert [resource.name for resource in result.resources] == ["a", "c"]
        assert [error.line for error in result.errors] == [3 if between else 2]


def test_json_writes_characters_beyond_16_bits_as_two() -> None:
    metadata = {"name": "a", "annotations": {"x": "\U0001f600\\"}}
    document = {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}
    (resource,) = load_documents(json.dumps(document), "f").resources
    assert resource.metadata.annotations == {"x": "\U0001f600\\"}
    (error,) = load_documents('{"a": "\\ud83d"}', "f").errors
    assert "invalid" in str(error)


@pytest.mark.parametrize(
    ("change", "message"),
    [(("kind: GlobalNetworkPolicy", "kind: GlobalNetworkPolcy"), "did you mean 'GlobalNetworkPolicy'"),
     (("projectcalico.org/v3", "projectcalico.org/v1"), "expected projectcalico.org/v3"),
     (("metadata:\n  name: good", "metadata: {}"), "metadata.name: Required value"),
     (("kind: GlobalNetworkPolicy\n", ""), "kind: Required value")],
)  # fmt: skip
def test_unknown_kinds_and_versions(change: tuple[str, str], message: str) -> None:
    (error,) = load_documents(GOOD.replace(*change), "f").errors
    assert message in str(error)


def test_the_second_of_two_resources_with_one_name_is_an_error() -> None:
    resources, errors = merge([load_documents(GOOD, "a.yaml"), load_documents(GOOD, "b.yaml")])
    assert [resource.file for resource in resources] == ["a.yaml"]
    assert "already defined in a.yaml:1" in str(errors[0])


@given(st.text(max_size=200))
def test_any_text_loads_or_is_an_error(text: str) -> None:
    result = load_documents(text, "f")
    assert all(error.line for error in result.errors)


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 99999) | st.text(max_size=8) | st.sampled_from(
        ("Allow", "TCP", "10.0.0.0/8", "all()", "GlobalNetworkPolicy", "Ingress")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(("action", "source", "nets", "ports", "selector", "protocol", "icmp", "types", "name", "x")),
        inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(
    st.sampled_from(("GlobalNetworkPolicy", "Tier", "GlobalNetworkSet", "HostEndpoint", "WorkloadEndpoint", "Profile",
                     "NetworkPolicy", "StagedNetworkPolicy")),
    st.dictionaries(st.sampled_from(("ingress", "egress", "nets", "node", "ports", "order", "types", "selector",
                                     "expectedIPs", "ipNetworks", "ipNATs", "profiles")), plain, max_size=4),
)  # fmt: skip
def test_any_values_in_a_resource_load_or_are_errors(kind: str, spec: dict[str, Any]) -> None:
    document = {"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": {"name": "x"}, "spec": spec}
    result = load_documents(json.dumps(document), "f")
    assert len(result.resources) == (0 if result.errors else 1)


def test_the_second_mark_of_a_file_put_together_from_two_is_left_out() -> None:
    result = load_documents(f"{GOOD}---\r\n\ufeff{GOOD.replace('good', 'two')}", "f")
    assert result.errors == ()
    assert [(resource.name, resource.line) for resource in result.resources] == [("good", 1), ("two", 8)]


def test_a_list_of_mappings_is_merged_the_first_before_the_others() -> None:
    merged = values("a: &a {x: 1, y: 2}\nb: &b {y: 3, z: 4}\nc: {<<: [*a, *b], x: 0}")[0]["c"]
    assert merged == {"x": 0, "y": 2, "z": 4}
    assert values("c: {<<: 5}") == [{"c": {"<<": 5}}]


def test_lists_in_lists_are_unpacked_as_deep_as_aliases_make_them() -> None:
    inner = {"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}}, 5, None]}  # fmt: skip
    result = load_documents(json.dumps({"apiVersion": "v1", "kind": "List", "items": [inner, {}]}), "f")
    assert [resource.name for resource in result.resources] == ["a"]
    assert [error.message for error in result.errors] == [
        "expected a resource, found 5", "expected a resource, found nothing", "Required value"]  # fmt: skip
    deep = "- &a0 [x]\n" + "".join(f"- &a{i} {'[' * 60}*a{i - 1}{']' * 60}\n" for i in range(1, 40))
    assert len(load_documents(deep, "f").errors) == 40


def test_a_list_of_nothing_is_nothing() -> None:
    for items in ("null", "[]"):
        assert load_documents(f"apiVersion: v1\nkind: List\nitems: {items}\n", "f").reports == ()


@pytest.mark.parametrize("items", ["", "items: 7\n", "items: {a: b}\n"])
def test_a_list_without_items_says_what_it_lacks(items: str) -> None:
    (error,) = load_documents(f"apiVersion: v1\nkind: List\n{items}", "f").errors
    assert (error.at_field, "expected a list" in error.message) == ("items", True)


def test_aliases_of_all_documents_together_are_limited() -> None:
    document = "a: &a [" + "x," * 999 + "x]\nb: [" + "*a," * 90 + "*a]\n---\n"
    _, errors = read_documents(document * 12 + "c: d\n", "f")
    assert [error.message for error in errors] == ["aliases stand for more than 1,000,000 values in this file"] * 2


def test_wrong_documents_are_told_up_to_ten_thousand_and_hide_none() -> None:
    result = load_documents("- x\n" * 10_500 + "- {apiVersion: v1, kind: Namespace, metadata: {name: a}}\n", "f")
    assert [resource.name for resource in result.resources] == ["a"]
    assert len(result.errors) == 10_001
    assert result.errors[-1].message == "500 more documents of this file are wrong"


def test_a_control_character_is_told_in_its_line() -> None:
    assert only_error("a: b\n# ä\n#\x0c\nc: d").startswith("f.yaml:3: invalid YAML")


@pytest.mark.parametrize("byte", ["\udce9", "\ud800"])
def test_a_document_that_is_not_utf8_hides_no_other(byte: str) -> None:
    result = load_documents(f"{GOOD}---\n# a\n# {byte}\n{GOOD}---\n{GOOD.replace('good', 'two')}", "f")
    assert [(resource.name, resource.line) for resource in result.resources] == [("good", 1), ("two", 17)]
    assert [str(error) for error in result.errors] == ["f:9: not UTF-8"]


@pytest.mark.parametrize("sign", ["\x85", "\u2028", "\u2029"])
def test_only_what_editors_take_for_a_line_counts_as_one(sign: str) -> None:
    wrong = GOOD.replace("all()", "a =")
    for comment in (f"# {sign}{sign}\r\n", f"# ä{sign}\n"):
        (error,) = load_documents(comment + wrong, "f").errors
        assert error.line == 7
        (error,) = load_documents(f"{GOOD}---\n{comment}a: [\n", "f").errors
        assert error.line == 9
        assert only_error(f"{comment}#\x0c\na: b").startswith("f.yaml:2: invalid YAML")


@pytest.mark.parametrize("wrong", ["a: !%s {}", "a: *%s", "%s: 1\n%s: 2", "- {kind: %s}", "kind: !!%s x"])
def test_what_stands_in_a_message_is_short(wrong: str) -> None:
    for error in load_documents(wrong.replace("%s", "x" * 5000), "f").errors:
        assert len(error.message) < 200


@pytest.mark.parametrize("net", ["1" * 5000, "10.0.0.0/" + "1" * 5000])
def test_a_net_stands_in_a_message_as_far_as_it_is_short(net: str) -> None:
    named = {"apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkSet", "metadata": {"name": "x"}}
    (error,) = load_documents(json.dumps({**named, "spec": {"nets": [net]}}), "f").errors
    assert len(error.message) < 200


def test_what_is_not_set_apart_is_told_in_plain_words() -> None:
    assert "not set apart by a line ---" in str(load_documents('{"a": 1}\n{"b": 2}\n', "f").errors[-1])


@pytest.mark.parametrize(
    "spec",
    [
        "egress:\n" + "".join(f"  - {{action: Allow, u{i}: 1}}\n" for i in range(1000)),
        "".join(f"u{i}: 1\n  " for i in range(100_000)),
        "ingress: [{action: Allow, source: {serviceAccounts: {names: ["
        + ",".join(f"n{i}" for i in range(100_000))
        + "]}}}]",
        "selector: '" + "a == \"b\" || " * 100_000 + "'",
        "? " + "x" * 1_000_000 + "\n  : 1",
    ],
)
def test_large_documents_cost_no_more_than_their_length(spec: str) -> None:
    began = time.monotonic()
    load_documents(GOOD.replace("Global", "").replace("selector: all()", spec), "f")
    assert time.monotonic() - began < 20  # of a second or less; with each compared to all the others: minutes
