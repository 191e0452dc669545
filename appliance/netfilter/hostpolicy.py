# SPDX-License-Identifier: Apache-2.0
"""Policy of host endpoints with doNotTrack and preDNAT: chains of the program → a table of nft rules of its own.

    guard     prerouting -301   our bits of the packet mark are nobody else's
    raw_in    prerouting -300   doNotTrack; what it allows is not tracked and goes past all other policy
    raw_out   output     -300   the same (our main table's guard has cleared the bits)
    pre_dnat  prerouting -150   preDNAT; what it allows goes past the host's own policy, not past a workload's
    answers   output     -150   preDNAT, asked about a connection whose host speaks first after a change of policy

A packet asks here as rules.policy.explain does. A rule that asks about an address becomes one rule for each IP version,
its predicate a set of the addresses whose identity has it.
"""

import re
import threading
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from appliance.netfilter import nft
from appliance.netfilter.manager import bound_queues
from appliance.netfilter.marks import PRE_DNAT, UNTRACKED
from appliance.netfilter.ruleset import HOST_TABLE as TABLE
from appliance.netfilter.ruleset import ICMPV6, NetfilterSettings, Port
from fastpath.errors import PortcullisError
from fastpath.layout import CHAIN, NONE, PORT_TERM, RULE, Action, RuleFlag
from rules.policy import Program

BASES = {
    "guard": ("prerouting", -301),
    "raw_in": ("prerouting", -300),
    "raw_out": ("output", -300),
    "pre_dnat": ("prerouting", -150),
    "answers": ("output", -150),
}
MOST = 256  # rules that one rule may become

_ALL = frozenset(range(256))
_WITH_PORTS = frozenset((6, 17, 132, 136))
_ICMP = frozenset((1, 58))
_V4 = 0xFFFF << 32  # ::ffff:0:0
_FIELD = re.compile(r"^(?:ip6? [sd]addr|th [sd]port)")
_ORIGINAL = {"th sport": "proto-src", "th dport": "proto-dst"}
_PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}

Interval = tuple[int, int]  # both ends belong to it
Terms = tuple[int, int]  # first, count


class HostPolicyError(PortcullisError):
    """A rule that nft rules cannot express."""


@dataclass(frozen=True)
class _Case:
    """All of these together. addresses: (is the source, predicate, has it)."""

    families: frozenset[int] = frozenset((4, 6))
    protocols: frozenset[int] = _ALL
    matches: tuple[str, ...] = ()
    addresses: tuple[tuple[bool, int, bool], ...] = ()

    def __and__(self, other: "_Case") -> "_Case":
        return _Case(
            self.families & other.families, self.protocols & other.protocols,
            self.matches + other.matches, self.addresses + other.addresses,
        )  # fmt: skip


def host_script(program: Program, settings: NetfilterSettings, prefix: str, old: Iterable[tuple[str, str]] = ()) -> str:
    """One transaction. prefix: of the names of chains and sets, none of which may exist; old: ("chain" | "set", name)
    of what goes. Raises HostPolicyError."""
    return _Text(program, settings, prefix).script(old)


def empty_script(old: Iterable[tuple[str, str]]) -> str:
    """Hooks stay, which would drop what waits in queues if they went, and do nothing."""
    return "".join(f"{line}\n" for line in (f"flush table {TABLE}", *_deletions(old)))


def _deletions(old: Iterable[tuple[str, str]]) -> Iterator[str]:
    for kind, name in sorted(old):
        yield f"delete {kind} {TABLE} {name}"


