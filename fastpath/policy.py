# SPDX-License-Identifier: Apache-2.0
"""Compiled policy: questions about identities, protocols and ports, and their answers."""

import struct
from dataclasses import dataclass
from typing import Any, NamedTuple

from fastpath._binding import check, ffi, lib, new_raw, table
from fastpath.layout import (
    CHAIN,
    DECISION,
    IDENTITY_CHAINS,
    INTERFACE_CHAINS,
    NONE,
    PORT_TERM,
    QUERY,
    RULE,
    Action,
    Verdict,
)

_TRACE_MAX = 4096
_U32 = ffi.sizeof("uint32_t")


@dataclass(frozen=True)
class PolicyTables:
    """The tables of ``struct fp_policy_tables``, packed as in :mod:`fastpath.layout`.

    ``predicate_offsets`` and ``predicates`` are arrays of native 32-bit unsigned numbers; the former has one more
    element than there are identities. ``inspect`` is (first, count) into ``port_terms``.
    """

    rules: bytes = b""
    port_terms: bytes = b""
    chains: bytes = b""
    predicate_offsets: bytes = bytes(_U32)
    predicates: bytes = b""
    n_predicates: int = 0
    identities: bytes = b""
    interfaces: bytes = b""
    feed_chain: int = NONE
    inspect: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class LentTables:
    """The same as they lie in memory, nothing copied with the interpreter locked; part of it is `owner`'s."""

    rules: memoryview
    port_terms: memoryview
    chains: memoryview
    predicate_offsets: memoryview
    predicates: memoryview
    n_predicates: int
    identities: memoryview
    interfaces: memoryview
    feed_chain: int
    inspect: tuple[int, int]
    owner: "Policy"


@dataclass(frozen=True)
class PolicyChange:
    """``struct fp_policy_change``, packed likewise: what differs in the next policy. Rules are numbered within
    the change, for its chains, too; port terms are added behind those there are; ``interfaces`` are all of them."""

    chain_numbers: bytes = b""
    chains: bytes = b""
    rules: bytes = b""
    port_terms: bytes = b""
    n_predicates: int = 0
    identity_numbers: bytes = b""
    identities: bytes = b""
    predicate_offsets: bytes = bytes(_U32)
    predicates: bytes = b""
    interfaces: bytes = b""


class Query(NamedTuple):
    """A question, in the direction of the flow's first packet. ``hook`` 0: endpoints' chains only.

    ``flags``: :data:`fastpath.layout.QUERY_NO_PORTS` where the ports are not known,
    :data:`fastpath.layout.QUERY_PRE_DNAT` where preDNAT policy has answered for the host it came in by.
    ``owner``: identity of who owns the local socket.
    """

    source: int
    destination: int
    iif: int = 0
    oif: int = 0
    sport: int = 0
    dport: int = 0
    proto: int = 6
    family: int = 4
    icmp_type: int = 0
    icmp_code: int = 0
    hook: int = 0
    flags: int = 0
    owner: int = 0


class Decision(NamedTuple):
    """An answer. ``rule`` and ``staged_rule`` are rule ids, or :data:`fastpath.layout.NONE` if not governed."""

    verdict: Verdict
    staged_verdict: Verdict
    governed: bool
    rule: int
    staged_rule: int


class TraceStep(NamedTuple):
    """A rule that was met on the way to a decision."""

    chain: int
    rule: int
    action: Action


