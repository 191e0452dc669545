# SPDX-License-Identifier: Apache-2.0
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rules.signatures import Sample, SignatureSet, compile_signatures, parse_signatures
from rules.signatures.confirm import buffer_holds
from rules.signatures.model import Content


def compiled(text: str, variables: dict[str, str] | None = None, *, accelerate: bool = True) -> SignatureSet:
    loaded = parse_signatures(text, "f.rules")
    assert not loaded.errors, str(loaded.errors[0])
    return compile_signatures(loaded.signatures, variables, accelerate=accelerate)


def sample(
    buffers: dict[str, bytes], *, app: str = "", src: str = "10.0.0.1", dst: str = "10.0.0.2", sport: int = 4000,
    dport: int = 80, protocol: int = 6, to_server: bool = True, established: bool = True, size: int = 100,
) -> Sample:  # fmt: skip
    return Sample(
        protocol,
        app,
        to_server,
        established,
        ip_address(src).packed,
        ip_address(dst).packed,
        sport,
        dport,
        size,
        buffers,
    )


def holds(options: str, payload: bytes) -> bool:
    rules = compiled(f"alert tcp any any -> any any ({options} sid:1;)")
    return bool(rules.match_payload(sample({"payload": payload})))


@pytest.mark.parametrize(
    ("options", "payload", "expected"),
    [
        ('content:"abc";', b"xxabcxx", True),
        ('content:"abc";', b"xxABCxx", False),
        ('content:"aBc"; nocase;', b"xxAbCxx", True),
        ('content:"a|00 ff|b";', b"a\x00\xffb", True),
        ('content:!"abc";', b"xyz", True),
        ('content:!"abc";', b"abc", False),
        ('content:"abc"; offset:3;', b"abc", False),
        ('content:"abc"; offset:3;', b"xxxabc", True),
        ('content:"abc"; depth:4;', b"xabc", True),
        ('content:"abc"; depth:4;', b"xxabc", False),
        ('content:"abc"; offset:2; depth:3;', b"xxabc", True),
        ('content:"abc"; startswith;', b"abcd", True),
        ('content:"abc"; startswith;', b"xabc", False),
        ('content:"abc"; endswith;', b"abcxabc", True),
        ('content:"abc"; endswith;', b"abcx", False),
        ('content:"abc"; startswith; endswith;', b"abc", True),
        ('content:"ab"; content:"cd"; distance:0;', b"abcd", True),
        ('content:"ab"; content:"cd"; distance:0;', b"cdab", False),
        ('content:"ab"; content:"cd"; distance:1; within:2;', b"abxcd", True),
        ('content:"ab"; content:"cd"; distance:1; within:2;', b"abxxcd", False),
        ('content:"ab"; content:"cd"; within:3;', b"abxcd", True),
        ('content:"ab"; content:"cd"; within:2;', b"ab ab cd abcd", True),
        ('content:"cd"; content:"ab"; distance:-4; within:2;', b"abcd", True),
        ('content:"ab"; content:!"cd"; within:2;', b"abcd", False),
        ('content:"ab"; content:!"cd"; within:2;', b"abxcd", True),
        ('content:"ab"; pcre:"/^\\d+x/R";', b"zzab12x", True),
        ('content:"ab"; pcre:"/^\\d+x/R";', b"12xab", False),
        ('pcre:"/A.C/i";', b"xxabc", True),
        ('pcre:!"/abc/";', b"abc", False),
        ("dsize:100;", b"", True),
        ("dsize:>100;", b"x", False),
        ('content:"a"; bsize:3;', b"abc", True),
        ('content:"a"; bsize:<3;', b"abc", False),
    ],
)
def test_items(options: str, payload: bytes, expected: bool) -> None:
    assert holds(options, payload) is expected


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("tcp any any -> any any", True),
        ("ip any any -> any any", True),
        ("udp any any -> any any", False),
        ("http any any -> any any", False),
        ("tcp 10.0.0.0/24 any -> 10.0.0.2 80", True),
        ("tcp 10.0.0.2 any -> any any", False),
        ("tcp 10.0.0.2 80 <> 10.0.0.1 4000", True),
        ("tcp !10.0.0.1 any -> any any", False),
        ("tcp [10.0.0.0/8,!10.0.0.1] any -> any any", False),
        ("tcp $HOME_NET any -> !$HOME_NET any", False),
        ("tcp $HOME_NET any -> $HOME_NET [70:79,80]", True),
        ("tcp any any -> any !80", False),
        ("tcp any [!80,!81] -> any [:100]", True),
        ("tcp fd00::/8 any -> any any", False),
    ],
)
def test_headers(header: str, expected: bool) -> None:
    rules = compiled(f'alert {header} (content:"x"; sid:1;)', {"HOME_NET": "[10.0.0.0/24,fd00::/8]"})
    assert not rules.errors
    assert bool(rules.match_payload(sample({"payload": b"x"}))) is expected


