# SPDX-License-Identifier: Apache-2.0
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rules.signatures import Signature, SignatureError, parse_signatures
from rules.signatures.keywords.content import parse_pattern
from rules.signatures.model import Content, FlowCondition, Pcre, SizeRange
from rules.signatures.parser import split_options

HEAD = "alert tcp any any -> any any "


def one(options: str, head: str = HEAD) -> Signature:
    loaded = parse_signatures(f"{head}({options} sid:1;)", "f.rules")
    assert not loaded.errors, str(loaded.errors[0])
    return loaded.signatures[0]


def error(text: str) -> SignatureError:
    loaded = parse_signatures(text, "f.rules")
    assert not loaded.signatures
    return loaded.errors[0]


def items(signature: Signature, buffer: str = "payload") -> tuple[object, ...]:
    return dict(signature.buffers)[buffer]


def test_whole_signature() -> None:
    signature = one(
        'msg:"Say \\"hello\\"\\; please"; flow:established,to_server; content:"GET"; http_method; http.uri; '
        'content:"|2f|a\\;b"; NoCase; fast_pattern; pcre:"/x\\;?y\\/z/Ri"; classtype:trojan-activity; priority:2; '
        "reference:url,example.org; metadata:a b, c d; rev:3; dsize:10<>20;",
        "drop http $EXTERNAL_NET any -> [10.0.0.0/8, !10.1.0.0/16] [80,8000:8080] ",
    )
    assert (signature.action, signature.msg) == ("drop", 'Say "hello"; please')
    assert (signature.rev, signature.classtype, signature.priority) == (3, "trojan-activity", 2)
    assert signature.metadata == ("a b", "c d") and signature.references == ("url,example.org",)
    assert signature.flow == FlowCondition(to_server=True, established=True)
    assert signature.dsize == SizeRange(11, 19)
    assert signature.header.dst == "[10.0.0.0/8,!10.1.0.0/16]"
    assert items(signature, "http.method") == (Content(b"GET"),)
    content, pcre = items(signature, "http.uri")
    assert content == Content(b"/a;b", nocase=True, fast_pattern=True)
    assert isinstance(pcre, Pcre) and pcre.relative and list(pcre.expression.ends(b"X;Y/Z"))


def test_semicolon_inside_quotes_ends_an_option_unless_escaped() -> None:
    assert list(split_options(r'a:"x\;y"; b; c:"\\";')) == [("a", r'"x\;y"'), ("b", None), ("c", r'"\\"')]


def test_lines_comments_and_continuation() -> None:
    text = f'# comment\n\n{HEAD}(\\\n  msg:"two lines"; \\\n  sid:7;)\n{HEAD}(sid:8;)\n'
    loaded = parse_signatures(text, "f.rules")
    assert [(s.sid, s.line) for s in loaded.signatures] == [(7, 3), (8, 6)]


def test_one_bad_line_hides_no_other() -> None:
    loaded = parse_signatures(f"{HEAD}(sid:1;)\nnonsense\n{HEAD}(sid:2;)\n", "f.rules")
    assert [s.sid for s in loaded.signatures] == [1, 2]
    assert str(loaded.errors[0]).startswith("f.rules:2: ")


def test_unsupported_keyword_is_reported_with_its_place() -> None:
    failed = error(f"\n{HEAD}(xbits:set,a; sid:1;)")
    assert failed.unsupported and (failed.file, failed.line, failed.field) == ("f.rules", 2, "xbits")
    assert str(failed) == "f.rules:2: xbits: keyword is not supported"


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("alert tcp any any -> any (sid:1;)", "header has 6 parts"),
        ("shout tcp any any -> any any (sid:1;)", "action 'shout'"),
        ("alert quux any any -> any any (sid:1;)", "protocol 'quux'"),
        ("alert tcp any any <- any any (sid:1;)", "direction '<-'"),
        (HEAD + "sid:1;", "parentheses"),
        (HEAD + "(sid:1)", "does not end in ';'"),
        (HEAD + '(msg:"x";)', "sid is missing"),
        (HEAD + "(sid:1; sid:2;)", "given twice"),
        (HEAD + "(sid:0;)", "not between"),
        (HEAD + "(nocase; sid:1;)", "behind no content"),
        (HEAD + '(content:""; sid:1;)', "is empty"),
        (HEAD + '(content:"|4|"; sid:1;)', "hexadecimal"),
        (HEAD + '(content:"|41"; sid:1;)', "do not end"),
        (HEAD + '(content:"abc"; depth:2; sid:1;)', "shorter than its content"),
        (HEAD + '(content:"abc"; offset:1; distance:1; sid:1;)', "relative and absolute"),
        (HEAD + '(pcre:"/(/"; sid:1;)', "cannot be compiled"),
        (HEAD + '(pcre:"abc"; sid:1;)', "between slashes"),
        (HEAD + '(pcre:"/a/y"; sid:1;)', "flag 'y'"),
        (HEAD + "(flow:to_server,to_client; sid:1;)", "both directions"),
        (HEAD + "(dsize:9<>10; sid:1;)", "empty"),
        (f"{HEAD}(sid:1;)\n{HEAD}(sid:1;)", "stands in line 1"),
    ],
)
def test_errors_say_what_is_wrong(rule: str, message: str) -> None:
    loaded = parse_signatures(rule, "f.rules")
    assert message in str(loaded.errors[0])
    assert loaded.errors[0].line is not None


@given(st.binary(min_size=1, max_size=40))
def test_pattern_in_hexadecimal(raw: bytes) -> None:
    assert parse_pattern("|" + raw.hex(" ") + "|") == raw


@given(st.text(max_size=200) | st.text('()";:\\|!$,[]<>-abc10 \n/', max_size=80).map(lambda text: HEAD + text))
def test_any_text_is_read_without_raising(text: str) -> None:
    parse_signatures(text, "f.rules")


_OPTION = st.sampled_from(
    ["content", "nocase", "offset", "depth", "distance", "within", "pcre", "flow", "dsize", "bsize", "http.uri", "sid",
     "msg", "fast_pattern", "http_uri", "urilen", "startswith", "priority", "reference"]
)  # fmt: skip
_VALUE = st.sampled_from(
    ['"a"', '!"|00|"', "-1", "5", "99999999999", '"/a(/R"', "<3", "3<>1", "", "to_server", '"', "|"]
)


@given(st.lists(st.tuples(_OPTION, _VALUE), max_size=8))
def test_any_options_are_read_without_raising(options: list[tuple[str, str]]) -> None:
    parse_signatures(HEAD + "(" + "".join(f"{name}:{value};" for name, value in options) + ")", "f.rules")
