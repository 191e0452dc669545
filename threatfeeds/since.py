# SPDX-License-Identifier: Apache-2.0
"""Since when a feed lists what was found. Pure."""

from bisect import bisect_left

from threatfeeds.content import FINGERPRINTS
from threatfeeds.indicator import Fingerprint
from threatfeeds.merge import Feed

_ASKED_AS: dict[str, tuple[Fingerprint, ...]] = {
    "ja3": ("ja3", "md5"), "ja4": ("ja4",), "sha1": ("sha1",), "sha256": ("sha256",)
}  # fmt: skip


def first_listed(feed: Feed, kind: str, entry: str) -> int:
    """Seconds since 1970, 0: not known. kind: domain, url (as rules.urls has it), ja3, ja4, sha1, sha256. Takes a few
    microseconds, however long the list is."""
    index = _index(feed, kind, entry)
    return int(feed.first_seen[index]) if 0 <= index < len(feed.first_seen) else 0


def _index(feed: Feed, kind: str, entry: str) -> int:
    """Among names, URLs and fingerprints, in this order; -1: not there."""
    content = feed.content
    if kind == "domain":
        at = bisect_left(content.domains, entry, key=lambda domain: domain.name)
        return at if at < len(content.domains) and content.domains[at].name == entry else -1
    if kind == "url":
        web = content.web
        at = bisect_left(web.urls, entry)
        found = at < len(web.urls) and web.urls[at] == entry
        return len(content.domains) + web.origins[at] if found else -1
    for wanted in _ASKED_AS.get(kind, ()):
        key = FINGERPRINTS.index(wanted), entry
        listed = content.fingerprints
        at = bisect_left(listed, key, key=lambda item: (FINGERPRINTS.index(item[0]), item[1]))
        if at < len(listed) and listed[at] == (wanted, entry):
            return len(content.domains) + len(content.urls) + at
    return -1
