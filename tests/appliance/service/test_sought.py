# SPDX-License-Identifier: Apache-2.0
"""What inspectors look for, and which flows are sent to them for it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.config import Config
from appliance.config.model import Inspection, PolicySection
from appliance.inspection.messages import FeedEntries, FeedNames
from appliance.service.calculation import Inputs, calculate
from appliance.service.sought import NAME_PORTS, Ports, inspect_ports, ranges, sought
from threatfeeds import Allowlist, Feed, FeedConfig, read_feed

CONFIG = Config(node="n1", mode="enforce", inspection=Inspection(tls_ports=("tcp:443", "tcp:8443")))
TLS: Ports = (("tcp", 443, 443), ("tcp", 8443, 8443))
JA3, SHA1, JA4 = "0123456789abcdef" * 2, "01234567" * 5, "t13d1516h2_8daaf6152771_e5627efa2ab1"


def feed(*lines: str, name: str = "f", **settings: object) -> Feed:
    config = FeedConfig(file="bad.txt", name=name, **settings)  # type: ignore[arg-type]
    return Feed(config, read_feed(config, "\n".join(lines).encode()))


def allow(*entries: str) -> Allowlist:
    return Allowlist.build(configured=entries)


@pytest.mark.parametrize(
    ("lines", "ports"),
    [
        (["192.0.2.1"], ()),
        (["bad.example"], NAME_PORTS),
        (["http://bad.example/x"], (("tcp", 80, 80),)),
        (["http://bad.example:8080/x", "http://192.0.2.1/x"], (("tcp", 80, 80), ("tcp", 8080, 8080))),
        (["https://bad.example/x"], ()),
        ([JA3], TLS),
        ([JA4], TLS),
        ([SHA1], TLS),
        ([JA4, "http://bad.example/x"], (("tcp", 80, 80), *TLS)),
    ],
)
def test_only_flows_where_something_could_match_are_inspected(lines: list[str], ports: Ports) -> None:
    found = sought([feed(*lines)], Allowlist())
    assert inspect_ports(CONFIG, found, signatures=False) == ports
    none = Config(node="n1", inspection=Inspection(inspectors=0))
    assert inspect_ports(none, found, signatures=False) == ()


def test_what_is_configured_and_signatures_are_inspected_always() -> None:
    config = Config(node="n1", mode="enforce", policy=PolicySection(inspect_ports=("udp:5000",)))
    assert inspect_ports(config, sought([], Allowlist()), signatures=False) == (("udp", 5000, 5000),)
    assert inspect_ports(config, sought([], Allowlist()), signatures=True) == (("udp", 5000, 5000), *NAME_PORTS)


def test_a_program_marks_those_ports_only() -> None:
    with_url = calculate(CONFIG, Inputs(feeds=(feed("http://bad.example:8080/x"),)))
    assert with_url.program.options.inspect_ports == ((6, 8080, 8080),)
    assert calculate(CONFIG, Inputs(feeds=(feed("192.0.2.1"),))).program.options.inspect_ports == ()


def test_kinds_of_entries() -> None:
    found = sought(
        [
            feed("*.below.example", "n.example", "B\u00fccher.example/x", JA3, SHA1, action="drop", subdomains=False),
            feed(JA4, name="g"),
        ],
        Allowlist(),
    )
    assert found.names == (
        FeedNames("f", "drop", ("n.example",), False), FeedNames("f", "drop", ("below.example",), True)
    )  # fmt: skip
    assert set(found.entries) == {
        FeedEntries("f", "drop", "url", ("http://xn--bcher-kva.example/x",)),
        FeedEntries("f", "drop", "ja3", (JA3,)), FeedEntries("f", "drop", "sha1", (SHA1,)),
        FeedEntries("g", "alert", "ja4", (JA4,)),
    }  # fmt: skip


def test_https_urls_cannot_be_seen_and_are_their_hosts_if_the_feed_says_so() -> None:
    lines = ("https://bad.example/x", "https://bad.example/y")
    found = sought([feed(*lines)], Allowlist())
    assert (found.names, found.entries) == ((), ())
    assert found.warnings[0].startswith("feed f: 2 https URLs cannot be seen")
    whole = sought([feed(*lines, https_hosts=True)], Allowlist())
    assert whole.names == (FeedNames("f", "alert", ("bad.example",), False),) and whole.warnings == ()


def test_directions() -> None:
    lines = ("bad.example", "http://bad.example/x", SHA1, JA4)
    source = sought([feed(*lines, direction="source")], Allowlist())
    assert source.names == () and [entry.kind for entry in source.entries] == ["ja4"]
    destination = sought([feed(*lines, direction="destination")], Allowlist())
    assert [entry.kind for entry in destination.entries] == ["url", "sha1"] and destination.names
    assert len(source.warnings) == len(destination.warnings) == 1


def test_allowed_names_stay_listed_and_alone_are_no_reason_to_inspect() -> None:
    found = sought([feed("www.good.example", "good.example")], allow("good.example"))
    assert found.allowed == ("good.example",) and found.names[0].names == ("good.example", "www.good.example")
    assert inspect_ports(CONFIG, found, signatures=False) == ()
    above = sought([feed("example.org")], allow("good.example.org"))
    assert inspect_ports(CONFIG, above, signatures=False) == NAME_PORTS


def test_urls_of_allowed_addresses_are_not_asked() -> None:
    lines = ("http://192.0.2.1:81/x", "http://192.0.2.2/x", "http://[2001:db8::1]/x")
    found = sought([feed(*lines)], allow("192.0.2.1", "2001:db8::/64"))
    assert [entry.entries for entry in found.entries] == [("http://192.0.2.2/x",)]


@given(st.sets(st.integers(1, 65535), max_size=80), st.integers(1, 8))
def test_ranges_cover_every_port_and_are_few(ports: set[int], most: int) -> None:
    found = ranges(ports, most)
    assert len(found) <= most
    assert all(any(first <= port <= last for first, last in found) for port in ports)
    assert all({first, last} <= ports for first, last in found)
    if len(ports) <= most:
        assert sum(last - first + 1 for first, last in found) == len(ports)
