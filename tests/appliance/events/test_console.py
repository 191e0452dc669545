# SPDX-License-Identifier: Apache-2.0
import ast
import ipaddress
import re
from datetime import UTC
from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from appliance.events.console import Status, count, flow_line, inspection_line, printable, status_line
from appliance.events.names import Names
from fastpath.layout import NONE, EventFlag, EventKind, Verdict

NAMES = Names(
    [SimpleNamespace(tier="default", policy="web", kind="GlobalNetworkPolicy", rule_index=0, action="Allow")],
    [
        SimpleNamespace(name="world", feeds=()),
        SimpleNamespace(name="web-1", feeds=()),
        SimpleNamespace(name="\x1b[2Jevil\n", feeds=()),
    ],
)


def event(**changes: Any) -> Any:
    fields: dict[str, Any] = {
        "time": 1_767_225_600_123_456_789,
        "flow": 1,
        "src": ipaddress.ip_address("10.0.0.1"),
        "sport": 40000,
        "dport": 443,
        "dst": ipaddress.ip_address("2001:db8::1"),
        "proto": 6,
        "family": 6,
        "hook": 2,
        "kind": EventKind.FLOW,
        "iif": 0,
        "oif": 0,
        "src_identity": 1,
        "dst_identity": 0,
        "rule": 0,
        "staged_rule": 0,
        "verdict": Verdict.ALLOW,
        "staged_verdict": Verdict.ALLOW,
        "failure": 0,
        "generation": 1,
        "flags": 0,
        "uid": NONE,
    }
    return SimpleNamespace(**(fields | changes))


def test_line_says_time_ends_protocol_application_verdict_and_rule() -> None:
    line = flow_line(event(), NAMES, app="tls", zone=UTC)
    assert line.split() == [
        "00:00:00.123",
        "web-1:40000",
        "→",
        "[2001:db8::1]:443",
        "tcp",
        "tls",
        "allow",
        "default/web[0]",
    ]


def test_columns_are_aligned() -> None:
    lines = [
        flow_line(event(**change), NAMES, zone=UTC)
        for change in (
            {},
            {"dport": 1, "verdict": Verdict.REJECT, "staged_verdict": Verdict.REJECT},
            {"src_identity": 0, "proto": 17},
        )
    ]
    assert len({line.index("→") for line in lines}) == 1
    assert len({line.index("default/web") for line in lines}) == 1


def test_observed_denial_says_would() -> None:
    line = flow_line(event(verdict=Verdict.DROP, flags=EventFlag.OBSERVED), NAMES)
    assert "would drop" in line
    assert "(staged: allow by default/web[0])" in line


def test_colour_only_when_asked() -> None:
    assert "\x1b" not in flow_line(event(), NAMES)
    assert "\x1b[32mallow" in flow_line(event(), NAMES, colour=True)


def test_names_cannot_control_the_terminal() -> None:
    line = flow_line(event(src_identity=2), NAMES, app="\u202ehttp", zone=UTC)
    assert "\\x1b[2Jevil\\x0a" in line
    assert "\\u202ehttp" in line
    assert line.isprintable()


def test_inspection_lines() -> None:
    hit = SimpleNamespace(
        kind="feed",
        time=0.5,
        protocol=6,
        src=b"\x0a\0\0\1",
        dst=b"\x0a\0\0\2",
        sport=1,
        dport=2,
        app="tls",
        action="drop",
        reason="list",
        observed=False,
        fields={"name": "e\x07vil"},
    )
    line = inspection_line(hit, zone=UTC)
    assert line is not None
    assert line.endswith("drop         feed list: e\\x07vil")
    hit.fields = {"name": "a.evil", "entry": "evil", "source": "dns.query", "since": "2026-01-02", "also": ["x", "y"]}
    line = inspection_line(hit, zone=UTC)
    assert line is not None and line.endswith("feed list: a.evil (entry evil, since 2026-01-02, also in x, y)")
    hit.fields = {"name": "t13d", "entry": "t13d", "source": "tls.ja4"}
    line = inspection_line(hit, zone=UTC)
    assert line is not None and line.endswith("feed list: ja4 t13d")
    hit.kind = "http"
    assert inspection_line(hit) is None


@given(st.text())
def test_escaping_leaves_nothing_that_acts_and_is_reversible(text: str) -> None:
    safe = printable(text)
    assert safe.isprintable()
    if "\\" in safe:
        quoted = safe.replace("'", "\\'")
        assert ast.literal_eval(f"'{quoted}'") == text
    else:
        assert safe == text


@given(st.integers(1, 200), st.integers(0, 10**18), st.sampled_from(["observe", "enforce"]))
def test_status_line_fits(width: int, number: int, mode: str) -> None:
    status = Status(mode, 3661.5, number, number / 3, number, number, number, number, number, number, 3, 4, 5)
    line = status_line(status, width=width)
    assert len(line) <= width
    assert f"{mode} 01:01:01".startswith(line[:16])


def test_status_line_of_observe_mode_speaks_of_what_it_would_deny() -> None:
    line = status_line(Status("observe", 1, 2, 3.4, 5, 0, 0, 0, would_deny=6))
    assert line == " | ".join(
        (
            "observe 00:00:01",
            "3 packets/s up",
            "2 flows",
            "allowed 5",
            "inspected 0",
            "would deny 6",
            "policies 0",
            "generation 0",
        )
    )
    assert re.search(r"dropped 9 \| rejected 1", status_line(Status("enforce", 1, 2, 3, 4, 0, 9, 1)))


@given(st.floats(0, 10**17))
def test_counts_are_short(number: float) -> None:
    assert len(count(number)) <= 4


def test_counts() -> None:
    assert [count(n) for n in (0, 999, 1000, 9949, 9951, 999_499, 999_500, 35_000_000)] == [
        "0",
        "999",
        "1.0k",
        "9.9k",
        "10k",
        "999k",
        "1.0M",
        "35M",
    ]


def test_a_local_socket_names_its_user() -> None:
    assert flow_line(event(uid=0), NAMES).endswith("(by root)")
    assert flow_line(event(uid=4_000_000_000), NAMES).endswith("(by uid 4000000000)")
    assert "by " not in flow_line(event(), NAMES)


def test_a_denied_request_is_a_line_with_rule_and_request() -> None:
    denied = SimpleNamespace(
        kind="policy", time=0.0, src=bytes(4), dst=bytes(4), sport=1, dport=80, protocol=6, app="http", action="drop",
        reason="default/web (end of tier)", observed=True, fields={"http_method": "POST", "url": "/admin"},
    )  # fmt: skip
    line = inspection_line(denied, zone=UTC)
    assert line is not None
    assert line.endswith("would drop   default/web (end of tier): POST /admin")
