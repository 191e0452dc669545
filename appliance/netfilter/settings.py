# SPDX-License-Identifier: Apache-2.0
"""What the ruleset depends on."""

from dataclasses import dataclass
from typing import Literal

from appliance.netfilter.marks import MarkLayout

HOOKS = ("forward", "input", "output")
XT_PRIORITY = 150  # of iptables-nft's security chains

Port = tuple[str, int]  # ("tcp" | "udp", number)

_TCP = tuple(("tcp", port) for port in (179, 2379, 2380, 5473, 6443, 6666, 6667))
FAILSAFE_IN: tuple[Port, ...] = (("tcp", 22), *_TCP, ("udp", 68))
FAILSAFE_OUT: tuple[Port, ...] = (*_TCP, ("udp", 53), ("udp", 67))
LOOK_PORTS: tuple[Port, ...] = (("udp", 53),)  # failsafe, but shown to user space so that names work


@dataclass(frozen=True)
class NetfilterSettings:
    """What to install.

    hooks            of forward, input, output
    priority         q; 150 with the xt backend
    mark_mask        eight adjacent bits
    queue_first, queue_count   the workers' queues
    look_queue       failsafe DNS is shown here, fail-open; None: it just passes
    other_queues     queues of ours that no rule names (inspectors): not foreign when we leave
    by_tuple         workers' queues are chosen by addresses, protocol and ports, where nft can: Netfilter finds out;
                     otherwise by addresses and protocol
    bypass           no_listener = allow: packets pass when nobody listens on a worker's queue
    unanswered       of a packet that comes back without a verdict: through fail-open, bypass, or because
                     the queue rule is gone. "drop" only where queue_full, no_listener, inspector_down and
                     inspector_overload all deny
    failsafe_in, failsafe_out  never dropped, in input and output only
    loopback         also decide traffic over lo
    bridges          whose ports we stand between (see bridge)
    count            named counters
    close_on_loss    nothing passes while rules that another program took away cannot be made again (see closed)
    flood_size       elements of each map of denied floods (see floods); 0: they all come up
    """

    hooks: tuple[str, ...] = HOOKS
    priority: int = XT_PRIORITY
    mark_mask: int = 0xFF000000
    queue_first: int = 0
    queue_count: int = 2
    look_queue: int | None = 32
    other_queues: tuple[int, ...] = ()
    by_tuple: bool = False
    bypass: bool = False
    unanswered: Literal["accept", "drop"] = "accept"
    failsafe_in: tuple[Port, ...] = FAILSAFE_IN
    failsafe_out: tuple[Port, ...] = FAILSAFE_OUT
    backend: Literal["auto", "nft", "xt"] = "auto"
    allow_mark_overlap: bool = False
    loopback: bool = False
    bridges: tuple[str, ...] = ()
    count: bool = True
    close_on_loss: bool = False
    flood_size: int = 0

    def __post_init__(self) -> None:
        """ValueError for what cannot be installed."""
        MarkLayout(self.mark_mask)
        if not self.hooks or set(self.hooks) - set(HOOKS):
            raise ValueError(f"hooks {', '.join(self.hooks)}: expected some of {', '.join(HOOKS)}")
        if self.queue_count < 1 or not 0 <= self.queue_first <= 0xFFFF - self.queue_count:
            raise ValueError(f"queues {self.queue_first} + {self.queue_count}: expected 0..65534")
        if self.look_queue in self.queues:
            raise ValueError(f"look_queue {self.look_queue} is one of the workers' queues")
        for protocol, port in (*self.failsafe_in, *self.failsafe_out):
            if protocol not in ("tcp", "udp", "sctp") or not 0 < port <= 0xFFFF:
                raise ValueError(f"failsafe port {protocol}/{port}: expected tcp, udp or sctp and 1..65535")

    @property
    def marks(self) -> MarkLayout:
        return MarkLayout(self.mark_mask)

    @property
    def queues(self) -> range:
        return range(self.queue_first, self.queue_first + self.queue_count)

    @property
    def own_queues(self) -> frozenset[int]:
        look = () if self.look_queue is None else (self.look_queue,)
        return frozenset((*self.queues, *look, *self.other_queues))
