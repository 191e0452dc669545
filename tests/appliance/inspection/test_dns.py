# SPDX-License-Identifier: Apache-2.0
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.inspection.protocols.dns import DnsQuestion, DnsTcpSession, parse_dns
from appliance.inspection.protocols.errors import ParseError

pytest.importorskip("dns", reason="needs dnspython, the oracle of these tests")
import contextlib
import itertools

import dns.message
import dns.rrset

QUERY = dns.message.make_query("WWW.Example.org.", "AAAA")


def answer() -> bytes:
    response = dns.message.make_response(QUERY)
    response.answer.append(dns.rrset.from_text("www.example.org.", 60, "IN", "CNAME", "target.example.net."))
    response.answer.append(dns.rrset.from_text("target.example.net.", 30, "IN", "AAAA", "2001:db8::1"))
    return response.to_wire()


def test_query() -> None:
    message = parse_dns(QUERY.to_wire())
    assert not message.response and message.id == QUERY.id
    assert message.questions == (DnsQuestion("www.example.org", 28),)


def test_answer_with_compressed_names() -> None:
    message = parse_dns(answer())
    assert message.response and message.whole
    assert [(a.name, a.type, a.ttl, a.target) for a in message.answers] == [
        ("www.example.org", 5, 60, "target.example.net"),
        ("target.example.net", 28, 30, ""),
    ]
    assert message.answers[1].data[-1] == 1


def test_compression_loop_ends() -> None:
    header = b"\0\1\1\0\0\1\0\0\0\0\0\0"
    with pytest.raises(ParseError, match="point back"):
        parse_dns(header + b"\xc0\x0c\0\1\0\1")


def test_dot_inside_a_label_is_not_a_separator() -> None:
    message = parse_dns(b"\0\1\1\0\0\1\0\0\0\0\0\0" + b"\x03a.b\0\0\1\0\1")
    assert message.questions[0].name == "a\\x2eb"


def test_cut_answer_keeps_the_question() -> None:
    message = parse_dns(answer()[:-4])
    assert message.questions and not message.whole and len(message.answers) == 1


@given(st.sets(st.integers(1, 200), max_size=10))
def test_tcp_segmentation_changes_nothing(cuts: set[int]) -> None:
    one, two = QUERY.to_wire(), dns.message.make_query("b.example", "A").to_wire()
    data = len(one).to_bytes(2, "big") + one + len(two).to_bytes(2, "big") + two
    edges = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    session = DnsTcpSession()
    messages = [m for a, b in itertools.pairwise(edges) for m in session.to_server(data[a:b])]
    assert [m.questions[0].name for m in messages] == ["www.example.org", "b.example"]


@given(st.binary(max_size=200), st.integers(0, 100), st.integers(0, 255))
def test_hostile_bytes_raise_parse_error_only(data: bytes, position: int, value: int) -> None:
    damaged = bytearray(answer())
    damaged[position % len(damaged)] = value
    for hostile in (data, b"\0\1\x81\x80\0\1\0\2\0\0\0\0" + data, bytes(damaged)):
        with contextlib.suppress(ParseError):
            parse_dns(hostile)


@given(st.lists(st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=20), min_size=1, max_size=8))
def test_names_as_dnspython_reads_them(labels: list[str]) -> None:
    name = ".".join(labels)
    assert parse_dns(dns.message.make_query(name, "A").to_wire()).questions[0].name == name
