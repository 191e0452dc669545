# SPDX-License-Identifier: Apache-2.0
"""From numbers in an event of the C core to names."""

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Protocol

from fastpath.layout import NONE

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_V4_MAPPED = b"\0" * 10 + b"\xff\xff"


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
    def rule_index(self) -> int: ...
    @property
    def action(self) -> str: ...


class Identity(Protocol):
    """rules.policy.IdentityInfo."""

    @property
    def name(self) -> str: ...
    @property
    def feeds(self) -> Sequence[str]: ...


class Names:
    """Names of one compiled program: sequences are indexed by the numbers in events.

    feed_directions: "source", "destination" or "both" by feed; a feed that is not named counts as "both". owners: 16
    address bytes → the endpoint's title: endpoints with the same labels share an identity.
    """

    def __init__(
        self,
        rules: Sequence[Rule] = (),
        identities: Sequence[Identity] = (),
        interfaces: Mapping[int, str] | None = None,
        feed_directions: Mapping[str, str] | None = None,
        owners: Mapping[bytes, str] | None = None,
    ) -> None:
        self._rules = rules
        self._identities = identities
        self._interfaces = interfaces or {}
        self._feed_directions = feed_directions or {}
        self._owners = owners or {}

    def rule(self, number: int) -> Rule | None:
        return self._rules[number] if number != NONE and number < len(self._rules) else None

    def identity(self, number: int, address: Address) -> str:
        """Who has the address, if `number` is what it counted as; "" for the world (0) and for an identity of a program
        that is gone."""
        if not 0 < number < len(self._identities):
            return ""
        packed = address.packed
        owner = self._owners.get(packed if len(packed) == 16 else _V4_MAPPED + packed)
        return owner or self._identities[number].name

    def feeds(self, event: FlowEvent) -> list[tuple[str, Address]]:
        """(feed, listed address) of every feed that lists an end of the flow in the direction that it is about."""
        return [
            (feed, address)
            for number, address, side in (
                (event.src_identity, event.src, "source"),
                (event.dst_identity, event.dst, "destination"),
            )
            if 0 < number < len(self._identities)
            for feed in self._identities[number].feeds
            if self._feed_directions.get(feed, "both") in (side, "both")
        ]

    def interface(self, index: int) -> str:
        """Name of the interface, its number as text when it is gone, "" for none."""
        return self._interfaces.get(index, str(index)) if index else ""


def rule_text(rule: Rule | None) -> str:
    """ "default/web[0]", "default (end of tier)", "feed bad-hosts", "profile kns.default[0]", "no policy applies"."""
    if rule is None:
        return "no policy applies"
    if is_feed(rule):
        return f"feed {rule.policy}"
    if rule.kind == "Profile":
        text = f"profile {rule.policy}" if rule.policy else "no profile"
        return text if rule.rule_index < 0 else f"{text}[{rule.rule_index}]"
    if rule.rule_index < 0:
        return f"{rule.tier} (end of tier)"
    return f"{rule.tier}/{rule.policy}[{rule.rule_index}]"


def is_feed(rule: Rule | None) -> bool:
    return rule is not None and rule.kind == "ThreatFeed"
