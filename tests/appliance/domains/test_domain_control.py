# SPDX-License-Identifier: Apache-2.0
"""The control process's side: what an answer changes, when it goes on, and what is left after a while."""

import asyncio
import contextlib
import ipaddress
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from appliance.config.model import Domains
from appliance.domains import control as module
from appliance.domains.control import DomainControl
from appliance.domains.resolution import Resolution
from appliance.inspection.messages import Answer, Names, NamesAsked, Release
from fastpath import IdentityMap, Policy, Query
from fastpath.layout import Verdict
from rules.policy import CompileOptions, Delta, Live, Program, compile_policy, load_documents

OWN = ipaddress.ip_address("198.51.100.1")


def document(kind: str, name: str, spec: Mapping[str, Any], **metadata: Any) -> str:
    api = "projectcalico.org/v3"
    return json.dumps({"apiVersion": api, "kind": kind, "metadata": {"name": name, **metadata}, "spec": spec})


def policy(*names: str, more: Sequence[Mapping[str, Any]] = ()) -> str:
    endpoint = document(
        "WorkloadEndpoint", "c", {"node": "n", "interfaceName": "eth0", "ipNetworks": ["10.0.0.1/32"]},
        namespace="ns", labels={"a": "b"},
    )  # fmt: skip
    rules = [{"action": "Allow", "destination": {"domains": list(names)}},
             {"action": "Allow", "protocol": "ICMP", "destination": {"nets": ["192.0.2.128/25"]}}, *more]  # fmt: skip
    return f"{endpoint}\n---\n" + document(
        "GlobalNetworkPolicy", "p", {"selector": "all()", "types": ["Egress"], "egress": rules}
    )


class Fake:
    """Service and engine around the control."""

    def __init__(self, tmp_path: Path, *names: str, **settings: Any) -> None:
        self.released: list[tuple[int, int]] = []
        self.names_said: list[Names] = []
        self.said: list[str] = []
        self.more: list[dict[str, Any]] = []
        self.wanted = 0
        self.names = names or ("www.a.test", "*.b.test")
        settings = {"state": str(tmp_path / "domains.json"), "ttl_floor": 0, **settings}
        self.control = DomainControl(
            Domains(**settings),
            update=self._update,
            snapshot=lambda: (self.identities, self.policy),
            tell=self._tell,
            recalculate=self._recalculate,
            own=lambda: (OWN,),
            say=self.said.append,
        )
        self.control.load()
        self.recompile()

    def _update(self, delta: Delta) -> None:
        self.identities = self.identities.update(set=delta.set, remove=[entry[:2] for entry in delta.remove])

    def _tell(self, queue: int, message: Release | Names) -> None:
        if isinstance(message, Release):
            self.released.append((queue, message.number))
        else:
            self.names_said.append(message)

    def _recalculate(self) -> None:
        self.wanted += 1

    def recompile(self) -> Program:
        resources = load_documents(policy(*self.names, more=self.more), "f").resources
        expected = self.control.expected()
        program = compile_policy(resources, CompileOptions(node="n", names=expected.names, name_groups=expected.groups))
        self.policy = Policy(program.tables)
        self.identities = self.control.adopt(program, IdentityMap.build(program.entries))
        self.watch = self.control.watch(program, ("192.0.2.53", "fe80::1%eth0", "nonsense"))
        self.control.settled()
        return program

    def answer(self, names: str, *addresses: str, number: int = 1, ttl: int = 60) -> None:
        packed = tuple((ipaddress.ip_address(address).packed, ttl) for address in addresses)
        self.control.answered(Answer(number, (Resolution(tuple(names.split()), packed),)), 64)

    def allows(self, address: str) -> bool:
        source, destination = (self.identities.lookup(ipaddress.ip_address(a))[0] for a in ("10.0.0.1", address))
        return self.policy.decide(Query(source, destination)).verdict is Verdict.ALLOW


def test_an_answer_goes_on_when_its_addresses_are_in_force(tmp_path: Path) -> None:
    fake = Fake(tmp_path)
    assert not fake.allows("192.0.2.1")
    fake.answer("www.a.test", "192.0.2.1", number=7)
    assert fake.allows("192.0.2.1")
    assert fake.released == [(64, 7)] and fake.wanted == 0


