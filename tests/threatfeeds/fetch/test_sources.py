# SPDX-License-Identifier: Apache-2.0
import base64
import gzip
import hashlib
import io
import json
import time
import zipfile
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.threatfeeds.fetch.fetch_server import ListServer, say
from tests.threatfeeds.fetch.taxii_server import Collection
from threatfeeds import FeedConfig, FeedError, prefix, read_feed
from threatfeeds.fetch.http import fetch_once
from threatfeeds.fetch.memory import Fetched, Memory
from threatfeeds.fetch.sources import fetch_feed
from threatfeeds.packed import unpack


def feed(server: ListServer, **settings: object) -> FeedConfig:
    return FeedConfig(name="x", ca=server.ca, timeout="5s", **settings)  # type: ignore[arg-type]


def ask(config: FeedConfig, memory: Memory | None = None, kept: bytes | None = None) -> Fetched:
    return fetch_feed(config, memory or Memory(), kept, get=fetch_once)


def addresses(data: bytes | None) -> list[str]:
    assert data is not None
    config = FeedConfig(file="x", name="x", format="stix", min_entries=0)
    return [prefix.text(entry) for entry in read_feed(config, data).prefixes]


def test_second_request_is_conditional_and_tells_nothing_new(server: ListServer) -> None:
    server.answers["/list"] = say(b"192.0.2.1", ETag='"1"', Last_Modified="Sat, 01 Aug 2026 00:00:00 GMT")
    first = ask(feed(server, url=server.url("/list")))
    server.answers["/list"] = say(b"", 304, Content_Length="")
    second = ask(feed(server, url=server.url("/list")), first.memory, first.data)
    assert second == Fetched(None, first.memory)
    headers = server.asked[1][2]
    assert (headers["If-None-Match"], headers["If-Modified-Since"]) == ('"1"', "Sat, 01 Aug 2026 00:00:00 GMT")


def test_without_the_copy_or_with_another_url_nothing_is_conditional(server: ListServer) -> None:
    server.answers["/list"] = say(b"192.0.2.1", ETag='"1"')
    config = feed(server, url=server.url("/list"))
    first = ask(config)
    ask(config, first.memory, None)
    ask(config, Memory(url="https://other.example/", etag='"1"'), b"x")
    assert all("If-None-Match" not in headers for _, _, headers, _ in server.asked)


@pytest.mark.parametrize(
    ("settings", "header", "value"),
    [
        ({}, "Authorization", "Bearer s3cret"),
        ({"auth_user": "me"}, "Authorization", "Basic " + base64.b64encode(b"me:s3cret").decode()),
        ({"auth_header": "X-Api-Key"}, "X-Api-Key", "s3cret"),
    ],
)
def test_secret_goes_where_it_is_told(
    server: ListServer, tmp_path: Path, settings: dict[str, str], header: str, value: str
) -> None:
    (tmp_path / "key").write_text("s3cret\n")
    server.answers["/list"] = say(b"192.0.2.1")
    ask(feed(server, url=server.url("/list"), secret_file=str(tmp_path / "key"), **settings))
    assert server.asked[0][2][header] == value