class _Text:
    def __init__(self, program: Program, settings: NetfilterSettings, prefix: str) -> None:
        self._program = program
        self._settings = settings
        self._marks = settings.marks
        self._prefix = prefix
        tables = program.tables
        self._rules = [RULE.unpack_from(tables.rules, at) for at in range(0, len(tables.rules), RULE.size)]
        self._terms = [PORT_TERM.unpack_from(tables.port_terms, at)
                       for at in range(0, len(tables.port_terms), PORT_TERM.size)]  # fmt: skip
        self._chains = [CHAIN.unpack_from(tables.chains, at) for at in range(0, len(tables.chains), CHAIN.size)]
        self._addresses = AddressSets(program)
        self._sets: dict[str, str] = {}  # name → line that makes it
        self._made: dict[str, list[str]] = {}  # chains

    def script(self, old: Iterable[tuple[str, str]]) -> str:
        bodies = {name: list(rules) for name, rules in self._bases()}
        lines = [f"add table {TABLE}"]
        lines += [
            f"add chain {TABLE} {name} {{ type filter hook {hook} priority {priority}; policy accept; }}"
            for name, (hook, priority) in BASES.items()
        ]
        lines += [f"flush table {TABLE}", *_deletions(old)]
        lines += [f"add chain {TABLE} {name}" for name in self._made]
        lines += self._sets.values()
        bodies = {**self._made, **bodies}
        lines += [f"add rule {TABLE} {name} {rule}" for name, rules in bodies.items() for rule in rules]
        return "\n".join(lines) + "\n"

    # -- the hooks -------------------------------------------------------------------------------------

    def _bases(self) -> Iterator[tuple[str, Iterable[str]]]:
        raw = self._program.raw_chains
        settings = self._settings
        yield "guard", [f"meta mark set meta mark & {self._marks.others:#010x}"]
        necessary = (f"icmpv6 type {{ {ICMPV6} }} accept", "meta nfproto ipv6 udp dport { 546, 547 } accept")
        no_track = f"notrack {self._set_byte(UNTRACKED)} counter accept"
        for name, interface, chains, toward, back in (
            ("raw_in", "iif", {i: c.untracked_ingress for i, c in raw.items()},
             settings.failsafe_in, settings.failsafe_out),
            ("raw_out", "oif", {i: c.untracked_egress for i, c in raw.items()},
             settings.failsafe_out, settings.failsafe_in),
        ):  # fmt: skip
            if all(chain == NONE for chain in chains.values()):
                continue
            # Without connection tracking the answers of failsafe services must be let through, too.
            spared = [f"{interface} lo accept", *necessary, *_ports("dport", toward), *_ports("sport", back)]
            yield name, [*spared, *self._dispatch(interface, chains, "u", no_track)]
        early = {i: c.pre_dnat_ingress for i, c in raw.items()}
        if any(chain != NONE for chain in early.values()):
            allow = f"{self._set_byte(PRE_DNAT)} counter accept"
            yield "pre_dnat", [
                "iif lo accept",
                f"meta mark & {self._marks.mask:#010x} == {self._marks.at(UNTRACKED):#010x} accept",
                "ct direction reply accept",
                "ct state related meta l4proto { 1, 58 } accept",
                *necessary,
                *_ports("dport", settings.failsafe_in),
                *self._dispatch("iif", early, "d", allow),
            ]
            # An ICMP answer has another type than what it answers.
            yield "answers", [
                "oif lo accept",
                "ct state != established accept",
                "ct direction original accept",
                "meta l4proto { 1, 58 } accept",
                *self._dispatch("oif", early, "r", allow),
            ]

    def _set_byte(self, byte: int) -> str:
        return f"meta mark set meta mark | {self._marks.at(byte):#010x}"

    def _dispatch(self, interface: str, chains: Mapping[int, int], kind: str, allow: str) -> Iterator[str]:
        targets = {ifindex: self._chain(chain, kind, allow) for ifindex, chain in sorted(chains.items())}
        default = targets.pop(0, "")
        if targets:
            elements = ", ".join(f"{i} : {f'goto {name}' if name else 'accept'}" for i, name in targets.items())
            yield f"{interface} vmap {{ {elements} }}"
        if default:
            yield f"goto {default}"

    # -- chains ----------------------------------------------------------------------------------------

    def _chain(self, number: int, kind: str, allow: str) -> str:
        """The name of the first of the nft chains that make up a chain; "": there is none."""
        if number == NONE:
            return ""
        first, count, _, default = self._chains[number]
        end = first + count
        landings = {rule[3] for rule in self._rules[first:end] if rule[13] == Action.PASS}
        starts = sorted({first, end, *landings})

        def name(start: int) -> str:
            return f"{self._prefix}_{kind}{number}_{start - first}"

        if name(first) in self._made:
            return name(first)
        deny = "accept" if kind == "r" else "counter drop"  # of an answer all other policy decides
        verdicts = {Action.ALLOW: allow, Action.DENY: deny, Action.REJECT: deny}
        for start, stop in zip(starts, (*starts[1:], end), strict=True):
            body = self._made[name(start)] = []
            for rule in self._rules[start:stop]:
                action = Action(rule[13])
                if action is Action.LOG:
                    continue
                verdict = f"goto {name(rule[3])}" if action is Action.PASS else verdicts[action]
                matches = (_of_connection(match) if kind == "r" else match for match in self._matches(rule))
                body += (" ".join((*match, verdict)) for match in matches)
            if start == end:
                body += [verdicts[Action(default)]] if default != Action.NEXT else []
            else:
                body.append(f"goto {name(stop)}")
        return name(first)

    def _matches(self, rule: Sequence[int]) -> Iterator[tuple[str, ...]]:
        for case in self._cases(rule):
            if not case.protocols or not case.families:
                continue
            protocol = _protocols(case.protocols)
            if not case.addresses:
                family = () if len(case.families) == 2 else (f"meta nfproto ipv{min(case.families)}",)
                yield (*family, *protocol, *case.matches)
                continue
            for version in sorted(case.families):
                addresses = self._address_matches(version, case)
                if addresses is not None:
                    yield (f"meta nfproto ipv{version}", *addresses, *protocol, *case.matches)

    def _address_matches(self, version: int, case: _Case) -> list[str] | None:
        """None: no address of this IP version has what is asked for."""
        found = []
        for source, predicate, wanted in dict.fromkeys(case.addresses):
            intervals = self._addresses.of(predicate, version)
            if intervals == [(0, _last(version))]:
                if not wanted:
                    return None
            elif not intervals:
                if wanted:
                    return None
            else:
                name = f"{self._prefix}_p{predicate}v{version}"
                if name not in self._sets:
                    self._sets[name] = _set(name, version, intervals)
                protocol, side = ("ip" if version == 4 else "ip6"), ("saddr" if source else "daddr")
                found.append(f"{protocol} {side} {'' if wanted else '!= '}@{name}")
        return found

    def _cases(self, rule: Sequence[int]) -> list[_Case]:
        """One of these: what struct fp_rule asks, in the order of fastpath.layout.RULE."""
        source, destination = rule[1], rule[2]
        sport, not_sport, dport, not_dport = (rule[4], rule[5]), (rule[6], rule[7]), (rule[8], rule[9]), rule[10:12]
        flags = RuleFlag(rule[12])
        _, proto, not_proto, icmp_type, icmp_code, not_icmp_type, not_icmp_code = rule[13:20]
        cases = [_Case()]

        def also(options: Iterable[_Case]) -> None:
            chosen = list(options)
            cases[:] = [made for case in cases for option in chosen if (made := case & option).protocols]
            if len(cases) > MOST:
                raise HostPolicyError("too many negated named ports in one rule")

        if flags & RuleFlag.V4:
            also([_Case(families=frozenset((4,)))])
        if flags & RuleFlag.V6:
            also([_Case(families=frozenset((6,)))])
        if flags & RuleFlag.PROTO:
            also([_Case(protocols=frozenset((proto,)))])
        if flags & RuleFlag.NOT_PROTO:
            also([_Case(protocols=_ALL - {not_proto})])
        if flags & (RuleFlag.ICMP_TYPE | RuleFlag.ICMP_CODE | RuleFlag.NOT_ICMP_TYPE | RuleFlag.NOT_ICMP_CODE):
            also([_Case(protocols=_ICMP)])
        if flags & RuleFlag.ICMP_TYPE:
            also([_Case(matches=(f"@th,0,8 {icmp_type}",))])
        if flags & RuleFlag.ICMP_CODE:
            also([_Case(matches=(f"@th,8,8 {icmp_code}",))])
        if flags & RuleFlag.NOT_ICMP_TYPE:
            other = [_Case(matches=(f"@th,0,8 != {not_icmp_type}",))]
            if flags & RuleFlag.NOT_ICMP_CODE:
                other.append(_Case(matches=(f"@th,8,8 != {not_icmp_code}",)))
            also(other)
        if source != NONE:
            also([_Case(addresses=((True, source, True),))])
        if destination != NONE:
            also([_Case(addresses=((False, destination, True),))])
        if sport[1] or not_sport[1] or dport[1] or not_dport[1]:
            without = []
            negated = (*self._of(not_sport), *self._of((not_dport[0], not_dport[1])))
            if not sport[1] and not dport[1] and all(term[3] for term in negated):
                without = [case & _Case(protocols=_ALL - _WITH_PORTS) for case in cases]
            also([_Case(protocols=_WITH_PORTS)])
            for terms, field, is_source in ((sport, "sport", True), (dport, "dport", False)):
                if terms[1]:
                    also(self._on(terms, field, is_source))
            for terms, field, is_source in ((not_sport, "sport", True), ((not_dport[0], not_dport[1]), "dport", False)):
                for group in self._groups(terms):
                    also(self._not_on(group, field, is_source))
            cases += (case for case in without if case.protocols)
        return cases

    def _of(self, terms: Terms) -> list[tuple[int, ...]]:
        return self._terms[terms[0] : terms[0] + terms[1]]

    def _groups(self, terms: Terms) -> list[tuple[int, int, str]]:
        """(predicate, protocol, ports as text) for each predicate and protocol."""
        ports: dict[tuple[int, int], list[Interval]] = {}
        for predicate, first, last, proto in self._of(terms):
            ports.setdefault((predicate, proto), []).append((first, last))
        return [(*key, _ranges(merge(found))) for key, found in ports.items()]

    def _on(self, terms: Terms, field: str, is_source: bool) -> Iterator[_Case]:
        for predicate, proto, ports in self._groups(terms):
            addresses = () if predicate == NONE else ((is_source, predicate, True),)
            yield _Case(protocols=frozenset((proto,)) if proto else _ALL, matches=(f"th {field} {{ {ports} }}",),
                        addresses=addresses)  # fmt: skip

    @staticmethod
    def _not_on(group: tuple[int, int, str], field: str, is_source: bool) -> Iterator[_Case]:
        predicate, proto, ports = group
        yield _Case(matches=(f"th {field} != {{ {ports} }}",))
        if proto:
            yield _Case(protocols=_ALL - {proto})
        if predicate != NONE:
            yield _Case(addresses=((is_source, predicate, False),))


