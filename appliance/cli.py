# SPDX-License-Identifier: Apache-2.0
"""The `portcullis` command.

Exit status: 0 done, 1 the answer is no (`check` found something invalid), 2 it could not start.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from appliance.release import version
from fastpath.errors import PortcullisError


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    try:
        result: int = arguments.command(arguments)
    except PortcullisError as error:
        print(f"portcullis: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return result


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="portcullis", description="A packet-filtering appliance for Linux nodes.")
    parser.add_argument("--version", action="version", version=f"portcullis {version()}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    run = commands.add_parser("run", help="filter this node's traffic, in the foreground")
    run.add_argument("--config", type=Path, metavar="FILE", help="configuration (default: /etc/portcullis/portcullis.toml"
                     " if it exists, else every default: mode observe)")
    run.set_defaults(command=_run)

    check = commands.add_parser("check", help="validate policy files, configuration, feeds and signatures")
    check.add_argument("paths", nargs="+", type=Path, metavar="PATH")
    check.add_argument("--json", action="store_true", help="one JSON object for each resource")
    check.set_defaults(command=_check)
    return parser


# Each command imports what it needs itself: `portcullis check` loads neither the engine nor the event loop.
def _run(arguments: argparse.Namespace) -> int:
    from appliance.service.service import run

    return run(arguments.config)


def _check(arguments: argparse.Namespace) -> int:
    from appliance.check import check

    return check(arguments.paths, as_json=arguments.json)
