# SPDX-License-Identifier: Apache-2.0
"""Text → validated resources. One bad document never hides the others."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rules.policy import kubernetes
from rules.policy.documents import MAX_DOCUMENTS, TOO_MANY, Document, Map, line_of, read_documents
from rules.policy.errors import ResourceError
from rules.policy.model import Metadata, Resource
from rules.policy.read_resources import CALICO, Read
from rules.policy.reader import DNS_LABEL, DNS_SUBDOMAIN, LABEL, REQUIRED, Reader
from rules.policy.wording import show, suggestion, what

_POLICY_NAME = re.compile(rf"({LABEL}\.)?{LABEL}\Z")
_NAMESPACED_NAME = re.compile(rf"(({LABEL}\.)?{LABEL}|(knp|ossg)\.default\.{LABEL}(\.{LABEL})*)\Z")
_NAMESPACED = frozenset(
    ("NetworkPolicy", "StagedNetworkPolicy", "StagedKubernetesNetworkPolicy", "NetworkSet", "WorkloadEndpoint",
     "ServiceAccount", "EndpointSlice", "Endpoints")
)  # fmt: skip
_METADATA = (
    "name", "namespace", "labels", "annotations", "uid", "resourceVersion", "generation", "creationTimestamp",
    "deletionTimestamp", "deletionGracePeriodSeconds", "finalizers", "ownerReferences", "managedFields", "generateName",
    "selfLink",
)  # fmt: skip
MAX_WRONG = 10_000  # documents of a file whose errors are told; the others are counted
_CALICO_API = "projectcalico.org/v3"

# (apiVersion, kind) → reader of the whole document or of its spec, and the model's `api`
_KINDS: dict[tuple[str, str], tuple[str, Read]] = {
    **{(_CALICO_API, kind): ("calico", read) for kind, read in CALICO.items()},
    **{key: ("kubernetes", read) for key, read in kubernetes.KINDS.items()},
    (_CALICO_API, "StagedKubernetesNetworkPolicy"): ("calico", kubernetes.read_staged),
}
_WHOLE_DOCUMENT = frozenset(("Namespace", "ServiceAccount", "EndpointSlice", "Endpoints"))


@dataclass(frozen=True, slots=True)
class DocumentReport:
    """What `check` says of one document."""

    file: str
    line: int
    kind: str
    name: str
    errors: tuple[ResourceError, ...]


@dataclass(frozen=True, slots=True)
class LoadResult:
    """`understood`: resources the validator refuses although their meaning is clear (port 0); never to be enforced."""

    resources: tuple[Resource, ...]
    errors: tuple[ResourceError, ...]
    understood: tuple[Resource, ...]
    reports: tuple[DocumentReport, ...]


def load_documents(text: str, file: str) -> LoadResult:
    """Every document of a YAML or JSON file. Pure; raises nothing: what is wrong is in `errors`, ordered by line."""
    documents, broken = read_documents(text, file)
    resources: list[Resource] = []
    understood: list[Resource] = []
    reports = [DocumentReport(file, error.line or 1, "", "", (error,)) for error in broken[:MAX_WRONG]]
    wrong = len(broken)
    for number, (value, line, index) in enumerate(_expanded(documents)):
        if number == MAX_DOCUMENTS:
            error = ResourceError(TOO_MANY, file=file, line=line, document=index)
            reports.append(DocumentReport(file, line, "", "", (error,)))
            break
        resource, report, soft = _load(value, file, line, index)
        wrong += bool(report.errors)
        if not report.errors or wrong <= MAX_WRONG:
            reports.append(report)
        if resource is not None:
            (understood if soft else resources).append(resource)
    reports.sort(key=lambda report: report.line)
    if wrong > MAX_WRONG:
        last = reports[-1].line
        error = ResourceError(f"{wrong - MAX_WRONG:,} more documents of this file are wrong", file=file, line=last)
        reports.append(DocumentReport(file, last, "", "", (error,)))
    return LoadResult(
        tuple(resources),
        tuple(error for report in reports for error in report.errors),
        tuple(understood),
        tuple(reports),
    )


def load_object(value: Mapping[str, Any], file: str = "", line: int = 0) -> Resource:
    """One resource from plain values, as a datastore or a container engine gives them: labels may be
    anything. Raises the first error."""
    resource, report, soft = _load(value, file, line, 0, strict=False)
    if resource is None or soft:
        raise report.errors[0]
    return resource


def validate_object(value: Any) -> tuple[ResourceError, ...]:
    return _load(value, "", 0, 0)[1].errors


def merge(results: list[LoadResult]) -> tuple[tuple[Resource, ...], tuple[ResourceError, ...]]:
    """The resources of several files; one that stands twice is an error at its second place, and the first counts."""
    seen: dict[tuple[str, str, str, str], Resource] = {}
    errors: list[ResourceError] = []
    for result in results:
        errors += result.errors
        for resource in result.resources:
            first = seen.setdefault(resource.key, resource)
            if first is not resource:
                errors.append(
                    ResourceError(
                        f"{resource.kind} {resource.title} is already defined in {first.file}:{first.line}",
                        file=resource.file,
                        line=resource.line,
                        field="metadata.name",
                        kind=resource.kind,
                        name=resource.title,
                    )
                )
    return tuple(seen.values()), tuple(errors)


def _expanded(documents: list[Document]) -> Iterator[tuple[Any, int, int]]:
    """(value, line, number of the document): the items of an array or of a `kind: List`, as `kubectl get -o yaml`
    writes it, instead of the list; a list may stand in a list, as deep as aliases make it."""
    for document in documents:
        first = (document.value, line_of(document.value, ()) or document.line)
        waiting: list[Iterator[tuple[Any, int]]] = [iter([first])]
        while waiting:
            found = next(waiting[-1], None)
            if found is None:
                waiting.pop()
                continue
            items = _items(*found)
            if items is None:
                yield *found, document.index
            else:
                waiting.append(items)


def _items(value: Any, line: int) -> Iterator[tuple[Any, int]] | None:
    if isinstance(value, list):
        return ((item, line_of(value, (i,)) or line) for i, item in enumerate(value))
    kind = value.get("kind") if isinstance(value, Mapping) else None
    items = value.get("items", False) if isinstance(kind, str) and kind.endswith("List") else False
    if items is None:  # as Go writes a list of nothing
        return iter(())
    if not isinstance(items, list):
        return None
    known = {name: value[name] for name in ("apiVersion",) if name in value} | {"kind": str(kind).removesuffix("List")}
    return ((_whole(item, known), line_of(value, ("items", i)) or line) for i, item in enumerate(items))


def _whole(item: Any, known: Mapping[str, Any]) -> Any:
    """The items of a list of one kind need not say it again."""
    if not isinstance(item, Map) or not known["kind"] or item.keys() & {"kind", "apiVersion"}:
        return item
    full = Map(item.line)
    full.update({**known, **item})
    full.lines = item.lines
    return full


def _load(
    value: Any, file: str, line: int, index: int, *, strict: bool = True
) -> tuple[Resource | None, DocumentReport, bool]:
    """`strict`: names and labels are as Kubernetes has them."""
    r = Reader(strict=strict)
    kind, name, resource = "", "", None
    if not isinstance(value, Mapping):
        r.fail((), f"expected a resource, found {what(value)}")
    else:
        raw_kind = value.get("kind")
        kind = raw_kind if isinstance(raw_kind, str) else ""
        resource = _resource(r, value, kind, file, line)
        metadata = value.get("metadata")
        if isinstance(metadata, Mapping) and isinstance(metadata.get("name"), str):
            name = metadata["name"]
            if isinstance(metadata.get("namespace"), str):
                name = f"{metadata['namespace']}/{name}"
    if r.omitted:
        r.errors.append(((), f"and {r.omitted:,} more errors", False))
    errors = tuple(
        ResourceError(
            message, file=file or None, line=line_of(value, path, line) or None, field=show(path) or None,
            kind=kind, name=name, document=index,
        )
        for path, message, _ in r.errors
    )  # fmt: skip
    soft = bool(errors) and r.soft
    if errors and not soft:
        resource = None
    return resource, DocumentReport(file, line, kind, name, errors), soft


def _resource(r: Reader, value: Mapping[str, Any], kind: str, file: str, line: int) -> Resource | None:
    api_version = value.get("apiVersion")
    if not kind:
        r.fail(("kind",), REQUIRED if value.get("kind") is None else f"expected a string, found {what(value['kind'])}")
        return None
    found = _KINDS.get((str(api_version), kind))
    if found is None and kind.endswith("List"):
        r.fail(("items",), f"expected a list, found {what(value.get('items'))}")
        return None
    if found is None:
        versions = [version for version, known in _KINDS if known == kind]
        if versions:
            r.fail(("apiVersion",), f"expected {' or '.join(versions)}, found {what(api_version)}")
        else:
            r.fail(("kind",), f"unknown kind {what(kind)}{suggestion(kind, {known for _, known in _KINDS})}")
        return None
    api, read = found
    metadata = _metadata(r, value.get("metadata"), kind, api)
    if kind in _WHOLE_DOCUMENT:
        spec = read(r, value, (), metadata.name, value)
    else:
        r.mapping(value, (), ("apiVersion", "kind", "metadata", "spec", "status"))
        spec = read(r, value.get("spec"), ("spec",), metadata.name, value)
    return Resource(kind, metadata, spec, file, line, api)


def _metadata(r: Reader, value: Any, kind: str, api: str) -> Metadata:
    path = ("metadata",)
    fields = r.mapping(value, path, _METADATA)
    name = r.text(fields, "name", path)
    given = r.text(fields, "namespace", path)
    namespace, unused = (given or "default", "") if kind in _NAMESPACED else ("", given)
    if not name:
        if fields.get("name") in (None, ""):
            r.fail((*path, "name"), REQUIRED)
    else:
        _check_name(r, name, kind, api)
    if namespace and (not DNS_LABEL.match(namespace) or len(namespace) > 63):
        r.fail((*path, "namespace"), f"{what(namespace)} is not a namespace's name")
    labels = r.labels(fields, "labels", path)
    if kind in ("GlobalNetworkSet", "NetworkSet") and "projectcalico.org/namespace" in labels:
        r.fail((*path, "labels", "projectcalico.org/namespace"), "not a valid label name: it is the namespace's own")
    return Metadata(name, namespace, labels, r.annotations(fields, path), unused)


def _check_name(r: Reader, name: str, kind: str, api: str) -> None:
    longest = 63 if kind in ("Tier", "Namespace") else 253
    pattern = DNS_SUBDOMAIN
    if kind in ("Tier", "Namespace"):
        pattern = DNS_LABEL
    elif kind in ("GlobalNetworkPolicy", "StagedGlobalNetworkPolicy"):
        pattern = _POLICY_NAME
    elif kind in ("NetworkPolicy", "StagedNetworkPolicy") and api == "calico":
        pattern = _NAMESPACED_NAME
    if not pattern.match(name):
        r.fail(("metadata", "name"), f"{what(name)} is not a name for a {kind} (a-z, 0-9 and -)")
    elif len(name) > longest:
        r.fail(("metadata", "name"), f"Too long: may not be more than {longest} bytes (it has {len(name)})")
