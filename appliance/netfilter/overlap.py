# SPDX-License-Identifier: Apache-2.0
"""Do rules of other programs use our mark bits or queues? Pure: loaded rules in, findings out.

Outside classify..obey our bits stand only in the connection mark. So a rule that copies whole marks between packet
and connection does no harm (a warning), while one that reads, writes or compares bits of our mask does.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from appliance.netfilter.marks import MarkLayout

ALL = 0xFFFFFFFF


@dataclass(frozen=True)
class Finding:
    """rule: where it stands; why: what it does to our bits; fatal: refuse, or only warn."""

    rule: str
    why: str
    fatal: bool = True

    def __str__(self) -> str:
        return f"{self.rule}: {self.why}"


@dataclass(frozen=True)
class _Value:
    """A mark expression: bits `keep` of `source`, `bits` changed by constants.

    source: "packet", "connection", "constant" or "unknown".
    """

    source: str
    keep: int
    bits: int


# ---- what a use of a mark means -------------------------------------------------------------------


def _compared(marks: MarkLayout, rule: str, subject: str, mask: int, value: int | None) -> Iterator[Finding]:
    if mask != ALL:
        if mask & marks.mask:
            yield Finding(rule, f"compares bits {mask:#x} of the {subject} mark")
    elif subject == "connection":
        yield Finding(rule, "compares the whole connection mark, which carries our bits")
    elif value is None or value & marks.mask:
        yield Finding(rule, "compares the whole packet mark with a value that has bits of our mask")


def _written(marks: MarkLayout, rule: str, subject: str, value: _Value) -> Iterator[Finding]:
    if value.source == subject:
        if changed := ~value.keep & ALL & marks.mask:
            yield Finding(rule, f"changes bits {changed:#x} of the {subject} mark")
    elif value.source == "constant":
        if value.bits & marks.mask:
            yield Finding(rule, f"sets bits {value.bits & marks.mask:#x} of the {subject} mark")
        elif subject == "connection":
            yield Finding(rule, "overwrites the whole connection mark")
    elif value.source == "unknown":
        yield Finding(rule, f"sets the whole {subject} mark to values not known here", fatal=False)
    elif value.keep == ALL and not value.bits:
        yield Finding(rule, f"copies the whole {value.source} mark to the {subject} mark", fatal=False)
    elif (value.keep | value.bits) & marks.mask:
        yield Finding(
            rule, f"copies bits {value.keep | value.bits:#x} of the {value.source} mark to the {subject} mark"
        )
    elif subject == "connection":
        yield Finding(rule, "clears our bits of the connection mark: its flows come up again and again", fatal=False)


# ---- nft, as libnftables prints it in JSON --------------------------------------------------------


def nft_findings(objects: Iterable[dict[str, Any]], marks: MarkLayout, own_table: str) -> list[Finding]:
    """Of `list ruleset`; own_table ("inet portcullis") is left out, and that of host policy."""
    found: list[Finding] = []
    for rule, place in _nft_rules(objects, own_table):
        for statement in rule.get("expr", ()):
            if mangle := statement.get("mangle"):
                if subject := _subject(mangle["key"]):
                    found += _written(marks, place, subject, _evaluate(mangle["value"]))
                continue
            for key, right in _keys(statement):
                value = _evaluate(key)
                if value.source in ("packet", "connection"):
                    found += _compared(marks, place, value.source, value.keep, right)
    return found


def nft_queues(objects: Iterable[dict[str, Any]], own_table: str) -> list[tuple[str, range]]:
    """(rule, queue numbers) of every foreign nft queue statement."""
    found = []
    for rule, place in _nft_rules(objects, own_table):
        for statement in rule.get("expr", ()):
            if "queue" in statement:
                number = (statement["queue"] or {}).get("num", 0)
                if isinstance(number, int):
                    found.append((place, range(number, number + 1)))
                elif isinstance(number, dict) and "range" in number:
                    first, last = number["range"]
                    found.append((place, range(first, last + 1)))
    return found


def _nft_rules(objects: Iterable[dict[str, Any]], own_table: str) -> Iterator[tuple[dict[str, Any], str]]:
    for entry in objects:
        rule = entry.get("rule")
        if not rule or f"{rule['family']} {rule['table']}" in (own_table, f"{own_table}_host"):
            continue
        # A rule with xt parts was made by iptables, which prints them better (xt_findings).
        if not any("xt" in statement for statement in rule.get("expr", ())):
            yield rule, f"nft rule {rule['family']} {rule['table']} {rule['chain']} handle {rule.get('handle', '?')}"


def _subject(expression: Any) -> str | None:
    if isinstance(expression, dict):
        for kind, subject in (("meta", "packet"), ("ct", "connection")):
            if isinstance(expression.get(kind), dict) and expression[kind].get("key") == "mark":
                return subject
    return None


def _evaluate(expression: Any) -> _Value:
    if isinstance(expression, int):
        return _Value("constant", 0, expression)
    if subject := _subject(expression):
        return _Value(subject, ALL, 0)
    if isinstance(expression, dict) and len(expression) == 1:
        operator, operands = next(iter(expression.items()))
        if operator in ("&", "|", "^") and isinstance(operands, list) and isinstance(operands[-1], int):
            left, number = _evaluate(operands[0] if len(operands) == 2 else {operator: operands[:-1]}), operands[-1]
            if operator == "&":
                return _Value(left.source, left.keep & number, left.bits & number)
            return _Value(left.source, left.keep & ~number, left.bits | number)
    return _Value("unknown", 0, 0)


def _keys(statement: Any) -> Iterator[tuple[Any, int | None]]:
    """(expression, value compared with) of matches, maps and sets in a statement; None: not a number."""
    if not isinstance(statement, dict):
        return
    if match := statement.get("match"):
        right = match.get("right")
        yield match.get("left"), right if isinstance(right, int) else None
    for kind in ("vmap", "map"):
        if isinstance(statement.get(kind), dict):
            yield statement[kind].get("key"), None


# ---- iptables, as iptables-save prints it ---------------------------------------------------------

_XT_MATCH = re.compile(r"-m (mark|connmark) (?:! )?--mark (\w+)(?:/(\w+))?")
_XT_SET = re.compile(r"-j (MARK|CONNMARK) --set-(xmark|mark) (\w+)(?:/(\w+))?")
_XT_LOGIC = re.compile(r"-j (MARK|CONNMARK) --(and|or|xor)-mark (\w+)")
_XT_COPY = re.compile(r"-j CONNMARK --(save|restore)-mark(.*)")
_XT_MASKS = re.compile(r"--(nfmask|ctmask|mask) (\w+)")
_XT_QUEUE = re.compile(r"-j NFQUEUE --queue-(?:num (\d+)|balance (\d+):(\d+))")
_SUBJECT = {"mark": "packet", "MARK": "packet", "connmark": "connection", "CONNMARK": "connection"}


def xt_findings(rules: Iterable[str], marks: MarkLayout, comment: str, tool: str = "iptables") -> list[Finding]:
    """rules: "table -A CHAIN ..."; ours, told by their comment, are left out."""
    found: list[Finding] = []
    for rule in rules:
        if f"--comment {comment} " in rule:
            continue
        place = f"{tool} rule {rule}"
        for kind, value, mask in _XT_MATCH.findall(rule):
            found += _compared(marks, place, _SUBJECT[kind], int(mask, 0) if mask else ALL, int(value, 0))
        if match := _XT_SET.search(rule):
            kind, _, value, mask = match.groups()
            bits, width = int(value, 0), int(mask, 0) if mask else ALL
            source = "constant" if width == ALL else _SUBJECT[kind]
            found += _written(marks, place, _SUBJECT[kind], _Value(source, ~(width | bits) & ALL, bits))
        if match := _XT_LOGIC.search(rule):
            kind, operator, value = match.groups()
            keep = int(value, 0) if operator == "and" else ~int(value, 0) & ALL
            found += _written(marks, place, _SUBJECT[kind], _Value(_SUBJECT[kind], keep, 0))
        if match := _XT_COPY.search(rule):
            masks = {name: int(value, 0) for name, value in _XT_MASKS.findall(match.group(2))}
            both = masks.get("mask", ALL)
            width = masks.get("nfmask", both) | masks.get("ctmask", both)
            source, target = ("packet", "connection") if match.group(1) == "save" else ("connection", "packet")
            if width == ALL:
                found += _written(marks, place, target, _Value(source, ALL, 0))
            elif width & marks.mask:
                found += [Finding(place, f"copies bits {width:#x} of the {source} mark to the {target} mark")]
    return found


def xt_queues(rules: Iterable[str], comment: str, tool: str = "iptables") -> list[tuple[str, range]]:
    """(rule, queue numbers) of every foreign NFQUEUE rule."""
    found = []
    for rule in rules:
        match = _XT_QUEUE.search(rule)
        if match and f"--comment {comment} " not in rule:
            first = int(match.group(1) or match.group(2))
            found.append((f"{tool} rule {rule}", range(first, int(match.group(3) or first) + 1)))
    return found


# ---- routing rules --------------------------------------------------------------------------------


def ip_rule_findings(rules: Sequence[tuple[int, int, int]], marks: MarkLayout) -> list[Finding]:
    """rules: (priority, fwmark, mask). A packet that our verdict re-routes in output still carries our bits, so also
    a rule that compares the whole mark with a value of its own is fatal."""
    return [
        Finding(f"ip rule {priority}: fwmark {mark:#x}/{mask:#x}", "routes by bits of our mask")
        for priority, mark, mask in rules
        if mask & marks.mask
    ]
