# SPDX-License-Identifier: Apache-2.0
"""What labels must have for a selector to match: an index, so that a label set meets few of ten thousand selectors.

    app == 'a1' && has(team)    (app, a1)
    app in {'a1', 'a2'}         (app, a1) or (app, a2)
    has(team) || env == 'e1'    (team, any value) or (env, e1)
    !has(team), all()           nothing that could be looked up: asked of everybody
"""

from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar

from rules.policy.selector import And, Equal, Has, In, Node, Or, Text

Item = TypeVar("Item")
Need = tuple[str, str | None]  # label, value; None: any


def needs(node: Node) -> frozenset[Need] | None:
    """Labels that match have one of these. None: they need not have any."""
    if isinstance(node, Equal):
        return None if node.negated else frozenset(((node.label, node.value),))
    if isinstance(node, In):
        return None if node.negated else frozenset((node.label, value) for value in node.values)
    if isinstance(node, Has | Text):
        return frozenset(((node.label, None),))
    if isinstance(node, And):
        known = [found for operand in node.operands if (found := needs(operand)) is not None]
        return min(known, key=_met_by_many, default=None)
    if isinstance(node, Or):
        united: set[Need] = set()
        for operand in node.operands:
            found = needs(operand)
            if found is None:
                return None
            united |= found
        return frozenset(united)
    return None


def _met_by_many(found: frozenset[Need]) -> tuple[int, int]:
    """A label that is just there is there more often than one value of it."""
    return sum(value is None for _, value in found), len(found)


class Needed(Generic[Item]):
    """Items by what their selectors need."""

    def __init__(self) -> None:
        self._by_need: dict[Need, list[Item]] = {}
        self._always: list[Item] = []

    def add(self, node: Node, item: Item) -> None:
        found = needs(node)
        if found is None:
            self._always.append(item)
            return
        for need in found:
            self._by_need.setdefault(need, []).append(item)

    def may_hold(self, labels: Mapping[str, str]) -> Iterator[Item]:
        """Items whose selectors may match these labels, each once."""
        found = list(self._always)
        for label, value in labels.items():
            found += self._by_need.get((label, value), ())
            found += self._by_need.get((label, None), ())
        return iter(dict.fromkeys(found))
