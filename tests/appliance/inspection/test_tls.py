# SPDX-License-Identifier: Apache-2.0
import contextlib
import itertools
import ssl

import dpkt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.inspection.protocols.errors import ParseError
from appliance.inspection.protocols.tls import TlsClientHello, TlsSession, parse_client_hello


def client_bytes(name: str = "WWW.Example.org") -> bytes:
    """What the standard library's client sends first."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["h2", "http/1.1"])
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname=name).do_handshake()
    return outgoing.read()


HELLO = client_bytes()
RECORD = b"\x17\x03\x03\x00\x05hello"
SERVER_HELLO_BODY = b"\x03\x03" + b"r" * 32 + b"\x00" + b"\x13\x01" + b"\x00" + b"\x00\x06\x00\x2b\x00\x02\x03\x04"
SERVER_HELLO = (
    b"\x16\x03\x03" + (len(SERVER_HELLO_BODY) + 4).to_bytes(2, "big")
    + b"\x02" + len(SERVER_HELLO_BODY).to_bytes(3, "big") + SERVER_HELLO_BODY
)  # fmt: skip


def split_into_records(record: bytes, size: int) -> bytes:
    """The same handshake bytes in records of `size`."""
    body = record[5:]
    pieces = [body[i : i + size] for i in range(0, len(body), size)]
    return b"".join(record[:3] + len(piece).to_bytes(2, "big") + piece for piece in pieces)


def test_client_hello() -> None:
    (event,) = TlsSession().to_server(HELLO)
    assert isinstance(event, TlsClientHello)
    assert (event.sni, event.alpn) == ("www.example.org", ("h2", "http/1.1"))
    assert 0x0304 in event.versions and event.version == 0x0303
    assert event.cipher_suites and event.groups and event.signature_algorithms
    assert event.extensions[:1] and len(set(event.extensions)) == len(event.extensions)


def test_same_ciphers_as_dpkt() -> None:
    (event,) = TlsSession().to_server(HELLO)
    oracle = dpkt.ssl.TLSHandshake(HELLO[5:]).data
    assert isinstance(event, TlsClientHello)
    assert list(event.cipher_suites) == [suite.code for suite in oracle.ciphersuites]
    assert list(event.extensions) == [kind for kind, _ in oracle.extensions]


@pytest.mark.parametrize("size", [1, 3, 100, 251])
def test_hello_over_many_records(size: int) -> None:
    assert TlsSession().to_server(split_into_records(HELLO, size)) == TlsSession().to_server(HELLO)


def test_encrypted_when_both_sides_are() -> None:
    session = TlsSession()
    session.to_server(HELLO)
    session.to_client(SERVER_HELLO + RECORD)
    assert not session.encrypted
    session.to_server(RECORD)
    assert session.encrypted


def test_second_hello_behind_change_cipher_spec_is_read() -> None:
    session = TlsSession()
    session.to_server(HELLO)
    events = session.to_server(b"\x14\x03\x03\x00\x01\x01" + client_bytes("other.example") + RECORD)
    assert [event.sni for event in events if isinstance(event, TlsClientHello)] == ["other.example"]


def test_encrypted_handshake_behind_change_cipher_spec() -> None:
    session = TlsSession()
    for feed, hello in ((session.to_server, HELLO), (session.to_client, SERVER_HELLO)):
        feed(hello)
        feed(b"\x14\x03\x03\x00\x01\x01" + b"\x16\x03\x03\x00\x28" + b"\x01" * 40)
    assert session.encrypted


def test_data_before_the_hello_is_no_tls() -> None:
    with pytest.raises(ParseError):
        TlsSession().to_server(RECORD)


@given(st.sets(st.integers(1, len(HELLO) + len(RECORD) - 1), max_size=20))
def test_segmentation_changes_nothing(cuts: set[int]) -> None:
    data = HELLO + RECORD
    edges = [0, *sorted(cuts), len(data)]
    session = TlsSession()
    events = [event for a, b in itertools.pairwise(edges) for event in session.to_server(data[a:b])]
    assert events == TlsSession().to_server(data)


@given(st.binary(max_size=100), st.integers(0, len(HELLO) - 1), st.integers(0, 255))
def test_hostile_bytes_raise_parse_error_only(data: bytes, position: int, value: int) -> None:
    damaged = bytearray(HELLO)
    damaged[position] = value
    for hostile in (data, b"\x16\x03\x01" + data, bytes(damaged) + data):
        session = TlsSession()
        try:
            session.to_server(hostile)
            session.to_client(hostile)
        except ParseError:
            pass
    with contextlib.suppress(ParseError):
        parse_client_hello(data)
