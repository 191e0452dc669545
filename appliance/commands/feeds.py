# SPDX-License-Identifier: Apache-2.0
"""`portcullis feeds …`: what feeds say, what is in force of them, and fetching them.

Everything here reads configuration and the state folder of portcullis-feeds; none of it needs the service.
"""

import argparse
import ipaddress
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from appliance.commands.feeds_parse import read_bounded
from appliance.config import Config, load_config
from appliance.service import aside
from appliance.service.aside import Remembered
from appliance.service.feeds import left_out
from appliance.service.interfaces import read_interfaces
from appliance.service.localfeeds import LocalFeeds
from appliance.service.resolvers import read_resolvers
from appliance.sources.feed_copies import COPIES, Copies, read_list
from appliance.sources.feed_directory import load_configs
from fastpath.errors import PortcullisError
from rules.hostnames import ascii_name
from rules.urls import parse_url
from threatfeeds import Allowlist, Feed, FeedConfig, FeedContent, FeedError, merge, prefix, read_feed
from threatfeeds.binary import SetFeed
from threatfeeds.content import FILES
from threatfeeds.fetch.store import STALE, Health, HealthState, given_up, read_health, read_set
from threatfeeds.packed import unpack
from threatfeeds.updater import difference, read_as, with_format

# ---- what is in force ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Loaded:
    """A configured feed with what is in force of it; `problem`: why that is nothing, or an old list. waiting: the list
    that the service has put aside."""

    config: FeedConfig
    content: FeedContent
    health: Health
    entry: SetFeed | None = None
    problem: str = ""
    waiting: FeedContent | None = None


