# SPDX-License-Identifier: Apache-2.0
from appliance.inspection.indicators import Listed
from appliance.inspection.messages import FeedNames
from appliance.inspection.names import AllowedNames, NameSet
from rules.hostnames import as_name


def test_a_name_stands_for_what_is_below_it() -> None:
    names = NameSet([FeedNames("f", "drop", ("Bad.Example.",))])
    assert names.lookup("bad.example") == Listed("f", "drop", "bad.example")
    assert names.lookup("a.b.bad.example") == Listed("f", "drop", "bad.example")
    assert names.lookup("notbad.example") is None
    assert names.lookup("example") is None


def test_exact_feed_and_wildcard_entry() -> None:
    names = NameSet([FeedNames("f", "drop", ("one.example", "*.two.example"), subdomains=False)])
    assert names.lookup("one.example") and not names.lookup("www.one.example")
    assert names.lookup("www.two.example") and not names.lookup("two.example")
    assert len(names) == 2


def test_stronger_action_wins_over_the_longer_entry() -> None:
    names = NameSet([FeedNames("a", "alert", ("www.x.example",)), FeedNames("b", "reject", ("x.example",))])
    match = names.lookup("www.x.example")
    assert match is not None and (match.feed, match.action) == ("b", "reject")


def test_every_feed_that_lists_a_name_is_told() -> None:
    names = NameSet([FeedNames("a", "alert", ("www.x.example",)), FeedNames("b", "reject", ("x.example",))])
    match = names.lookup("www.x.example")
    assert match == Listed("b", "reject", "x.example", ("a",))


def test_names_beyond_ascii_both_ways() -> None:
    names = NameSet([FeedNames("f", "drop", ("Bücher.example", "*.xn--mnchen-3ya.example"))])
    assert names.lookup("xn--bcher-kva.example") == Listed("f", "drop", "xn--bcher-kva.example")
    assert names.lookup(as_name("b\\xc3\\xbccher.EXAMPLE.")) == Listed("f", "drop", "xn--bcher-kva.example")
    assert names.lookup(as_name("a.M\\xc3\\xbcnchen.example")) == Listed("f", "drop", "xn--mnchen-3ya.example")
    assert names.lookup("xn--mnchen-3ya.example") is None


def test_an_escaped_dot_does_not_pass_for_two_labels() -> None:
    assert as_name("a\\x2eb.example") == "a\\x2eb.example"
    assert as_name("\\xff\\xfe.example") == "\\xff\\xfe.example"


def test_allowed_names_hold_for_what_is_below_them() -> None:
    allowed = AllowedNames(("good.example", "*.fine.example", "b\u00fccher.example"))
    assert all(map(allowed.holds, ("good.example", "a.good.example", "a.fine.example", "xn--bcher-kva.example")))
    assert not any(map(allowed.holds, ("notgood.example", "example", "")))
