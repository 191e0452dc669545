# SPDX-License-Identifier: Apache-2.0
"""Calico's and Kubernetes' own expectations, answered by the compiled program in the C engine."""

from collections.abc import Callable
from typing import Any

from rules.policy import CompileOptions, Resource, Selector, SelectorError, validate_object
from rules.policy.explain import DirectoryExplainer
from tests.rules.policy.fragments import whole

Load = Callable[[list[Any]], list[Resource]]
_EXPECTATIONS = ("expect", "enforced", "pending", "attributed")


def question(flow: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {key: value for key, value in flow.items() if key not in _EXPECTATIONS} | more


def test_selector_means_what_calico_says(selector_case: dict[str, Any]) -> None:
    if selector_case.get("valid", True):
        selector = Selector.parse(selector_case["selector"])
        assert selector.matches(selector_case["labels"]) is selector_case["match"]
        assert Selector.parse(str(selector)).matches(selector_case["labels"]) is selector_case["match"]
        return
    try:
        Selector.parse(selector_case["selector"])
    except SelectorError as error:
        assert 0 <= error.position <= len(selector_case["selector"])
    else:
        raise AssertionError("the selector was accepted")


def test_packet_verdict_is_calicos(verdict_case: dict[str, Any], resources: Load) -> None:
    explainer = DirectoryExplainer(resources(verdict_case["resources"]), CompileOptions())
    for flow in verdict_case["flows"]:
        asked = question(flow, endpoint=verdict_case["endpoint"], direction=verdict_case["direction"])
        answer = explainer.answer(asked)
        assert answer.verdict == flow["expect"], (flow, answer)


def test_validation_is_calicos(validation_case: dict[str, Any]) -> None:
    found = validation_case["object"]
    if validation_case["scope"] == "fragment":
        found = whole(validation_case["kind"], found)
    errors = validate_object(found)
    assert (not errors) is validation_case["valid"], [str(error) for error in errors]
    if validation_case.get("error_contains"):
        assert any(validation_case["error_contains"] in str(error) for error in errors)


def test_staged_verdict_is_calicos(staged_case: dict[str, Any], resources: Load) -> None:
    explainer = DirectoryExplainer(resources(staged_case["v3"]), CompileOptions())
    answer = explainer.answer(
        question(staged_case["flow"], endpoint=staged_case["v3_endpoint"], direction=staged_case["v3_direction"])
    )
    assert answer.verdict == staged_case["expect_enforced"]
    assert answer.staged == staged_case["expect_if_staged_enforced"]


def test_host_endpoint_verdict_is_calicos(host_case: dict[str, Any], resources: Load) -> None:
    explainer = DirectoryExplainer(resources(host_case["resources"]), CompileOptions())
    for flow in host_case["flows"]:
        answer = explainer.answer(question(flow, node=host_case["node"], path=host_case["path"]))
        assert answer.verdict == flow["expect"], (flow, answer)
        if "enforced" in flow:
            assert list(map(calico_step, answer.trace)) == [step.split("|", 1)[1] for step in flow["enforced"]]
            assert answer.staged == ("allow" if "|allow|" in flow["pending"][-1] else "deny")


def calico_step(step: Any) -> str:
    """A step as Calico's flow logs write it, without the position."""
    short = {"NetworkPolicy": "np", "GlobalNetworkPolicy": "gnp", "Profile": "pro"}[step["kind"]]
    return f"{step['tier']}|{short}:{step['policy']}|{step['action']}|{step['rule']}"


def test_kubernetes_verdict_is_kubernetes(kubernetes_case: dict[str, Any], resources: Load) -> None:
    explainer = DirectoryExplainer(resources(kubernetes_case["resources"]), CompileOptions())
    for flow in kubernetes_case["flows"]:
        answer = explainer.answer(question(flow))
        assert answer.verdict == flow["expect"], (flow, answer)
