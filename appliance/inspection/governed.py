# SPDX-License-Identifier: Apache-2.0
"""Flows whose requests policy decides one by one (rules with `http`).

Every request is decided when its head is complete; until then the packets go on, so the packet that completes a denied
head never arrives. What is known not to be a request that one can decide about is decided as what it is: no request.
Such a flow gets no allow fate, however long it lasts.
"""

from appliance.inspection.applications import AppEvent
from appliance.inspection.flows import Flow
from appliance.inspection.protocols.http import HttpRequest, HttpResponse, HttpSession
from appliance.inspection.protocols.http_framing import path_of, starts_http2, why_unclear
from appliance.inspection.requests import Denial, RequestChange, RequestPlan, Requests
from appliance.inspection.ruleset import CompiledRuleset

MAX_TUNNELS = 4  # protocols inside each other in one connection
_KEPT = 2  # generations: packets decided by the one before may still be on their way


class RequestPolicies:
    """The request policies of the newest generations: a flow is asked about under the one that the fastpath decided it
    with. A new one is here before the fastpath uses it."""

    def __init__(self, ruleset: CompiledRuleset) -> None:
        self._kept = {ruleset.generation: ruleset.requests}
        self._newest = ruleset.requests
        self._base = ruleset.version
        self._waiting: list[RequestChange] = []  # for a ruleset that is still being made ready

    def use(self, ruleset: CompiledRuleset) -> None:
        if not ruleset.keeps_requests:
            self._base = ruleset.version
            self._put(ruleset.generation, ruleset.requests)
            self._take()

    def change(self, change: RequestChange) -> None:
        """Raises FastpathError if it does not fit."""
        self._waiting.append(change)
        self._take()

    def _take(self) -> None:
        while self._waiting and self._waiting[0].base <= self._base:
            change = self._waiting.pop(0)
            newest = self._newest
            self._put(change.generation, None if newest is None or change.ends else newest.changed(change))

    def _put(self, generation: int, requests: Requests | None) -> None:
        self._kept.pop(generation, None)
        self._kept[generation] = self._newest = requests
        while len(self._kept) > _KEPT:
            del self._kept[next(iter(self._kept))]

    @property
    def none(self) -> bool:
        return all(requests is None for requests in self._kept.values())

    def known(self, generation: int) -> bool:
        """Generations without request policy are not announced, once there is none any more: what is kept of before
        must not meet its number when that comes round again."""
        if generation not in self._kept and self._newest is None:
            self._kept = {}
        return generation in self._kept or self._newest is None

    def of(self, generation: int) -> Requests | None:
        return self._kept.get(generation)


def judge(plan: RequestPlan, event: AppEvent) -> tuple[Denial | None, str]:
    """(denial or None, why the request was not even read) for a message of a governed flow."""
    if isinstance(event, HttpRequest):
        why = why_unclear(event)
        if why:
            return plan.other(), why
        return plan.request(event.method.decode("latin-1"), path_of(event.uri)), ""
    if isinstance(event, HttpResponse) and starts_http2(event):
        return plan.other(), "HTTP/2"
    return None, ""


def no_request(flow: Flow) -> str:
    """Why the bytes of a governed flow are none that a request is read from; empty: they are, or may become so."""
    if isinstance(flow.session, HttpSession):
        return "not understood as HTTP" if flow.failed[0] or flow.failed[1] else flow.session.unclear
    if not flow.app:
        return ""
    if flow.tunnels:
        # An allowed request opened it: what is inside is its peers' business, as behind Calico's proxy.
        return "" if flow.tunnels <= MAX_TUNNELS else "too many tunnels"
    return f"protocol {flow.app}"
