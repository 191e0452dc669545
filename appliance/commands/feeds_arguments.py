# SPDX-License-Identifier: Apache-2.0
"""The command line of `portcullis feeds`. Imports nothing heavy: it is built for every command."""

import argparse
from pathlib import Path
from typing import Any


def add_parser(commands: Any) -> None:
    """Adds `feeds` with its own commands to the subparsers of the command line."""
    feeds = commands.add_parser("feeds", help="threat feeds: list, show, test, parse, diff, export, update, add …")
    inner = feeds.add_subparsers(metavar="WORD", required=True)

    def command(name: str, text: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = inner.add_parser(name, help=text)
        parser.add_argument("--json", action="store_true", help="JSON")
        if name != "parse":
            parser.add_argument("--config", type=Path, metavar="FILE", help="configuration, as for `run`")
        parser.set_defaults(command=_run, feeds_command=name)
        return parser

    parse = command("parse", "what a reader sees in a file")
    parse.add_argument("file", type=Path, metavar="FILE")
    parse.add_argument("--format", metavar="NAME", help="default: guessed from the content")
    parse.add_argument("--column", default="", help="csv: column by header name or number")
    parse.add_argument("--path", default="", help='json: where the indicators are, such as "data[].ip"')
    command("list", "every feed and how it is doing")
    command("show", "one feed: settings, health, entries").add_argument("name", metavar="NAME")
    test = command("test", "which feeds list an address, a name or a URL, since when, and what happens")
    test.add_argument("what", metavar="ADDRESS-OR-NAME")
    diff = command("diff", "what a file would change in a feed, or what waits in its quarantine")
    diff.add_argument("name", metavar="NAME")
    diff.add_argument("file", type=Path, nargs="?", metavar="FILE")
    command("export", "the entries in force, one in a line").add_argument("names", nargs="*", metavar="NAME")
    add = command("add", "list an address, a network, a range or a name in the running service, at once")
    add.add_argument("entry", metavar="ENTRY")
    add.add_argument("--feed", default="", metavar="NAME", help="a feed kept by command (default: local)")
    add.add_argument("--for", default="", dest="duration", metavar="TIME", help='such as "1h" (default: for ever)')
    add.add_argument("--reason", default="", metavar="TEXT")
    remove = command("remove", "take back what `add` listed")
    remove.add_argument("entry", metavar="ENTRY")
    remove.add_argument("--feed", default="", metavar="NAME")
    update = command("update", "fetch feeds now, or go on fetching what is due (--daemon)")
    update.add_argument("names", nargs="*", metavar="NAME", help="default: all")
    update.add_argument("--accept", action="store_true", help="believe a list that is put aside")
    update.add_argument("--daemon", action="store_true", help="never end; what the systemd unit runs")
    update.add_argument("--due", action="store_true", help="only what its period says")


def _run(arguments: argparse.Namespace) -> int:
    if arguments.feeds_command in ("add", "remove"):
        from appliance.commands.feeds_local import run_local

        return run_local(arguments)
    if arguments.feeds_command == "update":
        from appliance.commands.feeds_update import run_update

        return run_update(arguments)
    if arguments.feeds_command == "parse":
        from appliance.commands.feeds_parse import run_parse

        return run_parse(arguments)
    from appliance.commands import feeds

    run: int = getattr(feeds, f"run_{arguments.feeds_command}")(arguments)
    return run
