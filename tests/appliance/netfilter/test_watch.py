# SPDX-License-Identifier: Apache-2.0
"""What counts as a loss of the ruleset, and when it is looked for."""

import asyncio
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.netfilter import NetfilterError, RulesetWatch
from appliance.netfilter.nfnetlink import NFGEN, NLMSG, attribute, attributes
from appliance.netfilter.watch import SUBSYS_NFTABLES, Concern, authors, concern, is_own
from fastpath.errors import PortcullisError

DELTABLE, NEWRULE, DELRULE, NEWSETELEM, DELSETELEM = 2, 6, 8, 12, 14
NONE, RULES, ELEMENTS = Concern


def message(kind: int, table: bytes, subsystem: int = SUBSYS_NFTABLES) -> bytes:
    body = NFGEN.pack(1, 0, 7) + attribute(1, table + b"\0") + attribute(2, b"chain\0")
    return NLMSG.pack(NLMSG.size + len(body), subsystem << 8 | kind, 0, 0, 0) + body


@pytest.mark.parametrize(
    ("data", "ours"),
    [
        (message(DELTABLE, b"portcullis"), RULES),
        (message(DELRULE, b"security"), RULES),
        (message(NEWRULE, b"other") + message(DELRULE, b"portcullis"), RULES),
        (message(DELRULE, b"other"), NONE),
        (message(NEWRULE, b"portcullis"), NONE),
        (message(DELSETELEM, b"portcullis"), NONE),
        (message(DELTABLE, b"portcullis", 1), NONE),
        (message(DELTABLE, b"portcullis")[:-9], NONE),
        (message(DELTABLE, b"portcullis_host"), RULES),
        (message(NEWRULE, b"portcullis_feeds"), RULES),
        (message(NEWSETELEM, b"portcullis_feeds") + message(DELRULE, b"portcullis"), ELEMENTS),
        (message(DELSETELEM, b"portcullis_host"), ELEMENTS),
    ],
)
def test_what_a_message_is_to_us(data: bytes, ours: Concern) -> None:
    assert concern(data) is ours
    assert concern(data, ELEMENTS) is ELEMENTS


def test_elements_after_the_first_of_a_transaction_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[bytes] = []
    monkeypatch.setattr("appliance.netfilter.watch.attributes", lambda body: read.append(body) or attributes(body))
    data = message(NEWSETELEM, b"portcullis_feeds") * 1000
    assert concern(data) is ELEMENTS
    assert concern(data, ELEMENTS) is ELEMENTS
    assert len(read) == 1
    assert concern(message(DELRULE, b"portcullis") + data) is ELEMENTS


@given(st.binary(max_size=200), st.integers(0, 60))
def test_any_datagram_is_read_without_harm(data: bytes, cut: int) -> None:
    concern(data)
    concern(message(DELRULE, data[:8])[:cut] + data)
    list(authors(newgen(1, data[:8])[:cut] + data))


def newgen(thread: int, name: bytes) -> bytes:
    body = NFGEN.pack(0, 0, 7) + attribute(1, b"\0\0\0\7") + attribute(2, thread.to_bytes(4, "big"))
    body += attribute(3, name + b"\0")
    return NLMSG.pack(NLMSG.size + len(body), SUBSYS_NFTABLES << 8 | 15, 0, 0, 0) + body


def test_a_transaction_names_who_made_it() -> None:
    assert list(authors(message(DELRULE, b"portcullis") + newgen(77, b"nft"))) == [(77, b"nft")]
    own = threading.get_native_id()
    name = Path(f"/proc/self/task/{own}/comm").read_bytes().strip()
    assert is_own(own, name)
    assert not is_own(own, b"somebody else of this number")
    assert not is_own(1 << 30, name)


class Mender:
    def __init__(self, answers: list[list[str] | PortcullisError]) -> None:
        self.answers = answers
        self.asked = 0

    def mend(self, elements: bool) -> list[str]:
        self.asked += 1
        answer = self.answers.pop(0) if self.answers else []
        if isinstance(answer, PortcullisError):
            raise answer
        return answer


@pytest.mark.skipif(os.geteuid() != 0, reason="the kernel's notifications need CAP_NET_ADMIN")
def test_polls_tells_of_losses_and_tries_again_after_a_failure() -> None:
    mender = Mender([[], NetfilterError("busy"), ["chain classify_input"]])
    told: list[object] = []

    async def run() -> None:
        watch = RulesetWatch(mender.mend, lambda what, seconds: told.append(what), told.append, poll=0.05)
        watch.start()
        await asyncio.sleep(1.0)
        await watch.stop()
        asked = mender.asked
        await asyncio.sleep(0.2)
        assert mender.asked == asked, "still looking after stop()"

    asyncio.run(run())
    assert [str(entry) for entry in told] == ["busy", "['chain classify_input']"]
    assert mender.asked > 4
