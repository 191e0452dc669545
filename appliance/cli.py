# SPDX-License-Identifier: Apache-2.0
"""The `portcullis` command.

Exit status: 0 done, 1 the answer is no (`check` found something invalid), 2 it could not start.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from appliance.release import version
from fastpath.errors import PortcullisError


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    try:
        command: Callable[[argparse.Namespace], int] = arguments.command
        return command(arguments)
    except PortcullisError as error:
        print(f"portcullis: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


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

    explain = commands.add_parser("explain", help="say what policy decides for a flow, and why")
    explain.add_argument("--policy", nargs="+", type=Path, metavar="PATH", default=[Path("/etc/portcullis/policy.d")],
                         help="policy files or folders (default: /etc/portcullis/policy.d)")
    explain.add_argument("--flows", type=Path, metavar="FILE", help="JSON array of questions; one JSON answer a line")
    explain.add_argument("--node", help="the node whose hooks are asked about")
    for option in ("src", "dst", "proto", "endpoint", "direction", "path", "iif", "oif"):
        explain.add_argument(f"--{option}", help=argparse.SUPPRESS if option in ("path", "iif", "oif") else None)
    for option in ("sport", "dport", "icmpType", "icmpCode"):
        explain.add_argument(f"--{option}", type=int)
    explain.set_defaults(command=_explain)
    return parser


# Each command imports what it needs itself: `portcullis check` loads neither the engine nor the event loop.
def _run(arguments: argparse.Namespace) -> int:
    from appliance.service.service import run

    return run(arguments.config)


def _check(arguments: argparse.Namespace) -> int:
    from appliance.commands.check import check

    return check(arguments.paths, as_json=arguments.json)


def _explain(arguments: argparse.Namespace) -> int:
    from appliance.commands.explain import ExplainError, explain_file, explain_one

    if arguments.flows is not None:
        return explain_file(arguments.policy, arguments.flows, arguments.node)
    fields = ("src", "dst", "proto", "sport", "dport", "icmpType", "icmpCode", "endpoint", "direction", "path", "iif", "oif")
    question = {field: getattr(arguments, field) for field in fields if getattr(arguments, field) is not None}
    if "proto" not in question:
        raise ExplainError("name the flow: --src A --dst B --proto tcp --dport 443, or --flows FILE")
    return explain_one(arguments.policy, question, arguments.node)
