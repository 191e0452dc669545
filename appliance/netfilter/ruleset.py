# SPDX-License-Identifier: Apache-2.0
"""Settings → the text of our nft table and of the xt queue rules. Pure.

Per hook three base chains at consecutive priorities (see the design, "The three chains"):

    classify_<hook>  q-1   fate known: go on, drop or reject; otherwise put the up byte into the packet mark
    queue_<hook>     q     hand up what carries the to-queue bit (nft backend; with xt, a rule in `security` does)
    obey_<hook>      q+1   save the fate in the connection mark, clear our bits, act

A base chain, once made, is only ever refilled: unregistering a hook drops every packet that waits in any queue
of the namespace. So every script here is `add` (a no-op for what exists), `flush`, then the rules.
"""

import socket
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Literal

from appliance.netfilter import bridge, elements, floods, recheck
from appliance.netfilter.elements import Add, Flush, Interface, Operation
from appliance.netfilter.marks import (
    DOWN_RESET,
    FATE,
    GENERATION,
    NEW,
    NO_SAVE,
    PRE_DNAT,
    PRE_DNAT_ALLOWED,
    PRE_DNAT_DENIED,
    PRE_DNAT_NEW,
    PRE_DNAT_ONCE,
    PRE_DNAT_UNKNOWN,
    PREVIOUS,
    PREVIOUS_SHIFT,
    REPLY,
    TO_QUEUE,
    UNTRACKED,
    Fate,
    MarkLayout,
)
from appliance.netfilter.settings import HOOKS as HOOKS
from appliance.netfilter.settings import LOOK_PORTS
from appliance.netfilter.settings import NetfilterSettings as NetfilterSettings
from appliance.netfilter.settings import Port as Port

TABLE = "inet portcullis"
HOST_TABLE = "inet portcullis_host"  # see hostpolicy
COMMENT = "portcullis"
GUARD_PRIORITY = -301  # before raw (-300), where a foreign rule may first save a mark

Backend = Literal["nft", "xt"]

# RFC 4890 4.4.1: what IPv6 cannot live without on a link, redirects excepted.
ICMPV6 = (
    "nd-router-solicit, nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert, "
    "mld-listener-query, mld-listener-report, mld-listener-done, mld2-listener-report"
)


def counter_names(hooks: Iterable[str] = HOOKS) -> tuple[str, ...]:
    kinds = ("queued", "look", "bypassed", "look_bypassed", "allowed", "dropped", "rejected")
    by_hook = (f"{kind}_{hook}" for hook in hooks for kind in kinds)
    return (*by_hook, "fate_allowed", "fate_dropped", "fate_rejected", *floods.COUNTERS)


def base_chains(settings: NetfilterSettings, backend: Backend) -> dict[str, tuple[str, int]]:
    """Chain name → (hook, priority) of every hook we take."""
    chains = {"guard": ("output", GUARD_PRIORITY)}
    if settings.bridges:
        chains[bridge.CHAIN] = ("prerouting", bridge.PRIORITY)
    for hook in settings.hooks:
        chains[f"classify_{hook}"] = (hook, settings.priority - 1)
        if backend == "nft":
            chains[f"queue_{hook}"] = (hook, settings.priority)
        chains[f"obey_{hook}"] = (hook, settings.priority + 1)
    return chains


