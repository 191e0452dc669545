# SPDX-License-Identifier: Apache-2.0
"""`portcullis feeds update`: once for a person, or for ever as portcullis-feeds.service."""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from appliance.commands.feeds import Feeds, feeds_of
from appliance.config import load_config
from appliance.control.client import ask
from appliance.control.server import ControlError
from appliance.sources.base import SourceError
from fastpath.errors import PortcullisError
from threatfeeds import FeedError
from threatfeeds.fetch.store import Health, Store
from threatfeeds.updater import Report, Updater

PATIENCE = 5.0  # seconds for slow sources, until what the others said is published
LONGEST_SLEEP = 30.0  # seconds between two looks at the configuration


def run_update(arguments: argparse.Namespace) -> int:
    if arguments.daemon:
        return serve(arguments.config)
    feeds = feeds_of(arguments)
    accepted = _accept(feeds, arguments.names) if arguments.accept else []
    store = Store(feeds.state)
    prepared = [config for config in feeds.configs if config.enabled and config.prepared]
    asked = [config for config in feeds.named(arguments.names) if config.enabled and config.prepared]
    updater = Updater(store)
    wanted = updater.due(asked) if arguments.due else asked
    become_owner(feeds)
    try:
        updater.start(wanted, accept=arguments.accept)
        reports: list[Report] = []
        while True:
            reports += updater.ended(PATIENCE)
            updater.publish(prepared)
            if not updater.busy:
                break
    except OSError as error:
        raise FeedError(f"cannot be written: {error.strerror}", file=error.filename) from error
    if accepted and not arguments.json:
        print(f"accepted by the running service: {', '.join(accepted)}")
    if arguments.json:
        print(json.dumps([{"name": r.name, "changed": r.changed, **msgspec.to_builtins(r.health)} for r in reports]))
    else:
        for report in reports:
            print(_report_line(report.name, report.health, report.changed))
    return 1 if any(report.health.state != "ok" for report in reports) else 0


def _accept(feeds: Feeds, names: Sequence[str]) -> list[str]:
    """What the running service has put aside comes in force."""
    names = names or [config.name for config in feeds.configs]
    try:
        request = {"do": "feeds_accept", "names": list(names)}
        found: list[str] = ask(Path(feeds.config.control.socket), request)["accepted"]
    except ControlError:
        return []  # no service: nothing of it is put aside
    return found


def become_owner(feeds: Feeds) -> None:
    """root leaves its rights before it reads anything hostile, and what it writes belongs to portcullis-feeds."""
    if os.geteuid() != 0:
        return
    try:
        owner = feeds.state.stat()
        groups = {Path(path).stat().st_gid for path in feeds.config.feeds.paths if Path(path).exists()}
    except OSError:
        return  # nothing is there yet: the unit takes over what root makes
    if owner.st_uid != 0:
        os.setgroups(sorted(groups - {0}))
        os.setresgid(owner.st_gid, owner.st_gid, owner.st_gid)
        os.setresuid(owner.st_uid, owner.st_uid, owner.st_uid)


def _report_line(name: str, health: Health, changed: bool) -> str:
    if health.state != "ok":
        return f"{name}: {health.state}: {health.problem}"
    if not changed:
        return f"{name}: {health.entries} entries, unchanged"
    return (
        f"{name}: {health.entries} entries, {health.added} added, {health.removed} removed,"
        f" {health.rejected} lines rejected"
    )


def serve(path: Path | None, *, rounds: int | None = None, sleep: Callable[[float], None] = time.sleep) -> int:
    """Fetches what is due, for ever (`rounds` None). Configuration is read anew each round."""
    config = load_config(path)
    updater = Updater(Store(Path(config.feeds.state)))
    told: set[str] = set()
    while rounds is None or rounds > 0:
        rounds = None if rounds is None else rounds - 1
        wait = LONGEST_SLEEP
        try:
            feeds = Feeds(config)
            become_owner(feeds)
            told = _tell(feeds.errors, told)
            prepared = [feed for feed in feeds.configs if feed.enabled and feed.prepared]
            updater.start(updater.due(prepared))
            for report in updater.ended(PATIENCE):
                if report.changed or report.health.state != "ok":
                    print(_report_line(report.name, report.health, report.changed), file=sys.stderr, flush=True)
            updater.publish(prepared)
            wait = min(PATIENCE if updater.busy else wait, max(1.0, updater.next_due(prepared) - time.time()))
        except (OSError, PortcullisError) as error:
            print(f"portcullis: {error}", file=sys.stderr, flush=True)
        sleep(wait)
    return 0


def _tell(errors: Sequence[SourceError], told: set[str]) -> set[str]:
    """Says what is new among the errors; returns all of them."""
    now = {str(error) for error in errors}
    for text in sorted(now - told):
        print(f"portcullis: {text}", file=sys.stderr, flush=True)
    return now
