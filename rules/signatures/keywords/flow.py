# SPDX-License-Identifier: Apache-2.0
"""flow: direction and state."""

from rules.signatures.builder import Builder
from rules.signatures.keywords.keyword import Keyword, required
from rules.signatures.model import FlowCondition, SignatureError

_TO_SERVER = {"to_server": True, "from_client": True, "to_client": False, "from_server": False}
_NO_CONDITION = frozenset(("stateless", "only_stream", "no_stream", "no_frag"))


def _flow(builder: Builder, value: str | None) -> None:
    to_server: bool | None = None
    established: bool | None = None
    for part in required(value).split(","):
        word = part.strip().lower()
        if word in _TO_SERVER:
            if to_server not in (None, _TO_SERVER[word]):
                raise SignatureError("both directions at once")
            to_server = _TO_SERVER[word]
        elif word in ("established", "not_established"):
            established = word == "established"
        elif word not in _NO_CONDITION:
            raise SignatureError(f"{word!r} is not known")
    builder.flow = FlowCondition(to_server, established)


KEYWORDS = (Keyword("flow", "direction and state of the flow", _flow),)
