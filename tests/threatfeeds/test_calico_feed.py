# SPDX-License-Identifier: Apache-2.0
import json
from typing import Any

import pytest
import yaml

from threatfeeds import FeedError, read_feed, rejected_problem
from threatfeeds.calico import load_threat_feeds

PULL: dict[str, Any] = {"period": "1h", "http": {"url": "https://lists.example/bad.txt"}}


def document(spec: dict[str, Any], **metadata: Any) -> str:
    return yaml.safe_dump({
        "apiVersion": "projectcalico.org/v3", "kind": "GlobalThreatFeed",
        "metadata": {"name": "sample", **metadata}, "spec": spec,
    })  # fmt: skip


def test_defaults_are_calicos() -> None:
    (config,), errors = load_threat_feeds(document({"pull": {"http": PULL["http"]}}), "x.yaml")
    assert errors == ()
    assert (config.name, config.period, config.format, config.action) == ("sample", "24h", "plain", "alert")
    assert config.enabled


def test_labels_mode_and_annotations() -> None:
    spec = {"pull": PULL, "mode": "Disabled", "globalNetworkSet": {"labels": {"level": "high"}}}
    annotations = {"portcullis.dev/action": "drop", "portcullis.dev/kernel": "true"}
    (config,), _ = load_threat_feeds(document(spec, annotations=annotations), "x.yaml")
    assert (config.enabled, config.labels, config.action, config.kernel) == (False, {"level": "high"}, "drop", True)


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ({"newlineDelimited": {}}, ("plain", "", "", "")),
        ({"json": {"path": "$.data[*].ip"}}, ("json", "data[].ip", "", "")),
        ({"json": {"path": '{.data["x"][*]}'}}, ("json", "data.x[]", "", "")),
        ({"json": {"path": "$[*]"}}, ("json", "[]", "", "")),
        ({"json": {"path": "$[*].ip-address"}}, ("json", "[].ip-address", "", "")),
        ({"csv": {"fieldNum": 0, "columnDelimiter": ";"}}, ("csv", "", "1", ";")),
        ({"csv": {"fieldName": "ip", "header": True}}, ("csv", "", "ip", ",")),
    ],
)
def test_formats(form: dict[str, Any], expected: tuple[str, ...]) -> None:
    spec = {"pull": {"http": {**PULL["http"], "format": form}}}
    (config,), errors = load_threat_feeds(document(spec), "x.yaml")
    assert errors == ()
    assert (config.format, config.path, config.column, config.delimiter) == expected


MIXED = ("192.0.2.1", "bad.example", "192.0.2.0/24", "http://a.example/x", "worse.example", "192.0.2.4-192.0.2.9")
FORMS: dict[str, dict[str, Any]] = {
    "plain": {}, "json": {"json": {"path": "$[*]"}}, "csv": {"csv": {"fieldNum": 0}},
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("content", [None, "IPSet", "DomainNameSet"])
def test_entries_of_the_other_kind_are_rejected(content: str | None, form: str) -> None:
    spec: dict[str, Any] = {"pull": {"http": {**PULL["http"], "format": FORMS[form]}}}
    spec |= {"content": content} if content else {}
    (config,), errors = load_threat_feeds(document(spec), "x.yaml")
    assert errors == ()
    found = read_feed(config, (json.dumps(MIXED) if form == "json" else "\n".join(MIXED)).encode())
    said = {(line.line if form != "json" else 0, line.text.strip('"'), line.why) for line in found.rejected}
    at = {text: number if form != "json" else 0 for number, text in enumerate(MIXED, 1)}
    if content == "DomainNameSet":
        assert [domain.name for domain in found.domains] == ["bad.example", "worse.example"]
        assert (len(found), found.urls) == (2, ())
        kinds = {MIXED[0]: "ipv4", MIXED[2]: "ipv4_prefix", MIXED[3]: "url", MIXED[5]: "range"}
        assert said == {(at[text], text, f"{kind} in a feed of names") for text, kind in kinds.items()}
    else:
        assert (len(found), found.domains, found.urls) == (3, (), ())
        kinds = {MIXED[1]: "domain", MIXED[3]: "url", MIXED[4]: "domain"}
        assert said == {(at[text], text, f"{kind} in a feed of addresses") for text, kind in kinds.items()}
    assert rejected_problem(config, found) is None  # the list is one, only not all of it is asked for


def test_a_list_of_names_only_is_no_ip_set() -> None:
    (config,), _ = load_threat_feeds(document({"pull": PULL}), "x.yaml")
    with pytest.raises(FeedError, match=r"0 entries .* the first: domain in a feed of addresses"):
        read_feed(config, b"bad.example\nworse.example\n")


@pytest.mark.parametrize(
    "path", ["$", "$..ip", "$.a[0]", "$.a[0:5]", "$.a[?(@.x)]", "$.a[*].b.*", "", 5, "$.a[", "a" * 50_000 + "!"]
)
def test_paths_that_are_not_followed(path: object) -> None:
    spec = {"pull": {"http": {**PULL["http"], "format": {"json": {"path": path}}}}}
    configs, (error,) = load_threat_feeds(document(spec), "x.yaml")
    assert (configs, error.field) == ((), "spec.pull.http.format.json.path")


def test_secret_becomes_a_credential() -> None:
    reference = {"secretKeyRef": {"name": "globalthreatfeed-sample-x", "key": "apikey"}}
    headers = [{"name": "X-Api-Key", "valueFrom": reference}]
    (config,), _ = load_threat_feeds(document({"pull": {"http": {**PULL["http"], "headers": headers}}}), "x.yaml")
    assert (config.auth_header, config.secret_credential) == ("X-Api-Key", "globalthreatfeed-sample-x.apikey")


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({}, "spec.pull"),
        ({"pull": {"period": "1m", "http": PULL["http"]}}, "spec.pull.period"),
        ({"pull": {"http": {"url": "http://lists.example/"}}}, "spec.pull.http.url"),
        ({"pull": {"http": {"url": "ftp://lists.example/"}}}, "spec.pull.http.url"),
        ({"pull": PULL, "content": "IPset"}, "spec.content"),
        ({"pull": PULL, "mode": "On"}, "spec.mode"),
        ({"pull": PULL, "labels": {}}, "spec.labels"),
        ({"pull": PULL, "content": "DomainNameSet", "globalNetworkSet": {}}, "spec.globalNetworkSet"),
        ({"pull": {"http": {**PULL["http"], "format": {"json": {"path": "$"}, "csv": {}}}}}, "spec.pull.http.format"),
        ({"pull": {"http": {**PULL["http"], "format": {"csv": {}}}}}, "spec.pull.http.format.csv"),
        (
            {"pull": {"http": {**PULL["http"], "format": {"csv": {"fieldName": "ip"}}}}},
            "spec.pull.http.format.csv.fieldName",
        ),
    ],
)
def test_errors_name_the_field(spec: dict[str, Any], field: str) -> None:
    configs, (error,) = load_threat_feeds(document(spec), "x.yaml")
    assert configs == ()
    assert (error.file, error.field) == ("x.yaml", field)


