# SPDX-License-Identifier: Apache-2.0
from hypothesis import given
from hypothesis import strategies as st

from threatfeeds import Feed, FeedConfig, read_feed
from threatfeeds.binary import SetFeed, decode, encode
from threatfeeds.since import first_listed
from threatfeeds.updater import _seen

LINES = (
    "192.0.2.1", "b.example", "*.a.example", "http://Z.example/x", "http://a.example:80/y", "https://h.example/",
    "0" * 32, "f" * 32, "1" * 40, "2" * 64, "t13d1516h2_8daaf6152771_e5627efa2ab1",
)  # fmt: skip
ASKED = {
    "b.example": ("domain", "b.example"), "*.a.example": ("domain", "a.example"),
    "http://Z.example/x": ("url", "http://z.example/x"), "http://a.example:80/y": ("url", "http://a.example/y"),
    "0" * 32: ("ja3", "0" * 32), "f" * 32: ("ja3", "f" * 32), "1" * 40: ("sha1", "1" * 40),
    "2" * 64: ("sha256", "2" * 64), LINES[-1]: ("ja4", LINES[-1]),
}  # fmt: skip


@given(st.lists(st.sets(st.sampled_from(LINES)), min_size=1, max_size=4))
def test_each_entry_is_known_since_it_was_listed_without_a_break(versions: list[set[str]]) -> None:
    config = FeedConfig(url="https://f.example/", name="f", min_entries=0)
    old: SetFeed | None = None
    since: dict[str, int] = {}
    for now, lines in enumerate(versions, 1000):
        content = read_feed(config, "\n".join(sorted(lines)).encode())
        old = SetFeed("f", config.source, content, now, seen=_seen(old, content, now))
        since = {line: since.get(line, now) for line in lines}
        assert decode(encode([old]), with_times=True) == (old,)
    assert old is not None
    (read,) = decode(encode([old]))
    feed = Feed(config, read.content, read.seen)
    for line, (kind, entry) in ASKED.items():
        assert first_listed(feed, kind, entry) == since.get(line, 0)


def test_a_list_without_times_and_entries_that_are_none() -> None:
    config = FeedConfig(file="x", name="f")
    feed = Feed(config, read_feed(config, b"a.example\nhttp://b.example/"))
    assert first_listed(feed, "domain", "a.example") == 0
    for kind in ("domain", "url", "ja3", "other"):
        assert first_listed(Feed(config, feed.content, (1, 2)), kind, "nothing") == 0