def chain_bodies(settings: NetfilterSettings, backend: Backend) -> dict[str, list[str]]:
    """Every chain of the table and its rules, one line each."""
    text = _Text(settings)
    chains = {
        "guard": [text.clear_packet],
        "refuse": ["meta l4proto tcp reject with tcp reset", "reject with icmpx type admin-prohibited"],
        **text.fates(),
        **recheck.chains(settings.marks),
        **(floods.chains(settings.hooks, count=settings.count) if settings.flood_size else {}),
        "ask": list(text.ask()),
        "ask_new": [text.set_bits(TO_QUEUE | NEW), text.reply, "accept"],
        "ask_once": [text.set_bits(TO_QUEUE | NO_SAVE), text.reply, f"{text.syn} {text.set_bits(NEW)}", "accept"],
        "look": [text.set_bits(NO_SAVE), text.reply, "accept"],
        "ask_pre_dnat": list(text.ask_pre_dnat()),
        "ask_new_pre_dnat": [text.set_bits(TO_QUEUE | NEW | PRE_DNAT_NEW), text.reply, "accept"],
        "ask_once_pre_dnat": [text.set_bits(TO_QUEUE | NEW | PRE_DNAT_ONCE), text.reply, "accept"],
        "save": list(text.save()),
    }
    if settings.bridges:
        chains[bridge.CHAIN] = list(bridge.untracked(settings.bridges))
    for hook in settings.hooks:
        chains[f"classify_{hook}"] = list(text.classify(hook))
        if settings.flood_size:
            chains[f"new_{hook}"] = [f"jump flood_{hook}_tcp", text.new(hook)]
        chains[f"pre_dnat_{hook}"] = [text.clear_packet, *text.decide(hook, "_pre_dnat")]
        if backend == "nft":
            chains[f"queue_{hook}"] = list(text.queue())
        chains[f"obey_{hook}"] = list(text.obey(hook))
        chains[f"unanswered_{hook}"] = list(text.unanswered(hook))
    return chains


def install_script(
    settings: NetfilterSettings,
    backend: Backend,
    generation: int,
    stale: Sequence[tuple[str, str]] = (),
    rechecking: Collection[recheck.Address] = (),
    workloads: Collection[int] = (),
) -> str:
    """One transaction: makes the table, or takes over the one that is there.

    stale: what the existing table has and this one does not, as ("chain" | "map" | "counter", name); maps among them
    may be made again;
    base chains among them are given as ("base", name) and stay, empty, since deleting them drops queued packets.
    rechecking: addresses whose flows are being decided anew. workloads: as of workloads_change().
    """
    bases = base_chains(settings, backend)
    bodies = chain_bodies(settings, backend)
    lines = [f"add table {TABLE}"]
    lines += [
        f"add chain {TABLE} {name} {{ type filter hook {hook} priority {priority}; policy accept; }}"
        for name, (hook, priority) in bases.items()
    ]
    lines += [f"add chain {TABLE} {name}" for name in bodies if name not in bases]
    lines += [
        f"add map {TABLE} fates {{ type mark : verdict; }}",
        f"add set {TABLE} allowed {{ type mark; }}",
        f"add set {TABLE} workloads {{ type iface_index; }}",
        *(f"add set {TABLE} {name} {{ type inet_proto . inet_service; }}" for name in _PORT_SETS),
        *recheck.sets(TABLE),
        f"flush table {TABLE}",
        *(f"delete map {TABLE} {name}" for kind, name in stale if kind == "map"),
        *(f"flush set {TABLE} {name}" for name in _PORT_SETS),
    ]
    if settings.count:
        lines += [f"add counter {TABLE} {name}" for name in counter_names(settings.hooks)]
    lines += elements.text(TABLE, _fates(settings.marks, generation, bool(rechecking)))
    lines += elements.text(TABLE, [*recheck.fill(rechecking), *workloads_change(workloads)])
    if settings.flood_size:
        lines += floods.maps(TABLE, settings.hooks, settings.flood_size)
    for name, ports in _port_sets(settings).items():
        if ports:
            members = ", ".join(f"{protocol} . {port}" for protocol, port in ports)
            lines.append(f"add element {TABLE} {name} {{ {members} }}")
    lines += [f"add rule {TABLE} {chain} {rule}" for chain, rules in bodies.items() for rule in rules]
    lines += [f"delete {kind} {TABLE} {name}" for kind, name in stale if kind not in ("base", "map")]
    return "\n".join(lines) + "\n"