class Feeds:
    """Configuration and state as the service would read them."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.state = Path(config.feeds.state)
        self.local = _local_feeds(Path(config.control.state))
        try:
            self.configs, self.errors = load_configs([Path(path) for path in config.feeds.paths])
        except OSError as error:
            raise FeedError(f"cannot be read: {error.strerror}", file=error.filename) from error

    def load(self, names: Sequence[str] = ()) -> list[Loaded]:
        """Raises FeedError for a name that is not configured, or a set that is damaged."""
        entries = {feed.name: feed for feed in read_set(self.state, with_times=True)}
        health = read_health(self.state)
        found = {feed.config.name: feed for feed in self.local}
        put_aside = self._put_aside()
        return [
            Loaded(config, found[config.name].content, Health("ok")) if config.name in found
            else _before(self._load(config, entries.get(config.name), health), put_aside.get(config.name))
            for config in self.named(names, local=True)
        ]  # fmt: skip

    def _put_aside(self) -> dict[str, Remembered]:
        try:
            return aside.load(Path(self.config.control.state))
        except PortcullisError as error:
            print(f"portcullis: {error}", file=sys.stderr)
            return {}

    def _load(self, config: FeedConfig, entry: SetFeed | None, known: Mapping[str, Health]) -> Loaded:
        if not config.prepared:
            return _load_local(config, Copies(Path(self.config.control.state) / COPIES))
        health = known.get(config.name, Health())
        if given_up(config, health, time.time()):
            state: HealthState = "expired" if health.confirmed else health.state
            return Loaded(config, FeedContent(), msgspec.structs.replace(health, state=state), problem=health.problem)
        return Loaded(config, entry.content if entry else FeedContent(), health, entry, health.problem)

    def named(self, names: Sequence[str], *, local: bool = False) -> list[FeedConfig]:
        known = {feed.config.name: feed.config for feed in self.local if local}
        known |= {config.name: config for config in self.configs}
        for name in names:
            if name not in known:
                raise FeedError(f"there is no feed {name!r}; known are {', '.join(sorted(known)) or 'none'}")
        return [known[name] for name in names] if names else list(known.values())

    def allowlist(self) -> Allowlist:
        """As the service has it: own addresses, resolvers, what is configured."""
        own = (str(address) for address in read_interfaces().own)
        return Allowlist.build(own=own, resolvers=read_resolvers(), configured=self.config.feeds.allow)


def _local_feeds(state: Path) -> tuple[Feed, ...]:
    """Those kept by command that have entries."""
    local = LocalFeeds(state)
    try:
        local.load()
    except PortcullisError as error:
        print(f"portcullis: {error}", file=sys.stderr)
    return tuple(feed for feed in local.feeds() if len(feed.content))


def _before(feed: Loaded, known: Remembered | None) -> Loaded:
    """The list before the one that is put aside."""
    if known is None or not known.holds(feed.config) or known.content == feed.content:
        return feed
    health = msgspec.structs.replace(feed.health, state="quarantined", problem=known.why)
    return replace(feed, content=known.content, health=health, entry=None, problem=known.why, waiting=feed.content)


def _load_local(config: FeedConfig, copies: Copies) -> Loaded:
    try:
        path = Path(config.file)
        content = read_list(config)
        changed = path.stat().st_mtime
    except (PortcullisError, OSError) as error:
        kept = copies.load(config)
        content = kept.content if kept is not None else FeedContent()
        why = f"{config.file}: cannot be read: {error.strerror}" if isinstance(error, OSError) else str(error)
        return Loaded(config, content, Health("failed", why), problem=why)
    health = Health("ok", "", changed, changed, changed, len(content), rejected=len(content.rejected))
    return Loaded(config, content, health)


def feeds_of(arguments: argparse.Namespace) -> Feeds:
    feeds = Feeds(load_config(arguments.config))
    for error in feeds.errors:
        print(f"portcullis: {error}", file=sys.stderr)
    return feeds


def record(feed: Loaded, now: float) -> dict[str, object]:
    """A feed and how it is doing, for people and as JSON. Ages in seconds, null: never."""
    health = feed.health
    old = feed.config.prepared and now - health.confirmed > STALE * feed.config.period_seconds
    state = "stale" if health.state == "ok" and old else health.state
    return {
        "name": feed.config.name,
        "source": feed.config.source,
        "kind": feed.config.kind,
        "enabled": feed.config.enabled,
        "action": feed.config.action,
        "direction": feed.config.direction,
        "confidence": feed.config.confidence,
        "labels": dict(feed.config.labels),
        "state": state if feed.config.enabled else "disabled",
        "problem": health.problem or ("no word from its source for three periods" if state == "stale" else ""),
        "age": round(now - health.confirmed) if health.confirmed else None,
        "changed": _moment(health.changed),
        "entries": len(feed.content),
        "indicators": {kind: number for kind, number in feed.content.counts.items() if number},
        "added": health.added,
        "removed": health.removed,
        "rejected": health.rejected,
        "failures": health.failures,
    }


def run_list(arguments: argparse.Namespace) -> int:
    feeds = feeds_of(arguments)
    found = [record(feed, time.time()) for feed in feeds.load()]
    if arguments.json:
        print(json.dumps(found))
        return 0
    print(f"{'NAME':24} {'STATE':12} {'ACTION':7} {'ENTRIES':>9} {'REJECTED':>8} {'AGE':>8}  SOURCE")
    for feed in found:
        age = "never" if feed["age"] is None else _span(float(str(feed["age"])))
        print(
            f"{feed['name']:24} {feed['state']:12} {feed['action']:7} {feed['entries']:>9} {feed['rejected']:>8}"
            f" {age:>8}  {feed['source']}"
        )
        if feed["problem"]:
            print(f"{'':24} {feed['problem']}")
    return 0


def run_show(arguments: argparse.Namespace) -> int:
    feeds = feeds_of(arguments)
    feed = feeds.load([arguments.name])[0]
    found = record(feed, time.time())
    found["warnings"] = list(feed.entry.warnings) if feed.entry else [
        f"line {line.line}: {line.why}: {line.text}" for line in feed.content.rejected[:5]
    ]
    found["left_out"] = left_out(merge([Feed(feed.config, feed.content)], feeds.allowlist()))
    found["settings"] = _settings(feed.config)
    if arguments.json:
        print(json.dumps(found))
        return 0
    for key, value in found.items():
        if value not in ("", None, {}, []):
            print(f"{key:12} {json.dumps(value) if isinstance(value, dict | list) else value}")
    return 0


def _settings(config: FeedConfig) -> dict[str, object]:
    """What differs from the defaults. Secrets are not in the configuration, only where they are."""
    default = FeedConfig()
    changed = {name: getattr(config, name) for name in config.__struct_fields__}
    return {name: value for name, value in changed.items() if value != getattr(default, name)}


# ---- test ----------------------------------------------------------------------------------------


def test(feeds: Sequence[Loaded], allowlist: Allowlist, what: str) -> dict[str, object]:
    """Which feeds list `what` (address, name, URL or fingerprint), since when, and what would happen to its flows."""
    enabled = [feed for feed in feeds if feed.config.enabled]
    merged = merge([Feed(feed.config, feed.content) for feed in enabled], allowlist)
    by_name = {feed.config.name: feed for feed in enabled}
    saved = ""
    try:
        address = ipaddress.ip_address(what.strip("[]"))
    except ValueError:
        # Entries above an allowed name are asked, too: what saved it is told.
        url = parse_url(what) if "/" in what else None
        host = url.host if url is not None else ascii_name(what) or ""
        saved = allowlist.name_reason(host) or ""
        found = [(name, entry) for name, entry in merged.find_name(host)]
        if not saved:
            found += [(feed.config.name, entry) for feed in enabled for entry in _words(feed, what, host)]
    else:
        found = [(name, str(network)) for name, network in merged.find_address(address)]
        saved = next(
            (reason for allowed, reason in allowlist.prefixes.items()
             if prefix.contains(allowed, prefix.of_address(address))), "",
        )  # fmt: skip
    matches = []
    for name, entry in found:
        feed = by_name[name]
        matches.append({
            "feed": name, "entry": entry, "action": _action(feed, entry), "direction": feed.config.direction,
            "since": _moment(_seen(feed, entry)), "age": round(time.time() - feed.health.confirmed)
            if feed.health.confirmed else None,
        })  # fmt: skip
    actions = {str(match["action"]) for match in matches}
    result = next((action for action in ("drop", "reject", "alert") if action in actions), "none")
    return {"what": what, "result": result, "matches": matches, "allowed": saved}


def _words(feed: Loaded, what: str, host: str) -> list[str]:
    """Listed URLs and fingerprints that are `what`, however the two are written, and hosts that stand for their URLs.
    An https URL is none of them: nobody can see it."""
    content = feed.content
    found = [value for _, value in content.fingerprints if value.lower() == what.lower()]
    url = parse_url(what) if "/" in what else None
    if url is not None and str(url) in content.web.urls:
        found.append(content.urls[content.web.origins[content.web.urls.index(str(url))]])
    if feed.config.https_hosts and host in content.web.hidden:
        found.append(host)
    return found


def _action(feed: Loaded, entry: str) -> str:
    of_file = any((kind, entry) in feed.content.fingerprints for kind in FILES.values())
    return "none" if of_file else feed.config.action


def _seen(feed: Loaded, entry: str) -> float:
    """When the entry was listed first, as far as it is known."""
    if feed.entry is None or not len(feed.entry.seen):
        return feed.health.changed
    content = feed.entry.content
    try:
        return float(feed.entry.seen[content.prefixes.index(prefix.parse(entry))])
    except ValueError:
        names, hashes = (domain.name for domain in content.domains), (value for _, value in content.fingerprints)
        words = [*names, *content.urls, *hashes]
        if entry in words and len(content.prefixes) + words.index(entry) < len(feed.entry.seen):
            return float(feed.entry.seen[len(content.prefixes) + words.index(entry)])
    return feed.health.changed


def run_test(arguments: argparse.Namespace) -> int:
    feeds = feeds_of(arguments)
    found = test(feeds.load(), feeds.allowlist(), arguments.what)
    if arguments.json:
        print(json.dumps(found))
        return 0
    for match in found["matches"]:  # type: ignore[attr-defined]
        happens = f"{match['action']}, {match['direction']}"
        if match["action"] == "none":
            happens = "nothing happens, a hash of a file is looked for nowhere"
        since = f" since {match['since']}" if match["since"] else ""  # of an entry that a command added it is not known
        print(f"{match['feed']}: lists {match['entry']}{since}: {happens}")
    if found["allowed"]:
        print(f"{arguments.what}: never blocked: {found['allowed']}")
    elif not found["matches"]:
        print(f"{arguments.what}: no feed lists it")
    return 0


# ---- diff, export --------------------------------------------------------------------------------


def texts(content: FeedContent) -> list[str]:
    """Every entry in its own form."""
    names = [("*." if domain.subdomains else "") + domain.name for domain in content.domains]
    hashes = [value for _, value in content.fingerprints]
    return [*map(prefix.text, content.prefixes), *names, *content.urls, *hashes]


def run_diff(arguments: argparse.Namespace) -> int:
    feeds = feeds_of(arguments)
    feed = feeds.load([arguments.name])[0]
    path = arguments.file or feeds.state / arguments.name / "quarantine"
    if arguments.file is None and feed.waiting is not None:
        new = feed.waiting
    elif arguments.file is None and not path.exists():
        raise FeedError(f"nothing of {arguments.name} is in quarantine: name a FILE to compare with")
    else:
        data = unpack(read_bounded(path), feed.config.max_size)
        new = read_feed(with_format(feed.config, read_as(feed.config, data)), data)
    before, after = set(texts(feed.content)), set(texts(new))
    added, removed = sorted(after - before), sorted(before - after)
    if arguments.json:
        print(json.dumps({"name": arguments.name, "added": added, "removed": removed}))
        return 0
    for sign, entries in (("+", added), ("-", removed)):
        for entry in entries:
            print(f"{sign} {entry}")
    numbers = difference(feed.content, new)
    print(f"{arguments.name}: {numbers[0]} added, {numbers[1]} removed, {len(before & after)} stay")
    return 0


def run_export(arguments: argparse.Namespace) -> int:
    found = [feed for feed in feeds_of(arguments).load(arguments.names) if feed.config.enabled]
    if arguments.json:
        print(json.dumps({feed.config.name: texts(feed.content) for feed in found}))
        return 0
    for entry in sorted({entry for feed in found for entry in texts(feed.content)}):
        print(entry)
    return 0


def _moment(seconds: float) -> str | None:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if seconds else None


def _span(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
