# SPDX-License-Identifier: Apache-2.0
"""An InspectionRuleset made ready for matching."""

from dataclasses import dataclass

from appliance.inspection.messages import InspectionRuleset
from appliance.inspection.names import NameSet
from appliance.inspection.requests import Requests
from rules.policy.names import NameIndex
from rules.signatures import Signature, SignatureSet, compile_signatures, parse_signatures


@dataclass(frozen=True, slots=True)
class CompiledWatch:
    """Immutable; `messages.DomainWatch` for looking up."""

    names: NameIndex
    resolvers: frozenset[bytes]
    wait: float


@dataclass(frozen=True, slots=True)
class CompiledRuleset:
    """Immutable. `errors`: signatures that cannot be used, as `file:line: message`."""

    version: int
    names: NameSet
    signatures: SignatureSet
    errors: tuple[str, ...]
    domains: CompiledWatch
    observe: bool
    generation: int = 0
    requests: Requests | None = None


def compile_ruleset(ruleset: InspectionRuleset) -> CompiledRuleset:
    """One bad signature never hides the others. Raises SignatureError when variables make no sense and
    FastpathError when the tables of `requests` do not."""
    signatures: list[Signature] = []
    errors: list[str] = []
    for source in ruleset.signatures:
        loaded = parse_signatures(source.text, source.file)
        signatures.extend(loaded.signatures)
        errors.extend(str(error) for error in loaded.errors)
    compiled = compile_signatures(signatures, ruleset.variables)
    errors.extend(str(error) for error in compiled.errors)
    watch = ruleset.domains
    domains = CompiledWatch(NameIndex(watch.patterns), frozenset(watch.resolvers), watch.wait)
    requests = Requests(ruleset.requests) if ruleset.requests is not None else None
    return CompiledRuleset(
        ruleset.version, NameSet(ruleset.names), compiled, tuple(errors), domains, ruleset.observe, ruleset.generation,
        requests,
    )  # fmt: skip