def test_unknown_variable_leaves_the_signature_out() -> None:
    rules = compiled("alert tcp $NOWHERE any -> any any (sid:1;)\nalert tcp any any -> any any (sid:2;)")
    assert len(rules) == 1
    assert str(rules.errors[0]) == "f.rules:1: header: variable $NOWHERE is not defined"


def test_variables_that_name_each_other_end() -> None:
    loaded = parse_signatures("alert tcp $A any -> any any (sid:1;)", "f.rules")
    rules = compile_signatures(loaded.signatures, {"A": "$B", "B": "$A"})
    assert "nested" in str(rules.errors[0])


def test_direction_and_state() -> None:
    rules = compiled('alert tcp any any -> any any (flow:to_client,established; content:"x"; sid:1;)')
    assert not rules.match_payload(sample({"payload": b"x"}))
    assert rules.match_payload(sample({"payload": b"x"}, to_server=False))
    assert not rules.match_payload(sample({"payload": b"x"}, to_server=False, established=False))


def test_transaction_needs_every_buffer() -> None:
    rules = compiled(
        'alert http any any -> any any (http.method; content:"POST"; http.uri; content:"/login"; '
        'http.host; content:"bank"; content:!"real"; sid:1;)'
    )
    buffers = {"http.method": b"POST", "http.uri": b"/login.php", "http.host": b"my-bank.example"}
    assert rules.match_transaction(sample(buffers, app="http"))
    assert not rules.match_transaction(sample({**buffers, "http.host": b"real-bank.example"}, app="http"))
    assert not rules.match_transaction(sample({**buffers, "http.method": b"GET"}, app="http"))
    assert not rules.match_transaction(sample({"http.uri": b"/login"}, app="http"))
    assert not rules.match_payload(sample({"payload": b"POST /login bank"}, app="http"))
    assert not rules.wants_payload


def test_order_of_the_answer() -> None:
    rules = compiled(
        "\n".join(
            f'{action} tcp any any -> any any (content:"x"; priority:{priority}; sid:{sid};)'
            for action, priority, sid in
            [("alert", 2, 1), ("reject", 2, 2), ("drop", 2, 4), ("drop", 2, 3), ("alert", 1, 9)]
        )
    )  # fmt: skip
    assert [s.sid for s in rules.match_payload(sample({"payload": b"x"}))] == [9, 3, 4, 2, 1]


def test_pass_stands_alone() -> None:
    rules = compiled(
        'drop tcp any any -> any any (content:"x"; sid:1;)\npass tcp any any -> any any (content:"x"; sid:2;)'
    )
    assert [s.sid for s in rules.match_payload(sample({"payload": b"x"}))] == [2]


def test_expensive_backtracking_is_bounded() -> None:
    items = (*tuple(Content(b"a", distance=0) for _ in range(12)), Content(b"b", distance=0))
    assert not buffer_holds(items, b"a" * 3000)


_PATTERNS = st.lists(st.binary(min_size=1, max_size=5), min_size=1, max_size=8, unique=True)


@given(_PATTERNS, st.lists(st.binary(max_size=8), max_size=6), st.booleans())
def test_accelerated_plain_and_naive_agree(patterns: list[bytes], pieces: list[bytes], nocase: bool) -> None:
    payload = b"".join(pieces) + (patterns[0] if nocase else b"")
    text = "\n".join(
        f'alert tcp any any -> any any (content:"|{pattern.hex()}|";{" nocase;" if nocase else ""} sid:{sid};)'
        for sid, pattern in enumerate(patterns, 1)
    )
    naive = [
        sid
        for sid, pattern in enumerate(patterns, 1)
        if (pattern.lower() in payload.lower() if nocase else pattern in payload)
    ]
    for accelerate in (True, False):
        rules = compiled(text, accelerate=accelerate)
        assert [s.sid for s in rules.match_payload(sample({"payload": payload}))] == naive
