# SPDX-License-Identifier: Apache-2.0
"""Threat feeds: configuration, formats, and the merged set of addresses and names. No I/O here."""

from threatfeeds.allowlist import Allowlist
from threatfeeds.config import FeedConfig, FeedError, load_feed_config
from threatfeeds.content import Domain, FeedContent, RejectedLine
from threatfeeds.merge import Feed, Merged, MergedFeed, merge
from threatfeeds.read import read_feed

__all__ = [
    "Allowlist",
    "Domain",
    "Feed",
    "FeedConfig",
    "FeedContent",
    "FeedError",
    "Merged",
    "MergedFeed",
    "RejectedLine",
    "load_feed_config",
    "merge",
    "read_feed",
]
