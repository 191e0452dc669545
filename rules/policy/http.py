# SPDX-License-Identifier: Apache-2.0
"""HTTP matches of rules: methods, and paths after the normalisation that Calico applies (app-policy/checker).

What could mean one path to us and another to the server is no path at all: encodings within encodings, NUL, escapes
that are none.
"""

import re

from rules.policy.model import HttpMatch

_ESCAPE = re.compile(rb"%(?:([0-9a-fA-F]{2})|())")
_TWICE = re.compile(rb"%(?:2e|2f|5c|00)", re.IGNORECASE)


def normalize_path(target: str) -> str | None:
    """The path of a request target, decoded once and cleaned; None if it must not match anything."""
    raw = target.partition("?")[0].encode("utf-8", "surrogateescape")
    # A fragment is never sent (RFC 9112 section 3.2); servers disagree whether the path ends before it.
    if not raw.startswith(b"/") or b"#" in raw:
        return None
    if any(found.group(1) is None for found in _ESCAPE.finditer(raw)):
        return None
    decoded = _ESCAPE.sub(lambda found: bytes((int(found.group(1), 16),)), raw)
    if b"\0" in decoded or _TWICE.search(decoded):
        return None
    kept: list[bytes] = []
    for segment in decoded.replace(b"\\", b"/").split(b"/"):
        name = segment.partition(b";")[0]  # what follows is a matrix parameter
        if name == b"..":
            del kept[-1:]
        elif name not in (b"", b"."):
            kept.append(name)
    return (b"/" + b"/".join(kept)).decode("utf-8", "surrogateescape")


def _path_matches(exact: str | None, prefix: str | None, path: str) -> bool:
    if exact is not None:
        return path == exact or path == (exact.rstrip("/") or "/")
    stem = (prefix or "").rstrip("/")
    return path == stem or path.startswith(stem + "/")


def http_matches(match: HttpMatch, method: str, target: str) -> bool:
    """Whether a request with this method and target is one that the rule speaks of."""
    return request_matches(match, method, normalize_path(target) if match.paths else None)


def request_matches(match: HttpMatch, method: str, path: str | None) -> bool:
    """The same for a normalised path. Methods are case-sensitive and `*` is any; a prefix ends at the end of a
    segment."""
    if match.methods and method not in match.methods and "*" not in match.methods:
        return False
    if not match.paths:
        return True
    return path is not None and any(_path_matches(item.exact, item.prefix, path) for item in match.paths)
