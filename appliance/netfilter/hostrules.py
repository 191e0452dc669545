# SPDX-License-Identifier: Apache-2.0
"""Policy of host endpoints with doNotTrack and preDNAT: chains of the program → a table of nft rules of its own. Pure.

    guard     prerouting -301   our bits of the packet mark are nobody else's
    raw_in    prerouting -300   doNotTrack; what it allows is not tracked and goes past all other policy
    raw_out   output     -300   the same (our main table's guard has cleared the bits)
    pre_dnat  prerouting -150   preDNAT; what it allows is marked: the ingress policy of the host is not asked any more
    answers   output     -150   preDNAT, asked about the connection that an answer belongs to: after a change of policy
    passing   forward    -150   the first packet of a connection may be one

A packet asks here as rules.policy.explain does. A rule that asks about an address becomes one rule for each IP version,
its predicate a set of the addresses whose identity has it. Each rule of policy that decides has a named counter.
"""

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from appliance.netfilter.addresses import AddressSets, Asked
from appliance.netfilter.hostmatches import Matches, of_connection, set_line
from appliance.netfilter.marks import PRE_DNAT, UNTRACKED
from appliance.netfilter.ruleset import HOST_TABLE as TABLE
from appliance.netfilter.ruleset import ICMPV6, NetfilterSettings, Port
from fastpath.layout import NONE, RULE, Action
from rules.policy import Program

BASES = {
    "guard": ("prerouting", -301),
    "raw_in": ("prerouting", -300),
    "raw_out": ("output", -300),
    "pre_dnat": ("prerouting", -150),
    "answers": ("output", -150),
    "passing": ("forward", -150),
}
LIMIT = "told"
TOLD = 100  # denied packets a second that are told one by one; all are counted
_PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}

Part = tuple[str, str]  # "chain", "set" or "counter", name


@dataclass(frozen=True)
class HostRules:
    """counters: name → number of the program's rule whose packets it counts. sets: by name."""

    counters: Mapping[str, int]
    sets: Mapping[str, Asked]
    chains: tuple[str, ...]  # lines
    bodies: tuple[str, ...]

    def script(self, addresses: AddressSets, old: Iterable[Part] = (), kept: Collection[str] = ()) -> str:
        """One transaction. old: what is there; its chains and sets go, those named in `kept` stay as they are, and its
        counters go on where their rule does."""
        gone = [part for part in old if part[1] not in (kept if part[0] == "set" else self.counters)]
        lines = [f"add table {TABLE}"]
        lines += [
            f"add chain {TABLE} {name} {{ type filter hook {hook} priority {priority}; policy accept; }}"
            for name, (hook, priority) in BASES.items()
        ]
        lines += [f"flush table {TABLE}", *_deletions(gone)]
        lines += [f"add counter {TABLE} {name}" for name in self.counters]
        lines.append(f"add limit {TABLE} {LIMIT} {{ rate {TOLD}/second burst {TOLD} packets; }}")
        lines += self.chains
        lines += [
            set_line(name, asked.version, addresses.of(*asked))
            for name, asked in self.sets.items() if name not in kept
        ]  # fmt: skip
        return "\n".join((*lines, *self.bodies)) + "\n"


def host_rules(
    program: Program, settings: NetfilterSettings, prefix: str, *, sets: str = "", group: int | None = None
) -> HostRules:
    """prefix: of the names of chains, none of which may exist. sets: of the names of sets, if it is another. group: to
    which denied packets are told, some of them, with the name of the rule's counter as prefix; None: they are counted
    only. Raises HostPolicyError."""
    return _Text(program, settings, prefix, sets or prefix, group).rules()


def empty_script(old: Iterable[Part]) -> str:
    """Hooks stay, which would drop what waits in queues if they went, and do nothing."""
    return "".join(f"{line}\n" for line in (f"flush table {TABLE}", *_deletions(old)))


def _deletions(old: Iterable[Part]) -> Iterator[str]:
    for kind, name in sorted(old):
        yield f"delete {kind} {TABLE} {name}"


