# SPDX-License-Identifier: Apache-2.0
from typing import Any

import pytest
import yaml

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
        ({"csv": {"fieldNum": 0, "columnDelimiter": ";"}}, ("csv", "", "1", ";")),
        ({"csv": {"fieldName": "ip", "header": True}}, ("csv", "", "ip", ",")),
    ],
)
def test_formats(form: dict[str, Any], expected: tuple[str, ...]) -> None:
    spec = {"pull": {"http": {**PULL["http"], "format": form}}}
    (config,), errors = load_threat_feeds(document(spec), "x.yaml")
    assert errors == ()
    assert (config.format, config.path, config.column, config.delimiter) == expected


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
    assert "not valid YAML" in str(load_threat_feeds("a: [", "x.yaml")[1][0])