class AddressSets:
    """Which addresses have a predicate."""

    def __init__(self, program: Program) -> None:
        tables = program.tables
        self._entries = program.entries
        offsets, predicates = array("I", tables.predicate_offsets), array("I", tables.predicates)
        self._rows = [
            frozenset(predicates[offsets[i] : offsets[i + 1]]) for i in range(len(offsets) - 1)
        ]  # fmt: skip
        self._pieces: dict[int, list[tuple[int, int, int]]] = {}
        self._found: dict[tuple[int, int], list[Interval]] = {}

    def of(self, predicate: int, version: int) -> list[Interval]:
        """Sorted, none touching the next; addresses as numbers of their IP version."""
        if not self._pieces:
            self._pieces = pieces(self._entries)
        if (predicate, version) not in self._found:
            having = [
                (first, last) for first, last, identity in self._pieces[version] if self._has(identity, predicate)
            ]  # fmt: skip
            self._found[predicate, version] = merge(having)
        return self._found[predicate, version]

    def _has(self, identity: int, predicate: int) -> bool:
        return bool(self._rows) and predicate in self._rows[identity if identity < len(self._rows) else 0]


def pieces(entries: Iterable[tuple[bytes, int, int, int]]) -> dict[int, list[tuple[int, int, int]]]:
    """By IP version: (first, last, identity) from the first address to the last one without a gap, by the longest
    prefix; identity 0 where no entry is."""
    found: list[tuple[int, int, int]] = []
    open_: list[tuple[int, int]] = [((1 << 128) - 1, 0)]  # last, identity; what lies in what
    at = 0

    def upto(end: int) -> None:
        nonlocal at
        if at <= end:
            found.append((at, end, open_[-1][1]))
            at = end + 1

    for addr, length, identity, _ in sorted(entries, key=lambda entry: entry[:2]):
        first = int.from_bytes(addr)
        while open_[-1][0] < first:
            upto(open_[-1][0])
            open_.pop()
        upto(first - 1)
        open_.append((first | ((1 << (128 - length)) - 1), identity))
    while open_:
        upto(open_[-1][0])
        open_.pop()
    v4, v6 = [], []
    end = _V4 + _last(4)
    for first, last, identity in found:
        if first <= end and last >= _V4:
            v4.append((max(first, _V4) - _V4, min(last, end) - _V4, identity))
        if first < _V4:
            v6.append((first, min(last, _V4 - 1), identity))
        if last > end:
            v6.append((max(first, end + 1), last, identity))
    # No packet of IPv6 has an address of IPv4: its range goes with what follows it.
    after = next(identity for first, _, identity in v6 if first == end + 1)
    v6.append((_V4, end, after))
    return {4: v4, 6: sorted(v6)}