def generation_change(
    marks: MarkLayout, generation: int, *, flooded: Iterable[str] = (), rechecking: bool = False
) -> list[Operation]:
    """Only fates of this generation hold from now on. All others come up once. flooded: hooks whose maps of denied
    floods are to be emptied. rechecking: some addresses are (see recheck)."""
    hooks = tuple(flooded)
    return [*_fates(marks, generation, rechecking), *(floods.flush(hooks) if hooks else ())]


def recheck_change(
    marks: MarkLayout, generation: int, addresses: Collection[recheck.Address], *, again: bool = True
) -> list[Operation]:
    """Flows of these addresses, and of no others, come up in spite of their fate, each once. again: also those that
    came up since an earlier such change."""
    return [*recheck.fill(addresses, again=again), *_fates(marks, generation, bool(addresses))]


def workloads_change(interfaces: Iterable[int]) -> list[Operation]:
    """What comes in by these is of local workloads: failsafe ports, which are of the host, are not spared there."""
    return [Flush("set", "workloads"), *(Add("workloads", Interface(ifindex)) for ifindex in sorted(interfaces))]


def spread(first: int, count: int) -> str:
    """Queue numbers by a symmetric hash, keyed per boot, of addresses, protocol and ports (nft(8), HASH EXPRESSIONS):
    both directions of a flow come to the same one, and flows between two hosts do not all share one."""
    return f"symhash mod {count} offset {first}"


def empty_script(chains: Iterable[str]) -> str:
    """Chains stay and do nothing."""
    return "".join(f"flush chain {TABLE} {chain}\n" for chain in chains)


def xt_rules(settings: NetfilterSettings) -> tuple[str, ...]:
    """The queue rules of the `security` table, as iptables-nft-save prints them, without `-A`."""
    marks = settings.marks
    last = settings.queues[-1]
    to = f"--queue-balance {settings.queue_first}:{last}" if settings.queue_count > 1 else f"--queue-num {last}"
    bypass = " --queue-bypass" if settings.bypass else ""
    rules = []
    for hook in settings.hooks:
        chain = hook.upper()
        rules.append(
            f"{chain} -m mark --mark {marks.at(TO_QUEUE):#x}/{marks.at(TO_QUEUE | FATE):#x} "
            f"-m comment --comment {COMMENT} -j NFQUEUE {to}{bypass}"
        )
        if settings.look_queue is not None and hook != "forward":
            rules.append(
                f"{chain} -m mark --mark {marks.at(NO_SAVE):#x}/{marks.at(TO_QUEUE | NO_SAVE | FATE):#x} "
                f"-m comment --comment {COMMENT} -j NFQUEUE --queue-num {settings.look_queue} --queue-bypass"
            )
    return tuple(rules)


_PORT_SETS = ("failsafe_in", "failsafe_out", "look_in", "look_out")


def _port_sets(settings: NetfilterSettings) -> dict[str, list[Port]]:
    looked = LOOK_PORTS if settings.look_queue is not None else ()
    sets: dict[str, list[Port]] = {}
    for side, ports in (("in", settings.failsafe_in), ("out", settings.failsafe_out)):
        sets[f"failsafe_{side}"] = sorted({port for port in ports if port not in looked})
        sets[f"look_{side}"] = sorted({port for port in ports if port in looked})
    return sets


def _fates(marks: MarkLayout, generation: int, rechecking: bool) -> list[Operation]:
    to = "anew" if rechecking else "fate"
    marked = {fate.name.lower(): marks.fate(generation, fate) for fate in (Fate.ALLOW, Fate.DROP, Fate.REJECT)}
    return [
        Flush("map", "fates"),
        Flush("set", "allowed"),
        *(Add("fates", mark, f"{to}_{fate}") for fate, mark in marked.items()),
        Add("allowed", marked["allow"]),
    ]


