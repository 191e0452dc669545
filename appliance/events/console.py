# SPDX-License-Identifier: Apache-2.0
"""What a person sees: a line per flow and a status line. Pure: the caller prints and knows the terminal."""

import ipaddress
from dataclasses import dataclass
from datetime import datetime, tzinfo

from appliance.events.eve import PROTOCOLS, InspectionEvent
from appliance.events.names import FlowEvent, Names, rule_text
from appliance.events.users import user_name
from fastpath.layout import NONE, EventFlag, EventKind, Failure, Verdict

_SIDE = 28  # columns for each side of a flow
_COLOURS = {"allow": "32", "inspect": "36", "drop": "31", "reject": "31"}
_WORDS = {Verdict.ALLOW: "allow", Verdict.DROP: "drop", Verdict.REJECT: "reject", Verdict.INSPECT: "inspect"}
_PORTED = (6, 17, 132, 136)
_NOT_ALONE = str.maketrans({"\\": "\\\\"})


def printable(text: str) -> str:
    """Text from the network that cannot move the cursor, change colours or reorder the line: whatever is not printable
    (control characters, bidirectional overrides, lone surrogates) becomes \\xNN, \\uNNNN or \\UNNNNNNNN."""
    if text.isprintable() and "\\" not in text:
        return text
    return "".join(char if char.isprintable() else _escape(char) for char in text.translate(_NOT_ALONE))


def _escape(char: str) -> str:
    number = ord(char)
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def flow_line(
    event: FlowEvent, names: Names, *, app: str = "", unit: str = "", colour: bool = False, zone: tzinfo | None = None
) -> str:
    """Time, source → destination, protocol, application, verdict, deciding rule; columns aligned."""
    verdict = Verdict(event.verdict)
    word = _WORDS[verdict]
    denied = verdict in (Verdict.DROP, Verdict.REJECT)
    if denied and event.flags & EventFlag.OBSERVED:
        word = f"would {word}"
    why = rule_text(names.rule(event.rule))
    if event.kind == EventKind.FAILURE:
        why = Failure(event.failure).name.lower()
    notes = [
        note
        for note, flag in (
            ("midstream", EventFlag.MIDSTREAM),
            ("failsafe", EventFlag.LOOK_ONLY),
            ("related", EventFlag.RELATED),
        )
        if event.flags & flag
    ]
    if event.kind == EventKind.REDECIDED:
        notes.append("decided again")
    if (event.staged_verdict, event.staged_rule) != (event.verdict, event.rule):
        notes.append(f"staged: {_WORDS[Verdict(event.staged_verdict)]} by {rule_text(names.rule(event.staged_rule))}")
    if event.uid != NONE:
        notes.append(f"by {user_name(event.uid) or f'uid {event.uid}'}" + f" in {unit}" * bool(unit))
    notes += [f"{address} is in feed {feed}" for feed, address in names.feeds(event)]
    ported = event.proto in _PORTED
    source = _side(names.identity(event.src_identity, event.src), event.src, event.sport if ported else None)
    target = _side(names.identity(event.dst_identity, event.dst), event.dst, event.dport if ported else None)
    return _line(event.time, source, target, event.proto, app, word, why, notes, colour, zone)


def inspection_line(
    event: InspectionEvent, *, source: str = "", target: str = "", colour: bool = False, zone: tzinfo | None = None
) -> str | None:
    """A line for an alert, a feed hit, an inspector's final decision or failure; None for what is only a log record.

    source, target: names of the flow's identities, if it is known what policy called them.
    """
    if event.kind not in ("alert", "feed", "fate", "failure", "policy"):
        return None
    word = event.action or "alert"
    if event.observed and word in ("drop", "reject"):
        word = f"would {word}"
    why = event.reason
    notes: list[str] = []
    if event.kind == "feed":
        why, notes = _feed_words(event)
    elif event.kind == "alert":
        why = f"signature {event.fields.get('sid', 0)}: {event.reason}"
    elif event.kind == "policy":
        asked = f"{event.fields.get('http_method', '')} {event.fields.get('url', '')}".strip()
        why = ": ".join(part for part in (event.reason, asked, event.fields.get("detail", "")) if part)
    elif event.kind == "failure" and event.fields.get("detail"):
        why = f"{event.reason}: {event.fields['detail']}"
    ported = event.protocol in _PORTED
    if event.src:
        source = _side(source, ipaddress.ip_address(event.src), event.sport if ported else None)
        target = _side(target, ipaddress.ip_address(event.dst), event.dport if ported else None)
    return _line(round(event.time * 1e9), source, target, event.protocol, event.app, word, why, notes, colour, zone)