def test_a_name_that_policy_asks_for_later_is_in_force_at_once_if_it_was_answered_lately(tmp_path: Path) -> None:
    fake = Fake(tmp_path)
    fake.answer("alias.test late.c.test", "192.0.2.9", number=0)
    fake.answer("late.c.test", "192.0.2.10", number=0, ttl=0)
    fake.answer("late.c.test", "10.1.1.1", str(OWN), number=0)
    assert not fake.allows("192.0.2.9") and fake.released == []
    fake.names = ("www.a.test", "*.c.test")
    fake.recompile()
    assert fake.allows("192.0.2.9") and fake.control.counters["recalled"] == 1
    assert not any(map(fake.allows, ("192.0.2.10", "10.1.1.1", str(OWN)))), "expired, private, our own"
    assert ("alias.test", "late.c.test") in fake.control._aliases.pairs()


def test_a_name_that_a_change_brings_is_in_force_at_once_if_it_was_answered_lately(tmp_path: Path) -> None:
    fake = Fake(tmp_path)
    program = fake.recompile()
    live = Live(program, load_documents(policy(*fake.names), "f").resources)
    fake.answer("late.c.test", "192.0.2.9", number=0)
    for names, allowed in ((("*.c.test",), True), (("www.a.test",), False), (("late.c.test",), True)):
        step = live.apply(load_documents(policy(*names), "f").resources)
        assert step is not None and step.names
        fake._update(step.delta)
        if step.change is not None:
            fake.policy = fake.policy.update(step.change)
        fake.control.renew(step.program)
        assert fake.allows("192.0.2.9") is allowed and fake.wanted == 0


def test_what_nobody_asks_for_is_remembered_within_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RECENT", 3)
    fake = Fake(tmp_path)
    for number in range(9):
        fake.answer(f"n{number}.d.test", f"192.0.2.{number + 1}", number=0, ttl=60 + number)
    assert fake.control.status()["recent"] == 3 and fake.control.status()["names"] == 0
    fake.names = ("*.d.test",)
    fake.recompile()
    assert [fake.allows(f"192.0.2.{number + 1}") for number in range(9)] == [False] * 6 + [True] * 3


def test_any_name_on_the_chain_counts_and_others_do_not(tmp_path: Path) -> None:
    fake = Fake(tmp_path)
    fake.answer("x.test y.b.test z.test", "192.0.2.1")
    fake.answer("x.test", "192.0.2.2", number=2)
    assert fake.allows("192.0.2.1") and not fake.allows("192.0.2.2")
    assert fake.released == [(64, 1), (64, 2)]


def test_an_answer_waits_for_a_program_where_names_meet(tmp_path: Path) -> None:
    fake = Fake(tmp_path)
    fake.answer("www.a.test y.b.test", "192.0.2.1", number=1)
    fake.answer("www.a.test", "192.0.2.1", number=2)  # the same address, not in force yet
    fake.answer("www.a.test", "192.0.2.2", number=3)
    assert fake.released == [(64, 3)] and fake.wanted == 1
    fake.recompile()
    assert fake.allows("192.0.2.1")
    assert fake.released == [(64, 3), (64, 1), (64, 2)] and fake.wanted == 1
    fake.answer("www.a.test y.b.test", "192.0.2.3", number=4)
    assert fake.released[-1] == (64, 4) and fake.allows("192.0.2.3"), "the second time an identity is ready"


def test_an_address_in_a_network_of_policy_needs_a_program_and_is_left_alone_afterwards(tmp_path: Path) -> None:
    fake = Fake(tmp_path)
    fake.answer("www.a.test", "192.0.2.200")
    assert fake.released == [] and fake.wanted == 1
    fake.recompile()
    assert fake.released == [(64, 1)] and fake.allows("192.0.2.200")
    fake.answer("www.a.test", "192.0.2.200", number=2)
    assert fake.released[-1] == (64, 2) and fake.wanted == 1


def test_a_program_that_is_refused_does_not_hold_answers_back(tmp_path: Path) -> None:
    fake = Fake(tmp_path)
    fake.answer("www.a.test", "192.0.2.200")
    fake.control.settled(refused=True)
    assert fake.released == [(64, 1)] and fake.wanted == 1


