# SPDX-License-Identifier: Apache-2.0
"""Calico's selector language (libcalico-go/lib/selector; grammar in Calico's own documentation of selectors).

    selector := ws | or                      empty: all()
    or       := and ("||" and)*
    and      := op ("&&" op)*
    op       := "!"* (has(label) | all() | global() | comparison | "(" or ")")

Blanks are space and tab; a newline is an error. Parsing keeps its own stack, so depth costs no recursion.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rules.policy.errors import SelectorError

MAX_LABEL = 512
MAX_DEPTH = 208  # nodes below one another; 1,024 characters cannot need more, and recursion stays far from its limit
NAMESPACE_LABEL = "projectcalico.org/namespace"

_BLANKS = re.compile(r"[ \t]*")
_LABEL = re.compile(r"[A-Za-z0-9_./-]+")
_OPERATOR = re.compile(
    r"==|!=|contains\b|starts[ \t]*with\b|ends[ \t]*with\b|not[ \t]*in\b|in\b",
)
_STRING = re.compile(r"\"([^\"]*)\"|'([^']*)'")


def _quote(value: str) -> str:
    return f"'{value}'" if '"' in value else f'"{value}"'


@dataclass(frozen=True, slots=True)
class Node:
    """A part of a selector: immutable, comparable, usable as a dictionary key."""

    def matches(self, labels: Mapping[str, str]) -> bool:
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class All(Node):
    def matches(self, labels: Mapping[str, str]) -> bool:
        return True

    def __str__(self) -> str:
        return "all()"


@dataclass(frozen=True, slots=True)
class Global(Node):
    """`global()`: true of everything here; the policy compiler rewrites it in namespace selectors."""

    def matches(self, labels: Mapping[str, str]) -> bool:
        return True

    def __str__(self) -> str:
        return "global()"


@dataclass(frozen=True, slots=True)
class Has(Node):
    label: str

    def matches(self, labels: Mapping[str, str]) -> bool:
        return self.label in labels

    def __str__(self) -> str:
        return f"has({self.label})"


@dataclass(frozen=True, slots=True)
class Equal(Node):
    label: str
    value: str
    negated: bool = False

    def matches(self, labels: Mapping[str, str]) -> bool:
        return (labels.get(self.label) == self.value) is not self.negated

    def __str__(self) -> str:
        return f"{self.label} {'!=' if self.negated else '=='} {_quote(self.value)}"


@dataclass(frozen=True, slots=True)
class In(Node):
    label: str
    values: frozenset[str]
    negated: bool = False

    def matches(self, labels: Mapping[str, str]) -> bool:
        return (labels.get(self.label) in self.values) is not self.negated

    def __str__(self) -> str:
        inner = ", ".join(_quote(v) for v in sorted(self.values))
        return f"{self.label} {'not in' if self.negated else 'in'} {{{inner}}}"


@dataclass(frozen=True, slots=True)
class Text(Node):
    """contains, starts with, ends with."""

    label: str
    operator: str
    value: str

    def matches(self, labels: Mapping[str, str]) -> bool:
        have = labels.get(self.label)
        if have is None:
            return False
        if self.operator == "contains":
            return self.value in have
        return have.startswith(self.value) if self.operator == "starts with" else have.endswith(self.value)

    def __str__(self) -> str:
        return f"{self.label} {self.operator} {_quote(self.value)}"


@dataclass(frozen=True, slots=True)
class Not(Node):
    operand: Node

    def matches(self, labels: Mapping[str, str]) -> bool:
        return not self.operand.matches(labels)

    def __str__(self) -> str:
        return f"!{self.operand}"


@dataclass(frozen=True, slots=True)
class And(Node):
    operands: tuple[Node, ...]

    def matches(self, labels: Mapping[str, str]) -> bool:
        return all(operand.matches(labels) for operand in self.operands)

    def __str__(self) -> str:
        return "(" + " && ".join(map(str, self.operands)) + ")"


@dataclass(frozen=True, slots=True)
class Or(Node):
    operands: tuple[Node, ...]

    def matches(self, labels: Mapping[str, str]) -> bool:
        return any(operand.matches(labels) for operand in self.operands)

    def __str__(self) -> str:
        return "(" + " || ".join(map(str, self.operands)) + ")"


def both(*nodes: Node | None) -> Node:
    """The conjunction of the nodes that are there; of none: all()."""
    flat: list[Node] = []
    for node in nodes:
        if isinstance(node, And):
            flat.extend(node.operands)
        elif node is not None and not isinstance(node, All):
            flat.append(node)
    unique = tuple(dict.fromkeys(flat))
    if not unique:
        return All()
    return unique[0] if len(unique) == 1 else And(unique)


def rewrite(node: Node, leaf: Callable[[Node], Node]) -> Node:
    """A copy with every leaf replaced by `leaf(it)`."""
    if isinstance(node, Not):
        return Not(rewrite(node.operand, leaf))
    if isinstance(node, And):
        return And(tuple(rewrite(operand, leaf) for operand in node.operands))
    if isinstance(node, Or):
        return Or(tuple(rewrite(operand, leaf) for operand in node.operands))
    return leaf(node)


def prefix_labels(node: Node, prefix: str) -> Node:
    """Every label gets the prefix: how Calico asks a namespace's (`pcns.`) or service account's (`pcsa.`) labels."""

    def leaf(part: Node) -> Node:
        if isinstance(part, Has):
            return Has(prefix + part.label)
        if isinstance(part, Equal):
            return Equal(prefix + part.label, part.value, part.negated)
        if isinstance(part, In):
            return In(prefix + part.label, part.values, part.negated)
        if isinstance(part, Text):
            return Text(prefix + part.label, part.operator, part.value)
        return part

    return rewrite(node, leaf)


class _Frame:
    """An open parenthesis: whether it is negated, the finished alternatives, the conjunction at hand, and how deep the
    deepest of each is. Depth is counted on the way: to ask the nodes at each parenthesis costs the square of the text.
    """

    def __init__(self, negated: bool) -> None:
        self.negated = negated
        self._alternatives: list[Node] = []
        self._conjunction: list[Node] = []
        self._deepest = [0, 0]

    def add(self, node: Node, depth: int) -> None:
        self._conjunction.append(node)
        self._deepest[1] = max(self._deepest[1], depth)

    def end_alternative(self) -> None:
        self._alternatives.append(_join(And, self._conjunction))
        self._deepest = [max(self._deepest[0], self._deepest[1] + (len(self._conjunction) > 1)), 0]
        self._conjunction.clear()

    def end(self) -> tuple[Node, int]:
        """The node and its depth."""
        self.end_alternative()
        return _join(Or, self._alternatives), self._deepest[0] + (len(self._alternatives) > 1)


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def fail(self, message: str, at: int | None = None) -> SelectorError:
        return SelectorError(message, self.at if at is None else at)

    def blanks(self) -> None:
        found = _BLANKS.match(self.text, self.at)
        assert found is not None
        self.at = found.end()

    def take(self, token: str) -> bool:
        if self.text.startswith(token, self.at):
            self.at += len(token)
            return True
        return False

    def label(self) -> str:
        found = _LABEL.match(self.text, self.at)
        if found is None:
            raise self.fail("expected a label name")
        name = found.group()
        if len(name) > MAX_LABEL:
            raise self.fail(f"label name of {len(name)} characters, at most {MAX_LABEL}")
        self.at = found.end()
        return name

    def string(self) -> str:
        self.blanks()
        found = _STRING.match(self.text, self.at)
        if found is None:
            raise self.fail("expected a quoted string")
        self.at = found.end()
        return found.group()[1:-1]

    def string_set(self) -> frozenset[str]:
        self.blanks()
        if not self.take("{"):
            raise self.fail("expected '{'")
        values: list[str] = []
        while True:
            self.blanks()
            if self.take("}"):
                return frozenset(values)
            values.append(self.string())
            self.blanks()
            if self.take("}"):
                return frozenset(values)
            if not self.take(","):
                raise self.fail("expected ',' or '}'")

    def atom(self) -> Node:
        if self.take("has("):
            self.blanks()
            name = self.label()
            self.blanks()
            if not self.take(")"):
                raise self.fail("expected ')' after the label")
            return Has(name)
        for word, node in (("all(", All()), ("global(", Global())):
            if self.take(word):
                self.blanks()
                if not self.take(")"):
                    raise self.fail(f"expected ')' after '{word}'")
                return node
        return self.comparison()

    def comparison(self) -> Node:
        start = self.at
        if start == len(self.text):
            raise self.fail("expected an expression, found the end")
        name = self.label() if _LABEL.match(self.text, self.at) else None
        if name is None:
            raise self.fail(f"expected an expression, found {self.text[start]!r}")
        self.blanks()
        found = _OPERATOR.match(self.text, self.at)
        if found is None:
            raise self.fail("expected an operator: == != in, not in, contains, starts with, ends with")
        self.at = found.end()
        word = found.group()
        if word in ("==", "!="):
            return Equal(name, self.string(), word == "!=")
        if word == "contains":
            return Text(name, "contains", self.string())
        if word.startswith(("starts", "ends")):
            return Text(name, "starts with" if word[0] == "s" else "ends with", self.string())
        return In(name, self.string_set(), word.startswith("not"))

    def parse(self) -> Node:
        frames = [_Frame(False)]
        self.blanks()
        if self.at == len(self.text):
            return All()
        while True:
            self.blanks()
            negated = False
            while self.take("!"):
                negated = not negated
                self.blanks()
            if self.take("("):
                frames.append(_Frame(negated))
                continue
            node, depth = self.atom(), 1
            if negated:
                node, depth = Not(node), 2
            while True:
                frames[-1].add(node, depth)
                self.blanks()
                if self.take("&&"):
                    break
                if self.take("||"):
                    frames[-1].end_alternative()
                    break
                node, depth = frames[-1].end()
                if len(frames) == 1:
                    if self.at < len(self.text):
                        raise self.fail(f"unexpected {self.text[self.at]!r}")
                    return node
                if not self.take(")"):
                    raise self.fail("expected ')', '&&' or '||'")
                if frames.pop().negated:  # what is negated twice is not: so depth stays below what the limit allows
                    node, depth = (node.operand, depth - 1) if isinstance(node, Not) else (Not(node), depth + 1)
                if depth > MAX_DEPTH:
                    raise self.fail(f"nested more than {MAX_DEPTH} deep")


def _join(kind: type[And] | type[Or], nodes: list[Node]) -> Node:
    return nodes[0] if len(nodes) == 1 else kind(tuple(nodes))


@dataclass(frozen=True, slots=True)
class Selector:
    """A parsed selector."""

    node: Node

    @classmethod
    def parse(cls, text: str) -> "Selector":
        """Raises SelectorError, with the position in the text."""
        return cls(_Parser(text).parse())

    def matches(self, labels: Mapping[str, str]) -> bool:
        return self.node.matches(labels)

    def __str__(self) -> str:
        """Calico's canonical form: one spelling for each meaning of the syntax, parseable again."""
        return str(self.node)
