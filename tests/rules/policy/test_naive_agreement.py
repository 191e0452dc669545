# SPDX-License-Identifier: Apache-2.0
"""The compiled program in the C engine and a naive evaluator give the same answers, in force and pending."""

import json
import os

import pytest

from fastpath import IdentityMap, Policy, Query
from fastpath.layout import DECISION, QUERY, Verdict
from rules.policy import CompileOptions, Resource, compile_policy, load_documents
from rules.policy.explain import DirectoryExplainer
from tests.rules.policy.naive_node import NodeWorld

PATHS = 300  # questions for each world about whole paths
HOOKS = 100  # about the hooks of its node
WORLDS = int(os.environ.get("PORTCULLIS_WORLDS", "40"))


def ask(seed: int) -> int:
    """How many questions were asked; fails at the first disagreement."""
    world = NodeWorld(seed)
    loaded = [load_documents(json.dumps(doc), "generated.yaml") for doc in world.docs]
    assert [str(error) for result in loaded for error in result.errors] == []
    resources = [resource for result in loaded for resource in result.resources]
    return ask_paths(seed, world, resources) + ask_hooks(seed, world, resources)


def ask_paths(seed: int, world: NodeWorld, resources: list[Resource]) -> int:
    program = compile_policy(resources, CompileOptions(scope="gateway"))
    policy, identities = Policy(program.tables), IdentityMap.build(program.entries)
    asked = [world.question() for _ in range(PATHS)]
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


def ask_hooks(seed: int, world: NodeWorld, resources: list[Resource]) -> int:
    explainer = DirectoryExplainer(resources, CompileOptions(), "node")
    for _ in range(HOOKS):
        q, before = world.hook_question()
        question = {
            "src": str(q["src"]), "dst": str(q["dst"]), "proto": q["proto"], "sport": q["sport"], "dport": q["dport"],
            "icmpType": q["type"], "icmpCode": q["code"], "path": q["path"], "iif": q["iif"], "oif": q["oif"],
            "preDNATDst": str(before["dst"]), "preDNATDport": before["dport"],
        }  # fmt: skip
        answer = explainer.answer(question)
        expected = (world.hooks(q, before, pending=False), world.hooks(q, before, pending=True))
        assert (answer.verdict, answer.staged) == expected, (seed, question, answer.trace)
    return HOOKS


@pytest.mark.parametrize("block", range(4))
def test_compiled_program_agrees_with_the_naive_evaluator(block: int) -> None:
    for seed in range(block * WORLDS // 4, (block + 1) * WORLDS // 4):
        ask(seed)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif("PORTCULLIS_MILLION" not in os.environ, reason="takes minutes: set PORTCULLIS_MILLION=1")
@pytest.mark.parametrize("quarter", range(4))
def test_a_million_questions_are_answered_alike(quarter: int) -> None:
    first = 1000 + quarter * 625
    assert sum(ask(seed) for seed in range(first, first + 625)) == 250_000
