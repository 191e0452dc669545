# SPDX-License-Identifier: Apache-2.0
"""What each kind of remote source is asked for, and what of its answers is kept. Blocking."""

import time
from collections.abc import Callable
from dataclasses import replace
from urllib.parse import urlencode, urljoin, urlsplit

import msgspec

from threatfeeds.config import FeedConfig, parse_duration
from threatfeeds.fetch.http import FetchError, Request, Response, fetch
from threatfeeds.fetch.maxmind import fetch_maxmind
from threatfeeds.fetch.memory import Fetched, Memory
from threatfeeds.fetch.secrets import auth_headers
from threatfeeds.fetch.verify import check_sha256, check_signature
from threatfeeds.formats.stix import objects
from threatfeeds.packed import unpack

Fetch = Callable[[Request], Response]

_TAXII = "application/taxii+json;version=2.1"
LONGEST = 30  # time limits of one request, all requests of one fetch together
_PAGES = 10_000
_EVENTS = 50_000


def fetch_feed(config: FeedConfig, memory: Memory, kept: bytes | None, *, get: Fetch = fetch) -> Fetched:
    """Asks the source of a prepared feed. kept: the last good copy, None without one. Raises FeedError."""
    if memory.url != config.source or kept is None:
        memory, kept = Memory(url=config.source), None  # what was remembered is of another list
    if config.kind == "maxmind":
        return fetch_maxmind(config, memory)
    request = Request(
        getattr(config, config.kind),
        secret={**config.headers, **auth_headers(config)},
        timeout=parse_duration(config.timeout),
        max_size=config.max_size,
        insecure=config.insecure,
        ca=config.ca,
    )
    get = _within(get, LONGEST * request.timeout)
    if config.kind == "taxii":
        return _taxii(request, memory, kept, get)
    if config.kind == "misp":
        return _misp(request, memory, get)
    return _url(config, request, memory, get)


def _within(get: Fetch, seconds: float) -> Fetch:
    """A server that has one more page for ever, each in time, is left."""
    end = time.monotonic() + seconds

    def late(request: Request) -> FetchError:
        return FetchError(f"not complete after {seconds:g} s of requests", url=request.url, again=True)

    def bounded(request: Request) -> Response:
        left = end - time.monotonic()
        if left <= 0:
            raise late(request)
        try:
            return get(replace(request, timeout=min(request.timeout, left)))
        except FetchError as error:
            if time.monotonic() < end:
                raise
            raise late(request) from error

    return bounded


def _url(config: FeedConfig, request: Request, memory: Memory, get: Fetch) -> Fetched:
    response = get(replace(request, headers=_conditions(memory)))
    if response.status == 304:
        return Fetched(None, memory)
    data = unpack(response.body, config.max_size)
    # What is published beside a list speaks of the file as it is on the server.
    if config.sha256_url:
        check_sha256(response.body, get(_beside(request, config.sha256_url)).body)
    if config.signature_url:
        signature = get(_beside(request, config.signature_url)).body
        check_signature(response.body, signature, config.public_key)
    return Fetched(data, _remembered(memory, response))


def _beside(request: Request, url: str) -> Request:
    """A small file; the secret is not for another server."""
    secret = request.secret if urlsplit(url)[:2] == urlsplit(request.url)[:2] else {}
    return replace(request, url=url, secret=secret, max_size=65536)


def _conditions(memory: Memory) -> dict[str, str]:
    headers = {}
    if memory.etag:
        headers["If-None-Match"] = memory.etag
    if memory.last_modified:
        headers["If-Modified-Since"] = memory.last_modified
    return headers


def _remembered(memory: Memory, response: Response) -> Memory:
    etag, modified = response.headers.get("etag", ""), response.headers.get("last-modified", "")
    return Memory(memory.url, etag[:1024], modified[:128])


