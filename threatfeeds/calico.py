# SPDX-License-Identifier: Apache-2.0
"""Calico's GlobalThreatFeed (projectcalico.org/v3, docs.tigera.io: reference/resources/globalthreatfeed) → FeedConfig.

What Calico does not know is said by annotations: portcullis.dev/action, /direction, /kernel, /insecure.
Secrets and config maps become credentials of portcullis-feeds.service named NAME.KEY.
"""

import re
from typing import Any

import msgspec
import yaml

from threatfeeds.config import FeedConfig, FeedError, feed_problem, parse_duration

KIND = "GlobalThreatFeed"
SHORTEST_PERIOD = 300.0  # seconds
LABEL = "threatfeed."  # Calico names the synchronised network set threatfeed.NAME
_GO_DURATION = re.compile(r"(?:\d+(?:\.\d+)?[smh])+\Z")
_ROOT = re.compile(r"^\{?\$?\.?|\}$")
_KNOWN = {
    "": {"apiVersion", "kind", "metadata", "spec", "status"},
    "spec": {"content", "mode", "description", "feedType", "globalNetworkSet", "pull"},
    "spec.globalNetworkSet": {"labels"},
    "spec.pull": {"period", "http"},
    "spec.pull.http": {"url", "format", "headers"},
    "spec.pull.http.format": {"newlineDelimited", "json", "csv"},
    "spec.pull.http.format.json": {"path"},
    "spec.pull.http.format.csv": {
        *("fieldNum", "fieldName", "header", "columnDelimiter", "commentDelimiter", "recordSize"),
        "disableRecordSizeValidation",
    },
}


def load_threat_feeds(text: str, file: str) -> tuple[tuple[FeedConfig, ...], tuple[FeedError, ...]]:
    """Every document of a YAML file; one that is wrong does not hide the others."""
    found: list[FeedConfig] = []
    errors: list[FeedError] = []
    try:
        for node in yaml.compose_all(text, Loader=yaml.CSafeLoader):
            line = node.start_mark.line + 1
            document = yaml.CSafeLoader("").construct_document(node)
            try:
                found.append(_Reader(file, line).read(document))
            except FeedError as error:
                errors.append(error)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        errors.append(FeedError(f"not valid YAML: {error.problem}", file=file, line=line))
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        errors.append(FeedError(f"not valid YAML: {error}", file=file))
    return tuple(found), tuple(errors)