def test_one_wrong_document_does_not_hide_the_others() -> None:
    text = document({}) + "---\n" + document({"pull": PULL}, name="good")
    configs, errors = load_threat_feeds(text, "x.yaml")
    assert ([config.name for config in configs], len(errors)) == (["good"], 1)
    assert "invalid YAML" in str(load_threat_feeds("a: [", "x.yaml")[1][0])


RESOURCE = """apiVersion: projectcalico.org/v3
kind: GlobalThreatFeed
metadata:
  name: sample
spec:
  content: IPSet
  pull:
    period: 1h
    http:
      url: https://lists.example/bad.csv
      headers:
        - name: Accept
          value: text/csv
        - name: X-Key
          valueFrom:
            configMapKeyRef: {name: feeds, key: key}
      format:
        csv: {fieldNum: 0, commentDelimiter: ";", recordSize: 3}
"""


def test_headers_and_columns() -> None:
    (config,), errors = load_threat_feeds(RESOURCE, "x.yaml")
    assert errors == ()
    assert (config.headers, config.auth_header, config.secret_credential) == (
        {"Accept": "text/csv"}, "X-Key", "feeds.key",
    )  # fmt: skip
    assert (config.column, config.delimiter, config.comment) == ("1", ",", ";")


@pytest.mark.parametrize(
    ("old", "new", "line", "field", "says"),
    [
        ("IPSet", "IPset", 6, "spec.content", "IPSet, DomainNameSet"),
        ("content: IPSet", "feedType: Mine", 6, "spec.feedType", "Builtin, Custom"),
        ("content: IPSet", "description: 5", 6, "spec.description", "expected text"),
        ("content: IPSet", "globalNetworkSet: {labels: {a: 1}}", 6, "spec.globalNetworkSet.labels.a", "got 1"),
        ("period", "perod", 8, "spec.pull.perod", "did you mean 'period'"),
        ("1h", "90x", 8, "spec.pull.period", '"5m"'),
        ("https", "http", 10, "spec.pull.http.url", 'portcullis.dev/insecure: "true"'),
        ("value: text/csv", "valu: text/csv", 13, "spec.pull.http.headers[0].valu", "did you mean 'value'"),
        ("value: text/csv", "valueFrom: {}", 13, "spec.pull.http.headers[0].valueFrom", "secretKeyRef"),
        ("value: text/csv", "value: 7", 13, "spec.pull.http.headers[0].value", "expected text"),
        ("name: Accept", "name: 'A B'", 11, "spec.pull.http.headers", "printable"),
        (", key: key", "", 16, "spec.pull.http.headers[1].valueFrom.configMapKeyRef.key", "required"),
        ('";"', '"--"', 18, "spec.pull.http.format.csv.commentDelimiter", "one character"),
        ("recordSize: 3", "recordSize: 0", 18, "spec.pull.http.format.csv.recordSize", "from 1"),
        ("fieldNum: 0", "fieldNum: true", 18, "spec.pull.http.format.csv.fieldNum", "from 0"),
        ("  pull:", "  push:", 7, "spec.push", "unknown field"),
        ("name: sample", "labels: {}", 3, "metadata.name", "required"),
        ("kind: GlobalThreatFeed", "kind: ThreatFeed", 2, "kind", "GlobalThreatFeed"),
    ],
)
def test_errors_name_the_line(old: str, new: str, line: int, field: str, says: str) -> None:
    assert old in RESOURCE
    configs, (error,) = load_threat_feeds(RESOURCE.replace(old, new, 1), "x.yaml")
    assert (configs, error.file, error.line, error.field) == ((), "x.yaml", line, field)
    assert says in error.message


