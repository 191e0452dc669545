# SPDX-License-Identifier: Apache-2.0
"""Suricata's rule language: text → checked signatures → a compiled, immutable set that matches samples.

    loaded = parse_signatures(text, "local.rules")     # .signatures, .errors: one bad line never hides the others
    compiled = compile_signatures(loaded.signatures, {"HOME_NET": "10.0.0.0/8"})
    compiled.match_transaction(sample), compiled.match_payload(sample)

Nothing here does I/O or keeps state between samples.
"""

from rules.signatures.engine import SignatureSet, compile_signatures, preload
from rules.signatures.model import Sample, Signature, SignatureError, SignatureLoad
from rules.signatures.parser import parse_signatures

__all__ = [
    "Sample",
    "Signature",
    "SignatureError",
    "SignatureLoad",
    "SignatureSet",
    "compile_signatures",
    "parse_signatures",
    "preload",
]
