# SPDX-License-Identifier: Apache-2.0
from appliance.inspection.messages import FeedNames
from appliance.inspection.names import NameMatch, NameSet


def test_a_name_stands_for_what_is_below_it() -> None:
    names = NameSet([FeedNames("f", "drop", ("Bad.Example.",))])
    assert names.lookup("bad.example") == NameMatch("f", "drop", "bad.example")
    assert names.lookup("a.b.bad.example") == NameMatch("f", "drop", "bad.example")
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
