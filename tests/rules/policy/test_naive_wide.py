# SPDX-License-Identifier: Apache-2.0
"""What is rarer in policies, in each form of a question: explainer and naive evaluator give the same answers."""

import json
import os
from collections.abc import Callable
from typing import Any

import pytest

from rules.policy import CompileOptions, load_documents
from rules.policy.explain import DirectoryExplainer
from tests.rules.policy.naive import Doc
from tests.rules.policy.naive_wide import NAMES, WideWorld

ROUNDS = 75  # of one question in each form, for each world
WORLDS = int(os.environ.get("PORTCULLIS_WORLDS", "40"))

Expected = Callable[[bool], str]  # pending → verdict


def plain(q: Doc) -> Doc:
    asked = {key: q[key] for key in ("proto", "sport", "dport", "path", "iif", "oif") if key in q}
    asked |= {"src": str(q["src"]), "dst": str(q["dst"]), "icmpType": q["type"], "icmpCode": q["code"]}
    if q.get("request"):
        asked["httpMethod"], asked["httpPath"] = q["request"]
    return asked


def whole(world: WideWorld) -> tuple[Doc, Expected]:
    q = world.question()
    return plain(q), lambda pending: world.verdict(q, pending=pending)


def alone(world: WideWorld) -> tuple[Doc, Expected]:
    rng, q = world.rng, world.question()
    endpoint, direction = rng.choice(world.endpoints + world.hosts), rng.choice(("ingress", "egress"))
    if q["dport"] and rng.random() < 0.2:
        q["dport"] = rng.choice((22, 53, 179))
    if q["sport"] and rng.random() < 0.1:
        q["sport"] = rng.choice((22, 53))
    metadata = endpoint["metadata"]
    name = "/".join(metadata[key] for key in ("namespace", "name") if key in metadata)
    asked = plain(q) | {"endpoint": name, "direction": direction}
    return asked, lambda pending: world.alone(endpoint, direction, q, pending=pending)


def hooks(world: WideWorld) -> tuple[Doc, Expected]:
    q, before = world.hook_question()
    asked = plain(q) | {"preDNATDst": str(before["dst"]), "preDNATDport": before["dport"]}
    return asked, lambda pending: world.hooks(q, before, pending=pending)


def reply(world: WideWorld) -> tuple[Doc, Expected]:
    q, before = world.hook_question()
    asked = plain(q) | {"preDNATDst": str(before["dst"]), "preDNATDport": before["dport"], "reply": True}
    return asked, lambda pending: world.answer_of(q, before, pending=pending)


def explainer_of(world: WideWorld, node: str | None = None) -> DirectoryExplainer:
    loaded = [load_documents(json.dumps(doc), "generated.yaml") for doc in world.docs]
    assert [str(error) for result in loaded for error in result.errors] == []
    resources = [resource for result in loaded for resource in result.resources]
    return DirectoryExplainer(resources, CompileOptions(names=NAMES), node)


def ask(seed: int) -> None:
    world = WideWorld(seed)
    everywhere, here = explainer_of(world), explainer_of(world, "node")
    for _ in range(ROUNDS):
        for form in (whole, alone, hooks, reply):
            world.everywhere = form in (whole, alone)
            question, expected = form(world)
            answer: Any = (everywhere if world.everywhere else here).answer(question)
            assert (answer.verdict, answer.staged) == (expected(False), expected(True)), (seed, question, answer.trace)


@pytest.mark.parametrize("block", range(4))
def test_the_explainer_agrees_with_the_naive_evaluator(block: int) -> None:
    for seed in range(block * WORLDS // 4, (block + 1) * WORLDS // 4):
        ask(seed)


def test_the_trace_is_the_way_through_tiers_and_profiles() -> None:
    for seed in range(WORLDS // 2):
        world = WideWorld(seed)
        explainer = explainer_of(world)
        for _ in range(ROUNDS):
            q, endpoint = world.question(), world.rng.choice(world.endpoints)
            direction = world.rng.choice(("ingress", "egress"))
            name = f"{endpoint['metadata']['namespace']}/{endpoint['metadata']['name']}"
            trace = explainer.answer(plain(q) | {"endpoint": name, "direction": direction}).trace
            # Which of the rules that one rule of Kubernetes' becomes comes first does not matter: all of them allow.
            pods = any(step["kind"] == "KubernetesNetworkPolicy" for step in trace)
            seen = [(step["tier"], step["policy"], step["rule"], step["action"]) for step in trace]
            expected = world.steps(endpoint, direction, q)
            if pods:
                seen, expected = [(t, p, a) for t, p, _, a in seen], [(t, p, a) for t, p, _, a in expected]
            assert seen == expected, (seed, q, name, direction)
