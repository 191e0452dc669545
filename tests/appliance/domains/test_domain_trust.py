# SPDX-License-Identifier: Apache-2.0
"""Which answers count, what they say, and which addresses a name may have."""

import ipaddress

import dns.message
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.domains.addresses import acceptable, address_of, is_public
from appliance.domains.resolution import Resolution, resolution
from appliance.domains.trust import PendingQueries
from appliance.inspection.protocols.dns import DnsMessage, parse_dns

FLOW = (17, b"\x0a\0\0\x01", 40000, b"\x0a\0\0\x35", 53)


def question(name: str = "a.test", kind: str = "A", number: int = 7) -> DnsMessage:
    return parse_dns(dns.message.make_query(name, kind, id=number).to_wire())


def answer(name: str = "a.test", kind: str = "A", number: int = 7, *records: str) -> DnsMessage:
    """`records` as in a zone file: "a.test. 60 IN A 192.0.2.1"."""
    message = dns.message.make_response(dns.message.make_query(name, kind, id=number))
    for record in records:
        owner, ttl, _, record_type, data = record.split(maxsplit=4)
        message.answer.append(dns.rrset.from_text(owner, int(ttl), "IN", record_type, data))
    return parse_dns(message.to_wire())


def test_an_answer_counts_once_for_the_question_that_was_asked() -> None:
    pending = PendingQueries()
    pending.asked(FLOW, question(), 1.0)
    assert pending.answered(FLOW, answer(), 1.5)
    assert not pending.answered(FLOW, answer(), 1.6)


def test_names_are_compared_without_case() -> None:
    pending = PendingQueries()
    pending.asked(FLOW, question("A.tESt"), 1.0)
    assert pending.answered(FLOW, answer("a.TEST"), 1.5)


@pytest.mark.parametrize(
    ("flow", "message"),
    [
        ((17, b"\x0a\0\0\x01", 40001, b"\x0a\0\0\x35", 53), answer()),  # another port
        ((17, b"\x0a\0\0\x02", 40000, b"\x0a\0\0\x35", 53), answer()),  # another client
        ((17, b"\x0a\0\0\x01", 40000, b"\x0a\0\0\x36", 53), answer()),  # another resolver
        ((6, b"\x0a\0\0\x01", 40000, b"\x0a\0\0\x35", 53), answer()),  # another protocol
        (FLOW, answer(number=8)),
        (FLOW, answer("b.test")),
        (FLOW, answer(kind="AAAA")),
        (FLOW, question()),
    ],
)
def test_an_answer_that_differs_in_anything_does_not_count(
    flow: tuple[int, bytes, int, bytes, int], message: DnsMessage
) -> None:
    pending = PendingQueries()
    pending.asked(FLOW, question(), 1.0)
    assert not pending.answered(flow, message, 1.1)
    assert pending.answered(FLOW, answer(), 1.2)


def test_a_question_is_given_up_after_a_while() -> None:
    pending = PendingQueries(patience=10)
    pending.asked(FLOW, question(), 1.0)
    assert not pending.answered(FLOW, answer(), 11.0)
    pending.asked(FLOW, question(number=8), 20.0)
    pending.asked(FLOW, question(number=9), 40.0)
    assert len(pending) == 1


def test_questions_asked_twice_have_two_answers() -> None:
    pending = PendingQueries()
    pending.asked(FLOW, question(), 1.0)
    pending.asked(FLOW, question(), 2.0)
    assert [pending.answered(FLOW, answer(), 2.1) for _ in range(3)] == [True, True, False]


def test_questions_are_bounded() -> None:
    pending = PendingQueries(limit=10)
    for number in range(100):
        pending.asked(FLOW, question(number=number), 1.0)
    assert len(pending) == 10
    assert not pending.answered(FLOW, answer(number=89), 1.0)
    assert pending.answered(FLOW, answer(number=90), 1.0)


def test_only_port_53_is_asked() -> None:
    pending = PendingQueries()
    flow = (*FLOW[:4], 5353)
    pending.asked(flow, question(), 1.0)
    assert not pending.answered(flow, answer(), 1.0)