def merge(intervals: Iterable[Interval]) -> list[Interval]:
    merged: list[Interval] = []
    for first, last in sorted(intervals):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = merged[-1][0], max(last, merged[-1][1])
        else:
            merged.append((first, last))
    return merged


def _last(version: int) -> int:
    return (1 << (32 if version == 4 else 128)) - 1


def _set(name: str, version: int, intervals: list[Interval]) -> str:
    address: type[IPv4Address] | type[IPv6Address] = IPv4Address if version == 4 else IPv6Address
    elements = ", ".join(
        f"{address(first)}" if first == last else f"{address(first)}-{address(last)}" for first, last in intervals
    )
    return f"add set {TABLE} {name} {{ type ipv{version}_addr; flags interval; elements = {{ {elements} }}; }}"


def _of_connection(match: Iterable[str]) -> tuple[str, ...]:
    """The same, asked about the first packet of the connection, as it came."""
    return tuple(_FIELD.sub(lambda found: f"ct original {_ORIGINAL.get(found[0], found[0])}", text) for text in match)


def _ranges(intervals: Iterable[Interval]) -> str:
    return ", ".join(f"{first}" if first == last else f"{first}-{last}" for first, last in intervals)


def _protocols(wanted: frozenset[int]) -> tuple[str, ...]:
    if wanted == _ALL:
        return ()
    if len(wanted) > len(_ALL) // 2:
        return (f"meta l4proto != {{ {_ranges((n, n) for n in sorted(_ALL - wanted))} }}",)
    return (f"meta l4proto {{ {_ranges((n, n) for n in sorted(wanted))} }}",)


