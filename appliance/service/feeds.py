# SPDX-License-Identifier: Apache-2.0
"""Merged feeds as the policy compiler takes them: lists that block, and network sets that policies select. Pure."""

import time
from collections.abc import Collection, Mapping, Sequence

from appliance.config import Config
from appliance.netfilter.offload import OffloadFeed, OffloadSettings
from rules.policy import FeedPrefixes, Resource
from rules.policy.model import Metadata, NetworkSetSpec
from threatfeeds.calico import LABEL
from threatfeeds.fetch.store import STALE, Health
from threatfeeds.merge import Feed, Merged


def feed_prefixes(merged: Merged) -> tuple[FeedPrefixes, ...]:
    """Also of feeds without addresses, which may get some by themselves."""
    return tuple(
        FeedPrefixes(
            feed.name, feed.config.action, feed.config.direction, feed.prefixes,
            LABEL + feed.name if feed.config.labels else "",
        )
        for feed in merged.feeds
    )  # fmt: skip


def offload_settings(config: Config) -> OffloadSettings:
    return OffloadSettings(
        hooks=config.hooks.names(),
        priority=config.netfilter.priority,
        failsafe_in=config.failsafe.inbound_ports(),
        failsafe_out=config.failsafe.outbound_ports(),
    )


def offload_feeds(config: Config, merged: Merged) -> tuple[OffloadFeed, ...]:
    """Feeds that ask for the kernel and drop; in mode observe nothing is dropped anywhere."""
    if config.mode == "observe":
        return ()
    return tuple(
        OffloadFeed(
            feed.name, feed.prefixes, source=feed.config.direction in ("source", "both"),
            destination=feed.config.direction in ("destination", "both"),
        )
        for feed in merged.feeds
        if feed.config.kernel and feed.config.action == "drop" and feed.prefixes
    )  # fmt: skip


def feed_sets(merged: Merged) -> tuple[Resource, ...]:
    """A global network set threatfeed.NAME, as Calico names it, for each feed with labels. Its networks are the feed's:
    see FeedPrefixes."""
    return tuple(
        Resource(
            "GlobalNetworkSet",
            Metadata(LABEL + feed.name, "", dict(feed.config.labels), {}),
            NetworkSetSpec(),
            feed.config.source,
            1,
        )
        for feed in merged.feeds
        if feed.config.labels
    )


def left_out(merged: Merged) -> list[str]:
    """One line for each feed and reason: what the allowlist saved, and what is too wide to be meant."""
    groups: dict[tuple[str, str], list[str]] = {}
    for entry in (*merged.saved, *merged.refused):
        groups.setdefault((entry.feed, entry.why), []).append(entry.entry)
    return [
        f"feed {feed}: {len(entries)} of its entries not enforced: {why} (the first: {entries[0]})"
        for (feed, why), entries in sorted(groups.items())
    ]


def feed_health(
    feeds: Sequence[Feed],
    health: Mapping[str, Health],
    hits: Mapping[str, int],
    kernel_drops: Mapping[str, int],
    saved: Mapping[str, int] | None = None,
    quarantined: Collection[str] = (),
    now: float | None = None,
) -> dict[str, dict[str, float]]:
    """Values of appliance.metrics.FEED_HEALTH by feed; a local list has no source that could fail."""
    found: dict[str, dict[str, float]] = {}
    for feed in feeds:
        name = feed.config.name
        known = health.get(name)
        if not feed.config.prepared:
            found[name] = {"rejected_lines": len(feed.content.rejected)}
        elif known is not None:
            found[name] = {
                "ok": known.state == "ok", "last_success_timestamp_seconds": known.confirmed,
                "last_change_timestamp_seconds": known.changed, "added": known.added, "removed": known.removed,
                "rejected_lines": known.rejected, "failures": known.failures,
            }  # fmt: skip
            age = (time.time() if now is None else now) - known.confirmed
            found[name]["stale"] = age > STALE * feed.config.period_seconds
        found.setdefault(name, {})["quarantined"] = name in quarantined or (
            known is not None and known.state == "quarantined"
        )
        found[name].update(hits=hits.get(name, 0), saved=(saved or {}).get(name, 0))
        if name in kernel_drops:
            found[name]["kernel_drops"] = kernel_drops[name]
    return found
