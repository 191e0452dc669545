# SPDX-License-Identifier: Apache-2.0
"""JA3 and JA4 against what nDPI says of real captures, and on ClientHellos made by hand."""

import contextlib
import ipaddress
import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import dpkt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.inspection.packets import SYN, TCP, DecodeError, parse_packet
from appliance.inspection.protocols.errors import ParseError
from appliance.inspection.protocols.fingerprint import is_grease, ja3, ja3_text, ja4
from appliance.inspection.protocols.tls import TlsClientHello, TlsSession
from appliance.inspection.streams import Budget, Stream

MOST = 40_000  # packets of a capture
_LINKS = {dpkt.pcap.DLT_EN10MB: 14, dpkt.pcap.DLT_LINUX_SLL: 16, 276: 20, dpkt.pcap.DLT_RAW: 0, 12: 0}
GREASE = tuple(0x0A0A + 0x1010 * step for step in range(16))


def payloads(path: Path) -> Iterator[bytes]:
    """IP packets of a capture, whatever is in front of them."""
    with path.open("rb") as file:
        reader = dpkt.pcap.UniversalReader(file)
        link = reader.datalink()
        for _, frame in itertools.islice(reader, MOST):
            offset = _LINKS.get(link)
            if offset is None:
                return
            if link == dpkt.pcap.DLT_EN10MB and frame[12:14] == b"\x81\x00":
                offset += 4
            data = frame[offset:]
            if data[:1] and data[0] >> 4 == 4 and len(data) > 20 and data[9] == 41:
                data = data[20:]  # IPv6 in IPv4
            yield data


def hellos(path: Path) -> dict[tuple[bytes, int, bytes, int], TlsClientHello]:
    """The first ClientHello of each flow."""
    streams: dict[tuple[bytes, int, bytes, int], tuple[Stream, TlsSession]] = {}
    found: dict[tuple[bytes, int, bytes, int], TlsClientHello] = {}
    for data in payloads(path):
        try:
            packet = parse_packet(data)
        except DecodeError:
            continue
        key = (packet.src, packet.sport, packet.dst, packet.dport)
        if packet.protocol != TCP or key in found:
            continue
        if packet.flags & SYN:
            streams[key] = Stream(1 << 20, Budget(1 << 24)), TlsSession()
            streams[key][0].start(packet.seq + 1)
            continue
        stream, session = streams.setdefault(key, (Stream(1 << 20, Budget(1 << 24)), TlsSession()))
        with contextlib.suppress(ParseError):
            for event in session.to_server(stream.segment(packet.seq, packet.payload).data):
                if isinstance(event, TlsClientHello):
                    found.setdefault(key, event)
    return found


def test_real_clients_have_the_fingerprints_that_others_compute(corpora: Path) -> None:
    cases = json.loads((corpora / "ndpi" / "cases.json").read_text())
    agreed, differ = 0, []
    for case in cases:
        flows = [flow for flow in case["flows"] if flow.get("ja4", "").startswith("t")]
        found = hellos(corpora / "ndpi" / case["pcap"]) if flows else {}
        for flow in flows:
            key = _key(flow)
            hello = found.get(key)
            if hello is None:
                continue
            if (ja3(hello), _comparable(ja4(hello))) == (flow["ja3"], _comparable(flow["ja4"])):
                agreed += 1
            else:
                differ.append((case["pcap"], flow["sport"], ja3_text(hello), flow["ja3"], ja4(hello), flow["ja4"]))
    assert differ == []
    assert agreed > 250


def _comparable(text: str) -> str:
    """Without what this nDPI does otherwise than the specification says: `d` for a client that names no server, `i` for
    one that names an address; other characters of the protocol name (`ht` for http/1.1)."""
    return text[:3] + text[4:8] + text[10:]


def _key(flow: dict[str, Any]) -> tuple[bytes, int, bytes, int]:
    src, dst = ipaddress.ip_address(flow["src"]).packed, ipaddress.ip_address(flow["dst"]).packed
    return src, flow["sport"], dst, flow["dport"]


CHROME = TlsClientHello(
    version=0x0303,
    sni="www.example.org",
    alpn=("h2", "http/1.1"),
    cipher_suites=(
        0x4A4A, 0x1301, 0x1302, 0x1303, 0xC02B, 0xC02F, 0xC02C, 0xC030, 0xCCA9, 0xCCA8, 0xC013, 0xC014, 0x009C, 0x009D,
        0x002F, 0x0035,
    ),
    extensions=(
        0x7A7A, 0x0000, 0x0017, 0xFF01, 0x000A, 0x000B, 0x0023, 0x0010, 0x0005, 0x000D, 0x0012, 0x0033, 0x002D, 0x002B,
        0x001B, 0x4469, 0x0015, 0xDADA,
    ),
    groups=(0x2A2A, 29, 23, 24),
    point_formats=(0,),
    signature_algorithms=(0x0403, 0x0804, 0x0401, 0x0503, 0x0805, 0x0501, 0x0806, 0x0601),
    versions=(0x0A0A, 0x0304, 0x0303),
    first_alpn=b"h2",
)  # fmt: skip


def test_the_example_of_the_specification() -> None:
    assert ja4(CHROME) == "t13d1516h2_8daaf6152771_e5627efa2ab1"


def test_ja3_of_a_client_that_greases() -> None:
    assert ja3_text(CHROME) == (
        "771,4865-4866-4867-49195-49199-49196-49200-52393-52392-49171-49172-156-157-47-53,"
        "0-23-65281-10-11-35-16-5-13-18-51-45-43-27-17513-21,29-23-24,0"
    )
    # The hash that is published for this string (Chrome 83 and later, before it shuffled its extensions).
    assert ja3(CHROME) == "cd08e31494f9531f560d64c695473da9"


@pytest.mark.parametrize(
    ("alpn", "shown"),
    [
        (b"", "00"), (b"h2", "h2"), (b"http/1.1", "h1"), (b"x", "xx"), (b"\xab\xcd", "ad"), (b"0\xab", "3b"),
        (b"/a", "21"),
    ],
)  # fmt: skip
def test_ends_of_the_protocol_name(alpn: bytes, shown: str) -> None:
    assert ja4(replace(CHROME, first_alpn=alpn))[8:10] == shown


def test_a_client_that_names_no_server() -> None:
    extensions = tuple(number for number in CHROME.extensions if number)
    assert ja4(replace(CHROME, extensions=extensions)) == "t13i1515h2_8daaf6152771_e5627efa2ab1"


def test_a_hello_with_nothing_in_it() -> None:
    empty = TlsClientHello(0x0301, "", (), (), (), (), (), (), ())
    assert ja4(empty) == "t10i000000_000000000000_000000000000"
    assert ja3_text(empty) == "769,,,,"


@given(st.permutations(CHROME.cipher_suites), st.permutations(CHROME.extensions), st.lists(st.sampled_from(GREASE)))
def test_ja4_knows_a_client_that_shuffles_and_greases(
    ciphers: list[int], extensions: list[int], grease: list[int]
) -> None:
    shuffled = replace(CHROME, cipher_suites=(*grease, *ciphers), extensions=(*extensions, *grease))
    assert ja4(shuffled) == ja4(CHROME)


@given(st.integers(0, 0xFFFF))
def test_what_grease_is(number: int) -> None:
    assert is_grease(number) == (number in GREASE)
