# SPDX-License-Identifier: Apache-2.0
"""The data of the signature language, named as in Suricata's documentation."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from fastpath.errors import PortcullisError
from rules.signatures.expressions import Expression

PAYLOAD = "payload"
ACTIONS = ("pass", "drop", "reject", "alert")  # in the order in which they are carried out


class SignatureError(PortcullisError):
    """A signature that cannot be used. `field` is the keyword. `unsupported`: correct, as far as can be told, but it
    uses what this engine does not know yet."""

    def __init__(
        self,
        message: str,
        *,
        file: str | None = None,
        line: int | None = None,
        field: str | None = None,
        unsupported: bool = False,
    ) -> None:
        super().__init__(message, file=file, line=line, field=field)
        self.unsupported = unsupported


@dataclass(frozen=True, slots=True)
class Content:
    """Bytes to find in a buffer. Positions in bytes; `distance` and `within` count from the previous match."""

    pattern: bytes
    negated: bool = False
    nocase: bool = False
    offset: int = 0
    depth: int | None = None
    distance: int | None = None
    within: int | None = None
    startswith: bool = False
    endswith: bool = False
    fast_pattern: bool = False

    @property
    def relative(self) -> bool:
        return self.distance is not None or self.within is not None


@dataclass(frozen=True, slots=True)
class Pcre:
    """A regular expression over a buffer; `relative` ones start where the previous match ended."""

    expression: Expression
    negated: bool = False
    relative: bool = False


@dataclass(frozen=True, slots=True)
class SizeRange:
    """first <= size <= last, in bytes; `negated`: outside of it."""

    first: int
    last: int
    negated: bool = False

    def holds(self, size: int) -> bool:
        return (self.first <= size <= self.last) is not self.negated


Item = Content | Pcre | SizeRange


@dataclass(frozen=True, slots=True)
class FlowCondition:
    """None: not asked."""

    to_server: bool | None = None
    established: bool | None = None


@dataclass(frozen=True, slots=True)
class Header:
    """Addresses and ports as written; variables are resolved when a set is compiled."""

    protocol: str
    src: str
    sport: str
    dst: str
    dport: str
    both: bool


@dataclass(frozen=True, slots=True)
class Signature:
    """One rule. `buffers` keeps, for each buffer, the items in the order in which they were written."""

    action: str
    header: Header
    sid: int
    rev: int
    gid: int
    msg: str
    classtype: str
    priority: int
    references: tuple[str, ...]
    metadata: tuple[str, ...]
    flow: FlowCondition
    dsize: SizeRange | None
    buffers: tuple[tuple[str, tuple[Item, ...]], ...]
    file: str
    line: int


@dataclass(frozen=True, slots=True)
class SignatureLoad:
    """The result of reading a rule file."""

    signatures: tuple[Signature, ...]
    errors: tuple[SignatureError, ...]


@dataclass(frozen=True, slots=True)
class Sample:
    """What signatures are asked about: one transaction, or one piece of payload. Addresses are packed (4 or 16
    bytes) and, like the ports, in the direction of these bytes. `size` is the payload size of the packet."""

    protocol: int
    app: str
    to_server: bool
    established: bool
    src: bytes
    dst: bytes
    sport: int
    dport: int
    size: int
    buffers: Mapping[str, bytes] = field(default_factory=dict)