def test_own_and_private_addresses_stay_out_and_are_counted(tmp_path: Path) -> None:
    fake = Fake(tmp_path, allow_private=("*.b.test",))
    fake.answer("www.a.test", "10.9.9.9", str(OWN), "fd00::9")
    assert not fake.allows("10.9.9.9") and not fake.allows(str(OWN))
    fake.answer("y.b.test", "10.9.9.9", number=2)
    assert fake.allows("10.9.9.9")
    assert fake.released == [(64, 1), (64, 2)] and fake.control.counters["refused"] == 3
    assert sum(fake.control.refused.values()) == 3 and fake.control.status()["refused_private"] > 0


def test_a_new_policy_knows_what_was_learned(tmp_path: Path) -> None:
    fake = Fake(tmp_path)
    fake.answer("y.b.test", "192.0.2.1")
    fake.names = ("www.a.test", "y.b.test")
    fake.recompile()
    assert fake.allows("192.0.2.1")
    fake.names = ("www.a.test",)
    fake.recompile()
    assert not fake.allows("192.0.2.1")


def test_inspectors_are_told_names_and_resolvers(tmp_path: Path) -> None:
    fake = Fake(tmp_path)
    assert set(fake.watch.patterns) == {"www.a.test", "*.b.test"} and fake.watch.wait == 0.2
    assert fake.watch.resolvers == (b"\xc0\0\2\x35", ipaddress.ip_address("fe80::1").packed)
    configured = Fake(tmp_path, trusted=("192.0.2.54",))
    assert configured.watch.resolvers == (b"\xc0\0\2\x36",)


def test_names_expire_and_are_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TICK", 0.01)
    fake = Fake(tmp_path)
    fake.answer("www.a.test", "192.0.2.1", ttl=0)
    fake.answer("www.a.test", "192.0.2.2", ttl=60)

    async def run() -> None:
        task = asyncio.create_task(fake.control.run())
        await asyncio.sleep(0.1)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(run())
    assert not fake.allows("192.0.2.1") and fake.allows("192.0.2.2")
    again = Fake(tmp_path)
    assert again.allows("192.0.2.2") and not again.allows("192.0.2.1") and again.said == []


def test_a_saved_address_that_is_ours_now_stays_out(tmp_path: Path) -> None:
    (tmp_path / "domains.json").write_text(
        json.dumps({"version": 1, "pairs": [["www.a.test", str(OWN), 1e12], ["www.a.test", "192.0.2.1", 1e12],
                                            ["www.a.test", "10.0.0.9", 1e12]]})
    )  # fmt: skip
    fake = Fake(tmp_path)
    assert fake.allows("192.0.2.1") and not fake.allows(str(OWN)) and not fake.allows("10.0.0.9")


def test_a_damaged_file_is_said_and_replaced(tmp_path: Path) -> None:
    (tmp_path / "domains.json").write_text("{}")
    fake = Fake(tmp_path)
    assert len(fake.said) == 1 and "domains.json" in fake.said[0]


def asked(dst: str, dport: int = 443) -> NamesAsked:
    return NamesAsked(5, ipaddress.ip_address("10.0.0.1").packed, 4000, ipaddress.ip_address(dst).packed, dport)


def test_a_flow_to_a_name_may_show_what_policy_allows_and_what_leads_there(tmp_path: Path) -> None:
    fake = Fake(tmp_path)
    fake.answer("alias.test www.a.test cdn.test", "192.0.2.1")
    fake.control.asked(asked("192.0.2.1"), 64)
    fake.control.asked(asked("192.0.2.9"), 64)
    with_name, without = fake.names_said
    assert with_name.patterns is not None and set(with_name.patterns) == {"www.a.test", "*.b.test", "alias.test"}
    assert with_name.action == "drop" and with_name.flow == 5
    assert without.patterns is None, "not allowed by name: nothing to hold against it"


def test_a_flow_that_is_allowed_without_a_name_may_show_any(tmp_path: Path) -> None:
    fake = Fake(tmp_path)
    fake.answer("www.a.test", "192.0.2.1")
    fake.more = [{"action": "Allow", "protocol": "TCP", "destination": {"nets": ["192.0.2.0/26"], "ports": [8443]}}]
    fake.recompile()
    fake.control.asked(asked("192.0.2.1", 8443), 64)
    fake.control.asked(asked("192.0.2.1", 443), 64)
    assert [names.patterns is None for names in fake.names_said] == [True, False]