def test_secret_as_systemd_credential(server: ListServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text("s3cret")
    server.answers["/list"] = say(b"192.0.2.1")
    config = feed(server, url=server.url("/list"), secret_credential="token")
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    with pytest.raises(FeedError, match="no credential"):
        ask(config)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    ask(config)
    assert server.asked[0][2]["Authorization"] == "Bearer s3cret"


def test_checksum(server: ListServer) -> None:
    good = hashlib.sha256(b"192.0.2.1").hexdigest()
    server.answers["/list"] = say(b"192.0.2.1")
    server.answers["/list.sha256"] = say(f"{good}  list\n".encode())
    config = feed(server, url=server.url("/list"), sha256_url=server.url("/list.sha256"))
    assert ask(config).data == b"192.0.2.1"
    server.answers["/list"] = say(b"192.0.2.2")
    with pytest.raises(FeedError, match="published checksum"):
        ask(config)


@pytest.mark.parametrize("form", ["raw", "base64", "minisign", "minisign-hashed"])
def test_signature(server: ListServer, form: str) -> None:
    private = Ed25519PrivateKey.generate()
    raw = private.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    key = base64.b64encode(b"Ed" + b"12345678" + raw if "minisign" in form else raw).decode()
    data = b"192.0.2.1"

    def sign(data: bytes) -> bytes:
        if form == "minisign-hashed":
            signed = b"ED12345678" + private.sign(hashlib.blake2b(data).digest())
        else:
            signed = (b"Ed12345678" if form == "minisign" else b"") + private.sign(data)
        text = base64.b64encode(signed)
        return signed if form == "raw" else b"untrusted comment: x\n" + text + b"\ntrusted comment: y\n"

    server.answers["/list"] = say(data)
    server.answers["/list.sig"] = say(sign(data))
    config = feed(server, url=server.url("/list"), signature_url=server.url("/list.sig"), public_key=key)
    assert ask(config).data == data
    server.answers["/list.sig"] = say(sign(b"192.0.2.2"))
    with pytest.raises(FeedError, match="valid signature"):
        ask(config)


def test_lists_in_gzip_and_zip_files() -> None:
    assert unpack(gzip.compress(b"192.0.2.1"), 100) == b"192.0.2.1"
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("list.txt", b"1" * 1000)
    assert unpack(archive.getvalue(), 1000) == b"1" * 1000
    for bomb in (archive.getvalue(), gzip.compress(b"1" * 1000)):
        with pytest.raises(FeedError, match="unpacks to more than"):
            unpack(bomb, 999)
    with pytest.raises(FeedError, match="zip file cannot be read"):
        unpack(archive.getvalue()[:60], 1000)


@pytest.mark.parametrize("bare", [False, True])
def test_taxii_pages_and_later_asks_only_for_what_is_new(server: ListServer, bare: bool) -> None:
    collection = Collection(server, bare=bare)
    for day in range(1, 6):
        collection.add(f"2026-08-0{day}T00:00:00.000000Z", str(day), f"[ipv4-addr:value = '192.0.2.{day}']")
    config = feed(server, taxii=server.url(collection.path))
    first = ask(config)
    assert addresses(first.data) == [f"192.0.2.{day}" for day in range(1, 6)]
    assert len(collection.queries) == 3
    assert ask(config, first.memory, first.data) == Fetched(None, first.memory)
    collection.add("2026-08-09T00:00:00.000000Z", "9", "[ipv4-addr:value = '192.0.2.9']")
    collection.add("2026-08-09T00:00:00.000001Z", "1", "[ipv4-addr:value = '192.0.2.1']", "2026-08-09", revoked=True)
    second = ask(config, first.memory, first.data)
    assert collection.queries[-1] == {"added_after": ["2026-08-05T00:00:00.000000Z"]}
    assert addresses(second.data) == ["192.0.2.2", "192.0.2.3", "192.0.2.4", "192.0.2.5", "192.0.2.9"]


@pytest.mark.parametrize(("user", "header"), [("me", "Basic bWU6czNjcmV0"), ("", "Bearer s3cret")])
def test_taxii_secret_is_sent_with_every_page(server: ListServer, tmp_path: Path, user: str, header: str) -> None:
    (tmp_path / "key").write_text("s3cret\n")
    collection = Collection(server, page=1)
    collection.authorization = header
    for day in (1, 2):
        collection.add(f"2026-08-0{day}T00:00:00Z", str(day), f"[ipv4-addr:value = '192.0.2.{day}']")
    with pytest.raises(FeedError, match="the server answers 401"):
        ask(feed(server, taxii=server.url(collection.path)))
    config = feed(server, taxii=server.url(collection.path), auth_user=user, secret_file=str(tmp_path / "key"))
    assert addresses(ask(config).data) == ["192.0.2.1", "192.0.2.2"]


def test_taxii_times_with_and_without_fractions_are_in_order(server: ListServer) -> None:
    collection = Collection(server, page=1, bare=True)
    moments = [f"2026-08-01T00:00:0{second}Z" for second in ("1", "1.25", "1.5", "2")]
    # The stand-in sorts as the times do.
    collection.later = lambda added, after: added.rstrip("Z") > after.rstrip("Z")
    for number, added in enumerate(moments):
        collection.add(added, str(number), f"[ipv4-addr:value = '192.0.2.{number}']")
    fetched = ask(feed(server, taxii=server.url(collection.path)))
    assert addresses(fetched.data) == [f"192.0.2.{number}" for number in range(4)]
    assert fetched.memory.added_after == moments[-1]


def test_taxii_collection_may_be_named_by_its_objects(server: ListServer) -> None:
    collection = Collection(server)
    collection.add("2026-08-01T00:00:00Z", "1", "[ipv4-addr:value = '192.0.2.1']")
    for path in (collection.path.rstrip("/"), f"{collection.path}objects/", f"{collection.path}objects"):
        assert addresses(ask(feed(server, taxii=server.url(path))).data) == ["192.0.2.1"]


def test_server_with_one_more_page_for_ever_is_left(server: ListServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def page(handler: BaseHTTPRequestHandler) -> None:
        time.sleep(0.05)
        following = f"{len(server.asked)}"
        envelope = json.dumps({"more": True, "next": following, "objects": []}).encode()
        say(envelope, Content_Type="application/taxii+json;version=2.1")(handler)

    server.answers["/c/objects/"] = page
    monkeypatch.setattr("threatfeeds.fetch.sources.LONGEST", 0.1)  # of five seconds
    with pytest.raises(FeedError, match=r"not complete after 0\.5 s"):
        ask(feed(server, taxii=server.url("/c/")))


def test_taxii_indicator_ends_when_it_says(server: ListServer) -> None:
    collection = Collection(server)
    collection.add("2026-08-01T00:00:00Z", "1", "[ipv4-addr:value = '192.0.2.1']", valid_until="2026-08-02T00:00:00Z")
    data = ask(feed(server, taxii=server.url(collection.path))).data
    assert data is not None
    config = FeedConfig(file="x", name="x", format="stix", min_entries=0)
    assert len(read_feed(config, data, now=1785542400.0)) == 1
    late = read_feed(config, data, now=1785715200.0)
    assert (len(late), late.expired) == (0, 1)


def test_server_that_speaks_no_taxii(server: ListServer) -> None:
    server.answers["/c/objects/"] = say(b"<html>", Content_Type="text/html")
    with pytest.raises(FeedError, match="does not speak TAXII"):
        ask(feed(server, taxii=server.url("/c/")))


def test_taxii_server_that_promises_for_ever_is_left(server: ListServer) -> None:
    page = json.dumps({"more": True, "next": "1", "objects": []}).encode()
    server.answers["/c/objects/"] = say(page, Content_Type="application/taxii+json;version=2.1")
    with pytest.raises(FeedError, match="does not say where"):
        ask(feed(server, taxii=server.url("/c/")))


EVENT = {"Event": {"Attribute": [{"type": "ip-dst", "value": "192.0.2.1", "to_ids": True}]}}


def test_misp_feed_of_manifest_and_events(server: ListServer) -> None:
    uuid = "5a3c0d2e-0000-4000-8000-000000000001"
    server.answers["/osint/manifest.json"] = say(json.dumps({uuid: {"info": "x"}}).encode(), ETag='"1"')
    server.answers[f"/osint/{uuid}.json"] = say(json.dumps(EVENT).encode())
    config = feed(server, misp=server.url("/osint/"))
    fetched = ask(config)
    assert fetched.data is not None
    content = read_feed(FeedConfig(file="x", name="x", format="misp"), fetched.data)
    assert [prefix.text(entry) for entry in content.prefixes] == ["192.0.2.1"]
    server.answers["/osint/manifest.json"] = say(b"", 304, Content_Length="")
    assert ask(config, fetched.memory, fetched.data).data is None


def test_misp_manifest_cannot_name_other_files(server: ListServer) -> None:
    server.answers["/osint/manifest.json"] = say(b'{"../../secret": {}}')
    with pytest.raises(FeedError, match="no UUID"):
        ask(feed(server, misp=server.url("/osint/")))


def test_misp_search_is_a_post_with_the_key_as_misp_wants_it(server: ListServer, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("k3y")
    server.answers["/attributes/restSearch"] = say(json.dumps({"response": EVENT["Event"]}).encode())
    config = feed(server, misp=server.url("/attributes/restSearch"), secret_file=str(tmp_path / "key"))
    fetched = ask(config)
    method, _, headers, body = server.asked[0]
    assert (method, headers["Authorization"]) == ("POST", "k3y")
    assert json.loads(body)["to_ids"] == 1
    assert fetched.data is not None
    assert len(read_feed(FeedConfig(file="x", name="x", format="misp"), fetched.data)) == 1
