# SPDX-License-Identifier: Apache-2.0
"""The binding of policies; what policies mean is tested in C."""

import struct
from dataclasses import replace

import pytest

from fastpath import Decision, FastpathError, Policy, PolicyTables, Query, TraceStep
from fastpath.layout import CHAIN, DECISION, IDENTITY_CHAINS, NONE, PORT_TERM, QUERY, RULE, Action, RuleFlag, Verdict

CLIENT, SERVER = 1, 2
RED = 0  # a predicate, true of the client


def rule(number: int, action: Action, *, flags: RuleFlag = RuleFlag(0), source: int = NONE, term: int = 0) -> bytes:  # noqa: B008
    return RULE.pack(number, source, NONE, 0, 0, 0, 0, 0, term, 1, 0, 0, flags, action, 0, 0, 0, 0, 0, 0)


TABLES = PolicyTables(
    rules=rule(10, Action.LOG)
    + rule(11, Action.ALLOW, source=RED)
    + rule(12, Action.REJECT, term=1)
    + rule(13, Action.ALLOW, flags=RuleFlag.INSPECT, term=2),
    port_terms=b"".join(PORT_TERM.pack(NONE, port, port, 0) for port in (80, 81, 82)),
    chains=CHAIN.pack(0, 4, 99, Action.DENY),
    predicate_offsets=struct.pack("=4I", 0, 0, 1, 1),
    predicates=struct.pack("=I", RED),
    n_predicates=1,
    identities=IDENTITY_CHAINS.pack(NONE, NONE, NONE, NONE) * 2 + IDENTITY_CHAINS.pack(0, NONE, 0, NONE),
)


@pytest.mark.parametrize(
    ("source", "port", "verdict", "number"),
    [
        (CLIENT, 80, Verdict.ALLOW, 11),
        (0, 80, Verdict.DROP, 99),
        (CLIENT, 81, Verdict.REJECT, 12),
        (0, 82, Verdict.INSPECT, 13),
        (12345, 80, Verdict.DROP, 99),  # unknown to the policy: the world
    ],
)
def test_decision_names_the_rule(source: int, port: int, verdict: Verdict, number: int) -> None:
    decision = Policy(TABLES).decide(Query(source, SERVER, dport=port))
    assert decision == Decision(verdict, verdict, True, number, number)


def test_what_nothing_governs_is_allowed() -> None:
    assert Policy(TABLES).decide(Query(SERVER, CLIENT)) == Decision(Verdict.ALLOW, Verdict.ALLOW, False, NONE, NONE)


def test_inspect_terms_turn_allow_into_inspect() -> None:
    policy = Policy(replace(TABLES, inspect=(0, 1)))
    assert policy.decide(Query(CLIENT, SERVER, dport=80)).verdict == Verdict.INSPECT


def test_many_queries_are_answered_in_order() -> None:
    answers = Policy(TABLES).decide_many(b"".join(QUERY.pack(*Query(0, SERVER, dport=port)) for port in (80, 81, 82)))
    assert [number for *_, number, _ in DECISION.iter_unpack(answers)] == [99, 12, 13]


def test_trace_shows_the_rules_met() -> None:
    policy, query = Policy(TABLES), Query(CLIENT, SERVER, dport=80)
    steps = [TraceStep(0, 10, Action.LOG), TraceStep(0, 11, Action.ALLOW)]
    assert policy.trace(query) == steps == policy.trace(query, staged=True)
    assert policy.trace_chain(0, query) == (Action.ALLOW, steps)
    assert policy.trace_chain(0, Query(0, SERVER, dport=90))[0] == Action.DENY
    with pytest.raises(FastpathError, match="chain 7"):
        policy.trace_chain(7, query)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"rules": b"short"}, ValueError),
        ({"chains": CHAIN.pack(0, 5, 99, Action.DENY)}, FastpathError),
        ({"predicate_offsets": struct.pack("=3I", 0, 0, 1)}, ValueError),
        ({"predicate_offsets": struct.pack("=4I", 0, 0, 9, 9)}, ValueError),
        ({"predicates": struct.pack("=I", 5)}, FastpathError),
        ({"feed_chain": 3}, FastpathError),
        ({"inspect": (2, 2)}, FastpathError),
    ],
)
def test_tables_that_point_outside_are_refused(change: dict[str, object], error: type[Exception]) -> None:
    with pytest.raises(error):
        Policy(replace(TABLES, **change))  # type: ignore[arg-type]
