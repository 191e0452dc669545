# SPDX-License-Identifier: Apache-2.0
"""What selectors ask of labels, and rules of named ports: the rest of what an endpoint carries makes it no other.

    selectors   app == 'web' && has(tier) && name starts with 'x'
    labels      {app: web, tier: gold, id: 4711, name: xy}   {app: db, tier: red, id: 4712}
    as asked    {app: web, tier: OTHER,          name: xy}   {         tier: OTHER}

A container has labels that nobody else has (its name, its id). As long as no selector names them, a thousand such
containers are one holder; where a selector names one value, all others are as if the label were not there.
"""

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import NamedTuple

from rules.policy.model import ANYTHING, NamedPort, PolicySpec, ProfileSpec
from rules.policy.policies import ActivePolicy, peer_selector
from rules.policy.selector import And, Equal, Has, In, Node, Not, Or, Text

OTHER = "\0" * 1025  # a value that nobody asks for: no selector is long enough to name it


class Ask(Enum):
    PRESENCE = "has"
    VALUE = "any value may matter"
    PORT = "a named port"


class Atom(NamedTuple):
    """`what`: a value that the label is compared with, or how else it is asked for. For a port `label` is its name."""

    label: str
    what: str | Ask


def selector_atoms(node: Node) -> Iterable[Atom]:
    waiting = [node]
    while waiting:
        part = waiting.pop()
        if isinstance(part, Equal):
            yield Atom(part.label, part.value)
        elif isinstance(part, In):
            for value in part.values:
                yield Atom(part.label, value)
        elif isinstance(part, Has):
            yield Atom(part.label, Ask.PRESENCE)
        elif isinstance(part, Text):
            yield Atom(part.label, Ask.VALUE)
        elif isinstance(part, And | Or):
            waiting += part.operands
        elif isinstance(part, Not):
            waiting.append(part.operand)


def rule_atoms(spec: PolicySpec | ProfileSpec, namespace: str) -> Iterable[Atom]:
    """What the rules of a policy or profile ask of their peers."""
    for rules in (spec.ingress, spec.egress):
        for rule in rules:
            for entity in (rule.source, rule.destination):
                if entity is ANYTHING:
                    continue
                selector = peer_selector(entity, namespace)
                if selector is not None:
                    yield from selector_atoms(selector)
                if entity.not_selector is not None:
                    yield from selector_atoms(entity.not_selector)
                for port in (*entity.ports, *entity.not_ports):
                    if isinstance(port, str):
                        yield Atom(port, Ask.PORT)


def policy_atoms(policy: ActivePolicy) -> Iterable[Atom]:
    yield from selector_atoms(policy.selector)
    yield from rule_atoms(policy.spec, policy.resource.namespace)


class Asked:
    """Counts who asks. What was asked once stays asked: who was told apart by it stays apart."""

    def __init__(self) -> None:
        self._labels: dict[str, dict[str | Ask, int]] = {}
        self._ports: dict[str, int] = {}

    def add(self, atoms: Iterable[Atom]) -> bool:
        """Whether one of them is asked that nobody asked."""
        now: set[int] = set()
        for label, what in atoms:
            if what is Ask.PORT:
                self._ports[label] = count = self._ports.get(label, 0) + 1
            else:
                asked = self._labels.get(label)
                if asked is None:
                    asked = self._labels[label] = {}
                asked[what] = count = asked.get(what, 0) + 1
            now.add(count)
        return 1 in now

    def drop(self, atoms: Iterable[Atom]) -> bool:
        """Whether one of them is asked no more."""
        left: set[int] = set()
        for label, what in atoms:
            if what is Ask.PORT:
                self._ports[label] -= 1
                left.add(self._ports[label])
            else:
                self._labels[label][what] -= 1
                left.add(self._labels[label][what])
        return 0 in left

    def knows(self, atom: Atom) -> bool:
        label, what = atom
        return label in self._ports if what is Ask.PORT else what in self._labels.get(label, ())

    def labels(self, labels: Mapping[str, str]) -> dict[str, str]:
        """Those that somebody asked for."""
        found: dict[str, str] = {}
        for label, value in labels.items():
            asked = self._labels.get(label)
            if asked is not None:
                if value in asked or Ask.VALUE in asked:
                    found[label] = value
                elif Ask.PRESENCE in asked:
                    found[label] = OTHER
        return found

    def ports(self, ports: tuple[NamedPort, ...]) -> tuple[NamedPort, ...]:
        return tuple(port for port in ports if port.name in self._ports) if ports else ports

    def asked_now(self, labels: Mapping[str, str]) -> list[tuple[str, str]]:
        """The same by those who ask now, in order: what a new compilation would know a holder by."""
        found: list[tuple[str, str]] = []
        for label, value in labels.items():
            asked = self._labels.get(label, {})
            if asked.get(value, 0) > 0 or asked.get(Ask.VALUE, 0) > 0:
                found.append((label, value))
            elif asked.get(Ask.PRESENCE, 0) > 0:
                found.append((label, OTHER))
        return sorted(found)

    def ports_now(self, ports: tuple[NamedPort, ...]) -> tuple[NamedPort, ...]:
        return tuple(port for port in ports if self._ports.get(port.name, 0) > 0)


def carries(atoms: Mapping[str, set[str | Ask]], labels: Mapping[str, str], ports: tuple[NamedPort, ...]) -> bool:
    """Whether asking for `atoms` (by label or port) may tell apart who has these."""
    for label in atoms.keys() & labels.keys():
        wanted = atoms[label]
        if labels[label] in wanted or Ask.PRESENCE in wanted or Ask.VALUE in wanted:
            return True
    return any(Ask.PORT in atoms.get(port.name, ()) for port in ports)
