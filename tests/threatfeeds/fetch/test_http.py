# SPDX-License-Identifier: Apache-2.0
import gzip
import socket
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.threatfeeds.fetch.fetch_server import Authority, ListServer, say, serve
from threatfeeds import FeedError
from threatfeeds.fetch.http import ATTEMPTS, FetchError, Request, fetch, fetch_once
from threatfeeds.packed import Unpacker


def test_list_arrives_whole_and_asked_for_politely(server: ListServer) -> None:
    server.answers["/list"] = say(b"192.0.2.1\n", ETag='"one"')
    response = fetch_once(server.request("/list", headers={"If-None-Match": '"zero"'}))
    assert (response.status, response.body, response.headers["etag"]) == (200, b"192.0.2.1\n", '"one"')
    method, _, headers, _ = server.asked[0]
    assert (method, headers["If-None-Match"], headers["User-Agent"]) == ("GET", '"zero"', "portcullis-feeds")


def test_not_modified_has_no_body(server: ListServer) -> None:
    server.answers["/list"] = say(b"", 304, Content_Length="")
    assert fetch_once(server.request("/list", headers={"If-None-Match": '"1"'})).status == 304


def test_not_modified_that_nobody_asked_for_is_no_answer(server: ListServer) -> None:
    server.answers["/list"] = say(b"", 304, Content_Length="")
    with pytest.raises(FetchError, match="the server answers 304"):
        fetch_once(server.request("/list"))


@pytest.mark.parametrize(("status", "attempts"), [(500, ATTEMPTS), (503, ATTEMPTS), (404, 1), (403, 1)])
def test_server_errors_are_tried_again_and_refusals_are_not(server: ListServer, status: int, attempts: int) -> None:
    server.answers["/list"] = say(b"", status)
    waits: list[float] = []
    with pytest.raises(FetchError, match=f"the server answers {status}"):
        fetch(server.request("/list"), sleep=waits.append)
    assert len(server.asked) == attempts
    assert len(waits) == attempts - 1
    assert waits == sorted(waits)


def test_server_says_how_long_to_wait(server: ListServer) -> None:
    server.answers["/list"] = say(b"", 429, Retry_After="7")
    waits: list[float] = []
    with pytest.raises(FetchError):
        fetch(server.request("/list"), sleep=waits.append)
    assert waits == [7.0, 7.0]


def test_second_attempt_may_succeed(server: ListServer) -> None:
    server.answers["/list"] = say(b"", 502)

    def recover(seconds: float) -> None:
        server.answers["/list"] = say(b"192.0.2.1")

    assert fetch(server.request("/list"), sleep=recover).body == b"192.0.2.1"


def test_cut_off_list_is_an_error(server: ListServer) -> None:
    server.answers["/list"] = say(b"192.0.2.1\n", Content_Length="1000")
    with pytest.raises(FetchError, match="cut off after 10 bytes") as caught:
        fetch_once(server.request("/list"))
    assert caught.value.again


@pytest.mark.parametrize("where", ["headers", "body"])
def test_slow_drip_ends_at_the_time_limit(server: ListServer, where: str) -> None:
    def drip(handler: BaseHTTPRequestHandler) -> None:
        if where == "headers":
            handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        else:
            handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        for _ in range(100):
            handler.wfile.write(b"a")
            handler.wfile.flush()
            time.sleep(0.1)

    server.answers["/list"] = drip
    started = time.monotonic()
    with pytest.raises(FetchError, match=r"not complete after 0\.7 s"):
        fetch_once(server.request("/list", timeout=0.7))
    assert time.monotonic() - started < 3


