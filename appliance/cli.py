# SPDX-License-Identifier: Apache-2.0
"""The `portcullis` command.

Exit status: 0 done, 1 the answer is no (`check` found something invalid), 2 it could not start.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from appliance.commands import feeds_arguments
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
    parser.add_argument("--version", action=_Version, nargs=0, help="say which release this is, and exit")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    run = commands.add_parser("run", help="filter this node's traffic, in the foreground")
    run.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="configuration (default: /etc/portcullis/portcullis.toml if it exists, else every default: mode observe)",
    )
    run.add_argument(
        "--takeover", action="store_true", help="take the queues of the running service over, without a packet lost"
    )
    run.set_defaults(command=_run)

    check = commands.add_parser("check", help="validate policy files, configuration, feeds and signatures")
    check.add_argument(
        "paths", nargs="*", type=Path, metavar="PATH", help="policy, feed, signature or configuration file, or a folder"
    )
    check.add_argument("--json", action="store_true", help="one JSON object for each resource")
    check.add_argument(
        "--config", type=Path, metavar="FILE",
        help="say what is not enforced under this configuration; without a PATH, check it and the files that it names",
    )  # fmt: skip
    check.set_defaults(command=_check)

    feeds_arguments.add_parser(commands)

    containers = commands.add_parser("containers", help="the endpoints that container engines tell of")
    words = containers.add_subparsers(metavar="WORD", required=True)
    for word, text, command in (
        ("list", "ask the engines once, and print what they tell", _containers_list),
        ("serve", "follow the engines for the service, in the foreground", _containers_serve),
    ):
        parser_of = words.add_parser(word, help=text)
        parser_of.add_argument("--config", type=Path, metavar="FILE", help="configuration, as for `run`")
        parser_of.set_defaults(command=command)

    explain = commands.add_parser("explain", help="say what policy decides for a flow, and why")
    explain.add_argument(
        "--policy",
        nargs="+",
        type=Path,
        metavar="PATH",
        help="policy files or folders (default: what the running service has in force)",
    )
    explain.add_argument("--flows", type=Path, metavar="FILE", help="JSON array of questions; one JSON answer a line")
    explain.add_argument("--node", help="the node whose hooks are asked about")
    for option, metavar, text in (
        ("src", "ADDRESS", "source"),
        ("dst", "ADDRESS", "destination"),
        ("proto", "PROTOCOL", "tcp, udp, icmp, ... or its number"),
        ("endpoint", "NAMESPACE/NAME", "the answer of this endpoint alone"),
        ("direction", "WAY", "ingress or egress, with --endpoint"),
        ("path", "HOOK", "the answer of the node's hooks: input, output or forward"),
        ("iif", "INTERFACE", "the packet comes in by, with --path"),
        ("oif", "INTERFACE", "the packet goes out by, with --path"),
        ("httpMethod", "METHOD", "of the request that the flow carries (default with --httpPath: GET)"),
        ("httpPath", "PATH", "of that request (default with --httpMethod: /)"),
    ):
        explain.add_argument(f"--{option}", metavar=metavar, help=text)
    for option, text in (
        ("sport", "source port"), ("dport", "destination port"), ("icmpType", "type"), ("icmpCode", "code"),
    ):  # fmt: skip
        explain.add_argument(f"--{option}", type=int, metavar="NUMBER", help=text)
    _add_socket(explain)
    explain.set_defaults(command=_explain)

    policy = commands.add_parser("policy", help="compare policies").add_subparsers(metavar="WORD", required=True)
    diff = policy.add_parser("diff", help="which recorded flows change their verdict from OLD to NEW")
    diff.add_argument("old", type=Path, metavar="OLD", help="policy file or folder")
    diff.add_argument("new", type=Path, metavar="NEW", help="the same, of what shall come")
    diff.add_argument("--flows", type=Path, metavar="LOG", required=True, help="EVE log with flow records")
    diff.add_argument("--node", help="the node whose endpoints are meant")
    diff.add_argument("--json", action="store_true", help="one JSON object for each change")
    diff.set_defaults(command=_diff)

    status = commands.add_parser("status", help="what the running service does, and what it lost")
    status.add_argument("--json", action="store_true", help="everything, as one JSON object")
    _add_socket(status)
    status.set_defaults(command=_status)

    apply = commands.add_parser("apply", help="put policy files in force in place of those of the policy folder")
    apply.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="policy file or folder")
    apply.add_argument(
        "--confirm", type=_duration, metavar="TIME", help="go back after TIME (60s, 5m) unless `confirm` is given"
    )
    _add_socket(apply)
    apply.set_defaults(command=_apply)
    for word, text, command in (
        ("confirm", "keep the policy that is on trial", _confirm),
        ("rollback", "go back from the policy that is on trial at once", _roll_back),
    ):
        parser_of = commands.add_parser(word, help=text)
        _add_socket(parser_of)
        parser_of.set_defaults(command=command)
    return parser


class _Version(argparse.Action):
    """Looks only when it is asked: reading what is installed takes longer than all else here."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from appliance.release import version

        print(f"portcullis {version()}")
        parser.exit()


