# SPDX-License-Identifier: Apache-2.0
"""STIX 1 packages (OASIS STIX 1.2, CybOX 2.1): the values of address, name, URI and hash objects. OpenIOC: the content
of every item."""

import xml.etree.ElementTree as ElementTree
from io import BytesIO

from threatfeeds.content import KINDS, Collector
from threatfeeds.formats.options import FormatOptions
from threatfeeds.indicator import Kind

_ADDRESS: tuple[Kind, ...] = ("ipv4", "ipv6", "ipv4_prefix", "ipv6_prefix", "range")
# CybOX elements that hold a value, by their name without the namespace.
_VALUES: dict[str, tuple[Kind, ...]] = {
    "Address_Value": _ADDRESS,
    "Hostname_Value": ("domain",),
    "Simple_Hash_Value": ("md5", "sha1", "sha256"),
}
# <Value> means different things in different objects.
_BY_NAMESPACE: dict[str, tuple[Kind, ...]] = {"URIObject": ("url", "domain"), "DomainNameObject": ("domain",)}
_OPENIOC = ("openioc", "/2010/ioc")  # in the namespace
_NEGATIVE = frozenset({"DoesNotEqual", "DoesNotContain"})
_MANY = "##comma##"  # CybOX's separator where one element holds several values
_ELEMENTS = 5_000_000


def read(text: str, out: Collector, options: FormatOptions) -> None:
    """Numbers count elements. Entities are not needed by STIX, so a document type is refused."""
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        out.reject(1, text, "XML with a document type")
        return
    number = 0
    try:
        # The declaration may name the encoding that the file had before it became text.
        data = text.lstrip().encode("utf-8")
        events = ElementTree.iterparse(BytesIO(data), ("end",), ElementTree.XMLParser(encoding="utf-8"))
        for number, (_, element) in enumerate(events, 1):
            _element(element, number, out)
            element.clear()
            if number > _ELEMENTS:
                out.reject(number, "", "more elements than a package has")
                return
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        out.reject(number or 1, text[:200], f"not XML: {error}")


def _element(element: ElementTree.Element, number: int, out: Collector) -> None:
    namespace, _, name = element.tag.rpartition("}")
    kinds = _VALUES.get(name)
    if name == "Value":
        kinds = next((kinds for part, kinds in _BY_NAMESPACE.items() if part in namespace), None)
    elif name == "Content" and any(part in namespace.lower() for part in _OPENIOC):
        kinds = KINDS
    if kinds is None or not element.text or element.get("condition") in _NEGATIVE:
        return
    for value in element.text.split(_MANY):
        out.add(value.strip(), number, only=kinds, of_file=True)
