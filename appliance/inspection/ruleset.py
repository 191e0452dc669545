# SPDX-License-Identifier: Apache-2.0
"""An InspectionRuleset made ready for matching."""

import hashlib
from dataclasses import dataclass

import msgspec

from appliance.inspection.indicators import IndicatorSet
from appliance.inspection.messages import InspectionRuleset
from appliance.inspection.names import AllowedNames, NameSet
from appliance.inspection.requests import Requests
from rules.policy.names import NameIndex
from rules.signatures import Signature, SignatureSet, compile_signatures, parse_signatures


@dataclass(frozen=True, slots=True)
class CompiledWatch:
    """Immutable; `messages.DomainWatch` for looking up."""

    names: NameIndex
    resolvers: frozenset[bytes]
    wait: float
    agree: bool


@dataclass(frozen=True, slots=True)
class CompiledRuleset:
    """Immutable. `errors`: signatures that cannot be used, as `file:line: message`. `digests` are of what `signatures`,
    `names` and `indicators` were made from."""

    version: int
    names: NameSet
    indicators: IndicatorSet
    allowed: AllowedNames
    signatures: SignatureSet
    errors: tuple[str, ...]
    domains: CompiledWatch
    observe: bool
    generation: int = 0
    requests: Requests | None = None
    keeps_requests: bool = False
    digests: tuple[bytes, bytes, bytes] = (b"", b"", b"")


def _digest(*source: object) -> bytes:
    return hashlib.blake2b(msgspec.msgpack.encode(source), digest_size=32).digest()


def compile_ruleset(ruleset: InspectionRuleset, before: CompiledRuleset | None = None) -> CompiledRuleset:
    """One bad signature never hides the others. What is as in `before` is taken from there: rules with `http` change
    with every program, thousands of signatures do not. Raises SignatureError when variables make no sense and
    FastpathError when the tables of `requests` do not."""
    digests = _digest(ruleset.signatures, ruleset.variables), _digest(ruleset.names), _digest(ruleset.entries)
    if before is not None and before.digests[0] == digests[0]:
        compiled, errors = before.signatures, before.errors
    else:
        compiled, errors = _compile_signatures(ruleset)
    names = before.names if before is not None and before.digests[1] == digests[1] else NameSet(ruleset.names)
    same_entries = before is not None and before.digests[2] == digests[2]
    indicators = before.indicators if before is not None and same_entries else IndicatorSet(ruleset.entries)
    watch = ruleset.domains
    domains = CompiledWatch(NameIndex(watch.patterns), frozenset(watch.resolvers), watch.wait, watch.agree)
    requests = Requests(ruleset.requests) if ruleset.requests is not None else None
    return CompiledRuleset(
        version=ruleset.version,
        names=names,
        indicators=indicators,
        allowed=AllowedNames(ruleset.allowed),
        signatures=compiled,
        errors=errors,
        domains=domains,
        observe=ruleset.observe,
        generation=ruleset.generation,
        requests=requests,
        keeps_requests=ruleset.keeps_requests,
        digests=digests,
    )


def _compile_signatures(ruleset: InspectionRuleset) -> tuple[SignatureSet, tuple[str, ...]]:
    signatures: list[Signature] = []
    errors: list[str] = []
    for source in ruleset.signatures:
        loaded = parse_signatures(source.text, source.file)
        signatures.extend(loaded.signatures)
        errors.extend(str(error) for error in loaded.errors)
    compiled = compile_signatures(signatures, ruleset.variables)
    return compiled, (*errors, *(str(error) for error in compiled.errors))
