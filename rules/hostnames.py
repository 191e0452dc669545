# SPDX-License-Identifier: Apache-2.0
"""Host names in the one form in which they are compared: ASCII, lower case, without the final dot.

A name beyond ASCII becomes its A-labels (IDNA 2008, RFC 5891) after the mapping of UTS 46, as browsers do it, so that
`Bücher.example` and `xn--bcher-kva.example` are one name. What IDNA 2008 no longer allows but was registered once
(symbols, IDNA 2003) is read as it was then.
"""

import re

import idna

_LABEL = re.compile(r"[a-z0-9_-]{1,63}\Z")  # hyphens at an edge and underscores are no host names, but asked for
_ESCAPED = re.compile(r"(?:\\x[89a-f][0-9a-f])+")
_LONGEST = 253  # characters (RFC 1035 section 2.3.4)


def ascii_name(text: str) -> str | None:
    """The form to compare, or None when the text is no name."""
    name = text.removesuffix(".").lower()
    if not name.isascii():
        found = to_ascii(name)
        if found is None:
            return None
        name = found
    if not 0 < len(name) <= _LONGEST or not all(_LABEL.match(label) for label in name.split(".")):
        return None
    return name


def to_ascii(name: str) -> str | None:
    """A-labels of a name, its ASCII labels as they are; None where there are none."""
    if len(name) > _LONGEST:
        return None
    try:
        mapped = idna.uts46_remap(name, std3_rules=False, transitional=False)
        return ".".join(label if label.isascii() else idna.alabel(label).decode("ascii") for label in mapped.split("."))
    except (idna.IDNAError, UnicodeError):
        pass
    try:
        return name.encode("idna").decode("ascii").lower()
    except UnicodeError:
        return None


def as_name(text: str) -> str:
    """A name from the network as names are compared: lower case, without a final dot, and with A-labels where the
    sender wrote UTF-8 (it comes here escaped, \\xNN)."""
    text = text.rstrip(".").lower()
    if "\\x" not in text:
        return text
    decoded = _ESCAPED.sub(lambda found: bytes.fromhex(found[0].replace("\\x", "")).decode("utf-8", "replace"), text)
    return ascii_name(decoded) or text
