# SPDX-License-Identifier: Apache-2.0
"""A program as one HTTP request meets it: rules with `http` that do not mean the request match nothing."""

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from fastpath import Policy
from fastpath.layout import RULE, RuleFlag
from rules.policy.http import normalize_path, request_matches
from rules.policy.model import HttpMatch

_FLAGS = 12  # of RULE's fields
_NEVER = RuleFlag.V4 | RuleFlag.V6  # no packet is both
_KEPT = 16


class Request(NamedTuple):
    method: str
    target: str


class Requested:
    """Programs by the rules that do not match; the last few that were asked for are kept."""

    def __init__(self, policy: Policy, http: Mapping[int, HttpMatch]) -> None:
        self._policy = policy
        self._http = http
        self._made: dict[frozenset[int], Policy] = {frozenset(): policy}

    def policy(self, request: Request) -> Policy:
        path = normalize_path(request.target)
        others = frozenset(
            number for number, match in self._http.items() if not request_matches(match, request.method, path)
        )
        made = self._made.get(others)
        if made is None:
            if len(self._made) > _KEPT:
                del self._made[next(iter(self._made))]
            made = self._made[others] = _without(self._policy, others)
        return made


def _without(policy: Policy, rules: frozenset[int]) -> Policy:
    tables = policy.tables()
    out = bytearray(tables.rules)
    for at, fields in enumerate(RULE.iter_unpack(tables.rules)):
        if fields[0] in rules:
            RULE.pack_into(out, at * RULE.size, *fields[:_FLAGS], fields[_FLAGS] | _NEVER, *fields[_FLAGS + 1 :])
    return Policy(replace(tables, rules=bytes(out)))
