# SPDX-License-Identifier: Apache-2.0
"""MISP events (core format draft-dulaunoy-misp-core-format): attributes that are marked for detection."""

from collections.abc import Iterator
from typing import Any

from threatfeeds.content import Collector
from threatfeeds.formats.json import documents
from threatfeeds.formats.options import FormatOptions
from threatfeeds.indicator import Indicator, Kind, classify

_ADDRESS: tuple[Kind, ...] = ("ipv4", "ipv6", "ipv4_prefix", "ipv6_prefix")
# Kinds of the parts of a value that "|" separates; () is a part that is not read.
_TYPES: dict[str, tuple[tuple[Kind, ...], ...]] = {
    "ip-src": (_ADDRESS,),
    "ip-dst": (_ADDRESS,),
    "ip-src|port": (_ADDRESS, ()),
    "ip-dst|port": (_ADDRESS, ()),
    "domain": (("domain",),),
    "hostname": (("domain",),),
    "hostname|port": (("domain",), ()),
    "domain|ip": (("domain",), _ADDRESS),
    "url": (("url", "domain", *_ADDRESS),),
    "md5": (("md5",),),
    "sha1": (("sha1",),),
    "sha256": (("sha256",),),
    "filename|md5": ((), ("md5",)),
    "malware-sample": ((), ("md5",)),
    "filename|sha1": ((), ("sha1",)),
    "filename|sha256": ((), ("sha256",)),
    "x509-fingerprint-sha1": (("sha1",),),
    "x509-fingerprint-sha256": (("sha256",),),
    "x509-fingerprint-md5": (("md5",),),
    "ja3-fingerprint-md5": (("ja3",),),
    "ja4-plus": (("ja4",),),
}


_TRUE = (True, "1", "true", "True")  # MISP's own exports are not of one mind


def read(text: str, out: Collector, options: FormatOptions) -> None:
    """Numbers count attributes. Attributes without to_ids are comments: MISP uses them for context."""
    attributes = (attribute for _, document in documents(text, out) for attribute in _attributes(document))
    for number, attribute in enumerate(attributes, 1):
        kind, value = str(attribute.get("type")), str(attribute.get("value"))
        if attribute.get("to_ids") not in _TRUE or attribute.get("deleted") in _TRUE:
            out.comments += 1
            continue
        parts = _TYPES.get(kind)
        if parts is None:
            out.reject(number, value, f"the type {kind} is not asked for by this appliance")
            continue
        for part, kinds in zip(value.rsplit("|", len(parts) - 1), parts, strict=False):
            if kinds == ("ja3",):
                found = classify(part)
                if isinstance(found, Indicator) and found.kind == "md5":
                    out.put(Indicator("ja3", found.value), number, value)
                else:
                    out.reject(number, value, "not the 32 hex digits of a JA3 fingerprint")
            elif kinds:
                out.add(part, number, only=kinds, shown=value, of_file=not kind.startswith("x509-"))


def _attributes(document: Any) -> Iterator[dict[str, Any]]:
    if isinstance(document, list):
        for item in document:
            yield from _attributes(item)
    elif isinstance(document, dict) and "to_ids" in document and "value" in document:
        yield document
    elif isinstance(document, dict):
        for key in ("response", "Event", "Object"):
            if isinstance(document.get(key), list | dict):
                yield from _attributes(document[key])
        found = document.get("Attribute")
        if isinstance(found, list):
            yield from (attribute for attribute in found if isinstance(attribute, dict))
