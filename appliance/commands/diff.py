# SPDX-License-Identifier: Apache-2.0
"""`portcullis policy diff OLD NEW --flows LOG`: which recorded flows would be decided otherwise."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.commands.explain import read_resources
from appliance.commands.files import PathError
from fastpath.errors import PortcullisError
from rules.policy import CompileOptions
from rules.policy.explain import Answer, DirectoryExplainer

_ICMP = {"ICMP": "icmp", "IPv6-ICMP": "icmpv6"}
Question = tuple[tuple[str, Any], ...]


class FlowLogError(PortcullisError):
    """A line of the log that is no flow."""


@dataclass(frozen=True)
class Change:
    """Flows that went one way and would go another; `count` of them in the log."""

    question: dict[str, Any]
    old: Answer
    new: Answer
    count: int

    def as_json(self) -> dict[str, Any]:
        return {
            "flow": self.question, "count": self.count, "old": self.old.as_json(), "new": self.new.as_json(),
        }  # fmt: skip

    def __str__(self) -> str:
        flow = self.question
        port = f":{flow['dport']}" if "dport" in flow else ""
        return (
            f"{self.old.verdict} -> {self.new.verdict}  {flow['src']} -> {flow['dst']}{port} {flow['proto']}"
            f"  ({self.count} in the log)  {_decider(self.old)} -> {_decider(self.new)}"
        )


def diff(
    old: Path, new: Path, log: Path, node: str | None, *, as_json: bool, write: Callable[[str], None] = print
) -> int:
    """1 if a flow's verdict changes, else 0. Raises PortcullisError for a log that cannot be read."""
    try:
        lines = log.read_text().splitlines()
    except OSError as error:
        raise PathError(f"cannot be read: {error.strerror}", file=str(log)) from error
    except UnicodeDecodeError as error:
        raise PathError("not UTF-8", file=str(log)) from error
    flows = Counter(questions(lines, str(log)))
    changes = list(compare([old], [new], flows, node))
    for change in changes:
        write(json.dumps(change.as_json()) if as_json else str(change))
    if not as_json:
        write(f"{sum(flows.values())} flows, {len(flows)} kinds, {len(changes)} change their verdict")
    return 1 if changes else 0


def compare(old: Sequence[Path], new: Sequence[Path], flows: Counter[Question], node: str | None) -> Iterator[Change]:
    before, after = (DirectoryExplainer(read_resources(paths), CompileOptions(), node) for paths in (old, new))
    for question, count in flows.items():
        asked = dict(question)
        was, is_now = before.answer(asked), after.answer(asked)
        if was.verdict != is_now.verdict:
            yield Change(asked, was, is_now, count)


def questions(lines: Iterable[str], file: str = "") -> Iterator[Question]:
    """The flow and drop records of an EVE log as questions. A decision that was recorded as both counts once."""
    seen: set[tuple[object, object]] = set()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            if record["event_type"] not in ("flow", "drop"):
                continue
            key = (record.get("flow_id"), record.get("timestamp"))
            if key in seen:
                continue
            seen.add(key)
            yield _question(record)
        except (ValueError, KeyError, TypeError) as error:
            raise FlowLogError(f"no EVE record: {error!r}", file=file, line=number) from error


def _question(record: dict[str, Any]) -> Question:
    protocol = str(record["proto"])
    fields: dict[str, Any] = {
        "src": record["src_ip"], "dst": record["dest_ip"], "proto": _ICMP.get(protocol, protocol.lower()),
    }  # fmt: skip
    if "dest_port" in record:
        fields["sport"], fields["dport"] = record["src_port"], record["dest_port"]
    if "icmp_type" in record:
        fields["icmpType"], fields["icmpCode"] = record["icmp_type"], record["icmp_code"]
    return tuple(fields.items())


def _decider(answer: Answer) -> str:
    if not answer.trace:
        return "no policy applies"
    last = answer.trace[-1]
    return f"{last['tier']}/{last['policy']}" + ("" if last["rule"] == -1 else f"[{last['rule']}]")