def _feed_words(event: InspectionEvent) -> tuple[str, list[str]]:
    """ "feed f: what was seen", and in brackets: which entry means it, since when, what other feeds list it."""
    fields = event.fields
    seen, entry = fields.get("name", ""), fields.get("entry", "")
    notes = [f"entry {entry}"] if entry not in ("", seen) else []
    if fields.get("since"):
        notes.append(f"since {fields['since']}")
    if fields.get("also"):
        notes.append(f"also in {', '.join(fields['also'])}")
    source = str(fields.get("source", ""))
    what = f"{source.removeprefix('tls.')} {seen}" if source in ("tls.ja3", "tls.ja4", "tls.certificate") else seen
    return f"feed {event.reason}: {what}", notes


def _line(
    nanoseconds: int,
    source: str,
    target: str,
    proto: int,
    app: str,
    word: str,
    why: str,
    notes: list[str],
    colour: bool,
    zone: tzinfo | None,
) -> str:
    clock = datetime.fromtimestamp(nanoseconds // 10**9, zone).strftime("%H:%M:%S")
    verdict = f"{word:<12}"
    if colour:
        verdict = f"\x1b[{_COLOURS.get(word.rpartition(' ')[2], '33')}m{verdict}\x1b[0m"
    parts = (
        f"{clock}.{nanoseconds // 10**6 % 1000:03d}",
        f"{printable(source):>{_SIDE}} → {printable(target):<{_SIDE}}",
        f"{PROTOCOLS.get(proto, str(proto)).lower().replace('ipv6-', ''):<5}",
        f"{printable(app) or '-':<6}",
        verdict,
        printable(why) + (f" ({printable(', '.join(notes))})" if notes else ""),
    )
    return " ".join(parts)


def _side(name: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int | None) -> str:
    """The identity if it has a name, otherwise the address; with the port where the protocol has one."""
    text = name or (f"[{address}]" if address.version == 6 and port is not None else str(address))
    return text if port is None else f"{text}:{port}"


@dataclass(frozen=True)
class Status:
    """Numbers since the start, and rates per second since the previous status line."""

    mode: str
    uptime: float  # seconds
    flows: int  # known now
    packet_rate: float
    allowed: int
    inspected: int
    dropped: int
    rejected: int
    would_deny: int = 0
    lost: int = 0
    policies: int = 0
    generation: int = 0
    errors: int = 0


def status_line(status: Status, *, width: int = 120, colour: bool = False) -> str:
    """One line of at most `width` columns: what matters least is left out first."""
    hours, rest = divmod(int(status.uptime), 3600)
    parts = [
        f"{status.mode} {hours:02d}:{rest // 60:02d}:{rest % 60:02d}",
        f"{count(status.packet_rate)} packets/s up",
        f"{count(status.flows)} flows",
        f"allowed {count(status.allowed)}",
        f"inspected {count(status.inspected)}",
        f"dropped {count(status.dropped)}",
        f"rejected {count(status.rejected)}",
    ]
    if status.mode == "observe":
        parts[5:7] = [f"would deny {count(status.would_deny)}"]
    if status.lost:
        parts.append(f"lost {count(status.lost)}")
    if status.errors:
        parts.append(f"errors {status.errors}")
    parts += [f"policies {status.policies}", f"generation {status.generation}"]
    line = " | ".join(parts)
    while len(line) > width and len(parts) > 1:
        parts.pop()
        line = " | ".join(parts)
    line = line[:width]
    return f"\x1b[1m{line}\x1b[0m" if colour else line


def count(number: float) -> str:
    """999, 1.2k, 35M: four columns at most up to the petas."""
    for unit in ("", "k", "M", "G", "T"):
        if number < 999.5:
            return f"{number:.1f}{unit}" if unit and number < 9.95 else f"{number:.0f}{unit}"
        number /= 1000
    return f"{number:.0f}P"
