# SPDX-License-Identifier: Apache-2.0
"""The compiled program in the C engine and a naive evaluator give the same answers, in force and pending."""

import json
import os

import pytest

from fastpath import IdentityMap, Policy, Query
from fastpath.layout import DECISION, QUERY, Verdict
from rules.policy import CompileOptions, compile_policy, load_documents
from tests.rules.policy.naive import World

QUESTIONS = 400  # for each world
WORLDS = int(os.environ.get("PORTCULLIS_WORLDS", "40"))


def ask(seed: int, questions: int) -> int:
    """How many questions were asked; fails at the first disagreement."""
    world = World(seed)
    loaded = [load_documents(json.dumps(doc), "generated.yaml") for doc in world.docs]
    assert [str(error) for result in loaded for error in result.errors] == []
    resources = [resource for result in loaded for resource in result.resources]
    program = compile_policy(resources, CompileOptions(scope="gateway"))
    policy, identities = Policy(program.tables), IdentityMap.build(program.entries)
    asked = [world.question() for _ in range(questions)]
    packed = b"".join(
        QUERY.pack(
            *Query(
                identities.lookup(q["src"])[0], identities.lookup(q["dst"])[0], sport=q["sport"], dport=q["dport"],
                proto=q["proto"], family=q["src"].version, icmp_type=q["type"], icmp_code=q["code"],
            )
        )
        for q in asked
    )  # fmt: skip
    for q, decision in zip(asked, DECISION.iter_unpack(policy.decide_many(packed)), strict=True):
        verdict, staged, _, rule, staged_rule = decision
        seen = ["allow" if v in (Verdict.ALLOW, Verdict.INSPECT) else "deny" for v in (verdict, staged)]
        expected = [world.verdict(q, pending=False), world.verdict(q, pending=True)]
        assert seen == expected, (seed, q, program.rule(rule), program.rule(staged_rule))
    return len(asked)


@pytest.mark.parametrize("block", range(4))
def test_compiled_program_agrees_with_the_naive_evaluator(block: int) -> None:
    for seed in range(block * WORLDS // 4, (block + 1) * WORLDS // 4):
        ask(seed, QUESTIONS)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif("PORTCULLIS_MILLION" not in os.environ, reason="takes minutes: set PORTCULLIS_MILLION=1")
def test_a_million_questions_are_answered_alike() -> None:
    assert sum(ask(seed, QUESTIONS) for seed in range(1000, 3500)) == 1_000_000
