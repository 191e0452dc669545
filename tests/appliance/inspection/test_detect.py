# SPDX-License-Identifier: Apache-2.0
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.inspection.protocols.detect import ENOUGH, UNKNOWN, detect_tcp, detect_udp

DNS = b"\0\1\1\0\0\1\0\0\0\0\0\0\x01a\x04test\0\0\1\0\1"


@pytest.mark.parametrize(
    ("to_server", "to_client", "expected"),
    [
        (b"GET / HTTP/1.1\r\n", b"", "http"),
        (b"BREWCOFFEE /pot HTTP/1.1\r\n", b"", "http"),
        (b"", b"HTTP/1.1 200 OK\r\n", "http"),
        (b"\x16\x03\x01\x02\x00\x01", b"", "tls"),
        (b"", b"\x16\x03\x03\x00\x50\x02", "tls"),
        (b"\x00\x00\x00\x40\xfeSMB", b"", "smb"),
        (b"", b"220 mail.example ESMTP ready\r\n", "smtp"),
        (b"SSH-2.0-OpenSSH\r\n", b"", "ssh"),
        (len(DNS).to_bytes(2, "big") + DNS, b"", "dns"),
        (b"\x01\x02\x03\x04\xff\x06", b"\xff\xfe\xfd\xfc\xff", UNKNOWN),
        (b"GET", b"", None),
        (b"\x16", b"", None),
        (b"\x01\x02\x03\x04\x05\x06", b"", None),
        (b"\x01\x02\x03" * ENOUGH, b"", UNKNOWN),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\0\0\0\4\0\0\0\0", UNKNOWN),
    ],
)
def test_protocol_by_first_bytes(to_server: bytes, to_client: bytes, expected: str | None) -> None:
    assert detect_tcp(to_server, to_client) == expected


def test_udp() -> None:
    assert detect_udp(DNS) == "dns"
    assert detect_udp(b"\0" * 40) == UNKNOWN
    assert detect_udp(b"") == UNKNOWN


@given(st.binary(max_size=64), st.binary(max_size=64))
def test_any_bytes_have_an_answer(to_server: bytes, to_client: bytes) -> None:
    assert detect_tcp(to_server, to_client) in (None, UNKNOWN, "http", "tls", "smb", "smtp", "ssh", "dns")
    assert detect_udp(to_server) in (UNKNOWN, "dns")


@given(st.sampled_from([b"GET / HTTP/1.1\r\n", b"\x16\x03\x01\x02\x00\x01\x00", b"SSH-2.0-x\r\n"]), st.integers(1, 30))
def test_a_beginning_is_never_called_unknown(data: bytes, size: int) -> None:
    assert detect_tcp(data[:size], b"") in (None, detect_tcp(data, b""))
