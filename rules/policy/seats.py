# SPDX-License-Identifier: Apache-2.0
"""Numbers for feeds that stay while others come and go: facts and predicates speak of a feed by its seat.

A feed that has another action or direction is another one. A seat whose feed is gone has an empty list; the feed gets
it back when it returns.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from rules.policy.program import FeedPrefixes

if TYPE_CHECKING:
    from fastpath.lists import PrefixList

SPARE = 32  # seats without a feed; with more a whole compilation is due


class Seats:
    def __init__(self, feeds: Sequence[FeedPrefixes]) -> None:
        """The first feed has seat 0, and so on."""
        self._feeds = [without_list(feed) for feed in feeds]
        self._of = {feed: seat for seat, feed in enumerate(self._feeds)}

    def __len__(self) -> int:
        return len(self._feeds)

    def of(self, feed: FeedPrefixes) -> int:
        return self._of[without_list(feed)]

    def name(self, seat: int) -> str:
        return self._feeds[seat].name

    def take(self, old: Sequence[FeedPrefixes], new: Sequence[FeedPrefixes]) -> bool:
        """Seats for all of `new`. False, and nothing is done: more than the lists of those that come or go is different
        then (their prefixes are a network set's, too, or those that stay are asked in another order), or there are too
        many seats."""
        was, will = [without_list(feed) for feed in old], [without_list(feed) for feed in new]
        if any(feed.network_set for feed in {*was} ^ {*will}):
            return False
        if [feed for feed in was if feed in will] != [feed for feed in will if feed in was]:
            return False
        coming = [feed for feed in will if feed not in self._of]
        if len(self) + len(coming) > len(will) + SPARE:
            return False
        for feed in coming:
            self._of[feed] = len(self._feeds)
            self._feeds.append(feed)
        return True

    def lists(self, feeds: Sequence[FeedPrefixes]) -> "tuple[PrefixList, ...]":
        """By seat. Loads the C extension."""
        from fastpath.lists import PrefixList

        by_seat = {self.of(feed): feed.listed() for feed in feeds}
        return tuple(by_seat.get(seat) or PrefixList() for seat in range(len(self)))


def without_list(feed: FeedPrefixes) -> FeedPrefixes:
    return replace(feed, prefixes=())
