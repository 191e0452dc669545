# SPDX-License-Identifier: Apache-2.0
"""Calico's GlobalThreatFeed (projectcalico.org/v3, docs.tigera.io: reference/resources/globalthreatfeed) → FeedConfig.

What Calico does not know is said by annotations: portcullis.dev/action, /direction, /kernel, /insecure.
Secrets and config maps become credentials of portcullis-feeds.service named NAME.KEY.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from rules.policy.documents import line_of, read_documents
from rules.policy.reader import whole
from rules.policy.wording import suggestion
from threatfeeds.config import FeedConfig, FeedError, feed_problem
from threatfeeds.content import ContentKind

KIND = "GlobalThreatFeed"
SHORTEST_PERIOD = 300.0  # seconds
LABEL = "threatfeed."  # Calico names the synchronised network set threatfeed.NAME
_GO_DURATION = re.compile(r"(?:\d{1,12}(?:\.\d{1,12})?(?:ms|[smh]))+\Z")
_GO_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|[smh])")
_GO_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_JSON_STEP = r"""(?:\.\w[\w-]*|\.?\[(?:\*|"[^".\[\]]+"|'[^'.\[\]]+')\])"""
_JSON_PATH = re.compile(rf"\{{?\$?(?:\w[\w-]*|{_JSON_STEP}){_JSON_STEP}*\}}?\Z")
_PART = re.compile(r"\[(\d+)\]|([^.\[\]]+)")
_CONTENT: dict[str, ContentKind] = {"IPSet": "addresses", "DomainNameSet": "names"}
_LISTS = ("List", f"{KIND}List")
_FIELDS = {"url": "spec.pull.http.url", "name": "metadata.name", "headers": "spec.pull.http.headers"}
# How settings of TOML are said in this resource.
_SAID_HERE = {
    "set insecure = true": 'annotate portcullis.dev/insecure: "true"',
    "use auth_user and secret_file": "use headers",
}
_HEADER = ("name", "value", "valueFrom")
_SOURCE = ("secretKeyRef", "configMapKeyRef")
_REFERENCE = ("name", "key", "optional")
_ROOT = re.compile(r"^\{?\$?\.?|\}$")
_KNOWN = {
    "": {"apiVersion", "kind", "metadata", "spec", "status"},
    "spec": {"content", "mode", "description", "feedType", "globalNetworkSet", "pull"},
    "spec.globalNetworkSet": {"labels"},
    "spec.pull": {"period", "http"},
    "spec.pull.http": {"url", "format", "headers"},
    "spec.pull.http.format": {"newlineDelimited", "json", "csv"},
    "spec.pull.http.format.newlineDelimited": set(),
    "spec.pull.http.format.json": {"path"},
    "spec.pull.http.format.csv": {
        *("fieldNum", "fieldName", "header", "columnDelimiter", "commentDelimiter", "recordSize"),
        "disableRecordSizeValidation",
    },
}


@dataclass(frozen=True, slots=True)
class ReadFeed:
    """What a resource says: a feed, or what is wrong with it. `kind` is the resource's, empty where unknown. warning:
    what is valid and does nothing."""

    line: int
    kind: str
    name: str
    config: FeedConfig | None = None
    error: FeedError | None = None
    warning: FeedError | None = None


def load_threat_feeds(text: str, file: str) -> tuple[tuple[FeedConfig, ...], tuple[FeedError, ...]]:
    """Every document of a YAML file; one that is wrong does not hide the others."""
    found = read_threat_feeds(text, file)
    return (
        tuple(feed.config for feed in found if feed.config is not None),
        tuple(feed.error for feed in found if feed.error is not None),
    )


def read_threat_feeds(text: str, file: str) -> list[ReadFeed]:
    """The same, one for each resource; what is no YAML comes first."""
    documents, broken = read_documents(text, file)
    found: list[ReadFeed] = []
    for wrong in broken:
        error = FeedError(wrong.message, file=file, line=wrong.line)
        found.append(ReadFeed(wrong.line or 1, "", "", error=error))
    for document in documents:
        for resource in _resources(document.value):
            line = line_of(resource, ()) or document.line
            kind, name = _title(resource)
            reader = _Reader(file, resource)
            try:
                found.append(ReadFeed(line, kind, name, reader.read(), warning=reader.warning()))
            except FeedError as error:
                found.append(ReadFeed(line, kind, name, error=error))
    return found


def _title(resource: Any) -> tuple[str, str]:
    top = resource if isinstance(resource, dict) else {}
    metadata = top.get("metadata")
    parts = (top.get("kind"), metadata.get("name") if isinstance(metadata, dict) else None)
    kind, name = (part if isinstance(part, str) else "" for part in parts)
    return kind, name


def _resources(value: Any) -> list[Any]:
    """The document, or the items of the list that it is: `kubectl get globalthreatfeeds -o yaml`."""
    if isinstance(value, dict) and value.get("kind") in _LISTS and isinstance(value.get("items"), list):
        return list(value["items"])
    return [value]


class _Reader:
    def __init__(self, file: str, resource: Any) -> None:
        self._file = file
        self._resource = resource

    def read(self) -> FeedConfig:
        top = self._table(self._resource, "")
        if top.get("kind") != KIND or top.get("apiVersion") != "projectcalico.org/v3":
            raise self._error("kind", f"expected {KIND} of projectcalico.org/v3")
        given = top.get("metadata")
        metadata: dict[str, Any] = given if isinstance(given, dict) else {}
        name = self._text(metadata.get("name"), "metadata.name")
        spec = self._table(top.get("spec"), "spec")
        content = self._one_of(spec.get("content", "IPSet"), tuple(_CONTENT), "spec.content")
        mode = self._one_of(spec.get("mode", "Enabled"), ("Enabled", "Disabled"), "spec.mode")
        self._one_of(spec.get("feedType", "Custom"), ("Builtin", "Custom"), "spec.feedType")
        networks = self._table(spec.get("globalNetworkSet", {}), "spec.globalNetworkSet")
        labels = self._texts(networks.get("labels", {}), "spec.globalNetworkSet.labels")
        if content == "DomainNameSet" and "globalNetworkSet" in spec:
            raise self._error("spec.globalNetworkSet", "DomainNameSet does not support syncing with a GlobalNetworkSet")
        if len(self._text(spec.get("description", ""), "spec.description")) > 256:
            raise self._error("spec.description", "expected at most 256 characters")
        if spec.get("pull") is None:
            raise self._error("spec.pull", "this field is required: a feed that others push into cannot be filled here")
        pull = self._table(spec["pull"], "spec.pull")
        if pull.get("http") is None:
            raise self._error("spec.pull.http", "this field is required")
        http = self._table(pull["http"], "spec.pull.http")
        config = FeedConfig(
            name=name, content=_CONTENT[content], enabled=mode == "Enabled", labels=labels,
            period=self._period(pull.get("period", "24h")),
            **self._http(http), **self._annotations(metadata.get("annotations")),
        )  # fmt: skip
        if (problem := feed_problem(config)) is not None:
            why = problem[1]
            for toml, here in _SAID_HERE.items():
                why = why.replace(toml, here)
            raise self._error(_FIELDS.get(problem[0], problem[0]), why)
        return config

    def warning(self) -> FeedError | None:
        """Of a feed that was read."""
        if not self._resource["metadata"].get("namespace"):
            return None
        return self._error("metadata.namespace", f"a {KIND} has no namespace: it is for all of them")

    def _period(self, text: Any) -> str:
        parts = _GO_PART.findall(text) if isinstance(text, str) and _GO_DURATION.match(text) else []
        seconds = sum(float(number) * _GO_SECONDS[unit] for number, unit in parts)
        if seconds < SHORTEST_PERIOD:
            raise self._error("spec.pull.period", f'expected a duration of at least "5m", got {text!r}')
        return f"{seconds:.3f}s" if "ms" in text else str(text)

    def _http(self, http: dict[str, Any]) -> dict[str, Any]:
        url = self._text(http.get("url"), "spec.pull.http.url")
        return {"url": url, **self._format(http.get("format", {})), **self._headers(http.get("headers", []))}

    def _format(self, value: Any) -> dict[str, Any]:
        place = "spec.pull.http.format"
        formats = self._table(value, place)
        if len(formats) > 1:
            raise self._error(place, "only one format type may be specified")
        self._table(formats.get("newlineDelimited", {}), f"{place}.newlineDelimited")
        if "json" in value:
            path = self._table(value["json"], f"{place}.json").get("path")
            if not isinstance(path, str) or not _JSON_PATH.match(path):
                why = "expected a path of names and lists such as $.data[*].ip, without filters, indices and ranges"
                raise self._error(f"{place}.json.path", why)
            return {"format": "json", "path": _steps(path)}
        if "csv" in value:
            return {"format": "csv", **self._csv(self._table(value["csv"], f"{place}.csv"), f"{place}.csv")}
        return {"format": "plain"}

    def _csv(self, csv: dict[str, Any], place: str) -> dict[str, Any]:
        for field in ("header", "disableRecordSizeValidation"):
            self._one_of(csv.get(field, False), (True, False), f"{place}.{field}")
        number, title = whole(csv.get("fieldNum")), self._text(csv.get("fieldName", ""), f"{place}.fieldName")
        if (number is None) == (not title):
            raise self._error(place, "expected fieldNum or fieldName, one of both")
        if title and not csv.get("header"):
            raise self._error(f"{place}.fieldName", "this needs header: true")
        if number is not None and (not isinstance(number, int) or isinstance(number, bool) or number < 0):
            raise self._error(f"{place}.fieldNum", f"expected a number from 0, got {number!r}")
        size = whole(csv.get("recordSize"))
        if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size <= 0):
            raise self._error(f"{place}.recordSize", f"expected a number from 1, got {size!r}")
        if size is not None and csv.get("disableRecordSizeValidation"):
            raise self._error(f"{place}.recordSize", "disableRecordSizeValidation: true says that there is none")
        marks = {}
        for field, setting in (("columnDelimiter", "delimiter"), ("commentDelimiter", "comment")):
            marks[setting] = self._text(csv.get(field, ""), f"{place}.{field}")
            if len(marks[setting]) > 1:
                raise self._error(f"{place}.{field}", f"expected one character, got {marks[setting]!r}")
        # Calico counts columns from 0.
        column = title if number is None else str(number + 1)
        return {"column": column, "delimiter": marks["delimiter"] or ",", "comment": marks["comment"]}

    def _headers(self, headers: Any) -> dict[str, Any]:
        """Any number with a value; of those that refer to a secret or a config map, one."""
        place = "spec.pull.http.headers"
        if not isinstance(headers, list):
            raise self._error(place, "expected a list of headers")
        plain: dict[str, str] = {}
        found: dict[str, Any] = {}
        for index, given in enumerate(headers):
            here = f"{place}[{index}]"
            header = self._table(given, here, _HEADER)
            name = self._text(header.get("name"), f"{here}.name")
            value, source = header.get("value"), header.get("valueFrom")
            if (value is None) == (source is None):
                raise self._error(here, "expected value or valueFrom, one of both")
            if value is not None:
                plain[name] = self._text(value, f"{here}.value")
                continue
            if found:
                raise self._error(here, "one header may come from a secret or a config map, and another one does")
            found = {"auth_header": name, "secret_credential": self._reference(source, f"{here}.valueFrom")}
        return {"headers": plain, **found}

    def _reference(self, value: Any, place: str) -> str:
        source = self._table(value, place, _SOURCE)
        if len(source) != 1:
            raise self._error(place, "expected secretKeyRef or configMapKeyRef, one of both")
        ((kind, given),) = source.items()
        reference = self._table(given, f"{place}.{kind}", _REFERENCE)
        self._one_of(reference.get("optional", False), (True, False), f"{place}.{kind}.optional")
        name, key = (self._text(reference.get(part), f"{place}.{kind}.{part}") for part in ("name", "key"))
        return f"{name}.{key}"

    def _annotations(self, annotations: Any) -> dict[str, Any]:
        if annotations is None:
            return {}
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

    def _table(self, value: Any, path: str, fields: Collection[str] | None = None) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self._error(path, "this field is required" if value is None else f"expected a map, got {value!r}")
        known = sorted(_KNOWN[path] if fields is None else fields)
        for key in value:
            if key not in known:
                hint = suggestion(str(key), known) or f"; known are {', '.join(known)}"
                raise self._error(f"{path}.{key}".lstrip("."), f"unknown field{hint}")
        return {key: item for key, item in value.items() if item is not None}

    def _text(self, value: Any, path: str) -> str:
        if not isinstance(value, str):
            raise self._error(path, "this field is required" if value is None else f"expected text, got {value!r}")
        return value

    def _texts(self, value: Any, path: str) -> dict[str, str]:
        if not isinstance(value, dict):
            raise self._error(path, f"expected a map, got {value!r}")
        return {name: self._text(text, f"{path}.{name}") for name, text in value.items()}

    def _one_of(self, value: Any, choices: tuple[Any, ...], path: str) -> Any:
        if not isinstance(value, type(choices[0])) or value not in choices:
            names = ", ".join(str(choice) if isinstance(choice, str) else str(choice).lower() for choice in choices)
            raise self._error(path, f"expected one of {names}, got {value!r}")
        return value

    def _error(self, field: str, message: str) -> FeedError:
        """At the field, or at the nearest one around it that is there."""
        parts = [int(index) if index else name for index, name in _PART.findall(field)]
        return FeedError(message, file=self._file, line=line_of(self._resource, tuple(parts)), field=field or None)


def _steps(path: str) -> str:
    """Calico's restricted JSONPath → the path of threatfeeds.formats.json."""
    plain = re.sub(r'\["([^"]+)"\]|\[\'([^\']+)\'\]', lambda found: "." + (found[1] or found[2]), _ROOT.sub("", path))
    return plain.replace("[*]", "[]").replace("..", ".").strip(".")
