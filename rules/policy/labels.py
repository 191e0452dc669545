# SPDX-License-Identifier: Apache-2.0
"""Which label sets does a selector match: answered for all label sets at once, with integers as bit sets.

A *holder* is a distinct (label set, named ports) of endpoints or network sets, as far as anybody asks for them
(rules.policy.asked); a hundred thousand endpoints are a few thousand holders. Leaves are looked up in an index; `&&`,
`||` and `!` are one integer operation each, so the cost of a selector is its length times holders / 64. A holder that
comes later is asked only by the selectors that its labels may meet (rules.policy.needs).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from rules.policy.asked import Asked
from rules.policy.model import NamedPort
from rules.policy.needs import Needed
from rules.policy.selector import All, And, Equal, Has, In, Node, Not, Or, Text


@dataclass(frozen=True, slots=True)
class Holder:
    labels: Mapping[str, str]
    ports: tuple[NamedPort, ...]


def bits_of(bits: int) -> Iterator[int]:
    """The positions of the ones, ascending."""
    base = 0
    while bits:
        word = bits & 0xFFFFFFFFFFFFFFFF
        while word:
            low = word & -word
            yield base + low.bit_length() - 1
            word ^= low
        bits >>= 64
        base += 64


class Holders:
    def __init__(self) -> None:
        self.asked = Asked()
        self.all: list[Holder] = []
        self._numbers: dict[tuple[frozenset[tuple[str, str]], tuple[NamedPort, ...]], int] = {}
        self._values: dict[str, dict[str, int]] = {}
        self._has: dict[str, int] = {}
        self._cache: dict[Node, int] = {}
        self._needed: Needed[Node] = Needed()  # of the selectors in the cache
        self.ports: dict[str, dict[tuple[int, int], int]] = {}  # name → (protocol, port) → holders

    def add(self, labels: Mapping[str, str], ports: tuple[NamedPort, ...] = ()) -> int:
        """The number of the holder. One that comes after the first question is asked by selectors that may match."""
        return self._add(self.asked.labels(labels), self.asked.ports(ports))

    def _add(self, labels: Mapping[str, str], ports: tuple[NamedPort, ...] = ()) -> int:
        key = (frozenset(labels.items()), ports)
        number = self._numbers.get(key)
        if number is not None:
            return number
        number = self._numbers[key] = len(self.all)
        self.all.append(Holder(labels, ports))
        bit = 1 << number
        for label, value in labels.items():
            values = self._values.setdefault(label, {})
            values[value] = values.get(value, 0) | bit
            self._has[label] = self._has.get(label, 0) | bit
        for port in ports:
            if port.name:
                users = self.ports.setdefault(port.name, {})
                users[port.proto, port.port] = users.get((port.proto, port.port), 0) | bit
        if self._cache:
            alone = Holders()
            alone._add(labels)
            for node in self._needed.may_hold(labels):
                if alone._evaluate(node):
                    self._cache[node] |= bit
        return number

    @property
    def everyone(self) -> int:
        return (1 << len(self.all)) - 1

    def matching(self, node: Node) -> int:
        found = self._cache.get(node)
        if found is None:
            found = self._cache[node] = self._evaluate(node)
            self._needed.add(node, node)
        return found

    def selecting(self, number: int) -> list[Node]:
        """Selectors that somebody asked for and that match the holder."""
        return [node for node in self._needed.may_hold(self.all[number].labels) if self._cache[node] >> number & 1]

    def _evaluate(self, node: Node) -> int:
        if isinstance(node, And):
            bits = self.everyone
            for operand in node.operands:
                bits &= self._evaluate(operand)
            return bits
        if isinstance(node, Or):
            bits = 0
            for operand in node.operands:
                bits |= self._evaluate(operand)
            return bits
        if isinstance(node, Not):
            return self.everyone & ~self._evaluate(node.operand)
        if isinstance(node, Has):
            return self._has.get(node.label, 0)
        if isinstance(node, Equal):
            bits = self._values.get(node.label, {}).get(node.value, 0)
            return self.everyone & ~bits if node.negated else bits
        if isinstance(node, In):
            values = self._values.get(node.label, {})
            bits = 0
            for value in node.values:
                bits |= values.get(value, 0)
            return self.everyone & ~bits if node.negated else bits
        if isinstance(node, Text):
            bits = 0
            for value, users in self._values.get(node.label, {}).items():
                if node.matches({node.label: value}):
                    bits |= users
            return bits
        return self.everyone if isinstance(node, All) or node.matches({}) else 0