def test_a_list_of_resources_is_what_kubectl_writes() -> None:
    item = RESOURCE.replace("\n", "\n    ").rstrip()
    text = f"apiVersion: v1\nkind: List\nitems:\n  - {item}\n  - {item.replace('IPSet', 'x').replace('sample', 'y')}\n"
    configs, (error,) = load_threat_feeds(text, "x.yaml")
    assert ([config.name for config in configs], error.line) == (["sample"], 27)


@pytest.mark.parametrize("text", ["[" * 200_000, "&a [*a]", "? [a]\n: b", "a: 1\na: 2"])
def test_yaml_that_is_meant_to_hurt_is_an_error(text: str) -> None:
    configs, errors = load_threat_feeds(text, "x.yaml")
    assert configs == () and len(errors) == 1


def test_a_mistyped_field_is_told_what_it_may_be() -> None:
    _, (close, far) = load_threat_feeds(document({"pul": PULL}) + "---\n" + document({"xyz": 1}), "x.yaml")
    assert close.message == "unknown field; did you mean 'pull'?"
    assert far.message.startswith("unknown field; known are content, ")


HTTP = PULL["http"]
CSV = {"fieldNum": 0}


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"pull": PULL, "description": 0}, "spec.description"),
        ({"pull": PULL, "globalNetworkSet": ""}, "spec.globalNetworkSet"),
        ({"pull": PULL, "globalNetworkSet": {"labels": []}}, "spec.globalNetworkSet.labels"),
        ({"pull": {"http": {**HTTP, "format": []}}}, "spec.pull.http.format"),
        ({"pull": {"http": {**HTTP, "format": {"newlineDelimited": 5}}}}, "spec.pull.http.format.newlineDelimited"),
        ({"pull": {"http": {**HTTP, "format": {"newlineDelimited": {"a": 1}}}}},
         "spec.pull.http.format.newlineDelimited.a"),
        ({"pull": {"http": {**HTTP, "format": {"json": None}}}}, "spec.pull.http.format.json"),
        ({"pull": {"http": {**HTTP, "format": {"csv": {**CSV, "columnDelimiter": 0}}}}},
         "spec.pull.http.format.csv.columnDelimiter"),
        ({"pull": {"http": {**HTTP, "format": {"csv": {**CSV, "commentDelimiter": False}}}}},
         "spec.pull.http.format.csv.commentDelimiter"),
        ({"pull": {"http": {**HTTP, "headers": ""}}}, "spec.pull.http.headers"),
        ({"pull": {"http": {**HTTP, "headers": [
            {"name": "A", "valueFrom": {"secretKeyRef": {"name": "a", "key": "b", "optional": "no"}}}]}}},
         "spec.pull.http.headers[0].valueFrom.secretKeyRef.optional"),
    ],
)  # fmt: skip
def test_what_is_of_the_wrong_type_is_not_nothing(spec: dict[str, Any], field: str) -> None:
    (), (error,) = load_threat_feeds(document(spec), "x.yaml")
    assert error.field == field


def test_what_is_null_is_not_there() -> None:
    csv = {"fieldNum": 0.0, "fieldName": None, "header": None, "recordSize": 2.0, "disableRecordSizeValidation": None}
    http = {**HTTP, "format": {"csv": csv}, "headers": None}
    nulls = {"content": None, "mode": None, "feedType": None, "description": None, "globalNetworkSet": None}
    (config,), errors = load_threat_feeds(document({**nulls, "pull": {"period": None, "http": http}}), "x.yaml")
    assert errors == ()
    assert (config.content, config.enabled, config.period, config.column) == ("addresses", True, "24h", "1")
    plain = {"pull": {"http": {**HTTP, "format": {"newlineDelimited": None}}}}
    assert load_threat_feeds(document(plain, annotations=None), "x.yaml")[0][0].format == "plain"
    assert load_threat_feeds(document(plain, annotations=[]), "x.yaml")[1][0].field == "metadata.annotations"
