# SPDX-License-Identifier: Apache-2.0
"""Feeds as the compiler takes them."""

import ipaddress

import pytest

from appliance.metrics import FEED_HEALTH, MetricsSnapshot, PortcullisCollector
from appliance.service.feeds import feed_health, feed_prefixes, feed_sets
from rules.policy import CompileOptions, FeedPrefixes, compile_policy, load_documents
from rules.policy.listed import unpacked
from threatfeeds import Allowlist, Feed, FeedConfig, merge, read_feed
from threatfeeds.fetch.store import Health

POLICY = """
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: no-botnets}
spec:
  selector: all()
  types: [Egress]
  egress:
    - {action: Deny, destination: {selector: "category == 'botnet'"}}
    - {action: Allow}
"""


def feed(*lines: str, **settings: object) -> Feed:
    config = FeedConfig(file="bad.txt", name="bad", **settings)  # type: ignore[arg-type]
    return Feed(config, read_feed(config, "\n".join(lines).encode()))


def test_packed_prefixes_compile_to_what_networks_compile_to() -> None:
    merged = merge([feed("192.0.2.0/24", "198.51.100.7", "2001:db8::/33", "2001:db9::1", action="drop")], Allowlist())
    networks = tuple(
        FeedPrefixes(one.name, one.config.action, one.config.direction, tuple(one.networks())) for one in merged.feeds
    )
    packed = compile_policy((), CompileOptions(feeds=feed_prefixes(merged)))
    assert packed.entries == compile_policy((), CompileOptions(feeds=networks)).entries
    assert len(list(unpacked(packed.entries))) == 4


def test_labelled_feed_is_a_network_set_that_policies_select() -> None:
    merged = merge([feed("192.0.2.0/24", labels={"category": "botnet"})], Allowlist())
    (made,) = feed_sets(merged)
    assert (made.kind, made.name) == ("GlobalNetworkSet", "threatfeed.bad")
    resources = load_documents(POLICY, "x.yaml").resources
    program = compile_policy((*resources, *feed_sets(merged)), CompileOptions(feeds=feed_prefixes(merged)))
    listed = ipaddress.ip_address("192.0.2.0").packed
    entry = next(entry for entry in unpacked(program.entries) if entry[0].endswith(listed))
    identity = program.identities[entry[2]]
    assert (identity.labels["category"], identity.feeds) == ("botnet", ("bad",))


def test_feed_without_labels_is_no_set() -> None:
    assert feed_sets(merge([feed("192.0.2.0/24")], Allowlist())) == ()


def test_health_is_measured_by_feed() -> None:
    local = feed("192.0.2.0/24")
    far = Feed(FeedConfig(url="https://lists.example/", name="far"), local.content)
    health = {"far": Health("failed", "x", 20.0, 10.0, 5.0, 7, 3, 2, 1, 4)}
    found = feed_health([local, far], health, {"bad": 3}, {"far": 9}, {"bad": 2})
    assert found["bad"] == {"rejected_lines": 0, "hits": 3, "saved": 2, "quarantined": False}
    assert found["far"].keys() == FEED_HEALTH.keys()
    assert found["far"]["stale"]
    fresh = feed_health([far], health, {}, {}, now=21.0, quarantined=["far"])["far"]
    assert (fresh["stale"], fresh["quarantined"]) == (False, True)
    metrics = {m.name: m for m in PortcullisCollector(lambda: MetricsSnapshot(feed_health=found)).collect()}
    (sample,) = metrics["portcullis_feed_ok"].samples
    assert (sample.labels, sample.value) == ({"feed": "far"}, 0)
    assert metrics["portcullis_feed_last_success_timestamp_seconds"].samples[0].value == pytest.approx(10.0)
