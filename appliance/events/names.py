# SPDX-License-Identifier: Apache-2.0
"""From numbers in an event of the C core to names."""

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Protocol

from fastpath.layout import NONE

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class FlowEvent(Protocol):
    """fastpath.Event: the fields of struct fp_event, addresses as ipaddress objects."""

    @property
    def time(self) -> int: ...
    @property
    def flow(self) -> int: ...
    @property
    def src(self) -> Address: ...
    @property
    def dst(self) -> Address: ...
    @property
    def sport(self) -> int: ...
    @property
    def dport(self) -> int: ...
    @property
    def proto(self) -> int: ...
    @property
    def family(self) -> int: ...
    @property
    def hook(self) -> int: ...
    @property
    def kind(self) -> int: ...
    @property
    def iif(self) -> int: ...
    @property
    def oif(self) -> int: ...
    @property
    def src_identity(self) -> int: ...
    @property
    def dst_identity(self) -> int: ...
    @property
    def rule(self) -> int: ...
    @property
    def staged_rule(self) -> int: ...
    @property
    def length(self) -> int: ...
    @property
    def uid(self) -> int: ...
    @property
    def verdict(self) -> int: ...
    @property
    def staged_verdict(self) -> int: ...
    @property
    def failure(self) -> int: ...
    @property
    def generation(self) -> int: ...
    @property
    def flags(self) -> int: ...
    @property
    def icmp_type(self) -> int: ...
    @property
    def icmp_code(self) -> int: ...
    @property
    def slow_queue(self) -> int: ...


class Rule(Protocol):
    """rules.policy.RuleInfo."""

    @property
    def tier(self) -> str: ...
    @property
    def policy(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def rule_index(self) -> int | None: ...
    @property
    def action(self) -> str: ...


class Identity(Protocol):
    """rules.policy.IdentityInfo."""

    @property
    def name(self) -> str: ...


class Names:
    """Names of one compiled program: sequences are indexed by the numbers in events."""

    def __init__(
        self,
        rules: Sequence[Rule] = (),
        identities: Sequence[Identity] = (),
        interfaces: Mapping[int, str] | None = None,
    ) -> None:
        self._rules = rules
        self._identities = identities
        self._interfaces = interfaces or {}

    def rule(self, number: int) -> Rule | None:
        return self._rules[number] if number != NONE and number < len(self._rules) else None

    def identity(self, number: int) -> str:
        """ "" for the world (0) and for an identity of a program that is gone."""
        return self._identities[number].name if 0 < number < len(self._identities) else ""

    def interface(self, index: int) -> str:
        """Name of the interface, its number as text when it is gone, "" for none."""
        return self._interfaces.get(index, str(index)) if index else ""


def rule_text(rule: Rule | None) -> str:
    """ "default/allow-web[0]"; a rule without a policy is the end of its tier."""
    if rule is None:
        return "-"
    text = f"{rule.tier}/{rule.policy}" if rule.tier and rule.policy else rule.policy or rule.tier or rule.kind
    return f"{text}[{rule.rule_index}]" if rule.rule_index is not None and rule.rule_index >= 0 else text