@pytest.mark.parametrize("announced", [True, False])
def test_oversize_is_refused_before_it_is_in_memory(server: ListServer, announced: bool) -> None:
    def endless(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n" + b"Content-Length: 99999999\r\n" * announced + b"\r\n")
        for _ in range(1000):
            handler.wfile.write(b"a" * 65536)

    server.answers["/list"] = endless
    with pytest.raises(FetchError, match="more than max_size = 100000"):
        fetch_once(server.request("/list", max_size=100_000))


def test_gzip_is_unpacked_within_the_limit(server: ListServer) -> None:
    server.answers["/list"] = say(gzip.compress(b"192.0.2.1\n" * 10), Content_Encoding="gzip")
    assert fetch_once(server.request("/list", max_size=100)).body == b"192.0.2.1\n" * 10
    with pytest.raises(FetchError, match="unpacks to more than max_size = 99 bytes"):
        fetch_once(server.request("/list", max_size=99))


def test_gzip_bomb_costs_no_more_than_the_limit(server: ListServer) -> None:
    server.answers["/list"] = say(gzip.compress(b"\0" * (64 << 20)), Content_Encoding="gzip")
    with pytest.raises(FetchError, match="unpacks to more than"):
        fetch_once(server.request("/list", max_size=1 << 20))


def test_cut_off_gzip_is_an_error(server: ListServer) -> None:
    server.answers["/list"] = say(gzip.compress(b"192.0.2.1\n" * 100)[:-12], Content_Encoding="gzip")
    with pytest.raises(FetchError, match="cut off"):
        fetch_once(server.request("/list"))


def test_redirect_is_followed_and_the_secret_stays_at_home(server: ListServer, authority: Authority) -> None:
    other: Iterator[ListServer] = serve(authority.context(), authority.file)
    elsewhere = next(other)
    server.answers["/list"] = say(b"", 302, Location="/moved")
    server.answers["/moved"] = say(b"", 307, Location=elsewhere.url("/list"))
    elsewhere.answers["/list"] = say(b"192.0.2.1")
    secret = {"Authorization": "Bearer s3cret"}
    assert fetch_once(server.request("/list", secret=secret)).body == b"192.0.2.1"
    assert [headers.get("Authorization") for _, _, headers, _ in server.asked] == ["Bearer s3cret"] * 2
    assert "Authorization" not in elsewhere.asked[0][2]
    next(other, None)


def test_redirects_end(server: ListServer) -> None:
    server.answers["/list"] = say(b"", 302, Location="/list")
    with pytest.raises(FetchError, match="more than 5 redirects"):
        fetch_once(server.request("/list"))


@pytest.mark.parametrize("insecure", [False, True])
@pytest.mark.parametrize("target", ["http://127.0.0.1:9/list", "file:///etc/passwd", "ftp://127.0.0.1/x"])
def test_redirect_never_leaves_https(server: ListServer, target: str, insecure: bool) -> None:
    server.answers["/list"] = say(b"", 302, Location=target)
    with pytest.raises(FetchError, match="redirected"):
        fetch_once(server.request("/list", insecure=insecure))
    assert len(server.asked) == 1


def test_unknown_authority_is_not_trusted(server: ListServer) -> None:
    with pytest.raises(FetchError, match="the certificate is not trusted") as caught:
        fetch_once(Request(server.url("/list"), timeout=5))
    assert not caught.value.again
    assert server.asked == []


@pytest.mark.parametrize(("address", "days"), [("127.0.0.2", 1), ("127.0.0.1", -1)])
def test_certificate_of_another_server_or_another_time_is_not_trusted(
    authority: Authority, address: str, days: int
) -> None:
    servers = serve(authority.context(address, days), authority.file)
    server = next(servers)
    server.answers["/list"] = say(b"192.0.2.1")
    with pytest.raises(FetchError, match="the certificate is not trusted"):
        fetch_once(server.request("/list"))
    next(servers, None)


def test_server_that_is_not_there(server: ListServer) -> None:
    with pytest.raises(FetchError, match="the connection failed"):
        fetch_once(Request("https://127.0.0.1:9/", timeout=2))


def test_many_addresses_that_do_not_answer_take_no_longer_than_the_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as full, socket.socket() as one:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        one.connect(full.getsockname())  # nobody accepts it: there is no room for another
        found = (socket.AF_INET, socket.SOCK_STREAM, 6, "", full.getsockname())
        monkeypatch.setattr("threatfeeds.fetch.http.CONNECT_TIMEOUT", 0.3)
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [found] * 100)
        started = time.monotonic()
        with pytest.raises(FetchError, match=r"not complete after 0\.7 s"):
            fetch_once(Request("https://lists.example/", timeout=0.7))
    assert time.monotonic() - started < 5


def test_next_address_is_tried(server: ListServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.answers["/list"] = say(b"192.0.2.1")
    port = int(server.url("").rpartition(":")[2].strip("/"))
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", number)) for number in (9, port)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    assert fetch_once(server.request("/list")).body == b"192.0.2.1"


def test_server_that_speaks_nonsense(server: ListServer) -> None:
    server.answers["/list"] = lambda handler: handler.wfile.write(b"\xff\x00nonsense\r\n\r\n") and None
    with pytest.raises(FetchError, match="the connection failed"):
        fetch_once(server.request("/list"))


@given(st.binary(max_size=2000), st.integers(1, 100))
def test_unpacker_agrees_with_gzip_however_the_bytes_come(data: bytes, size: int) -> None:
    packed = gzip.compress(data)
    unpacker = Unpacker(4000)
    found = b"".join(unpacker.feed(packed[at : at + size]) for at in range(0, len(packed), size))
    assert (found, unpacker.complete) == (data, True)


@given(st.binary(max_size=200))
def test_unpacker_refuses_or_unpacks_anything(data: bytes) -> None:
    try:
        Unpacker(1000).feed(data)
    except FeedError:
        return