class _Text:
    """Rules of one set of settings."""

    syn = "tcp flags & (fin|syn|rst|ack) == syn"

    def __init__(self, settings: NetfilterSettings) -> None:
        self.settings = settings
        self.marks = settings.marks
        self.clear_packet = f"meta mark set meta mark & {self.marks.others:#010x}"
        self.clear_connection = f"ct mark set ct mark & {self.marks.others:#010x}"
        self.reply = f"ct direction reply {self.set_bits(REPLY)}"

    def count(self, name: str) -> str:
        return f"counter name {name} " if self.settings.count else ""

    def fates(self) -> dict[str, list[str]]:
        """The chains that carry out a fate of the current generation."""
        return {
            "fate_allow": [f"{self.count('fate_allowed')}accept"],
            "fate_drop": [f"{self.count('fate_dropped')}drop"],
            "fate_reject": [f"{self.count('fate_rejected')}goto refuse"],
        }

    def bits(self, subject: str, mask: int, value: int) -> str:
        return f"{subject} mark & {self.marks.at(mask):#010x} == {self.marks.at(value):#010x}"

    def set_bits(self, byte: int) -> str:
        return f"meta mark set meta mark | {self.marks.at(byte):#010x}"

    def ask(self) -> Iterator[str]:
        yield self.set_bits(TO_QUEUE)
        yield self.reply
        for fate in (Fate.ALLOW, Fate.DROP, Fate.REJECT):
            yield f"{self.bits('ct', FATE, fate)} {self.set_bits(fate << PREVIOUS_SHIFT & PREVIOUS)}"
        yield "accept"

    def ask_pre_dnat(self) -> Iterator[str]:
        yield self.set_bits(TO_QUEUE | NEW)
        yield self.reply
        yield f"{self.bits('ct', FATE, Fate.ALLOW)} {self.set_bits(PRE_DNAT_ALLOWED)} accept"
        yield f"{self.bits('ct', FATE, 0)} {self.set_bits(PRE_DNAT_UNKNOWN)} accept"
        yield f"{self.set_bits(PRE_DNAT_DENIED)} accept"

    def classify(self, hook: str) -> Iterator[str]:
        # What a packet of that mark comes with here, host policy gave it: its guard clears the bits first.
        yield f"{self.bits('meta', 0xFF, UNTRACKED)} ct state untracked {self.clear_packet} accept"
        yield f"{self.bits('meta', 0xFF, PRE_DNAT)} goto pre_dnat_{hook}"
        yield self.clear_packet
        yield from self.decide(hook)

    def decide(self, hook: str, asks: str = "") -> Iterator[str]:
        """Of a packet without bits of ours. asks: what follows the names of the chains that hand up."""
        queued = self.count(f"queued_{hook}")
        icmp = f"meta l4proto {{ {socket.IPPROTO_ICMP}, {socket.IPPROTO_ICMPV6} }}"
        if hook == "forward":
            yield from bridge.essentials(self.settings.bridges, ICMPV6)
        else:
            if not self.settings.loopback:
                yield "iif lo accept" if hook == "input" else "oif lo accept"
            yield from self.essentials(hook)
        if hook == "output":
            # What the kernel sends for our own rejects: with the rejected flow's conntrack entry as `related`,
            # without one where that flow is untracked.
            own = "ct state related,invalid,untracked"
            yield f"{own} tcp flags & rst == rst accept"
            yield f"{own} icmp type destination-unreachable icmp code 13 accept"
            yield f"{own} icmpv6 type destination-unreachable icmpv6 code 1 accept"
        fates = f"ct mark & {self.marks.mask:#010x} vmap @fates"
        new = self.new(hook, asks)
        floods_first = self.settings.flood_size > 0 and not asks  # preDNAT policy may allow what is denied without it
        # Without a conntrack entry this comes to nothing: the statement has nothing to work on.
        yield f"{self.syn} jump new_{hook}" if floods_first else f"{self.syn} {new}"
        # The way of nearly all packets: `established` is confirmed, and never an ICMP error.
        yield f"ct state established {fates}"
        yield f"ct state invalid,untracked {queued}goto ask_once{asks}"
        yield f"ct state related {icmp} ct mark & {self.marks.mask:#010x} @allowed accept"
        yield f"ct state related {icmp} {queued}goto ask_once{asks}"
        # First packet of its entry. An expected flow (FTP data) was born with its parent's mark: forget it.
        if floods_first:
            yield f"ct status & confirmed == 0 meta l4proto udp jump flood_{hook}_udp"
        yield f"ct status & confirmed == 0 {new}"
        yield fates
        yield f"{queued}goto ask{asks}"

    def new(self, hook: str, asks: str = "") -> str:
        return f"{self.clear_connection} {self.count(f'queued_{hook}')}goto ask_new{asks}"

    def essentials(self, hook: str) -> Iterator[str]:
        look = self.count(f"look_{hook}")
        yield f"icmpv6 type {{ {ICMPV6} }} accept"
        yield "meta nfproto ipv6 udp dport { 546, 547 } accept"
        for kind, verdict in (("failsafe", "accept"), ("look", f"{look}goto look")):
            for match in self.ports(hook, kind):
                yield f"{match} {verdict}"

    def ports(self, hook: str, kind: str) -> tuple[str, str]:
        """Both directions of the flow: answers are known by conntrack, not by their source port alone. What workloads
        send to the host is their own policy's business."""
        toward, back = ("in", "out") if hook == "input" else ("out", "in")
        of_host = " iif != @workloads" if hook == "input" else ""
        return (
            f"meta l4proto . th dport @{kind}_{toward}{of_host}",
            f"ct direction reply meta l4proto . th sport @{kind}_{back}",
        )

    def queue(self) -> Iterator[str]:
        settings = self.settings
        queued = self.bits("meta", TO_QUEUE | FATE, TO_QUEUE)
        if settings.by_tuple and settings.queue_count > 1:
            flags = " flags bypass" if settings.bypass else ""
            yield f"{queued} queue{flags} to {spread(settings.queue_first, settings.queue_count)}"
        else:
            last = settings.queues[-1]
            to = f"{settings.queue_first}-{last}" if settings.queue_count > 1 else f"{last}"
            yield f"{queued} queue num {to}{' bypass' if settings.bypass else ''}"
        if settings.look_queue is not None:
            look = self.bits("meta", TO_QUEUE | NO_SAVE | FATE, NO_SAVE)
            yield f"{look} queue num {settings.look_queue} bypass"

    def obey(self, hook: str) -> Iterator[str]:
        yield f"{self.bits('meta', 0xFF, 0)} accept"
        yield f"{self.bits('meta', FATE, 0)} goto unanswered_{hook}"
        yield f"meta mark & {self.marks.at(GENERATION):#010x} != 0 jump save"
        reset = self.bits("meta", DOWN_RESET | FATE, DOWN_RESET | Fate.REJECT)
        yield f"{reset} {self.clear_packet} {self.count(f'rejected_{hook}')}accept"
        for fate, name, action in (
            (Fate.ALLOW, "allowed", "accept"),
            (Fate.DROP, "dropped", "drop"),
            (Fate.REJECT, "rejected", "goto refuse"),
        ):
            count = self.count(f"{name}_{hook}")
            yield f"{self.bits('meta', FATE, fate)} {self.clear_packet} {count}{action}"

    def save(self) -> Iterator[str]:
        """Bit by bit: older kernels cannot combine two registers. The fate last and its high bit first, so that
        another CPU reads undecided or drop in between, never an allow that was not meant."""
        yield self.clear_connection
        for bit in (0x40, 0x20, 0x10, 0x08, 0x04, 0x02, 0x01):
            yield f"{self.bits('meta', bit, bit)} ct mark set ct mark | {self.marks.at(bit):#010x}"

    def unanswered(self, hook: str) -> Iterator[str]:
        """Nobody gave a verdict, and the kernel let the packet pass."""
        yield self.clear_packet
        if hook != "forward":
            for match in self.ports(hook, "look"):
                yield f"{match} {self.count(f'look_bypassed_{hook}')}accept"
        yield f"{self.count(f'bypassed_{hook}')}{self.settings.unanswered}"