class _Reader:
    def __init__(self, file: str, line: int) -> None:
        self._file = file
        self._line = line

    def read(self, document: Any) -> FeedConfig:
        top = self._table(document, "")
        if top.get("kind") != KIND or top.get("apiVersion") != "projectcalico.org/v3":
            raise self._error("kind", f"expected {KIND} of projectcalico.org/v3")
        given = top.get("metadata")
        metadata: dict[str, Any] = given if isinstance(given, dict) else {}
        name = metadata.get("name")
        if not isinstance(name, str):
            raise self._error("metadata.name", "this field is required")
        spec = self._table(top.get("spec", {}), "spec")
        content = self._one_of(spec.get("content", "IPSet"), ("IPSet", "DomainNameSet"), "spec.content")
        mode = self._one_of(spec.get("mode", "Enabled"), ("Enabled", "Disabled"), "spec.mode")
        networks = self._table(spec.get("globalNetworkSet") or {}, "spec.globalNetworkSet")
        labels = self._texts(networks.get("labels") or {}, "spec.globalNetworkSet.labels")
        if content == "DomainNameSet" and spec.get("globalNetworkSet") is not None:
            raise self._error("spec.globalNetworkSet", "a DomainNameSet makes no network set")
        if len(spec.get("description") or "") > 256:
            raise self._error("spec.description", "expected at most 256 characters")
        if not isinstance(spec.get("pull"), dict):
            raise self._error("spec.pull", "this field is required: nothing else can fill the feed here")
        pull = self._table(spec["pull"], "spec.pull")
        http = self._table(pull.get("http"), "spec.pull.http")
        config = FeedConfig(
            name=name, enabled=mode == "Enabled", labels=labels, period=self._period(pull.get("period", "24h")),
            **self._http(http), **self._annotations(metadata.get("annotations") or {}),
        )  # fmt: skip
        if (problem := feed_problem(config)) is not None:
            field = {"url": "spec.pull.http.url", "name": "metadata.name"}.get(problem[0], problem[0])
            raise self._error(field, problem[1])
        return config

    def _period(self, text: Any) -> str:
        if not isinstance(text, str) or not _GO_DURATION.match(text) or parse_duration(text) < SHORTEST_PERIOD:
            raise self._error("spec.pull.period", f'expected at least "5m", got {text!r}')
        return text

    def _http(self, http: dict[str, Any]) -> dict[str, Any]:
        url = http.get("url")
        if not isinstance(url, str):
            raise self._error("spec.pull.http.url", "this field is required")
        return {"url": url, **self._format(http.get("format") or {}), **self._headers(http.get("headers") or [])}

    def _format(self, value: Any) -> dict[str, Any]:
        place = "spec.pull.http.format"
        formats = self._table(value, place)
        if len(formats) > 1:
            raise self._error(place, "expected one format")
        if "json" in formats:
            path = self._table(formats["json"] or {}, f"{place}.json").get("path")
            if not isinstance(path, str) or "?" in path or "@" in path:
                raise self._error(f"{place}.json.path", "expected a path such as $.data[*].ip, without filters")
            return {"format": "json", "path": _steps(path)}
        if "csv" in formats:
            csv = self._table(formats["csv"] or {}, f"{place}.csv")
            number, title = csv.get("fieldNum"), csv.get("fieldName")
            if (number is None) == (not title):
                raise self._error(f"{place}.csv", "expected fieldNum or fieldName, one of both")
            if title and not csv.get("header"):
                raise self._error(f"{place}.csv.fieldName", "this needs header: true")
            if number is not None and (not isinstance(number, int) or number < 0):
                raise self._error(f"{place}.csv.fieldNum", f"expected a number from 0, got {number!r}")
            # Calico counts columns from 0.
            column = str(title) if number is None else str(number + 1)
            return {"format": "csv", "column": column, "delimiter": csv.get("columnDelimiter") or ","}
        return {"format": "plain"}

    def _headers(self, headers: Any) -> dict[str, Any]:
        if not isinstance(headers, list) or len(headers) > 1:
            raise self._error("spec.pull.http.headers", "expected one header at most")
        if not headers:
            return {}
        header = headers[0] if isinstance(headers[0], dict) else {}
        name = header.get("name")
        if not isinstance(name, str) or not name.isascii() or not name.replace("-", "").isalnum():
            raise self._error("spec.pull.http.headers", "expected the name of a header")
        given = header.get("valueFrom")
        sources = given if isinstance(given, dict) else {}
        reference = sources.get("secretKeyRef") or sources.get("configMapKeyRef")
        if not isinstance(reference, dict) or not all(isinstance(reference.get(key), str) for key in ("name", "key")):
            raise self._error("spec.pull.http.headers", "expected valueFrom: secrets do not belong into this file")
        return {"auth_header": name, "secret_credential": f"{reference['name']}.{reference['key']}"}

    def _annotations(self, annotations: Any) -> dict[str, Any]:
        if not isinstance(annotations, dict):
            raise self._error("metadata.annotations", "expected a map")
        found: dict[str, Any] = {}
        for setting in ("action", "direction", "kernel", "insecure"):
            value = annotations.get(f"portcullis.dev/{setting}")
            if value is None:
                continue
            field = f"metadata.annotations.portcullis.dev/{setting}"
            if setting in ("kernel", "insecure"):
                found[setting] = self._one_of(value, ("true", "false"), field) == "true"
            else:
                kinds = {"action": ("alert", "drop", "reject"), "direction": ("source", "destination", "both")}
                found[setting] = self._one_of(value, kinds[setting], field)
        return found

    def _table(self, value: Any, path: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self._error(path, "expected a map")
        for key in value:
            if key not in _KNOWN[path]:
                known = ", ".join(sorted(_KNOWN[path]))
                raise self._error(f"{path}.{key}".lstrip("."), f"unknown field; known are {known}")
        return value

    def _texts(self, value: Any, path: str) -> dict[str, str]:
        try:
            return msgspec.convert(value, dict[str, str])
        except msgspec.ValidationError as error:
            raise self._error(path, str(error)) from error

    def _one_of(self, value: Any, choices: tuple[str, ...], path: str) -> str:
        if value not in choices:
            raise self._error(path, f"expected one of {', '.join(choices)}, got {value!r}")
        return str(value)

    def _error(self, field: str, message: str) -> FeedError:
        return FeedError(message, file=self._file, line=self._line, field=field)


def _steps(path: str) -> str:
    """Calico's restricted JSONPath → the path of threatfeeds.formats.json."""
    plain = re.sub(r'\["([^"]+)"\]|\[\'([^\']+)\'\]', lambda found: "." + (found[1] or found[2]), _ROOT.sub("", path))
    return plain.replace("[*]", "[]").replace("..", ".").strip(".")