def _ports(field: str, ports: Iterable[Port]) -> list[str]:
    elements = ", ".join(f"{_PROTOCOLS[protocol]} . {port}" for protocol, port in ports)
    return [f"meta l4proto . th {field} {{ {elements} }} accept"] if elements else []


class HostPolicy:
    """The table in the kernel. Every call blocks and raises nft.NftError; the namespace is that of the thread."""

    def __init__(self, settings: NetfilterSettings) -> None:
        self._settings = settings
        self._in_force: str | None = None  # as text
        self._lock = threading.Lock()
        self._removed = False

    def apply(self, program: Program | None, *, again: bool = False) -> bool:
        """True: the rules changed. None: nothing is enforced. again: they may be gone. Without such policy a table that
        is there is emptied. Raises HostPolicyError, too: nothing has changed then."""
        with self._lock:
            return not self._removed and self._apply(program, again)

    def _apply(self, program: Program | None, again: bool) -> bool:
        if program is None or not (program.needs_raw_hook or program.needs_pre_dnat_hook):
            if self._in_force == "" and not again:
                return False
            objects = self._objects()
            if objects:
                nft.run(empty_script(_parts(objects)))
            changed, self._in_force = bool(self._in_force), ""
            return changed
        text = host_script(program, self._settings, "a")
        if text == self._in_force and not again:
            return False
        old = _parts(self._objects())
        prefix = "b" if any(name.startswith("a_") for _, name in old) else "a"
        nft.run(host_script(program, self._settings, prefix, old))
        self._in_force = text
        return True

    def remove(self) -> list[str]:
        """Takes the table away, after Netfilter.remove(); returns what had to stay and why."""
        with self._lock:
            self._removed = True  # what is still on its way makes nothing again
            objects = self._objects()
        if not objects:
            return []
        nft.run(empty_script(_parts(objects)))
        if any(queue.number not in self._settings.own_queues for queue in bound_queues()):
            return [f"table {TABLE} stays, with empty chains: deleting it would drop what waits in another's queue"]
        nft.run(f"delete table {TABLE}\n")
        return []

    @staticmethod
    def _objects() -> list[dict[str, Any]]:
        family, name = TABLE.split()
        tables = (entry.get("table", {}) for entry in nft.query(f"list tables {family}"))
        return nft.query(f"list table {TABLE}", terse=True) if any(t.get("name") == name for t in tables) else []


def _parts(objects: Iterable[dict[str, Any]]) -> list[tuple[str, str]]:
    """Chains without a hook, and sets."""
    return [
        (kind, entry[kind]["name"])
        for entry in objects
        for kind in ("chain", "set")
        if kind in entry and "hook" not in entry[kind]
    ]
