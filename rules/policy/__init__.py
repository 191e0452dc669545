# SPDX-License-Identifier: Apache-2.0
"""Calico v3 policy: documents → validated resources → a program for the C engine. Pure; nothing here does I/O."""

from rules.policy.compile import compile_policy
from rules.policy.delta import Delta, Step
from rules.policy.errors import ResourceError, SelectorError
from rules.policy.learned import LearnedNames
from rules.policy.live import Live
from rules.policy.load import DocumentReport, LoadResult, load_documents, load_object, merge, validate_object
from rules.policy.model import Resource
from rules.policy.names import NameIndex, name_matches
from rules.policy.program import CompileOptions, FeedPrefixes, IdentityInfo, Program, RuleInfo
from rules.policy.selector import Selector

__all__ = [
    "CompileOptions",
    "Delta",
    "DocumentReport",
    "FeedPrefixes",
    "IdentityInfo",
    "LearnedNames",
    "Live",
    "LoadResult",
    "NameIndex",
    "Program",
    "Resource",
    "ResourceError",
    "RuleInfo",
    "Selector",
    "SelectorError",
    "Step",
    "compile_policy",
    "load_documents",
    "load_object",
    "merge",
    "name_matches",
    "validate_object",
]