def _add_socket(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--socket", type=Path, default=Path("/run/portcullis/control.sock"), metavar="PATH",
        help="of the running service (default: %(default)s)",
    )  # fmt: skip


def _duration(text: str) -> float:
    from appliance.commands.service import duration

    try:
        return duration(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a time such as 60s or 5m, got {text!r}") from None


# Each command imports what it needs itself: `portcullis check` loads neither the engine nor the event loop.
def _run(arguments: argparse.Namespace) -> int:
    from appliance.service.resume import resume

    left = resume()  # before the rest is imported: packets may be waiting
    from appliance.service.service import run

    return run(arguments.config, takeover=arguments.takeover, left=left)


def _check(arguments: argparse.Namespace) -> int:
    from appliance.commands.check import check

    return check(arguments.paths, as_json=arguments.json, config=arguments.config)


def _explain(arguments: argparse.Namespace) -> int:
    from appliance.commands import service
    from appliance.commands.explain import ExplainError, explain_file, explain_one

    if arguments.flows is not None:
        if arguments.policy is None:
            raise ExplainError("--flows needs --policy PATH")
        return explain_file(arguments.policy, arguments.flows, arguments.node)
    fields = (
        "src",
        "dst",
        "proto",
        "sport",
        "dport",
        "icmpType",
        "icmpCode",
        "endpoint",
        "direction",
        "path",
        "iif",
        "oif",
        "httpMethod",
        "httpPath",
    )
    question = {field: getattr(arguments, field) for field in fields if getattr(arguments, field) is not None}
    if "proto" not in question:
        raise ExplainError("name the flow: --src A --dst B --proto tcp --dport 443, or --flows FILE")
    if arguments.policy is None:
        return service.explain(arguments.socket, question)
    return explain_one(arguments.policy, question, arguments.node)


def _diff(arguments: argparse.Namespace) -> int:
    from appliance.commands.diff import diff

    return diff(arguments.old, arguments.new, arguments.flows, arguments.node, as_json=arguments.json)


def _containers_list(arguments: argparse.Namespace) -> int:
    from appliance.commands.containers import list_endpoints

    return list_endpoints(arguments.config)


def _containers_serve(arguments: argparse.Namespace) -> int:
    from appliance.commands.containers import serve

    return serve(arguments.config)


def _status(arguments: argparse.Namespace) -> int:
    from appliance.commands.service import status

    return status(arguments.socket, as_json=arguments.json)


def _apply(arguments: argparse.Namespace) -> int:
    from appliance.commands.service import apply

    return apply(arguments.socket, arguments.paths, arguments.confirm)


def _confirm(arguments: argparse.Namespace) -> int:
    from appliance.commands.service import confirm

    return confirm(arguments.socket)


def _roll_back(arguments: argparse.Namespace) -> int:
    from appliance.commands.service import roll_back

    return roll_back(arguments.socket)
