# SPDX-License-Identifier: Apache-2.0
"""Before anything is changed: whether our bits and queue numbers are free here. Blocking; raises NetfilterError."""

import os
from collections.abc import Iterator
from dataclasses import dataclass

from appliance.netfilter import backend as backends
from appliance.netfilter import nft, overlap
from appliance.netfilter.backend import FAMILIES, NetfilterError
from appliance.netfilter.ruleset import COMMENT, TABLE, Backend, NetfilterSettings
from appliance.netfilter.surroundings import bound_queues, has_net_admin, ip_rules, program


@dataclass(frozen=True)
class Preflight:
    """What can be used here, and what the operator should know."""

    backend: Backend
    warnings: tuple[str, ...]


def require_permission() -> None:
    if os.geteuid() != 0 and not has_net_admin():
        raise NetfilterError("no permission to use netfilter: root or CAP_NET_ADMIN is needed")


def overlap_warnings(settings: NetfilterSettings) -> list[str]:
    """About rules of other programs that use bits of our mask; those that would break one of us are errors."""
    fatal: list[str] = []
    warnings: list[str] = []
    for finding in _overlaps(settings):
        (fatal if finding.fatal and not settings.allow_mark_overlap else warnings).append(str(finding))
    if fatal:
        more = f" (and {len(fatal) - 1} more)" if len(fatal) > 1 else ""
        raise NetfilterError(
            f"mark mask {settings.mark_mask:#010x} overlaps {fatal[0]}{more}; "
            "choose eight other bits, or allow_mark_overlap",
            field="mark_mask",
        )
    return warnings


def _overlaps(settings: NetfilterSettings) -> Iterator[overlap.Finding]:
    marks = settings.marks
    yield from overlap.nft_findings(nft.query("list ruleset"), marks, TABLE)
    for family, tool in zip(FAMILIES, ("iptables", "ip6tables"), strict=True):
        yield from overlap.xt_findings(backends.xt_list(family), marks, COMMENT, tool)
    yield from overlap.xt_findings(backends.legacy_rules(), marks, COMMENT, "iptables-legacy")
    yield from overlap.ip_rule_findings(ip_rules(), marks)


def check_queue_numbers(settings: NetfilterSettings, *, bound: bool) -> None:
    """That no other rule leads to our numbers, and, with `bound`, that no program reads them."""
    own = settings.own_queues
    users = overlap.nft_queues(nft.query("list ruleset"), TABLE)
    for family, tool in zip(FAMILIES, ("iptables", "ip6tables"), strict=True):
        users += overlap.xt_queues(backends.xt_list(family), COMMENT, tool)
    for rule, numbers in users:
        if taken := sorted(own & set(numbers)):
            raise NetfilterError(f"queue {taken[0]} is used by {rule}", field="queue_first")
    for queue in bound_queues() if bound else ():
        if queue.number in own:
            raise NetfilterError(
                f"queue {queue.number} is bound by {program(queue.port)}: stop it, or choose other numbers",
                field="queue_first",
            )
