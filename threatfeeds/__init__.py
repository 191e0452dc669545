# SPDX-License-Identifier: Apache-2.0
"""Threat feeds: configuration, formats, and the merged set of addresses and names. No I/O here."""

from threatfeeds.allowlist import Allowlist
from threatfeeds.config import FeedConfig, FeedError, load_feed_config
from threatfeeds.content import Domain, FeedContent, RejectedLine
from threatfeeds.guess import guess_format
from threatfeeds.merge import Feed, Merged, MergedFeed, merge
from threatfeeds.read import decode, read_feed, rejected_problem, rejected_warnings, summary

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
    "decode",
    "guess_format",
    "load_feed_config",
    "merge",
    "read_feed",
    "rejected_problem",
    "rejected_warnings",
    "summary",
]