class _Text:
    def __init__(
        self, program: Program, settings: NetfilterSettings, prefix: str, sets: str, group: int | None
    ) -> None:
        self._program = program
        self._settings = settings
        self._marks = settings.marks
        self._prefix = prefix
        self._group = group
        self._matches = Matches(sets)
        self._made: dict[str, list[str]] = {}  # chains
        self._counters: dict[str, int] = {}

    def rules(self) -> HostRules:
        bodies = {name: list(rules) for name, rules in self._bases()}
        chains = tuple(f"add chain {TABLE} {name}" for name in self._made)
        bodies = {**self._made, **bodies}
        lines = tuple(f"add rule {TABLE} {name} {rule}" for name, rules in bodies.items() for rule in rules)
        return HostRules(self._counters, self._matches.sets, chains, lines)

    # -- the hooks -------------------------------------------------------------------------------------

    def _bases(self) -> Iterator[tuple[str, Iterable[str]]]:
        raw = self._program.raw_chains
        settings = self._settings
        yield "guard", [f"meta mark set meta mark & {self._marks.others:#010x}"]
        necessary = (f"icmpv6 type {{ {ICMPV6} }} accept", "meta nfproto ipv6 udp dport { 546, 547 } accept")
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
            yield name, [*spared, *self._dispatch(interface, chains, "u")]
        early = {i: c.pre_dnat_ingress for i, c in raw.items()}
        if any(chain != NONE for chain in early.values()):
            yield (
                "pre_dnat",
                [
                    "iif lo accept",
                    f"meta mark & {self._marks.mask:#010x} == {self._marks.at(UNTRACKED):#010x} accept",
                    "ct direction reply accept",
                    "ct state related meta l4proto { 1, 58 } accept",
                    *necessary,
                    *_ports("dport", settings.failsafe_in),
                    *self._dispatch("iif", early, "d"),
                ],
            )
            answers = [
                "ct state != established accept",
                "ct direction original accept",
                *_original_ports(settings.failsafe_in),
                *self._dispatch("oif", early, "r"),
            ]
            yield "answers", ["oif lo accept", *answers]
            yield "passing", answers

    def _dispatch(self, interface: str, chains: Mapping[int, int], kind: str) -> Iterator[str]:
        targets = {ifindex: self._chain(chain, kind) for ifindex, chain in sorted(chains.items())}
        default = targets.pop(0, "")
        if targets:
            elements = ", ".join(f"{i} : {f'goto {name}' if name else 'accept'}" for i, name in targets.items())
            yield f"{interface} vmap {{ {elements} }}"
        if default:
            yield f"goto {default}"

    # -- chains ----------------------------------------------------------------------------------------

    def _chain(self, number: int, kind: str) -> str:
        """The name of the first of the nft chains that make up a chain; "": there is none. kind: "u" doNotTrack,
        "d" preDNAT, "r" preDNAT of an answer."""
        if number == NONE:
            return ""
        chain = self._program.early[number]
        rules = list(RULE.iter_unpack(chain.rules))
        end = len(rules)
        landings = {rule[3] - chain.first for rule in rules if rule[13] == Action.PASS}
        starts = sorted({0, end, *landings})

        def name(start: int) -> str:
            return f"{self._prefix}_{kind}{number}_{start}"

        if name(0) in self._made:
            return name(0)
        for start, stop in zip(starts, (*starts[1:], end), strict=True):
            body = self._made[name(start)] = []
            for rule in rules[start:stop]:
                action = Action(rule[13])
                if action is Action.LOG:
                    continue
                landing = rule[3] - chain.first
                verdict = f"goto {name(landing)}" if action is Action.PASS else self._verdict(action, kind, rule[0])
                found = self._matches.of_rule(rule, chain)
                body += (" ".join((*(of_connection(match) if kind == "r" else match), verdict)) for match in found)
            if start == end:
                if chain.default != Action.NEXT:
                    body.append(self._verdict(Action(chain.default), kind, chain.default_rule))
            else:
                body.append(f"goto {name(stop)}")
        return name(0)

    def _verdict(self, action: Action, kind: str, rule: int) -> str:
        mark = f"meta mark set meta mark | {self._marks.at(UNTRACKED if kind == 'u' else PRE_DNAT):#010x}"
        if kind == "r":  # other policy decides about an answer that this one denies
            return f"{mark} accept" if action is Action.ALLOW else "accept"
        count = self._counter(rule)
        if action is Action.ALLOW:
            return f"{'notrack ' if kind == 'u' else ''}{mark} {count}accept"
        return self._denied(count)

    def _denied(self, count: str) -> str:
        if self._group is None:
            return f"{count}drop"
        name = count.split()[-1]
        chain = f"{self._prefix}_x{name}"
        self._made[chain] = [f'limit name "{LIMIT}" log prefix "{name}" group {self._group}', f"{count}drop"]
        return f"goto {chain}"

    def _counter(self, rule: int) -> str:
        """The same name for the same rule of policy, whatever the program calls it."""
        info = self._program.rules[rule]
        words = (info.tier, info.kind, info.policy, info.direction, str(info.rule_index), info.action)
        name = "n" + hashlib.blake2s("\0".join(words).encode(), digest_size=8).hexdigest()
        self._counters[name] = rule
        return f"counter name {name} "


def _ports(field: str, ports: Iterable[Port]) -> list[str]:
    elements = ", ".join(f"{_PROTOCOLS[protocol]} . {port}" for protocol, port in ports)
    return [f"meta l4proto . th {field} {{ {elements} }} accept"] if elements else []


def _original_ports(ports: Iterable[Port]) -> Iterator[str]:
    numbers: dict[str, list[str]] = {}
    for protocol, port in ports:
        numbers.setdefault(protocol, []).append(str(port))
    for protocol, found in numbers.items():
        yield f"meta l4proto {_PROTOCOLS[protocol]} ct original proto-dst {{ {', '.join(found)} }} accept"
