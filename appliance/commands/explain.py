# SPDX-License-Identifier: Apache-2.0
"""`portcullis explain`: what policy says of a flow, and why. The compiled program in the C engine answers."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from appliance.commands.files import load_policy, read_text
from fastpath.errors import PortcullisError
from rules.policy import CompileOptions, Resource, merge
from rules.policy.explain import Answer, DirectoryExplainer
from rules.policy.program import PROFILE_TIER
from rules.policy.questions import KNOWN, QuestionError


class ExplainError(PortcullisError):
    """Questions that cannot be asked."""


def explain_file(policy: Sequence[Path], flows: Path, node: str | None, write: Callable[[str], None] = print) -> int:
    """One JSON object for each question, in order. A question that makes no sense gets an object with `error` in its
    place, and the status is 2. Raises PortcullisError for a file that is no array of questions."""
    try:
        questions = json.loads(read_text(flows))
    except (ValueError, RecursionError) as error:
        raise ExplainError(f"not valid JSON: {error}", file=str(flows)) from error
    if not isinstance(questions, list):
        raise ExplainError("expected an array of questions", file=str(flows))
    asked = [question for question in questions if isinstance(question, dict)]
    for field in sorted({field for question in asked for field in question} - KNOWN):
        print(f"portcullis: {flows}: questions have no field {field!r}: left out of account", file=sys.stderr)
    explainer = DirectoryExplainer(read_resources(policy), CompileOptions(), node)
    status = 0
    for number, question in enumerate(questions):
        try:
            if not isinstance(question, dict):
                raise QuestionError(f"expected an object, found {question!r}")
            write(json.dumps(explainer.answer(question).as_json()))
        except PortcullisError as error:
            field = f"[{number}].{error.field or ''}".rstrip(".")
            located = ExplainError(error.message, file=str(flows), field=field)
            print(f"portcullis: {located}", file=sys.stderr)
            write(json.dumps({"error": {"field": error.field or "", "message": error.message}}))
            status = 2
    return status


def explain_one(
    policy: Sequence[Path], question: dict[str, Any], node: str | None, write: Callable[[str], None] = print
) -> int:
    """The same for a person."""
    answer = DirectoryExplainer(read_resources(policy), CompileOptions(), node).answer(question)
    for line in describe(answer):
        write(line)
    return 0


def describe(answer: Answer) -> list[str]:
    lines = [
        f"{answer.verdict}"
        + (f" (with staged policies in force: {answer.staged})" if answer.staged != answer.verdict else "")
    ]
    lines += [f"  {step.get('direction', ''):8} {_decided(step)}: {step['action']}" for step in answer.trace]
    if not answer.trace:
        lines.append("  no policy applies: nothing here governs this flow")
    return lines


def _decided(step: Mapping[str, Any]) -> str:
    """What of policy took the step, in words."""
    if not step["tier"]:
        return {"failsafe": "failsafe port", "established": "answer to a flow that was allowed"}.get(
            step["policy"], str(step["policy"])
        )
    if step["tier"] == PROFILE_TIER:
        if step["policy"]:
            return f"profile {step['policy']}, rule {step['rule']}"
        return "no policy governs it, no profile allows it"
    if step["rule"] == -1:
        return f"tier {step['tier']}, policy {step['policy']}: no rule matches, end of tier"
    return f"tier {step['tier']}, policy {step['policy']}, rule {step['rule']}"


def read_resources(paths: Sequence[Path]) -> tuple[Resource, ...]:
    """What policy means: also of a resource that the validator refuses although its meaning is clear. What means
    nothing is said on standard error and left out."""
    loaded = load_policy(paths)
    resources, errors = merge(loaded)
    understood = tuple(resource for result in loaded for resource in result.understood)
    for error in errors:
        print(f"portcullis: {error} (left out)", file=sys.stderr)
    return (*resources, *understood)
