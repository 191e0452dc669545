# SPDX-License-Identifier: Apache-2.0
"""Where SSH and SMTP stop being readable."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.inspection.protocols.errors import ParseError
from appliance.inspection.protocols.smtp import SmtpSession
from appliance.inspection.protocols.ssh import SshSession


def packet(message: int, size: int = 10) -> bytes:
    body = bytes((6, message)) + bytes(size + 6)
    return len(body).to_bytes(4, "big") + body


HANDSHAKE = b"SSH-2.0-x\r\n" + packet(20, 500) + packet(30) + packet(21)


def test_ssh_is_encrypted_when_both_sides_have_new_keys() -> None:
    session = SshSession()
    session.to_client(b"welcome\r\n" + HANDSHAKE)
    assert not session.encrypted
    session.to_server(HANDSHAKE[:-1])
    assert not session.encrypted
    session.to_server(HANDSHAKE[-1:] + b"\xff" * 100)
    session.to_client(b"\xff" * 100)
    assert session.encrypted


@given(st.lists(st.integers(1, 100), max_size=8))
def test_ssh_segmentation_changes_nothing(sizes: list[int]) -> None:
    session, at = SshSession(), 0
    session.to_client(HANDSHAKE)
    for size in [*sizes, len(HANDSHAKE)]:
        session.to_server(HANDSHAKE[at : at + size])
        at += size
    assert session.encrypted


def test_ssh_newkeys_inside_a_packet_is_none() -> None:
    session = SshSession()
    for feed in (session.to_server, session.to_client):
        feed(b"SSH-2.0-x\r\n" + packet(20)[:-1] + b"\x15" + packet(30))
    assert not session.encrypted


def test_what_is_no_ssh_packet_is_an_error() -> None:
    with pytest.raises(ParseError):
        SshSession().to_server(b"SSH-2.0-x\r\nGET / HTTP/1.1\r\n")


def greeted() -> SmtpSession:
    session = SmtpSession()
    session.to_client(b"220 mail ESMTP\r\n")
    session.to_server(b"EHLO a\r\n")
    session.to_client(b"250-mail\r\n250-PIPELINING\r\n250 STARTTLS\r\n")
    return session


def test_starttls_ends_what_is_smtp() -> None:
    session = greeted()
    session.to_server(b"STARTTLS\r\n")
    session.to_client(b"220 go\r\n\x16\x03")
    assert session.tunnel
    session.to_server(b"")
    assert session.rest() == (b"", b"\x16\x03")


def test_starttls_that_is_refused_changes_nothing() -> None:
    session = greeted()
    session.to_server(b"starttls\r\n")
    session.to_client(b"454 no\r\n")
    assert not session.tunnel


def test_starttls_in_a_message_is_text() -> None:
    session = greeted()
    session.to_server(b"MAIL FROM:<a>\r\nRCPT TO:<b>\r\nDATA\r\n")
    session.to_client(b"250 ok\r\n250 ok\r\n354 go on\r\n")
    session.to_server(b"STARTTLS\r\n.\r\n")
    session.to_client(b"250 ok\r\n220 what\r\n")
    assert not session.tunnel
    session.to_server(b"BDAT 10\r\nSTARTTLS\r\nSTARTTLS\r\n")
    session.to_client(b"250 ok\r\n220 go\r\n")
    assert session.tunnel


def test_an_answer_to_auth_is_no_command() -> None:
    session = greeted()
    session.to_server(b"AUTH PLAIN\r\n")
    session.to_client(b"334 \r\n")
    session.to_server(b"STARTTLS\r\n")
    session.to_client(b"220 not this one\r\n")
    assert not session.tunnel


@given(st.lists(st.tuples(st.booleans(), st.binary(max_size=30)), max_size=10))
def test_any_bytes_give_parse_errors_at_most(pieces: list[tuple[bool, bytes]]) -> None:
    for session in (SmtpSession(), SshSession()):
        with contextlib.suppress(ParseError):
            for to_server, data in pieces:
                (session.to_server if to_server else session.to_client)(data)
