# SPDX-License-Identifier: Apache-2.0
"""What stands in where our rules are gone and cannot be made again, and nothing may pass unfiltered. Pure.

A table of its own, behind the others, that drops all but what is never dropped: loopback, failsafe ports, and what
IPv6 needs on a link. Once made it stays, empty, until the service ends: hooks that go take what waits in queues along.
"""

from collections.abc import Iterator

from appliance.netfilter.ruleset import ICMPV6, NetfilterSettings, Port

TABLE = "inet portcullis_closed"
PRIORITY_OFFSET = 2  # from the queue's priority; obey is at 1
COUNTER = "closed"


def close_script(settings: NetfilterSettings) -> str:
    """One transaction."""
    lines = [f"add table {TABLE}", f"add counter {TABLE} {COUNTER}"]
    for hook in settings.hooks:
        place = f"type filter hook {hook} priority {settings.priority + PRIORITY_OFFSET}; policy accept;"
        lines += [f"add chain {TABLE} {hook} {{ {place} }}", f"flush chain {TABLE} {hook}"]
        lines += [f"add rule {TABLE} {hook} {rule}" for rule in _rules(settings, hook)]
    return "\n".join(lines) + "\n"


def open_script() -> str:
    """The table must be there."""
    return f"flush table {TABLE}\n"


def remove_script() -> str:
    return f"delete table {TABLE}\n"


def _rules(settings: NetfilterSettings, hook: str) -> Iterator[str]:
    if hook != "forward":
        yield "iif lo accept" if hook == "input" else "oif lo accept"
        yield f"icmpv6 type {{ {ICMPV6} }} accept"
        yield "meta nfproto ipv6 udp dport { 546, 547 } accept"
        asked, answered = settings.failsafe_in, settings.failsafe_out
        if hook == "output":
            asked, answered = answered, asked
        if asked:
            yield f"meta l4proto . th dport {_ports(asked)} accept"
        if answered:
            yield f"ct direction reply meta l4proto . th sport {_ports(answered)} accept"
    yield f"counter name {COUNTER} drop"


def _ports(ports: tuple[Port, ...]) -> str:
    return "{ " + ", ".join(f"{protocol} . {port}" for protocol, port in sorted(set(ports))) + " }"
