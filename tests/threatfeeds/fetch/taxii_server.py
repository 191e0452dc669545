# SPDX-License-Identifier: Apache-2.0
"""A TAXII 2.1 collection (OASIS TAXII 2.1, sections 3 and 5) that pages and filters as a server does."""

import json
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.threatfeeds.fetch.fetch_server import ListServer, say

MEDIA = "application/taxii+json;version=2.1"


class Collection:
    """Objects with the time they were added; at most `page` in one answer. bare: no `next`, as some servers do."""

    def __init__(self, server: ListServer, page: int = 2, *, bare: bool = False) -> None:
        self.entries: list[tuple[str, dict[str, Any]]] = []
        self.page = page
        self.bare = bare
        self.later: Callable[[str, str], bool] = str.__gt__
        self.authorization = ""  # that a client must have
        self.queries: list[dict[str, list[str]]] = []
        self.path = "/api1/collections/91a7b528-80eb-42ed-a74d-c6fbd5a26116/"
        server.answers[f"{self.path}objects/"] = self.answer

    def add(self, added: str, identifier: str, pattern: str, modified: str = "2026-01-01", **more: Any) -> None:
        self.entries.append((added, {
            "type": "indicator", "spec_version": "2.1", "id": f"indicator--{identifier}", "modified": modified,
            "pattern": pattern, "pattern_type": "stix", **more,
        }))  # fmt: skip

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        if self.authorization and handler.headers["Authorization"] != self.authorization:
            say(b"", 401)(handler)
            return
        if handler.headers["Accept"] != MEDIA:
            say(b"", 406)(handler)
            return
        query = parse_qs(urlsplit(handler.path).query)
        self.queries.append(query)
        after = query.get("added_after", [""])[0]
        start = int(query.get("next", ["0"])[0])
        found = [entry for entry in self.entries if self.later(entry[0], after)]
        page = found[start : start + self.page]
        more = len(found) > start + self.page
        envelope: dict[str, Any] = {"more": more, "objects": [item for _, item in page]}
        if more and not self.bare:
            envelope["next"] = str(start + self.page)
        times = {"X_TAXII_Date_Added_First": page[0][0], "X_TAXII_Date_Added_Last": page[-1][0]} if page else {}
        say(json.dumps(envelope).encode() if page else b"{}", Content_Type=MEDIA, **times)(handler)
