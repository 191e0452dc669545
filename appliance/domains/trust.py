# SPDX-License-Identifier: Apache-2.0
"""Which DNS answers count: those of a trusted resolver to a question that was seen going there.

A forged answer has to come within the time of a real question, from the resolver's address and port to the client's,
with the question's id, name and type; and it takes the place of the real one only if it comes first.
"""

from collections import OrderedDict

from appliance.inspection.flows import FlowKey
from appliance.inspection.protocols.dns import DnsMessage

DNS_PORT = 53
PATIENCE = 10.0  # seconds until a question is given up
LIMIT = 16384  # questions

_Key = tuple[FlowKey, int, str, int]  # (protocol, client, port, resolver, port), id, name, type


class PendingQueries:
    """Questions that wait for their answer; bounded, the oldest goes first."""

    def __init__(self, *, limit: int = LIMIT, patience: float = PATIENCE) -> None:
        self._limit = limit
        self._patience = patience
        self._waiting: OrderedDict[_Key, tuple[float, int]] = OrderedDict()  # when asked last, how often

    def __len__(self) -> int:
        return len(self._waiting)

    def asked(self, flow: FlowKey, message: DnsMessage, now: float) -> None:
        """A message to a resolver; one that is no plain question is nothing."""
        key = _key(flow, message)
        if key is None or message.response:
            return
        asked, times = self._waiting.pop(key, (now, 0))
        self._waiting[key] = (now, times + 1 if now - asked < self._patience else 1)
        while len(self._waiting) > self._limit:
            self._waiting.popitem(last=False)
        while self._waiting and now - next(iter(self._waiting.values()))[0] >= self._patience:
            self._waiting.popitem(last=False)

    def answered(self, flow: FlowKey, message: DnsMessage, now: float) -> bool:
        """Whether this message of a resolver answers a question that waits. Each question is answered once."""
        key = _key(flow, message)
        if key is None or not message.response:
            return False
        asked, times = self._waiting.pop(key, (0.0, 0))
        if not times or now - asked >= self._patience:
            return False
        if times > 1:
            self._waiting[key] = (asked, times - 1)
            self._waiting.move_to_end(key, last=False)
        return True


def _key(flow: FlowKey, message: DnsMessage) -> _Key | None:
    if message.opcode != 0 or len(message.questions) != 1 or flow[4] != DNS_PORT:
        return None
    question = message.questions[0]
    return flow, message.id, question.name, question.type
