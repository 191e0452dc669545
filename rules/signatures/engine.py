# SPDX-License-Identifier: Apache-2.0
"""A compiled set of signatures.

    buffer ▸ prefilter: one literal of each signature, all in one scan ▸ header, flow, size ▸ every item, exactly

Signatures that look into an application buffer are asked when a transaction is complete, the others for each piece of
payload. The answer is ordered: priority, then action (pass, drop, reject, alert), then sid.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rules.signatures.confirm import buffer_holds
from rules.signatures.expressions import load_re2
from rules.signatures.header import HeaderMatch, Resolver
from rules.signatures.model import ACTIONS, PAYLOAD, Content, Pcre, Sample, Signature, SignatureError
from rules.signatures.prefilter import Prefilter, build_prefilter, load_hyperscan

MIN_FAST_PATTERN = 2  # bytes; shorter literals occur everywhere


@dataclass(frozen=True, slots=True)
class _Compiled:
    signature: Signature
    header: HeaderMatch

    def holds(self, sample: Sample) -> bool:
        flow = self.signature.flow
        if flow.to_server is not None and flow.to_server != sample.to_server:
            return False
        if flow.established is not None and flow.established != sample.established:
            return False
        if self.signature.dsize is not None and not self.signature.dsize.holds(sample.size):
            return False
        if not self.header.holds(sample):
            return False
        for name, items in self.signature.buffers:
            data = sample.buffers.get(name)
            if data is None or not buffer_holds(items, data):
                return False
        return True


class _Stage:
    """The signatures of one occasion (transaction or payload), in order of their answer."""

    def __init__(self, members: list[_Compiled], hyperscan: Any) -> None:
        self._members = members
        self._always: dict[str, list[int]] = {}
        literals: dict[str, dict[bytes, int]] = {}
        owners: dict[str, list[list[int]]] = {}
        for index, member in enumerate(members):
            buffer, pattern = _fast_pattern(member.signature)
            if pattern is None:
                self._always.setdefault(buffer, []).append(index)
                continue
            known = literals.setdefault(buffer, {})
            number = known.setdefault(pattern.lower(), len(known))
            table = owners.setdefault(buffer, [])
            if number == len(table):
                table.append([])
            table[number].append(index)
        self._filters: dict[str, tuple[Prefilter, list[list[int]]]] = {
            buffer: (build_prefilter(known, hyperscan), owners[buffer]) for buffer, known in literals.items()
        }

    def __len__(self) -> int:
        return len(self._members)

    def match(self, sample: Sample) -> tuple[Signature, ...]:
        candidates: set[int] = set()
        for buffer, data in sample.buffers.items():
            candidates.update(self._always.get(buffer, ()))
            entry = self._filters.get(buffer)
            if entry is not None:
                prefilter, owners = entry
                for number in prefilter.scan(data):
                    candidates.update(owners[number])
        return tuple(self._members[i].signature for i in sorted(candidates) if self._members[i].holds(sample))


class SignatureSet:
    """Immutable, for one thread at a time (Hyperscan's scratch). `errors`: signatures left out by compilation."""

    def __init__(self, members: list[_Compiled], errors: tuple[SignatureError, ...], hyperscan: Any) -> None:
        ordered = sorted(members, key=lambda member: _rank(member.signature))
        self._payload = _Stage([m for m in ordered if not _buffers(m.signature) - {PAYLOAD}], hyperscan)
        self._transaction = _Stage([m for m in ordered if _buffers(m.signature) - {PAYLOAD}], hyperscan)
        self.errors = errors
        self.wants_payload = len(self._payload) > 0
        self._bounded = tuple(item for member in members for item in _backtracking(member.signature))
        self.backtracking = sum(any(_backtracking(member.signature)) for member in members)
        """Signatures with an expression whose time does not grow with its input alone; such get little of both."""

    def __len__(self) -> int:
        return len(self._payload) + len(self._transaction)

    @property
    def timeouts(self) -> int:
        """How often such an expression was given up."""
        return sum(item.expression.spent.timeouts for item in self._bounded)

    def match_transaction(self, sample: Sample) -> tuple[Signature, ...]:
        """Signatures that look into the sample's application buffers and hold. Where one of them is `pass`, it is
        the only one."""
        return _passed(self._transaction.match(sample))

    def match_payload(self, sample: Sample) -> tuple[Signature, ...]:
        """Signatures that look at payload, or at no bytes at all, and hold. `pass` as above."""
        return _passed(self._payload.match(sample))


def compile_signatures(
    signatures: Iterable[Signature], variables: Mapping[str, str] | None = None, *, accelerate: bool = True
) -> SignatureSet:
    """Resolve variables ({"HOME_NET": "[10.0.0.0/8,fd00::/8]"}, added to the defaults) and build the prefilters.
    A signature whose header cannot be resolved is left out and stands in `.errors`."""
    resolver = Resolver(variables or {})
    members = []
    errors = []
    for signature in signatures:
        try:
            members.append(_Compiled(signature, resolver.header(signature.header)))
        except SignatureError as error:
            errors.append(SignatureError(error.message, file=signature.file, line=signature.line, field="header"))
    return SignatureSet(members, tuple(errors), load_hyperscan() if accelerate else None)


def preload() -> bool:
    """Import what compilation needs, for a process that will not be able to open files later. False: no Hyperscan."""
    load_re2()
    return load_hyperscan() is not None


def _rank(signature: Signature) -> tuple[int, int, int, int]:
    return (signature.priority, ACTIONS.index(signature.action), signature.gid, signature.sid)


def _passed(matched: tuple[Signature, ...]) -> tuple[Signature, ...]:
    for signature in matched:
        if signature.action == "pass":
            return (signature,)
    return matched


def _backtracking(signature: Signature) -> list[Pcre]:
    items = (item for _, items in signature.buffers for item in items)
    return [item for item in items if isinstance(item, Pcre) and not item.expression.linear]


def _buffers(signature: Signature) -> set[str]:
    return {name for name, _ in signature.buffers}


def _fast_pattern(signature: Signature) -> tuple[str, bytes | None]:
    """The buffer and literal that must occur; without a usable literal: the buffer whose presence is asked for."""
    best: tuple[tuple[bool, bool, int], str, bytes] | None = None
    for name, items in signature.buffers:
        for item in items:
            if isinstance(item, Content) and not item.negated and len(item.pattern) >= MIN_FAST_PATTERN:
                rank = (item.fast_pattern, name != PAYLOAD, len(item.pattern))
                if best is None or rank > best[0]:
                    best = (rank, name, item.pattern)
    if best is not None:
        return best[1], best[2]
    names = [name for name, _ in signature.buffers if name != PAYLOAD]
    return (names[0] if names else PAYLOAD), None