def _json(response: Response, url: str) -> dict[str, object]:
    try:
        found = msgspec.json.decode(response.body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise FetchError(f"the answer is not JSON: {error}", url=url) from error
    if not isinstance(found, dict):
        raise FetchError("the answer is not a JSON object", url=url)
    return found


def _taxii(request: Request, memory: Memory, kept: bytes | None, get: Fetch) -> Fetched:
    """TAXII 2.1, sections 3.4, 3.5 and 5.4: pages by `more` and `next`, later only what was added after the last
    object. The newest version of each object is kept, as one bundle."""
    known: dict[str, dict[str, object]] = {}
    if kept is not None:
        for item in objects(msgspec.json.decode(kept)):
            known[str(item.get("id"))] = item
    base = request.url.rstrip("/").removesuffix("/objects") + "/objects/"
    headers = {"Accept": _TAXII}
    added, cursor, size, changed = memory.added_after, "", 0, False
    newest = added
    for _ in range(_PAGES):
        query = {"added_after": added} if added else {}
        if cursor:
            query["next"] = cursor
        response = get(replace(request, url=base + (f"?{urlencode(query)}" if query else ""), headers=headers))
        if not response.headers.get("content-type", "").lower().startswith("application/taxii+json"):
            raise FetchError("the server does not speak TAXII 2.1", url=request.url)
        size += len(response.body)
        if size > request.max_size:
            raise FetchError(f"more than max_size = {request.max_size} bytes", url=request.url)
        envelope = _json(response, request.url)
        page = list(objects({"objects": envelope.get("objects") or []}))
        for item in page:
            old = known.get(str(item.get("id")))
            if old is None or str(item.get("modified", "")) >= str(old.get("modified", "")):
                known[str(item.get("id"))] = item
                changed = True
        # Fractions of different length, or none: RFC 3339 in UTC sorts as text without its "Z".
        newest = max(newest, response.headers.get("x-taxii-date-added-last", ""), key=_moment)
        following = envelope.get("next")
        if envelope.get("more") is not True:
            break
        if isinstance(following, str) and following and following != cursor:
            cursor = following
        elif not cursor and page and _moment(newest) > _moment(added):
            added = newest  # without `next`, paging goes on by time
        else:
            raise FetchError("the server promises more and does not say where", url=request.url)
    else:
        raise FetchError(f"more than {_PAGES} pages", url=request.url)
    memory = Memory(memory.url, added_after=newest)
    if kept is not None and not changed:
        return Fetched(None, memory)
    return Fetched(msgspec.json.encode({"type": "bundle", "objects": list(known.values())}), memory)


def _moment(time_added: str) -> str:
    return time_added.rstrip("Zz")


def _misp(request: Request, memory: Memory, get: Fetch) -> Fetched:
    path = urlsplit(request.url).path
    headers = {"Accept": "application/json"}
    if path.endswith("/") and "/events/" not in path:
        return _misp_feed(replace(request, headers=headers), memory, get)
    if path.lower().rstrip("/").endswith("restsearch"):
        body = msgspec.json.encode({"returnFormat": "json", "to_ids": 1, "published": 1, "deleted": 0})
        headers["Content-Type"] = "application/json"
        response = get(replace(request, headers=headers, body=body))
    else:
        response = get(replace(request, headers=headers | _conditions(memory)))
        if response.status == 304:
            return Fetched(None, memory)
    return Fetched(response.body, _remembered(memory, response))


def _misp_feed(request: Request, memory: Memory, get: Fetch) -> Fetched:
    """manifest.json names the events; each is a file beside it. Any change of the manifest fetches them anew."""
    conditions = {**request.headers, **_conditions(memory)}
    response = get(replace(request, url=urljoin(request.url, "manifest.json"), headers=conditions))
    if response.status == 304:
        return Fetched(None, memory)
    manifest = _json(response, request.url)
    if len(manifest) > _EVENTS:
        raise FetchError(f"more than {_EVENTS} events", url=request.url)
    events: list[object] = []
    size = len(response.body)
    for uuid in sorted(manifest):
        if not uuid.replace("-", "").isalnum():
            raise FetchError(f"the manifest names {uuid[:80]!r}, which is no UUID", url=request.url)
        event = get(replace(request, url=urljoin(request.url, f"{uuid}.json")))
        size += len(event.body)
        if size > request.max_size:
            raise FetchError(f"more than max_size = {request.max_size} bytes", url=request.url)
        events.append(_json(event, request.url))
    return Fetched(msgspec.json.encode({"response": events}), _remembered(memory, response))
