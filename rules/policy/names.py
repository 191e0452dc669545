# SPDX-License-Identifier: Apache-2.0
"""Domain names as policies write them: `www.example.com`, or with one `*` that stands for one or more whole components
(Calico Enterprise: `*.example.com` is every name below `example.com`, and not `example.com`)."""

from collections.abc import Iterable, Mapping, Sequence

from rules.policy.identities import NOTHING, Facts
from rules.policy.model import Net, parse_net


def normal(name: str) -> str:
    """As names are compared: lower case, without the final dot."""
    return name.lower().rstrip(".")


def name_matches(pattern: str, name: str) -> bool:
    """One `*` stands for one or more whole components: `*.example.com` is not `example.com`."""
    name = normal(name)
    before, star, after = pattern.partition("*")
    if not star:
        return name == pattern
    return len(name) > len(before) + len(after) and name.startswith(before) and name.endswith(after)


def specimen(pattern: str) -> str:
    """A name that the pattern means: its `*` as one component that nobody has."""
    return pattern.replace("*", "-")


class NameIndex:
    """Immutable. Finds the patterns that mean a name by one dictionary access a component, however many there are."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self.patterns = frozenset(normal(pattern) for pattern in patterns)
        self._behind: dict[str, list[str]] = {}
        for pattern in sorted(self.patterns):
            _, star, after = pattern.partition("*")
            if star:
                self._behind.setdefault(after, []).append(pattern)

    def __bool__(self) -> bool:
        return bool(self.patterns)

    def matching(self, name: str) -> tuple[str, ...]:
        """Every pattern that means `name`."""
        name = normal(name)
        found = [name] if name in self.patterns and "*" not in name else []
        position = name.find(".")
        while position >= 0:
            for pattern in self._behind.get(name[position:], ()):
                if name_matches(pattern, name):
                    found.append(pattern)
            position = name.find(".", position + 1)
        return tuple(found)


class NameFacts:
    """Which facts an address has by the names that DNS gave it."""

    def __init__(self, facts: Mapping[str, Iterable[int]]) -> None:
        self._facts: dict[str, Facts] = {}
        self.index = NameIndex(())
        self.ask(facts)

    def ask(self, facts: Mapping[str, Iterable[int]]) -> bool:
        """These are asked for from now on. False: they were so already."""
        wanted = {pattern: frozenset(numbers) for pattern, numbers in facts.items()}
        if wanted == self._facts:
            return False
        self._facts, self.index = wanted, NameIndex(wanted)
        return True

    def of(self, names: Iterable[str]) -> Facts:
        found: set[int] = set()
        for name in names:
            for pattern in self.index.matching(name):
                found |= self._facts[pattern]
        return frozenset(found)

    def of_addresses(self, names: Mapping[str, Sequence[str]]) -> dict[Net, Facts]:
        """`names`: name → addresses. Those without a name that anybody asks about are left out."""
        found: dict[Net, Facts] = {}
        for name, addresses in names.items():
            facts = self.of((name,))
            for address in addresses if facts else ():
                net = parse_net(address)[0]
                found[net] = found.get(net, NOTHING) | facts
        return found

    def expected(self, groups: Iterable[Iterable[str]]) -> set[Facts]:
        """What an address may come to have: by each name alone, and by `groups` of names together."""
        return {self.of((specimen(pattern),)) for pattern in self.index.patterns} | {self.of(group) for group in groups}