class Policy:
    """An immutable program. Raises :class:`FastpathError` (EINVAL) if a table refers to what is not there."""

    def __init__(self, tables: PolicyTables | LentTables) -> None:
        c = ffi.new("struct fp_policy_tables *")
        # The C side copies; these arrays only have to live until then.
        c.rules, c.n_rules = rules = table("struct fp_rule", RULE, tables.rules, "rules")
        c.port_terms, c.n_port_terms = terms = table("struct fp_port_term", PORT_TERM, tables.port_terms, "port_terms")
        c.chains, c.n_chains = chains = table("struct fp_chain", CHAIN, tables.chains, "chains")
        c.identities, c.n_identities = identities = table(
            "struct fp_identity_chains", IDENTITY_CHAINS, tables.identities, "identities"
        )
        c.interfaces, c.n_interfaces = interfaces = table(
            "struct fp_interface_chains", INTERFACE_CHAINS, tables.interfaces, "interfaces"
        )
        c.predicate_offsets, c.predicates = _held(tables.predicate_offsets, tables.predicates, c.n_identities)
        c.n_predicates = tables.n_predicates
        c.feed_chain = tables.feed_chain
        c.inspect.first, c.inspect.count = tables.inspect
        out = ffi.new("struct fp_policy **")
        check(lib.fp_policy_build(c, out), "cannot build the policy")
        del rules, terms, chains, identities, interfaces
        self._pointer: Any = ffi.gc(out[0], lib.fp_policy_release)

    def update(self, change: PolicyChange) -> "Policy":
        """The next policy, which shares what did not change with this one. Raises :class:`FastpathError` (EINVAL)."""
        c = ffi.new("struct fp_policy_change *")
        c.rules, c.n_rules = rules = table("struct fp_rule", RULE, change.rules, "rules")
        c.port_terms, c.n_port_terms = terms = table("struct fp_port_term", PORT_TERM, change.port_terms, "port_terms")
        c.chains, c.n_chains = chains = table("struct fp_chain", CHAIN, change.chains, "chains")
        c.identities, c.n_identities = identities = table(
            "struct fp_identity_chains", IDENTITY_CHAINS, change.identities, "identities"
        )
        c.interfaces, c.n_interfaces = interfaces = table(
            "struct fp_interface_chains", INTERFACE_CHAINS, change.interfaces, "interfaces"
        )
        for numbers, count in ((change.chain_numbers, c.n_chains), (change.identity_numbers, c.n_identities)):
            if len(numbers) != _U32 * count:
                raise ValueError(f"{len(numbers)} bytes of numbers for {count} entries")
        c.chain_numbers = chain_numbers = ffi.from_buffer("uint32_t[]", change.chain_numbers)
        c.identity_numbers = identity_numbers = ffi.from_buffer("uint32_t[]", change.identity_numbers)
        c.predicate_offsets, c.predicates = _held(change.predicate_offsets, change.predicates, c.n_identities)
        c.n_predicates = change.n_predicates
        out = ffi.new("struct fp_policy **")
        check(lib.fp_policy_update(self._pointer, c, out), "cannot update the policy")
        del rules, terms, chains, identities, interfaces, chain_numbers, identity_numbers
        made = type(self).__new__(type(self))
        made._pointer = ffi.gc(out[0], lib.fp_policy_release)
        return made

    def lend(self, idle: int = 0) -> LentTables:
        """What makes the same policy again; rules that chains shared are there once for each. idle: it rests so many
        times as long as it works."""
        c = ffi.new("struct fp_policy_tables *")
        n_held = ffi.new("size_t *")
        lib.fp_policy_tables(self._pointer, c, n_held)
        rules = new_raw("struct fp_rule[]", c.n_rules)
        chains = new_raw("struct fp_chain[]", c.n_chains)
        offsets = new_raw("uint32_t[]", c.n_identities + 1)
        predicates = new_raw("uint32_t[]", n_held[0])
        lib.fp_policy_export(self._pointer, rules, chains, offsets, predicates, idle)

        def shared(array: Any, count: int, layout: struct.Struct) -> memoryview:
            return memoryview(ffi.buffer(array, count * layout.size) if count else b"")

        return LentTables(
            rules=memoryview(ffi.buffer(rules)),
            port_terms=shared(c.port_terms, c.n_port_terms, PORT_TERM),
            chains=memoryview(ffi.buffer(chains)),
            predicate_offsets=memoryview(ffi.buffer(offsets)),
            predicates=memoryview(ffi.buffer(predicates)),
            n_predicates=int(c.n_predicates),
            identities=shared(c.identities, c.n_identities, IDENTITY_CHAINS),
            interfaces=shared(c.interfaces, c.n_interfaces, INTERFACE_CHAINS),
            feed_chain=int(c.feed_chain),
            inspect=(int(c.inspect.first), int(c.inspect.count)),
            owner=self,
        )

    def tables(self) -> PolicyTables:
        """The same, copied."""
        lent = self.lend()
        return PolicyTables(
            rules=bytes(lent.rules),
            port_terms=bytes(lent.port_terms),
            chains=bytes(lent.chains),
            predicate_offsets=bytes(lent.predicate_offsets),
            predicates=bytes(lent.predicates),
            n_predicates=lent.n_predicates,
            identities=bytes(lent.identities),
            interfaces=bytes(lent.interfaces),
            feed_chain=lent.feed_chain,
            inspect=lent.inspect,
        )

    @property
    def memory(self) -> int:
        """Bytes."""
        return int(lib.fp_policy_memory(self._pointer))

    def decide(self, query: Query) -> Decision:
        """The decision in force and, beside it, the one with staged policies in force."""
        verdict, staged, governed, rule, staged_rule = DECISION.unpack(self.decide_many(QUERY.pack(*query)))
        return Decision(Verdict(verdict), Verdict(staged), bool(governed), rule, staged_rule)

    def decide_many(self, queries: bytes) -> bytes:
        """Packed :data:`~fastpath.layout.QUERY` in, packed :data:`~fastpath.layout.DECISION` out, in order."""
        array, count = table("struct fp_query", QUERY, queries, "queries")
        out = ffi.new("struct fp_decision[]", count)
        for i in range(count):
            lib.fp_policy_decide(self._pointer, array + i, out + i)
        return bytes(ffi.buffer(out))

    def trace(self, query: Query, staged: bool = False) -> list[TraceStep]:
        """The rules met on the way, in order: LOG, PASS and what decided, of every chain asked."""
        steps = ffi.new("struct fp_trace_step[]", _TRACE_MAX)
        count = lib.fp_policy_trace(self._pointer, _query(query), staged, steps, _TRACE_MAX)
        return _steps(steps, check(count, "cannot trace"))

    def trace_chain(self, chain: int, query: Query) -> tuple[Action, list[TraceStep]]:
        """One chain alone: its outcome (ALLOW, DENY, REJECT or NEXT) and the rules met on the way."""
        steps = ffi.new("struct fp_trace_step[]", _TRACE_MAX)
        written = ffi.new("size_t *")
        action = lib.fp_policy_trace_chain(self._pointer, chain, _query(query), steps, _TRACE_MAX, written)
        check(action, f"cannot trace chain {chain}")
        return Action(action), _steps(steps, written[0])


def _held(offsets: bytes | memoryview, predicates: bytes | memoryview, n_identities: int) -> tuple[Any, Any]:
    """predicate_offsets and predicates as C arrays. The C side checks all but that they are long enough."""
    if len(offsets) != _U32 * (n_identities + 1):
        raise ValueError(f"predicate_offsets: {len(offsets)} bytes for {n_identities} identities")
    numbers = ffi.from_buffer("uint32_t[]", offsets)
    if max(memoryview(offsets).cast("I")) * _U32 > len(predicates):
        raise ValueError("predicate_offsets: points behind predicates")
    return numbers, ffi.from_buffer("uint32_t[]", predicates)


def _query(query: Query) -> Any:
    c = ffi.new("struct fp_query *")
    ffi.buffer(c)[:] = QUERY.pack(*query)
    return c


def _steps(steps: Any, count: int) -> list[TraceStep]:
    return [TraceStep(steps[i].chain, steps[i].rule, Action(steps[i].action)) for i in range(count)]


