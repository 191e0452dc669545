# SPDX-License-Identifier: Apache-2.0
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.inspection.protocols.errors import ParseError
from appliance.inspection.protocols.http import MAX_HEAD, HttpRequest, HttpResponse, HttpSession

REQUESTS = (
    b"GET /a?b=c HTTP/1.1\r\nHost: WWW.Example.org:8080\r\nUser-Agent: test\r\n\r\n"
    b"POST /form HTTP/1.1\r\nHost: two.example\r\nContent-Length: 20\r\n\r\nGET /x HTTP/1.1\r\n\r\n."
    b"PUT /c HTTP/1.1\nhost: three.example\nTransfer-Encoding: chunked\n\n4;x=y\r\nGET \r\n0\r\nTrailer: 1\r\n\r\n"
    b"\r\nDELETE http://four.example:81/y HTTP/1.0\r\n\r\n"
)


def test_pipelined_requests_bodies_skipped() -> None:
    events = HttpSession().to_server(REQUESTS)
    assert [(event.method, event.uri, event.host) for event in events] == [
        (b"GET", b"/a?b=c", b"www.example.org"),
        (b"POST", b"/form", b"two.example"),
        (b"PUT", b"/c", b"three.example"),
        (b"DELETE", b"http://four.example:81/y", b"four.example"),
    ]
    assert events[0].user_agent == b"test"
    assert events[0].headers[1] == (b"User-Agent", b"test")


def test_responses_to_head_and_interim_responses_have_no_body() -> None:
    session = HttpSession()
    session.to_server(b"HEAD / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n")
    events = session.to_client(
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\nabc"
        b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 500 is body until the end\r\n\r\n"
    )
    responses = [event for event in events if isinstance(event, HttpResponse)]
    assert [event.status for event in responses] == [200, 100, 404, 200]
    assert responses[2].reason == b"Not Found"


def test_tunnel_leaves_the_rest_alone() -> None:
    session = HttpSession()
    session.to_server(b"CONNECT host.example:443 HTTP/1.1\r\n\r\n\x16\x03\x01")
    session.to_client(b"HTTP/1.1 200 Connection established\r\n\r\nserver")
    assert session.tunnel
    assert session.rest() == (b"\x16\x03\x01", b"server")


def test_requests_behind_a_refused_connect_are_seen() -> None:
    session = HttpSession()
    assert len(session.to_server(b"CONNECT a.example:1 HTTP/1.1\r\n\r\nGET /hidden HTTP/1.1\r\n\r\n")) == 1
    events = session.to_client(b"HTTP/1.1 405 No\r\nContent-Length: 0\r\n\r\n")
    assert [event.uri for event in events if isinstance(event, HttpRequest)] == [b"/hidden"]
    assert not session.tunnel


def test_what_waits_behind_connect_is_bounded() -> None:
    session = HttpSession()
    session.to_server(b"CONNECT a.example:1 HTTP/1.1\r\n\r\n")
    with pytest.raises(ParseError, match="behind CONNECT"):
        session.to_server(b"x" * (MAX_HEAD + 1))


def test_ipv6_literal_host() -> None:
    (event,) = HttpSession().to_server(b"GET / HTTP/1.1\r\nHost: [2001:DB8::1]:80\r\n\r\n")
    assert event.host == b"2001:db8::1"


def test_line_without_colon_does_not_hide_the_host() -> None:
    (event,) = HttpSession().to_server(b"GET / HTTP/1.1\r\nnonsense\r\nHost: a.example\r\n\r\n")
    assert event.host == b"a.example"


@pytest.mark.parametrize(
    "data",
    [
        b"\x00\x01\x02\n\n",
        b"GET /\r\n\r\n",
        b"GET / HTTP/2\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 1, 2\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * (MAX_HEAD // 6 + 1),
    ],
)
def test_what_is_not_http(data: bytes) -> None:
    session = HttpSession()
    with pytest.raises(ParseError):
        session.to_server(data)
        session.to_server(b"\r\n\r\n")


@given(st.sets(st.integers(1, len(REQUESTS) - 1), max_size=20))
def test_segmentation_changes_nothing(cuts: set[int]) -> None:
    session = HttpSession()
    edges = [0, *sorted(cuts), len(REQUESTS)]
    events = [event for a, b in itertools.pairwise(edges) for event in session.to_server(REQUESTS[a:b])]
    assert events == HttpSession().to_server(REQUESTS)


_HOSTILE = st.lists(
    st.binary(max_size=20)
    | st.sampled_from([b"GET / HTTP/1.1\r\n", b"\r\n\r\n", b"HTTP/1.1 200 OK\r\n", b"Transfer-Encoding: chunked\r\n",
                       b"Content-Length: 5\r\n", b"0\r\n", b"CONNECT a:1 HTTP/1.1\r\n\r\n", b"\n"]),
    max_size=20,
)  # fmt: skip


@given(_HOSTILE, _HOSTILE)
def test_hostile_bytes_raise_parse_error_only(to_server: list[bytes], to_client: list[bytes]) -> None:
    session = HttpSession()
    try:
        for data in to_server:
            session.to_server(data)
        for data in to_client:
            session.to_client(data)
    except ParseError:
        pass