V4 = ipaddress.IPv4Address


def test_an_alias_gives_its_addresses_to_every_name_on_the_way() -> None:
    said = answer(
        "www.a.test", "A", 7, "www.a.test. 300 IN CNAME cdn.test.", "cdn.test. 20 IN CNAME edge.cdn.test.",
        "edge.cdn.test. 60 IN A 192.0.2.1", "edge.cdn.test. 60 IN A 192.0.2.2",
    )  # fmt: skip
    found = resolution(said)
    assert found == Resolution(
        ("www.a.test", "cdn.test", "edge.cdn.test"), ((V4("192.0.2.1").packed, 20), (V4("192.0.2.2").packed, 20))
    )


@pytest.mark.parametrize(
    "records",
    [
        (),
        ("other.test. 60 IN A 192.0.2.1",),
        ("other.test. 60 IN CNAME a.test.", "other.test. 60 IN A 192.0.2.1"),
        ("a.test. 60 IN CNAME a.test.",),
        ("a.test. 60 IN CNAME b.test.", "b.test. 60 IN CNAME a.test.", "a.test. 60 IN A 192.0.2.1"),
        ("a.test. 60 IN TXT abcd",),
    ],
)
def test_records_off_the_way_give_nothing(records: tuple[str, ...]) -> None:
    assert resolution(answer("a.test", "A", 7, *records)) is None


def test_aaaa_records_count_and_lengths_must_be_right() -> None:
    found = resolution(answer("a.test", "AAAA", 7, "a.test. 60 IN AAAA 2001:db8::1"))
    assert found is not None and address_of(found.addresses[0][0]) == ipaddress.ip_address("2001:db8::1")


def test_a_chain_has_an_end() -> None:
    records = [f"n{i}.test. 60 IN CNAME n{i + 1}.test." for i in range(30)]
    assert resolution(answer("n0.test", "A", 7, *records, "n30.test. 60 IN A 192.0.2.1")) is None


@given(st.binary(max_size=300))
def test_whatever_parses_has_a_resolution_or_none(data: bytes) -> None:
    header = b"\0\7\x81\x80\0\1\0\2\0\0\0\0\1a\4test\0\0\1\0\1"
    found = resolution(parse_dns(header + data))
    assert found is None or (found.names[0] == "a.test" and all(len(raw) in (4, 16) for raw, _ in found.addresses))


@pytest.mark.parametrize(
    ("text", "public"),
    [("192.0.2.1", True), ("10.0.0.1", False), ("172.31.0.1", False), ("172.32.0.1", True), ("192.168.1.1", False),
     ("100.64.0.1", False), ("127.0.0.1", False), ("169.254.169.254", False), ("0.0.0.0", False),
     ("255.255.255.255", False), ("2001:db8::1", True), ("fd00::1", False), ("fe80::1", False), ("::1", False),
     ("::", False), ("64:ff9b::10.0.0.1", False), ("64:ff9b::192.0.2.1", True), ("2002:0a00:1::1", False),
     ("::10.0.0.1", False)],
)  # fmt: skip
def test_what_is_public(text: str, public: bool) -> None:
    assert is_public(ipaddress.ip_address(text)) is public


def test_own_and_private_addresses_only_enter_where_configured_and_some_never() -> None:
    own = {ipaddress.ip_address("192.0.2.9")}
    for text, plain, configured in (
        ("192.0.2.1", True, True), ("192.0.2.9", False, True), ("10.0.0.1", False, True), ("fd00::1", False, True),
        ("127.0.0.1", False, False), ("::1", False, False), ("169.254.169.254", False, False),
        ("fe80::1", False, False), ("224.0.0.1", False, False),
    ):  # fmt: skip
        address = ipaddress.ip_address(text)
        assert acceptable(address, own, private=False) is plain, text
        assert acceptable(address, own, private=True) is configured, text


def test_a_mapped_address_is_ipv4() -> None:
    mapped = address_of(ipaddress.IPv6Address("::ffff:10.0.0.1").packed)
    assert mapped == V4("10.0.0.1")
    assert address_of(b"123") is None
